"""How far a prediction can be trusted: sets that hold the truth, when to say nothing, and images unlike the training images.

Everything is fitted on out-of-sample predictions or distances, is kept with a run as JSON values and small arrays, and needs NumPy only.
"""

from headstart.reliability.abstention import Abstention
from headstart.reliability.prediction_sets import PredictionSets
from headstart.reliability.trust import COVERAGE, Answered, Trust, TrustTest, confidence
from headstart.reliability.unlike import Unlike

__all__ = ["COVERAGE", "Abstention", "Answered", "PredictionSets", "Trust", "TrustTest", "Unlike", "confidence"]
