"""From a folder of images to a tested classifier: what ``headstart fit`` does."""

from headstart.fitting.job import fit, fit_shard
from headstart.fitting.keeping import settings_to_resume
from headstart.fitting.lr_find import find_learning_rate
from headstart.fitting.result import FitResult, ProbeTest, ShardResult
from headstart.fitting.settings import FitSettings, Shard
from headstart.fitting.sheet import augmentation_sheet

__all__ = [
    "FitResult", "FitSettings", "ProbeTest", "Shard", "ShardResult", "augmentation_sheet", "find_learning_rate", "fit", "fit_shard",
    "settings_to_resume",
]  # fmt: skip
