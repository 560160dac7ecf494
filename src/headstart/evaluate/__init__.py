"""The scores of saved runs: of one run on labelled data, and of several on the images that all of them were tested on."""

from headstart.evaluate.comparison import ComparedRun, Comparison, compare_runs, read_compared
from headstart.evaluate.evaluation import RunEvaluation, evaluate_run

__all__ = ["ComparedRun", "Comparison", "RunEvaluation", "compare_runs", "evaluate_run", "read_compared"]
