"""Which layers and which head: chosen from out-of-sample scores, with the evidence kept."""

from headstart.strategy.choice import Candidate, Choice
from headstart.strategy.choose import HEADS, choose_head
from headstart.strategy.pipeline import HeadPipeline

__all__ = ["HEADS", "Candidate", "Choice", "HeadPipeline", "choose_head"]
