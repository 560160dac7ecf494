"""Which layers and which head: chosen from out-of-sample scores, with the evidence kept; and what more images would bring."""

from headstart.strategy.again import unfitted
from headstart.strategy.choice import Candidate, Choice
from headstart.strategy.choose import HEADS, choose_head
from headstart.strategy.learning_curve import LearningCurve, learning_curve
from headstart.strategy.pipeline import HeadPipeline

__all__ = ["HEADS", "Candidate", "Choice", "HeadPipeline", "LearningCurve", "choose_head", "learning_curve", "unfitted"]
