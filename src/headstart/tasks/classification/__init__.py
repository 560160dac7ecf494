"""Classification: one label for each input, or any number of them."""

from headstart.tasks.classification.task import Classification

__all__ = ["Classification"]
