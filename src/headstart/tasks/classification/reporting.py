"""From what a run stores of its test part to the sections of the report of a classification."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.sections import Card, TaskReport
from headstart.tasks.classification.evaluation import ClassEvaluation
from headstart.tasks.classification.sections import ClassificationTest, example_rows, examples_of, task_report

Cards = Callable[[npt.NDArray[np.int64], npt.NDArray[np.int64]], dict[int, Card]]


def report(run: Any, record: Any, *, cards: Cards) -> TaskReport:
    """What the pages say of the test part; arguments as of `Task.report`."""
    return task_report(tested(run, record, cards=cards))


def tested(run: Any, record: Any, *, cards: Cards) -> ClassificationTest:
    """What the report is made of."""
    evaluation: ClassEvaluation = run.test_evaluation()
    pictures = cards(example_rows(evaluation), evaluation.outcome.probabilities.argmax(axis=1))
    return ClassificationTest(
        evaluation=evaluation,
        held_out=f"Tested on {record.held_out}.",
        counts=run.manifest.provenance["images"],
        examples=examples_of(evaluation, pictures, run.reference.get("targets", np.empty(0, np.int64))),
        uncalibrated=run.test_evaluation(calibrated=False) if "scores" in run.tested else None,
        reliability=record.reliability_test,
        set_sizes=_set_sizes(run, evaluation),
    )


def _set_sizes(run: Any, evaluation: ClassEvaluation) -> dict[int, int]:
    """How many test images have prediction sets of which size."""
    if run.trust is None or run.trust.sets is None:
        return {}
    sets = run.trust.sets(evaluation.outcome.probabilities, never_empty=True)
    sizes, counts = np.unique(sets.sum(axis=1), return_counts=True)
    return dict(zip(sizes.tolist(), counts.tolist(), strict=True))
