"""Batch prediction over folders of any size: resumable, in shards, or on a Ray cluster."""

from headstart.batch.answers import Answer, answers, cells, entry, header, width_of
from headstart.batch.job import BatchResult, BatchSettings, predict_folder
from headstart.batch.merge import merge
from headstart.batch.ray_job import on_ray

__all__ = ["Answer", "BatchResult", "BatchSettings", "answers", "cells", "entry", "header", "merge", "on_ray", "predict_folder", "width_of"]
