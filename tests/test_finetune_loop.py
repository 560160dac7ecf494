"""The training loop by itself, on a small network: what is learned, which weights are kept, and what stops it."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from headstart.errors import ParameterError
from headstart.settings import FineTuning

pytest.importorskip("timm", reason="needs headstart[torch]")

import torch
from torch import nn

from headstart.training.loop import Training
from headstart.training.network import STATISTICS, frozen_digest, make_optimizer, set_mode
from headstart.training.schedule import Phase, rates
from small_training import ALL, IMAGES, LABELS, Small, Told, digest, training

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


def test_with_trained_statistics_no_batch_is_a_single_image() -> None:
    """Its map of one position would have no statistics."""
    one = training(plan=FineTuning(epochs=1, batch_size=8, batchnorm="train", keep="last"), validation=12)
    order = one.order(0)
    batches = [one.batch(order, 0, index) for index in range(one.schedule.steps_per_epoch)]
    assert [batch.count for batch in batches] == [8, 8, 8, 9]
    one.run()


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
    usual, given = one.validate, iter(losses)

    def validate() -> Any:
        return dataclasses.replace(usual(), criterion=next(given, 0.0))

    monkeypatch.setattr(one, "validate", validate)


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
    found = one.validate()
    assert np.array_equal(found.predictions, one.validation.predictions)


def test_validation_is_scored_in_evaluation_mode() -> None:
    one = training(plan=dataclasses.replace(PLAN, epochs=1, dropout=0.5, keep="last", label_smoothing=0), augment="mixup=0.5")
    history = one.run()
    with torch.no_grad():
        logits, _ = one.network.eval()(torch.from_numpy(IMAGES[:9]).permute(0, 3, 1, 2).float() / 128 - 1)
    (epoch,) = history.epochs
    assert epoch.val_loss == pytest.approx(float(nn.functional.cross_entropy(logits, torch.from_numpy(LABELS[:9]))), rel=1e-5)
    assert epoch.val_score == pytest.approx(float((logits.argmax(1).numpy() == LABELS[:9]).mean()))
    np.testing.assert_allclose(one.validation.predictions, logits.numpy(), rtol=1e-5, atol=1e-6)


def test_without_validation_images_the_last_epoch_is_kept() -> None:
    plan = dataclasses.replace(PLAN, validation_share=0, keep="last")
    one = training(plan=plan, validation=0, select_best=False)
    history = one.run()
    assert history.best is None
    assert one.validation.predictions is None
    assert all(epoch.val_loss is None and epoch.val_score is None for epoch in history.epochs)


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


def test_no_step_is_begun_after_the_deadline_and_the_best_so_far_is_kept() -> None:
    one = training(plan=FineTuning(epochs=50, batch_size=8, lr=0.01), deadline=0.0)
    history = one.run()
    assert history.stopped == "The time was up in epoch 1 of 50."
    assert one._state.step == 1
    assert one.validation.score is not None
    assert training(deadline=math.inf).run().stopped == "All epochs were done."
