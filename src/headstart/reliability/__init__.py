"""How far a prediction can be trusted: sets that contain the true class, when to abstain, and images unlike the training images.

Everything is fitted on out-of-sample predictions or distances, is stored with a run as JSON values and small arrays, and needs NumPy only.
"""

from headstart.reliability.guarantees import Abstention, PredictionSets
from headstart.reliability.novelty import Novelty
from headstart.reliability.reliability import COVERAGE, Reliability, ReliabilityTest, ThresholdTest, confidence

__all__ = ["COVERAGE", "Abstention", "Novelty", "PredictionSets", "Reliability", "ReliabilityTest", "ThresholdTest", "confidence"]
