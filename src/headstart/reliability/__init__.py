"""How far a prediction can be trusted: sets that contain the true class, when to abstain, images unlike the training images, and
whether many images together come from another world.

Everything is fitted on out-of-sample predictions or distances, is stored with a run as JSON values and small arrays, and needs NumPy only.
"""

from headstart.reliability.guarantees import Abstention, PredictionSets
from headstart.reliability.novelty import Novelty
from headstart.reliability.reliability import COVERAGE, Reliability, ReliabilityTest, ThresholdTest, confidence
from headstart.reliability.shift import Rate, Separation, Shift, Watch, separation

__all__ = [
    "COVERAGE", "Abstention", "Novelty", "PredictionSets", "Rate", "Reliability", "ReliabilityTest", "Separation", "Shift", "ThresholdTest",
    "Watch", "confidence", "separation",
]  # fmt: skip
