"""From a folder of labelled images to a run folder: the one job that everything else serves."""

from headstart.fitting.job import fit, fit_shard
from headstart.fitting.result import FitResult, ShardResult
from headstart.fitting.settings import FitSettings, Shard

__all__ = ["FitResult", "FitSettings", "Shard", "ShardResult", "fit", "fit_shard"]
