"""What a model's probabilities are worth on images whose labels are known."""

from headstart.evaluate.evaluation import Confusion, Evaluation, evaluate
from headstart.evaluate.evaluators import MULTI_LABEL, SINGLE_LABEL, Evaluator, Outcome

__all__ = ["MULTI_LABEL", "SINGLE_LABEL", "Confusion", "Evaluation", "Evaluator", "Outcome", "evaluate"]
