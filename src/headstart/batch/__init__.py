"""Batch prediction over folders of any size: resumable, in shards, or on a Ray cluster."""

from headstart.batch.job import BatchResult, merge, predict_folder
from headstart.batch.pictures import PicturesResult, predict_pictures
from headstart.batch.ray_job import on_ray
from headstart.settings.batch import BatchSettings

__all__ = ["BatchResult", "BatchSettings", "PicturesResult", "merge", "on_ray", "predict_folder", "predict_pictures"]
