"""Every setting of a fit, each declared once: its default, limits, documentation and option on the command line."""

from headstart.settings.fine_tuning import (
    DEFAULT_LR,
    DEFAULT_STEPS,
    GRADUAL,
    LABEL_SMOOTHING,
    LEAST_EPOCHS,
    LEAST_STEPS,
    MOST_EPOCHS,
    MOST_VIEWS,
    FineTuning,
)
from headstart.settings.fit import Cache, FitSettings, ListOptions

__all__ = [
    "DEFAULT_LR", "DEFAULT_STEPS", "GRADUAL", "LABEL_SMOOTHING", "LEAST_EPOCHS", "LEAST_STEPS", "MOST_EPOCHS", "MOST_VIEWS", "Cache",
    "FineTuning", "FitSettings", "ListOptions",
]  # fmt: skip
