"""From a folder of images to a tested classifier: what ``headstart fit`` does."""

from headstart.fitting.auditing import DeepAudit, deep_check
from headstart.fitting.comparison import Comparison, compare_runs
from headstart.fitting.job import fit, fit_shard
from headstart.fitting.keeping import settings_to_resume
from headstart.fitting.lr_find import find_learning_rate
from headstart.fitting.reporting import report_of
from headstart.fitting.result import FitResult, ProbeTest, ShardResult
from headstart.fitting.settings import FitSettings
from headstart.fitting.sheet import augmentation_sheet
from headstart.shards import Shard

__all__ = [
    "Comparison", "DeepAudit", "FitResult", "FitSettings", "ProbeTest", "Shard", "ShardResult", "augmentation_sheet", "compare_runs",
    "deep_check", "find_learning_rate", "fit", "fit_shard", "report_of", "settings_to_resume",
]  # fmt: skip
