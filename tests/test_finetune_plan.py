"""What may be asked of a training, which stages it trains when, and its learning rates, against closed forms."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from typing import Any

import pytest

from headstart.errors import ParameterError
from headstart.settings import DEFAULT_LR, DEFAULT_STEPS, LEAST_EPOCHS, LEAST_STEPS, MOST_EPOCHS, FineTuning
from headstart.training.schedule import Phase, Schedule, phases, rates, trained_stages

NAMES = ("stem", "stage1", "stage2", "stage3", "last")
NONE_CHOSEN: dict[str, Any] = {"validation_share": 0, "keep": "last"}

# Plan -----------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "wrong", "suggested"),
    [
        ("strategy", "partail", "partial"),
        ("optimizer", "adamW2", "adamw"),
        ("loss", "focall", "focal"),
        ("retain", "l2-sp", "l2sp"),
        ("precision", "bf_16", "bf16"),
        ("device", "cudaa", "cuda"),
        ("logger", "tensorbord", "tensorboard"),
        ("schedule", "cosin", "cosine"),
        ("pooling", "flaten", "flatten"),
        ("batchnorm", "inferense", "inference"),
        ("start", "prob", "probe"),
        ("keep", "bes", "best"),
        ("pixels", "units", "unit"),
        ("head_input", "al", "all"),
        ("ship", "train", "trained"),
    ],
)
def test_a_word_that_is_not_known_is_refused_with_those_that_are(name: str, wrong: str, suggested: str) -> None:
    with pytest.raises(ParameterError, match=f"^{name} must be one of .*{suggested}.*, got '{wrong}'.* Did you mean.*{suggested}"):
        FineTuning(**{name: wrong})
    assert getattr(FineTuning(**{name: suggested}), name) == suggested


@pytest.mark.parametrize(
    ("name", "least"),
    [("epochs", 1), ("steps", 1), ("batch_size", 1), ("views", 1), ("early_stop", 1), ("average", 0), ("image_size", 32)],
)
def test_counts_have_a_least_value_and_are_whole(name: str, least: int) -> None:
    assert getattr(FineTuning(**{name: least}), name) == least
    for wrong in (least - 1, least + 0.5, True, "many"):
        with pytest.raises(ParameterError, match=f"^{name} must be a whole number (of at least|from) {least}.*, got {wrong!r}"):
            FineTuning(**{name: wrong})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"image_size": 4097}, "image_size must be a whole number from 32 to 4096, got 4097"),
        ({"head_layers": (64, 0)}, r"head_layers must be a list of whole numbers of at least 1, got \(64, 0\)"),
        ({"unfreeze": 0}, "unfreeze must be a number of stages .*1.*got 0"),
        ({"lr": 0}, "lr must be a number above 0, got 0"),
        ({"lr": math.inf}, "lr must be a number above 0, got inf"),
        ({"lr": math.nan}, "lr must be a number above 0, got nan"),
        ({"layer_decay": 0}, "layer_decay must be a number above 0 and at most 1, got 0"),
        ({"layer_decay": 1.01}, "layer_decay must be a number above 0 and at most 1, got 1.01"),
        ({"retain_strength": 0}, "retain_strength must be a number above 0, got 0"),
        ({"dropout": 1}, "dropout must be a number of at least 0 and below 1, got 1"),
        ({"dropout": -0.1}, "dropout must be a number of at least 0 and below 1, got -0.1"),
        ({"warmup": 1}, "warmup must be a number of at least 0 and below 1, got 1"),
        ({"label_smoothing": 1}, "label_smoothing must be a number of at least 0 and below 1, got 1"),
        ({"validation_share": 1}, "validation_share must be a number of at least 0 and below 1, got 1"),
        ({"weight_decay": -1}, "weight_decay must be a number of at least 0, got -1"),
        ({"weight_decay": math.nan}, "weight_decay must be a number of at least 0, got nan"),
        ({"clip": -1}, "clip must be a number of at least 0, got -1"),
        ({"focal_gamma": -1}, "focal_gamma must be a number of at least 0, got -1"),
        ({"epochs": 2, "steps": 3}, "either epochs or steps"),
        ({"strategy": "probe", "unfreeze": 1}, "'probe' leaves the whole backbone frozen"),
        ({"strategy": "full", "unfreeze": 1}, "'full' trains all stages"),
        ({"validation_share": 0}, "give keep='last' and no early_stop"),
        ({"validation_share": 0, "keep": "last", "early_stop": 2}, "give keep='last' and no early_stop"),
    ],
)
def test_what_is_out_of_bounds_or_contradicts_itself_is_refused_in_words(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ParameterError, match=words):
        FineTuning(**values)


def test_the_limits_themselves_are_allowed() -> None:
    zeros = dict.fromkeys(("dropout", "warmup", "label_smoothing", "weight_decay", "clip", "focal_gamma"), 0.0)
    for allowed in ({"image_size": 4096, "layer_decay": 1.0, **zeros}, {"strategy": "full", "unfreeze": "gradual"}, NONE_CHOSEN):
        assert FineTuning(**allowed).to_dict().items() >= allowed.items()


def test_a_plan_survives_json() -> None:
    plan = FineTuning(strategy="full", unfreeze="gradual", head_layers=[256, 32], lr=1e-3, steps=70, average=2)  # type: ignore[arg-type]
    assert plan.head_layers == (256, 32)
    assert FineTuning.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


@pytest.mark.parametrize("optimizer", DEFAULT_LR)
def test_each_optimizer_has_a_learning_rate_of_its_own(optimizer: str) -> None:
    assert FineTuning(optimizer=optimizer).highest_lr == DEFAULT_LR[optimizer]
    assert FineTuning(optimizer=optimizer, lr=0.125).highest_lr == 0.125


# Stages ---------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"strategy": "probe"}, ()),
        ({"strategy": "full"}, NAMES),
        ({"strategy": "full", "unfreeze": "gradual"}, NAMES),
        ({}, ("stage3", "last")),
        ({"unfreeze": "gradual"}, ("stage3", "last")),
        ({"unfreeze": 1}, ("last",)),
        ({"unfreeze": 5}, NAMES),
        ({"unfreeze": "3"}, ("stage2", "stage3", "last")),
        ({"unfreeze": " last, stage1 ,"}, ("stage1", "last")),
    ],
)
def test_which_stages_are_trained(values: dict[str, Any], expected: tuple[str, ...]) -> None:
    assert trained_stages(FineTuning(**values), NAMES) == expected


def test_what_depends_on_the_number_of_images() -> None:
    def held_out(images: int, **values: Any) -> tuple[float | None, bool | None]:
        plan = FineTuning(**values).for_images(images)
        return plan.validation_share, plan.refit

    assert held_out(100) == (0.25, True)
    assert held_out(1000) == (0.2, True)
    assert held_out(2000) == held_out(9000) == (0.1, False)
    assert held_out(9000, refit=True, validation_share=0.05) == (0.05, True)


@pytest.mark.parametrize(
    ("values", "every", "chooses"),
    [
        ({}, True, True),
        ({"head_layers": (8,)}, False, True),
        ({"head_layers": (8,), "head_input": "all"}, True, True),
        ({"pooling": "flatten"}, False, True),
        ({"start": "random"}, False, False),
        ({"strategy": "probe"}, True, False),
        ({"ship": "trained", "head_input": "last"}, False, False),
        (NONE_CHOSEN, True, False),
    ],
)
def test_what_a_head_takes_and_whether_models_are_compared(values: dict[str, Any], every: bool, chooses: bool) -> None:
    plan = FineTuning(**values)
    assert (plan.every_stage, plan.chooses) == (every, chooses)


@pytest.mark.parametrize(
    ("operations", "expected"),
    [
        ([10, 20, 10, 40, 20], ("stage3", "last")),  # exactly the share that is trained
        ([10, 20, 11, 39, 20], ("stage3", "last")),
        ([30, 20, 10, 20, 20], ("stage2", "stage3", "last")),
        ([1, 1, 1, 96, 1], ("stage3", "last")),  # two at least
        ([96, 1, 1, 1, 1], NAMES[1:]),
    ],
)
def test_by_default_the_last_stages_that_do_little_more_than_half_of_the_work(operations: list[int], expected: tuple[str, ...]) -> None:
    assert trained_stages(FineTuning(), NAMES, operations) == expected
    assert trained_stages(FineTuning(unfreeze=1), NAMES, operations) == ("last",)


@pytest.mark.parametrize(
    ("unfreeze", "words"),
    [
        (6, r"has 5 stages \(stem, stage1, .*last\); unfreeze must be from 1 to that, got 6"),
        ("0", "from 1 to that, got 0"),
        ("stage9", "no stage 'stage9'; it has stem, stage1, stage2, stage3, last"),
        ("stage3,lst", "no stage 'lst'.* Did you mean.*last"),
        (",", "number of stages, names of stages or 'gradual', got ','"),
        (1.5, "a number of stages from 1, names of stages, or 'gradual', got 1.5"),
        (True, "a number of stages from 1, names of stages, or 'gradual', got True"),
    ],
)
def test_stages_that_there_are_not(unfreeze: Any, words: str) -> None:
    with pytest.raises(ParameterError, match=words):
        trained_stages(FineTuning(unfreeze=unfreeze), NAMES)


def test_gradual_unfreezing_adds_the_last_stage_first_and_has_all_for_the_second_half() -> None:
    plan, trained = FineTuning(unfreeze="gradual"), ("stage2", "stage3", "last")
    assert phases(plan, trained, 12, head_first=False) == (
        Phase(0, ()),
        Phase(2, ("last",)),
        Phase(4, ("stage3", "last")),
        Phase(6, trained),
    )
    for epochs in range(1, 20):
        found = phases(plan, trained, epochs, head_first=True)
        assert found[0].epoch == 0
        assert [phase.epoch for phase in found] == sorted({phase.epoch for phase in found})
        assert found[-1].stages == trained
        assert found[-1].epoch <= math.ceil(epochs / 2)
        for earlier, later in pairwise(found):
            assert later.stages[len(later.stages) - len(earlier.stages) :] == earlier.stages


def test_a_head_without_closed_form_is_trained_alone_for_a_quarter_of_the_epochs() -> None:
    plan = FineTuning()
    assert phases(plan, ("last",), 8, head_first=True) == (Phase(0, ()), Phase(2, ("last",)))
    assert phases(plan, ("last",), 2, head_first=True) == (Phase(0, ()), Phase(1, ("last",)))
    assert phases(plan, ("last",), 1, head_first=True) == (Phase(0, ("last",)),)
    assert phases(plan, ("last",), 8, head_first=False) == (Phase(0, ("last",)),)
    assert phases(FineTuning(strategy="probe"), (), 8, head_first=True) == (Phase(0, ()),)


def test_each_stage_learns_at_a_share_of_the_rate_of_the_one_above() -> None:
    found = rates(FineTuning(lr=0.1, layer_decay=0.5), ("stage2", "stage3", "last"))
    assert found == pytest.approx({"head": 0.1, "last": 0.05, "stage3": 0.025, "stage2": 0.0125})
    assert set(rates(FineTuning(lr=0.1, layer_decay=1.0), NAMES).values()) == {0.1}
    assert rates(FineTuning(lr=0.1), ()) == {"head": 0.1}


# Schedule -------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "images", "steps", "each", "epochs"),
    [
        ({"epochs": 3, "batch_size": 32}, 65, 9, 3, 3),
        ({"epochs": 3, "batch_size": 32}, 64, 6, 2, 3),
        ({"steps": 7, "batch_size": 32}, 65, 7, 3, 3),
        ({"steps": 2, "batch_size": 32}, 65, 2, 3, 1),
        ({"head_layers": (8,)}, 65, DEFAULT_STEPS, 5, 120),
        ({}, 65, LEAST_STEPS, 5, 30),
        ({}, 480, MOST_EPOCHS * 30, 30, MOST_EPOCHS),
        ({}, 1120, 630, 70, 9),
        ({}, 32_000, LEAST_EPOCHS * 2000, 2000, LEAST_EPOCHS),
        ({"epochs": 2}, 1, 2, 1, 2),
        ({"epochs": 2, "batchnorm": "train"}, 33, 4, 2, 2),  # 16 and 17: one image has no statistics
        ({"epochs": 2, "batchnorm": "train"}, 34, 6, 3, 2),
        ({"epochs": 2, "batchnorm": "train", "batch_size": 1}, 3, 6, 3, 2),
    ],
)
def test_how_long_a_training_is(values: dict[str, Any], images: int, steps: int, each: int, epochs: int) -> None:
    schedule = Schedule.of(FineTuning(**values), images)
    assert (schedule.steps, schedule.steps_per_epoch, schedule.epochs) == (steps, each, epochs)


def test_warm_up_is_a_straight_line_and_then_comes_half_a_wave() -> None:
    schedule = Schedule.of(FineTuning(steps=100, warmup=0.1), 320)
    assert schedule.warmup == 10
    assert [schedule.share(step) for step in range(10)] == pytest.approx([(step + 1) / 11 for step in range(10)])
    assert [schedule.share(step) for step in range(10, 101)] == pytest.approx(
        [(1 + math.cos(math.pi * done / 90)) / 2 for done in range(91)]
    )
    assert schedule.share(10) == 1
    assert schedule.share(55) == pytest.approx(0.5)
    assert 0 < schedule.share(99) < 1e-3
    assert schedule.share(1000) == pytest.approx(0)


def test_a_constant_rate_and_no_warm_up() -> None:
    constant = Schedule.of(FineTuning(steps=20, warmup=0.25, schedule="constant"), 320)
    assert [constant.share(step) for step in range(20)] == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6] + [1] * 15)
    assert Schedule.of(FineTuning(steps=20, warmup=0), 320).share(0) == 1
    assert Schedule.of(FineTuning(steps=DEFAULT_STEPS * 100, warmup=0.5), 320).warmup == DEFAULT_STEPS
