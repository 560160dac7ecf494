"""From a folder of images to a tested classifier: what ``headstart fit`` does."""

from headstart.data.shards import Shard
from headstart.pipeline.auditing import DeepAudit, deep_check
from headstart.pipeline.comparison import Comparison, compare_runs
from headstart.pipeline.fitting import fit, fit_shard
from headstart.pipeline.lr_find import find_learning_rate
from headstart.pipeline.result import FitResult, ProbeTest, ShardResult
from headstart.pipeline.resuming import settings_to_resume
from headstart.pipeline.sheet import augmentation_sheet
from headstart.settings import FitSettings

__all__ = [
    "Comparison", "DeepAudit", "FitResult", "FitSettings", "ProbeTest", "Shard", "ShardResult", "augmentation_sheet", "compare_runs",
    "deep_check", "find_learning_rate", "fit", "fit_shard", "settings_to_resume",
]  # fmt: skip
