"""The training loop by itself, on a small network: what is learned, kept, and found again after an interruption."""

from __future__ import annotations

import dataclasses
import math
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conftest import draw
from headstart.errors import ParameterError
from headstart.settings import FineTuning

pytest.importorskip("timm", reason="needs headstart[torch]")

import torch
from torch import nn

from headstart.backbones.stages import Stage
from headstart.metrics.link import SOFTMAX
from headstart.modalities.image import Preprocessing
from headstart.modalities.image.augment import Augmentation
from headstart.progress import Listener
from headstart.training.checkpoint import CheckpointFolder, deferred_interrupt
from headstart.training.history import Epoch, History
from headstart.training.inputs import ImageInputs, Pixels
from headstart.training.job import TrainingJob
from headstart.training.labels import LabelTraining, make_loss
from headstart.training.loop import Stopped, Training
from headstart.training.network import STATISTICS, Network, frozen_digest, make_optimizer, set_mode, weights_digest
from headstart.training.preparation import Trainable
from headstart.training.processes import Processes
from headstart.training.schedule import Phase, rates

IMAGES = np.stack([draw(index % 3, index, side=32) for index in range(45)])
LABELS = np.arange(45) % 3


class Small(nn.Module):
    """A backbone of three stages in the shape of a `Tail`."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.model = nn.Sequential()
        for name, before, after in (("one", 3, 6), ("two", 6, 8), ("three", 8, 8)):
            layers = nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()
            self.model.add_module(name, nn.Sequential(*layers))

    def forward(self, value: Any) -> Any:
        return self.model(value)

    def pooled(self, last_map: Any) -> Any:
        return last_map.mean((2, 3))

    @property
    def stages(self) -> tuple[Stage, ...]:
        entries = list(self.model.state_dict())
        return tuple(
            Stage(name, name, tuple(entry for entry in entries if entry.startswith(name + ".")), 0, 0) for name in ("one", "two", "three")
        )


ALL = ("one", "two", "three")


def training(
    plan: FineTuning | None = None, *, phases: tuple[Phase, ...] = (Phase(0, ALL),), trained: tuple[str, ...] = ALL, validation: int = 9,
    weights: Any = None, augment: str = "none", on_epoch: Callable[[Epoch], None] | None = None, **more: Any,
) -> Training:  # fmt: skip
    plan, tail, augmentation = plan or FineTuning(epochs=3, batch_size=8, lr=0.01, layer_decay=1.0), Small(), Augmentation.parse(augment)
    loss = make_loss(plan, link=SOFTMAX, classes=3, class_weights=weights)
    task = LabelTraining(indicators=np.eye(3, dtype=np.float32)[LABELS], classes=np.arange(3), criterion=loss)
    network = Network(tail, task.head(8, plan, seed=1), flatten=False)  # type: ignore[arg-type]
    pixels = Pixels(IMAGES, preprocessing=Preprocessing(32), augmentation=augmentation, seed=1, memory=1 << 24)
    inputs = ImageInputs(pixels, normalise=lambda images: images.permute(0, 3, 1, 2).float() / 128 - 1, device="cpu")
    rows = np.arange(len(IMAGES))
    job = TrainingJob(plan=plan, task=task, images=IMAGES, train=rows[validation:], validation=rows[:validation], seed=1, **more)
    model = Trainable(network=network, inputs=inputs, stages=tail.stages, augmentation=augmentation, device="cpu")
    return Training(job, model, phases=phases, rates=rates(plan, trained), on_epoch=on_epoch)


def digest(one: Training) -> str:
    return weights_digest(one.network.state_dict())


class Told(Listener):
    """Keeps what it is told, and does something after a step of the training."""

    def __init__(self, *, after: int = 0, then: Callable[[], Any] = lambda: None) -> None:
        self.steps, self.after, self.then = 0, after, then
        self.said: list[str] = []
        self.warned: list[str] = []

    def detail(self, text: str) -> None:
        self.steps += 1
        if self.steps == self.after:
            self.then()

    def say(self, message: str) -> None:
        self.said.append(message)

    def warn(self, message: str) -> None:
        self.warned.append(message)


# One step, by hand ----------------------------------------------------------------------------------------------------------------------


def test_a_step_is_that_of_plain_pytorch() -> None:
    """The first two steps, written down without any of the loop's machinery."""
    plan = FineTuning(
        steps=2, batch_size=8, lr=0.01, layer_decay=0.5, weight_decay=0.1, clip=0.3, keep="last", warmup=0, label_smoothing=0.1
    )
    weights = np.array([1, 2, 0.5], dtype=np.float32)
    one = training(plan=plan, weights=weights)
    one.run()
    plain = training(plan=plan, weights=weights).network.eval()
    backbone = dict(plain.tail.model.named_parameters())
    factors = {"head": 1.0, "three": 0.5, "two": 0.25, "one": 0.125}
    groups = []
    for name, factor in factors.items():
        members = (
            list(plain.head.parameters()) if name == "head" else [value for key, value in backbone.items() if key.startswith(name + ".")]
        )
        groups += [{"params": [member], "highest": 0.01 * factor, "weight_decay": 0.1 if member.ndim > 1 else 0.0} for member in members]
    optimizer = torch.optim.AdamW(groups, lr=0.01)
    order = np.random.default_rng([1, 0]).permutation(np.arange(9, 45))
    losses = []
    for step in range(2):
        rows = order[8 * step : 8 * step + 8]
        logits, _ = plain(torch.from_numpy(IMAGES[rows]).permute(0, 3, 1, 2).float() / 128 - 1)
        smoothed = nn.functional.cross_entropy(
            logits, torch.from_numpy(LABELS[rows]), weight=torch.from_numpy(weights), label_smoothing=0.1, reduction="sum"
        )
        loss = smoothed / weights[LABELS[rows]].sum()
        losses.append(smoothed.item())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(plain.parameters(), 0.3)
        for group in optimizer.param_groups:
            group["lr"] = group["highest"] * (1 + math.cos(math.pi * step / 2)) / 2
        optimizer.step()
    expected = plain.state_dict()
    for name, value in one.network.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6, msg=name)
    (epoch,) = one._state.history.epochs
    assert epoch.loss == pytest.approx(sum(losses) / weights[LABELS[order[:16]]].sum(), rel=1e-5)
    assert epoch.lr == pytest.approx(0.005)
    assert epoch.trained == ALL


def test_weight_decay_is_left_to_l2sp_where_that_is_asked_for() -> None:
    one = training()
    for retain, expected in (("none", {0.0, 0.5}), ("distill", {0.0, 0.5}), ("l2sp", {0.0})):
        plan = FineTuning(weight_decay=0.5, retain=retain)
        made = make_optimizer(one.network, one.network.tail.stages, plan, rates(plan, ALL))
        assert {group["weight_decay"] for group in made.param_groups} == expected


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd", "rmsprop"])
def test_every_optimizer_learns(optimizer: str) -> None:
    lr = {"sgd": 0.1}.get(optimizer, 0.01)
    history = training(plan=FineTuning(epochs=20, batch_size=8, lr=lr, layer_decay=1.0, optimizer=optimizer)).run()
    assert history.epochs[-1].loss < 0.6 * history.epochs[0].loss


# Frozen ---------------------------------------------------------------------------------------------------------------------------------


def test_only_what_the_phase_names_is_changed_epoch_by_epoch() -> None:
    phases = (Phase(0, ()), Phase(1, ("three",)), Phase(2, ("two", "three")))
    found: list[dict[str, torch.Tensor]] = []

    def copied() -> dict[str, torch.Tensor]:
        return {name: value.clone() for name, value in one.network.state_dict().items()}

    one = training(phases=phases, trained=("two", "three"), on_epoch=lambda epoch: found.append(copied()))
    found.append(copied())
    history = one.run()
    for epoch, before, after in zip(history.epochs, found[:-1], found[1:], strict=True):
        changed = {name for name in after if not torch.equal(before[name], after[name])}
        may = {name for name in after if name.startswith("head.")} | {
            name for name in after for stage in epoch.trained if name.startswith(f"tail.model.{stage}.") and not name.endswith(STATISTICS)
        }
        assert changed == may
    assert [epoch.trained for epoch in history.epochs] == [phase.stages for phase in phases]


def test_trained_statistics_are_those_of_trained_stages_only() -> None:
    one = training(
        plan=FineTuning(epochs=1, batch_size=8, batchnorm="train", keep="last"), phases=(Phase(0, ("three",)),), trained=("three",)
    )
    before = {name: value.clone() for name, value in one.network.state_dict().items()}
    one.run()
    changed = {name for name, value in one.network.state_dict().items() if not torch.equal(before[name], value)}
    assert {name for name in changed if name.endswith(STATISTICS)} == {f"tail.model.three.1.{name}" for name in STATISTICS}
    assert not any(name.startswith(("tail.model.one", "tail.model.two")) for name in changed)


def test_the_digest_of_what_is_frozen_sees_every_entry() -> None:
    tail = Small()
    for batchnorm in ("inference", "train"):
        begun = frozen_digest(tail.model, tail.stages[2:], batchnorm=batchnorm)
        for name, value in tail.model.state_dict().items():
            usual = value.clone()
            value.add_(1)
            free = name.startswith("three.") and (batchnorm == "train" or not name.endswith(STATISTICS))
            assert (frozen_digest(tail.model, tail.stages[2:], batchnorm=batchnorm) == begun) == free, name
            value.copy_(usual)


def test_modes() -> None:
    one = training()
    stages = one.network.tail.stages
    set_mode(one.network, stages[1:2], batchnorm="train")
    assert {name for name, module in one.network.tail.model.named_modules() if module.training} == {"two.1"}
    assert {name.split(".")[0] for name, value in one.network.tail.model.named_parameters() if value.requires_grad} == {"two"}
    set_mode(one.network, stages, batchnorm="inference")
    assert not any(module.training for module in one.network.tail.modules())
    assert one.network.head.training


# Kept -----------------------------------------------------------------------------------------------------------------------------------


def scripted(one: Training, losses: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the choice of the best epoch go by these numbers, the first being that of the beginning."""
    usual, given = one._validate, iter(losses)

    def validate() -> Any:
        return dataclasses.replace(usual(), criterion=next(given, 0.0))

    monkeypatch.setattr(one, "_validate", validate)


PLAN = FineTuning(epochs=4, batch_size=8, lr=0.01, layer_decay=1.0)


@pytest.mark.parametrize(
    ("changes", "losses", "kept", "best"),
    [
        ({}, [9, 5, 3, 4, 4], 2, 2),
        ({}, [9, 8, 7, 6, 5], 4, 4),
        ({}, [1, 5, 3, 4, 4], 0, None),
        ({}, [9, 5, math.inf, math.inf, 6], 1, 1),
        ({"keep": "last"}, [9, 5, 3, 4, 4], 4, None),
        ({"early_stop": 2}, [9, 5, 6, 7, 1], 1, 1),
        ({"early_stop": 2, "keep": "last"}, [9, 5, 6, 7, 1], 3, None),
    ],
)
def test_the_weights_that_are_kept(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], losses: list[float], kept: int, best: int | None
) -> None:
    digests: list[str] = []
    one = training(plan=dataclasses.replace(PLAN, **changes), on_epoch=lambda epoch: digests.append(digest(one)))
    digests.append(digest(one))
    scripted(one, losses, monkeypatch)
    history = one.run()
    assert len(set(digests)) == len(digests)
    assert digest(one) == digests[kept]
    assert history.best == best
    stopped = "early_stop" in changes
    assert len(history.epochs) == (3 if stopped else 4)
    assert history.stopped == ("The validation loss had not fallen for 2 epochs." if stopped else "All epochs were done.")


def test_the_mean_of_the_last_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[dict[str, torch.Tensor]] = []
    one = training(
        plan=dataclasses.replace(PLAN, average=3),
        on_epoch=lambda epoch: found.append({name: value.clone() for name, value in one.network.state_dict().items()}),
    )
    history = one.run()
    for name, value in one.network.state_dict().items():
        torch.testing.assert_close(value, torch.stack([weights[name].double() for weights in found[1:]]).mean(0).to(value.dtype))
    assert history.best is None
    found = one._validate()
    assert np.array_equal(found.predictions, one.validation.predictions)


def test_validation_is_scored_in_evaluation_mode() -> None:
    one = training(plan=dataclasses.replace(PLAN, epochs=1, dropout=0.5, keep="last"), augment="mixup=0.5")
    history = one.run()
    with torch.no_grad():
        logits, _ = one.network.eval()(torch.from_numpy(IMAGES[:9]).permute(0, 3, 1, 2).float() / 128 - 1)
    (epoch,) = history.epochs
    assert epoch.val_loss == pytest.approx(float(nn.functional.cross_entropy(logits, torch.from_numpy(LABELS[:9]))), rel=1e-5)
    assert epoch.val_accuracy == pytest.approx(float((logits.argmax(1).numpy() == LABELS[:9]).mean()))
    np.testing.assert_allclose(one.validation.predictions, logits.numpy(), rtol=1e-5, atol=1e-6)


def test_without_validation_images_the_last_epoch_is_kept() -> None:
    plan = dataclasses.replace(PLAN, validation_share=0, keep="last")
    one = training(plan=plan, validation=0, select_best=False)
    history = one.run()
    assert history.best is None
    assert one.validation.predictions is None
    assert all(epoch.val_loss is None and epoch.val_accuracy is None for epoch in history.epochs)


# Trouble --------------------------------------------------------------------------------------------------------------------------------


def test_a_loss_that_is_no_number_stops_with_the_last_good_weights() -> None:
    told = Told()
    one = training(plan=dataclasses.replace(PLAN, lr=1e6), listener=told)
    begun = digest(one)
    history = one.run()
    assert digest(one) == begun
    (warning,) = told.warned
    assert "The initial weights are kept. Try a lower one: --lr 100000." in warning
    assert "learning rate of 1e+06" in warning
    assert "at step " in history.stopped
    assert "--lr 100000" in history.stopped


@pytest.mark.parametrize("chooses", [True, False])
def test_the_epoch_that_is_gone_back_to_is_named(monkeypatch: pytest.MonkeyPatch, chooses: bool) -> None:
    told, digests = Told(), list[str]()
    plan = PLAN if chooses else dataclasses.replace(PLAN, validation_share=0, keep="last")
    one = training(plan=plan, listener=told, select_best=chooses, on_epoch=lambda epoch: digests.append(digest(one)))
    if chooses:
        scripted(one, [9, 5, 6, 7], monkeypatch)
    usual = one.batch

    def poisoned(order: Any, epoch: int, index: int) -> Any:
        made = usual(order, epoch, index)
        return dataclasses.replace(made, values=made.values * math.nan) if (epoch, index) == (2, 3) else made

    monkeypatch.setattr(one, "batch", poisoned)
    history = one.run()
    kept = 1 if chooses else 2
    assert (
        f"The loss became NaN or infinite at step 4 of epoch 3, at a learning rate of 0.01. The weights of epoch {kept} are"
        in told.warned[0]
    )
    assert digest(one) == digests[kept - 1]
    assert history.best == (1 if chooses else None)
    assert history.stopped.endswith("Try a lower one: --lr 0.001.")


def test_trouble_before_anything_good_is_an_error() -> None:
    plan = dataclasses.replace(PLAN, lr=1e6, validation_share=0, keep="last")
    with pytest.raises(
        ParameterError, match=r"(NaN or infinite|rose to).*before the first epoch was done\. Try a lower one: --lr 100000\."
    ):
        training(plan=plan, validation=0, select_best=False).run()


def test_a_loss_that_explodes_stops_too() -> None:
    told = Told()
    one = training(plan=dataclasses.replace(PLAN, optimizer="sgd", lr=20.0, clip=0, epochs=30, warmup=0), listener=told)
    history = one.run()
    assert len(history.epochs) < 30
    assert "rose to" in told.warned[0] or "NaN" in told.warned[0]
    with torch.no_grad():
        assert all(bool(value.isfinite().all()) for value in one.network.state_dict().values())


def test_classes_without_weight_do_no_harm() -> None:
    """A batch of them has no mean."""
    one = training(plan=dataclasses.replace(PLAN, batch_size=1, epochs=1), weights=np.array([1, 0, 0], dtype=np.float32))
    (epoch,) = one.run().epochs
    assert math.isfinite(epoch.loss)


# Interrupted ----------------------------------------------------------------------------------------------------------------------------

CAREFUL = FineTuning(epochs=3, batch_size=16, lr=0.01, layer_decay=1.0, dropout=0.3, head_layers=(8,), batchnorm="train", average=2)


def careful(folder: Path | None = None, listener: Listener | None = None, **changes: Any) -> Training:
    plan = dataclasses.replace(CAREFUL, **changes)
    phases = (Phase(0, ()), Phase(1, ("three",)), Phase(2, ALL))
    saved = {} if folder is None else {"checkpoints": CheckpointFolder(folder), "resume": True}
    return training(plan, phases=phases, augment="mixup=0.3,flip=0.5,shift=0.1", listener=listener or Listener(), **saved)


def timeless(history: History) -> list[Epoch]:
    return [dataclasses.replace(epoch, seconds=0.0) for epoch in history.epochs]


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "rmsprop"])
def test_interrupted_at_any_step_and_resumed_it_comes_to_the_same_weights(tmp_path: Path, optimizer: str) -> None:
    whole = careful(optimizer=optimizer)
    expected = timeless(whole.run())
    steps = (1, 2, 3, 4, 6, 8, 9) if optimizer == "adamw" else (3, 5)  # three steps an epoch
    for step in steps:
        folder = tmp_path / str(step)
        CheckpointFolder(folder).begin({})
        one = careful(folder, Told(after=step, then=lambda: signal.raise_signal(signal.SIGINT)), optimizer=optimizer)
        if step < 9:
            with pytest.raises(Stopped):
                one.run()
            told = Told()
            one = careful(folder, told, optimizer=optimizer)
            history = one.run()
            assert told.said[0] == f"Resuming after step {step} of 9."
            assert told.steps == 9 - step
        else:  # nothing is left to be done
            history = one.run()
        assert digest(one) == digest(whole), step
        assert timeless(history) == expected
        assert all(math.isclose(epoch.seconds, 0, abs_tol=60) for epoch in history.epochs)
        assert np.array_equal(one.validation.predictions, whole.validation.predictions)


def test_interrupted_again_and_again(tmp_path: Path) -> None:
    whole = careful()
    whole.run()
    CheckpointFolder(tmp_path / "t").begin({})
    for _ in range(8):  # one step each
        with pytest.raises(Stopped):
            careful(tmp_path / "t", Told(after=1, then=lambda: signal.raise_signal(signal.SIGINT))).run()
    one = careful(tmp_path / "t")
    one.run()
    assert digest(one) == digest(whole)
    again = careful(tmp_path / "t")  # ended, but for what comes after the loop
    again.run()
    assert digest(again) == digest(whole)


class Killed(BaseException):
    """As if the process had ended here."""


@pytest.mark.parametrize("step", [1, 6, 8])
def test_what_was_killed_goes_on_from_the_last_epoch(tmp_path: Path, step: int) -> None:
    whole = careful()
    expected = timeless(whole.run())

    def end() -> None:
        raise Killed

    CheckpointFolder(tmp_path / "t").begin({})
    with pytest.raises(Killed):
        careful(tmp_path / "t", Told(after=step, then=end)).run()
    told = Told()
    one = careful(tmp_path / "t", told)
    history = one.run()
    assert told.steps == 9 - (step - 1) // 3 * 3
    assert digest(one) == digest(whole)
    assert timeless(history) == expected


def test_an_interruption_while_the_frozen_part_is_computed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    CheckpointFolder(tmp_path / "t").begin({})
    one = careful(tmp_path / "t")

    def prepare(epoch: int | None) -> None:
        if epoch == 1:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(one.model.inputs, "prepare", prepare)
    with pytest.raises(Stopped):
        one.run()
    whole, resumed = careful(), careful(tmp_path / "t")
    whole.run()
    resumed.run()
    assert digest(resumed) == digest(whole)


def test_the_second_ctrl_c_is_as_usual() -> None:
    event, usual = threading.Event(), signal.getsignal(signal.SIGINT)
    with deferred_interrupt(event):
        signal.raise_signal(signal.SIGINT)
        assert event.is_set()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is usual
    with deferred_interrupt(event):
        pass
    assert signal.getsignal(signal.SIGINT) is usual

    def elsewhere() -> None:
        with deferred_interrupt(event):
            done.append(signal.getsignal(signal.SIGINT))

    done: list[Any] = []
    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert done == [usual]


# Processes -------------------------------------------------------------------------------------------------------------------------------


def test_the_shares_of_a_batch_are_the_batch() -> None:
    for size in (1, 2, 3, 7):
        for count in (0, 1, 2, 5, 32, 33):
            shares = [range(count)[Processes(rank, size).share(count)] for rank in range(size)]
            assert [row for share in shares for row in share] == list(range(count))
            assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_processes_as_torchrun_sets_them(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert Processes.from_environment() == Processes(0, 1, 0)
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert Processes.from_environment() == Processes(0, 1, 0)
    monkeypatch.setenv("RANK", "3")
    assert Processes.from_environment() == Processes(3, 4, 3)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert Processes.from_environment() == Processes(3, 4, 1)
    assert not Processes.from_environment().is_first
    monkeypatch.setenv("RANK", "first")
    with pytest.raises(ParameterError, match=r"RANK, WORLD_SIZE and LOCAL_RANK must be numbers, as torchrun sets them.*'first'"):
        Processes.from_environment()


def test_a_single_process_waits_for_nobody() -> None:
    one = Processes()
    one.join("cpu")
    one.barrier()
    assert one.sum(torch.tensor(3.0)) == 3
    assert one.any(True, device="cpu")
    assert not one.any(False, device="cpu")
    with one.first_on_machine():
        pass
    one.leave()


def test_trained_batchnorm_needs_a_single_process() -> None:
    plan = FineTuning(batchnorm="train")
    Processes().check(plan)
    Processes(0, 2).check(FineTuning())
    with pytest.raises(ParameterError, match=r"batchnorm 'train' works in a single process\. Use batchnorm 'inference', or start without"):
        Processes(0, 2).check(plan)
