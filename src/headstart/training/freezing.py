"""Which stages are trained, when, and how fast each learns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from headstart.errors import ParameterError, nearest
from headstart.settings import GRADUAL, FineTuning

PARTIAL_STAGES = 2
"""How many last stages ``partial`` trains unless it is told."""
HEAD_SHARE = 0.25
"""Share of the epochs in which a head that has no closed form is trained alone, before the stages."""


@dataclass(frozen=True)
class Phase:
    """From this epoch on (the first is 0) these stages are trained, besides the head."""

    epoch: int
    stages: tuple[str, ...]


def trained_stages(plan: FineTuning, names: Sequence[str]) -> tuple[str, ...]:
    """The stages that are trained in the end, in the order of the network.

    Args:
        plan: what was asked for.
        names: of all stages, in order (``stem``, ``stage1``, ..., perhaps ``last``).

    Raises:
        ParameterError: a name that is none of them, or more stages than there are.
    """
    if plan.strategy == "probe":
        return ()
    if plan.strategy == "full":
        return tuple(names)
    asked = plan.unfreeze
    if asked is None or asked == GRADUAL:
        asked = PARTIAL_STAGES
    if isinstance(asked, str) and asked.strip().isdigit():
        asked = int(asked)
    if isinstance(asked, bool) or not isinstance(asked, int | str):
        raise ParameterError(f"unfreeze must be a number of stages, names of stages or 'gradual', got {asked!r}.")
    if isinstance(asked, int):
        if not 1 <= asked <= len(names):
            raise ParameterError(
                f"This backbone has {len(names)} stages ({', '.join(names)}); unfreeze must be from 1 to that, got {asked}."
            )
        return tuple(names[-asked:])
    wanted = [name.strip() for name in asked.split(",") if name.strip()]
    for name in wanted:
        if name not in names:
            raise ParameterError(f"This backbone has no stage {name!r}; it has {', '.join(names)}.{nearest(name, names)}")
    if not wanted:
        raise ParameterError(f"unfreeze must be a number of stages, names of stages or 'gradual', got {plan.unfreeze!r}.")
    return tuple(name for name in names if name in wanted)


def phases(plan: FineTuning, trained: Sequence[str], epochs: int, *, head_first: bool) -> tuple[Phase, ...]:
    """When each stage begins to learn.

    Args:
        plan: what was asked for.
        trained: the stages that are trained in the end.
        epochs: of the whole training.
        head_first: the head has no closed form and begins alone.
    """
    if not trained:
        return (Phase(0, ()),)
    if plan.unfreeze == GRADUAL:  # the head alone, then one stage more at a time; the second half of the training has them all
        steps = len(trained) + 1
        starts = [round(index * epochs / 2 / max(steps - 1, 1)) for index in range(steps)]
        found = {start: tuple(trained[len(trained) - index :]) for index, start in enumerate(starts)}
        return tuple(Phase(start, stages) for start, stages in sorted(found.items()))
    if head_first and epochs > 1:
        return (Phase(0, ()), Phase(max(1, round(HEAD_SHARE * epochs)), tuple(trained)))
    return (Phase(0, tuple(trained)),)


def rates(plan: FineTuning, trained: Sequence[str]) -> dict[str, float]:
    """The highest learning rate of each stage, and of ``head``: lower stages learn more slowly."""
    found = {"head": plan.highest_lr}
    for depth, name in enumerate(reversed(trained), 1):
        found[name] = plan.highest_lr * plan.layer_decay**depth
    return found
