"""The scores of saved runs: of one run on labelled data, and of several on the images that all of them were tested on."""

from headstart.evaluate.comparison import ComparedRun, Comparison, compare_runs, read_compared
from headstart.evaluate.evaluation import RunEvaluation, UnlabelledEvaluation, evaluate_run, evaluate_unlabelled

__all__ = [
    "ComparedRun", "Comparison", "RunEvaluation", "UnlabelledEvaluation", "compare_runs", "evaluate_run", "evaluate_unlabelled",
    "read_compared",
]  # fmt: skip
