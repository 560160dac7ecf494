"""Domain adaptation: a model for a world other than that of its labels, learned from unlabelled inputs of it."""

from headstart.adaptation.adapt import METHODS, Adapted, adapt
from headstart.adaptation.trials import AdaptationRecord, AdaptationTrial

__all__ = ["METHODS", "AdaptationRecord", "AdaptationTrial", "Adapted", "adapt"]
