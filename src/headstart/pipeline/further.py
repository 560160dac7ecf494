"""Training a network further as a candidate of a search within a budget: what it would take, and whether it pays."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from headstart.errors import HeadstartError
from headstart.features.prepared import Prepared
from headstart.selection import Tried
from headstart.settings import MOST_EPOCHS, FineTuning
from headstart.tasks import Learned, LearningContext
from headstart.text import duration, plural

if TYPE_CHECKING:
    from headstart.pipeline.searching import Searching

TRAINED = 2.5
"""What training further is expected to bring, as of `headstart.selection.proposals.Proposal`."""

_PASSES = 8.0
"""How many times the shortest training, of two epochs, computes the features of an image, or what takes as long; until it is measured."""

_TAIL = 0.6  # of the operations of a network are in the stages that are trained, at most

_STEADY = 0.95  # of the time that is left; what a training takes is predicted from its first steps


@dataclass(frozen=True, eq=False)
class Scored:
    """A backbone with what was learned on its features of all training rows."""

    prepared: Prepared
    row: Tried
    learned: Learned


def about(search: Searching, prepared: Prepared) -> float:
    """Seconds of the shortest training of a network, roughly."""
    return _PASSES * search.forecast.milliseconds(prepared) * len(search.train) / 1000


def train_further(search: Searching, name: str) -> Scored | None:
    """Train a network within the time that is left, beside the best frozen one; noted either way, and returned where it is better.

    The network, and the mean of it and the best frozen model, are compared with that model on images that the training held out. Test
    images take no part.
    """
    frozen, best, began = search.scored[name], search.scored[search.best], time.perf_counter()
    row = Tried(backbone=name, outcome="skipped", strategy="partial", milliseconds=_milliseconds(search, name))
    until = search.until - _closing(search, name)
    rough = about(search, frozen.prepared)
    if rough > 2 * (until - began):
        search.note(replace(row, seconds=rough, reason=_too_long(rough, until - began)))
        return None
    context = replace(search.context, prepared=frozen.prepared, probe=best.learned, test_only=True, until=until)
    table = frozen.learned.table
    try:
        search.listener.stage(f"Searching: how long training {name} further takes")
        pace = search.task.training_pace(table, _with_plan(context, FineTuning()))
        longest = FineTuning(epochs=MOST_EPOCHS)
        left = until - time.perf_counter()
        plan = pace.within(longest, len(search.train), _STEADY * left)
        if plan is None:
            seconds = pace.seconds(replace(longest, epochs=2), len(search.train))
            search.note(replace(row, seconds=seconds, reason=_too_long(seconds, left)))
            return None
        predicted = duration(pace.seconds(plan, len(search.train)))
        search.listener.say(f"Training {name} further for {plural(plan.epochs or MOST_EPOCHS, 'epoch')}: about {predicted}")
        learned = search.task.fit(table, _with_plan(context, plan))
    except HeadstartError as error:
        search.note(replace(row, reason=str(error)))
        return None
    row = replace(row, outcome="tried", seconds=time.perf_counter() - began)
    if learned.fine_tuned is None or learned.fine_tuned.shipped == "probe":
        search.note(_scored(row, learned, reason=learned.choice.reason))
        return None
    advantage, _ = search.compared(learned, best.learned, np.arange(len(search.train)), name)
    both = learned.fine_tuned.shipped == "mean"  # needs no evidence of its own, as networks beside each other
    row = _scored(row, learned, reason=f"{'the mean of both' if both else 'by itself'}: {advantage.sentence(search.best)}")
    search.note(row)
    return Scored(learned.prepared, row, learned) if advantage.evidence >= (0.0 if both else 1.0) else None


def _with_plan(context: LearningContext, plan: FineTuning) -> LearningContext:
    return replace(context, settings=replace(context.settings, budget=None, map="none", fine_tuning=plan))


def _scored(row: Tried, learned: Learned, *, reason: str) -> Tried:
    """The row with the scores of what came of a training, from the images that it held out."""
    known = () if learned.probe is None else learned.probe.evidence
    heads = {(candidate.view, candidate.head) for candidate in known}
    own = [candidate for candidate in learned.choice.evidence if (candidate.view, candidate.head) not in heads]
    if not own:
        return replace(row, reason=reason)
    best = min(own, key=lambda candidate: (not candidate.chosen, candidate.log_loss))
    return replace(
        row, images=best.images, accuracy=best.accuracy, accuracy_error=best.accuracy_error, log_loss=best.log_loss, reason=reason
    )


def _milliseconds(search: Searching, name: str) -> float:
    """For an image by the best frozen network and, beside it, those stages of the trained one that differ from it; or less."""
    frozen, network = (search.forecast.milliseconds(search.prepared(one)) for one in (search.best, name))
    return frozen + _TAIL * network


def _closing(search: Searching, name: str) -> float:
    """Seconds from the end of a training to the written run: features of all images by the trained network, and as of a frozen one."""
    features = search.forecast.milliseconds(search.prepared(name)) * len(search.table) / 1000
    return features + search.forecast.closing(search.prepared(search.best))


def _too_long(seconds: float, left: float) -> str:
    return f"it would take {duration(seconds)}, and {duration(max(left, 0.0))} are left"
