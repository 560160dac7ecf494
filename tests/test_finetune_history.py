"""The numbers of a training: kept without loss through JSON, refused where they cannot be, and readable by TensorBoard."""

from __future__ import annotations

import json
import math
import os
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import forked
from headstart.errors import MissingExtraError, ParameterError
from headstart.training.history import Epoch, EventFiles, History

NUMBERS = st.floats(allow_nan=False) | st.just(math.nan)


def epoch(number: int = 1, **changes: Any) -> Epoch:
    scores: dict[str, Any] = {"loss": 0.5, "score": 0.75, "val_loss": 0.25, "val_score": 0.875}
    return Epoch(number=number, **{**scores, "lr": 0.001, "seconds": 2.0, "trained": ("stage6",), **changes})


@st.composite
def histories(draw: st.DrawFn) -> History:
    numbers = sorted(draw(st.sets(st.integers(1, 500), max_size=6)))
    epochs = tuple(
        Epoch(
            number=number, loss=draw(NUMBERS), score=draw(NUMBERS), val_loss=draw(st.none() | NUMBERS),
            val_score=draw(st.none() | NUMBERS), lr=draw(NUMBERS), seconds=draw(NUMBERS),
            trained=tuple(draw(st.lists(st.text(), max_size=3))),
        )
        for number in numbers
    )  # fmt: skip
    return History(epochs, draw(st.sampled_from([None, *numbers])), draw(st.text()), score=draw(st.text()))


@given(histories())
def test_strict_json_keeps_every_number_also_those_that_it_does_not_know(history: History) -> None:
    text = json.dumps(history.to_dict(), allow_nan=False)
    read = History.from_dict(json.loads(text))
    assert repr(read) == repr(history)  # repr, as nan is not equal to nan


def test_not_measured_and_not_a_number_stay_different_things() -> None:
    plain = History((epoch(val_loss=None, val_score=math.nan, loss=math.inf),)).to_dict()
    assert plain["epochs"][0]["val_loss"] is None
    assert plain["epochs"][0]["val_score"] == "nan"
    assert plain["epochs"][0]["loss"] == "inf"
    (read,) = History.from_dict(plain).epochs
    assert read.val_loss is None
    assert read.val_score is not None
    assert math.isnan(read.val_score)


def test_records_of_earlier_versions_call_every_score_accuracy() -> None:
    now = History((epoch(),)).to_dict()
    before = {name: value for name, value in now.items() if name != "score"}
    renamed = {"score": "accuracy", "val_score": "val_accuracy"}
    before["epochs"] = [{renamed.get(name, name): value for name, value in now["epochs"][0].items()}]
    assert History.from_dict(before) == History((epoch(),), score="accuracy")


def test_the_kept_epoch_and_the_time_of_all() -> None:
    history = History((epoch(1, seconds=0.1), epoch(2, seconds=0.2), epoch(4, seconds=0.3)), best=4, stopped="All epochs were done.")
    assert history.kept is history.epochs[2]
    assert history.seconds == pytest.approx(0.6, abs=1e-15)
    assert History(history.epochs).kept is None


@pytest.mark.parametrize("number", [0, -1, 1.0, True, "1", None])
def test_an_epoch_has_a_whole_number_from_1(number: Any) -> None:
    with pytest.raises(ParameterError, match="The number of an epoch must be a whole number of at least 1, got"):
        epoch(number)


def test_the_stages_are_a_list() -> None:
    with pytest.raises(ParameterError, match="trained must be a list of names of stages, got the text 'stage6'"):
        epoch(trained="stage6")
    assert epoch(trained=["stage5", "stage6"]).trained == ("stage5", "stage6")


@pytest.mark.parametrize("numbers", [(2, 1), (1, 1)])
def test_epochs_come_in_order(numbers: tuple[int, ...]) -> None:
    with pytest.raises(ParameterError, match=r"The numbers of the epochs must increase, got \["):
        History(tuple(map(epoch, numbers)))


def test_the_best_epoch_is_one_of_them() -> None:
    with pytest.raises(ParameterError, match=r"best must be the number of one of the epochs \(\[1, 2\]\) or None, got 3"):
        History((epoch(1), epoch(2)), best=3)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"loss": None}, "TypeError"),
        ({"loss": "high"}, "could not convert string to float: 'high'"),
        ({"number": "one"}, "The number of an epoch must be a whole number"),
        ({"speed": 1.0}, "unexpected keyword argument 'speed'"),
    ],
)
def test_a_damaged_record_is_refused_in_words(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ParameterError, match=f"This is not the record of an epoch .*{said}"):
        Epoch.from_dict({**epoch().to_dict(), **change})


def test_missing_entries_are_named() -> None:
    with pytest.raises(ParameterError, match=r"This is not the record of an epoch .*'lr'"):
        Epoch.from_dict({name: value for name, value in epoch().to_dict().items() if name != "lr"})
    with pytest.raises(ParameterError, match=r"The history of a training needs epochs, best and stopped; got \{'epochs'"):
        History.from_dict({"epochs": []})


# TensorBoard


def _scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = accumulator.EventAccumulator(str(folder))
    found.Reload()
    return {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def test_tensorboard_reads_back_what_was_written(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs headstart[tensorboard]")
    pytest.importorskip("torch", reason="needs headstart[torch]")
    with closing(EventFiles(tmp_path / "events")) as files:
        for number in (1, 2, 3):
            files.epoch(epoch(number, loss=1 / number, val_loss=2 / number, score=number / 4, val_score=number / 8, lr=10.0**-number))
    found = _scalars(tmp_path / "events")
    expected = {
        "loss/train": [1.0, 1 / 2, 1 / 3],
        "loss/validation": [2.0, 1.0, 2 / 3],
        "accuracy/train": [0.25, 0.5, 0.75],
        "accuracy/validation": [0.125, 0.25, 0.375],
        "learning_rate": [0.1, 0.01, 0.001],
    }
    assert set(found) == set(expected)
    for tag, values in expected.items():
        assert [step for step, _ in found[tag]] == [1, 2, 3]
        assert [value for _, value in found[tag]] == pytest.approx(values, rel=1e-6)  # stored as float32


def test_without_validation_there_are_no_scalars_of_it_and_closing_twice_does_no_harm(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs headstart[tensorboard]")
    pytest.importorskip("torch", reason="needs headstart[torch]")
    files = EventFiles(tmp_path, score="pixel accuracy")
    files.epoch(epoch(1, val_loss=None, val_score=None))
    files.close()
    files.close()
    assert {tag: len(values) for tag, values in _scalars(tmp_path).items()} == {
        "loss/train": 1, "pixel_accuracy/train": 1, "learning_rate": 1,
    }  # fmt: skip


def two_epochs_and_no_end(folder: Path) -> None:
    files = EventFiles(folder)
    for number in (1, 2):
        files.epoch(Epoch(number=number, loss=1.0, score=0.5, lr=0.1, seconds=1.0))
    os._exit(0)


@pytest.mark.slow
def test_a_process_that_is_cut_off_leaves_every_finished_epoch(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs headstart[tensorboard]")
    pytest.importorskip("torch", reason="needs headstart[torch]")
    forked.called(two_epochs_and_no_end, tmp_path)
    assert _scalars(tmp_path)["loss/train"] == [(1, 1.0), (2, 1.0)]


def test_a_training_that_goes_on_replaces_the_epochs_that_it_repeats(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs headstart[tensorboard]")
    pytest.importorskip("torch", reason="needs headstart[torch]")
    with closing(EventFiles(tmp_path)) as files:
        for number in (1, 2, 3):
            files.epoch(epoch(number, loss=1.0))
    (first,) = tmp_path.iterdir()
    first.rename(tmp_path / "events.out.tfevents.1.first")  # both files may carry the same second, and are read in the order of names
    with closing(EventFiles(tmp_path)) as files:
        files.epoch(epoch(3, loss=2.0))
        files.epoch(epoch(4, loss=2.0))
    assert _scalars(tmp_path)["loss/train"] == [(1, 1.0), (2, 1.0), (3, 2.0), (4, 2.0)]


def test_without_tensorboard_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingExtraError, match=r"Writing event files for TensorBoard needs .* pip install 'headstart\[tensorboard\]'"):
        EventFiles(tmp_path)
