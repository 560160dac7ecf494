"""From a folder of images to a tested classifier: what ``headstart fit`` does."""

from headstart.pipeline.auditing import DeepAudit, deep_check
from headstart.pipeline.fitting import find_learning_rate, fit, fit_numbered, fit_shard
from headstart.pipeline.result import FitResult, ProbeTest, ShardResult
from headstart.pipeline.resuming import settings_to_resume
from headstart.pipeline.sheet import augmentation_sheet
from headstart.settings import FitSettings
from headstart.settings.batch import Shard

__all__ = [
    "DeepAudit", "FitResult", "FitSettings", "ProbeTest", "Shard", "ShardResult", "augmentation_sheet", "deep_check", "find_learning_rate",
    "fit", "fit_numbered", "fit_shard", "settings_to_resume",
]  # fmt: skip
