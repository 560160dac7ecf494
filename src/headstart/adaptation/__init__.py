"""Domain adaptation: a model for a world other than that of its labels, learned from unlabelled inputs of it."""

from headstart.adaptation.adapt import FEWEST, METHODS, Adapted, Source, adapt
from headstart.adaptation.gain import AdaptationGain
from headstart.adaptation.trials import AdaptationRecord, AdaptationTrial

__all__ = ["FEWEST", "METHODS", "AdaptationGain", "AdaptationRecord", "AdaptationTrial", "Adapted", "Source", "adapt"]
