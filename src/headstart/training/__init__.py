"""Fine-tuning: the one training loop, freezing plans, learning rates by depth, checkpoints. Needs the extra ``torch``, imported late."""

from headstart.training.plan import FineTuning

__all__ = ["FineTuning"]
