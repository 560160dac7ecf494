"""Which layers and which head: chosen from out-of-sample scores, with the evidence; and what more images would bring."""

from headstart.selection.baseline import Baseline
from headstart.selection.choice import Candidate, Choice, HeadPipeline, unfitted
from headstart.selection.choose import HEADS, choose_head
from headstart.selection.learning_curve import LearningCurve, learning_curve
from headstart.selection.tried import Tried

__all__ = [
    "HEADS", "Baseline", "Candidate", "Choice", "HeadPipeline", "LearningCurve", "Tried", "choose_head", "learning_curve", "unfitted",
]  # fmt: skip
