"""What a model's probabilities are worth on images whose labels are known."""

from headstart.tasks.classification.evaluation import ClassEvaluation, Confusion, evaluate
from headstart.tasks.classification.scores import MULTI_LABEL, SINGLE_LABEL, Evaluator, Outcome

Evaluation = ClassEvaluation

__all__ = ["MULTI_LABEL", "SINGLE_LABEL", "ClassEvaluation", "Confusion", "Evaluation", "Evaluator", "Outcome", "evaluate"]
