"""One backbone trained further for several columns of labels: the loss, missing labels, and which model each column gets."""

from __future__ import annotations

import csv
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from headstart import FineTuning, FitSettings, fit, load  # noqa: E402
from headstart.backbones import Layer  # noqa: E402
from headstart.heads.columns import ColumnHeads  # noqa: E402
from headstart.metrics import SIGMOID, SOFTMAX  # noqa: E402
from headstart.metrics.link import log_softmax  # noqa: E402
from headstart.selection.mean import MeanHead  # noqa: E402
from headstart.tasks.multitask import fine_tuning  # noqa: E402
from headstart.training.columns import ColumnsTraining  # noqa: E402
from headstart.training.labels import LabelTraining, make_loss  # noqa: E402

PLAN = FineTuning(unfreeze=1, epochs=1, batch_size=16, image_size=32, lr=1e-4, validation_share=0.25, label_smoothing=0.1)
RANDOM = np.random.default_rng(0)
CLASSES = RANDOM.integers(0, 3, 40)
SETS = RANDOM.random((40, 2)) < 0.4
FEATURES = RANDOM.normal(size=(40, 6)).astype(np.float32)


def made(known: np.ndarray, *, plan: FineTuning = PLAN) -> ColumnsTraining:
    """A column of three classes and one of label sets of 40 images, of which some are `known`, bool (40, 2)."""
    one, many = np.eye(3, dtype=np.float32)[CLASSES] * known[:, :1], SETS.astype(np.float32) * known[:, 1:]
    columns = {
        "one": LabelTraining(indicators=one, classes=np.arange(3), loss=make_loss(plan, link=SOFTMAX, classes=3)),
        "many": LabelTraining(indicators=many, classes=np.arange(2), loss=make_loss(plan, link=SIGMOID, classes=2)),
    }
    return ColumnsTraining(columns=columns, known=known, rows=np.arange(40))


def some_known() -> np.ndarray:
    known = np.ones((40, 2), bool)
    known[::3, 0], known[1::4, 1] = False, False
    return known


def test_the_loss_is_that_of_the_paper() -> None:
    """The mean over a batch is the sum over the columns of exp(-s) times the mean loss of the labelled images alone, plus s / 2."""
    task, rows = made(some_known()), np.arange(40)
    outputs = torch.from_numpy(RANDOM.normal(size=(40, 5)).astype(np.float32))
    log_variances = torch.tensor([0.7, -0.4])
    whole = torch.cat([outputs, log_variances.expand(40, -1)], dim=1).requires_grad_()
    targets = task.targets(rows)
    found = task.loss(whole, targets)
    assert task.loss.weights(targets).tolist() == [1.0] * 40
    expected, places = 0.0, ((0, slice(0, 3)), (1, slice(3, 5)))
    for (place, part), column, s in zip(places, task.columns.values(), log_variances.tolist(), strict=True):
        there = task.known[:, place]
        alone = column.loss(outputs[there][:, part], column.targets(rows[there])).mean()
        expected += float(np.exp(-s) * alone + s / 2)
    assert float(found.detach().mean()) == pytest.approx(expected, rel=1e-5)
    found.sum().backward()
    assert not whole.grad[~torch.from_numpy(task.known[:, 0]), :3].any()
    assert not whole.grad[~torch.from_numpy(task.known[:, 1]), 3:5].any()
    assert whole.grad[torch.from_numpy(task.known[:, 0]), :3].any(dim=1).all()


def test_a_column_is_weighted_least_where_its_loss_is_largest() -> None:
    """In its minimum the variance is twice the mean loss."""
    task, rows, values = made(some_known()), np.arange(40), torch.from_numpy(FEATURES)
    head = task.head(6, PLAN, seed=0)
    outputs, variances = head(values).detach(), []
    for place, (part, column) in enumerate(zip((slice(0, 3), slice(3, 5)), task.columns.values(), strict=True)):
        there = task.known[:, place]
        variances.append(2 * column.loss(outputs[there][:, part], column.targets(rows[there])).mean())
    for factor, sign in ((1.0, 0), (0.5, -1), (2.0, 1)):  # below the minimum the loss falls, above it rises
        with torch.no_grad():
            head.log_variances.copy_(torch.log(factor * torch.stack(variances)))
        head.zero_grad()
        task.loss(head(values), task.targets(rows)).mean().backward()
        slope = head.log_variances.grad.numpy()
        assert (np.sign(np.where(np.abs(slope) < 1e-6, 0, slope)) == sign).all()


def test_a_mixed_image_counts_in_a_column_by_the_share_that_is_labelled() -> None:
    known = np.ones((40, 2), bool)
    known[1, 0] = False
    task = made(known)
    outputs = torch.cat([torch.from_numpy(RANDOM.normal(size=(1, 5)).astype(np.float32)), torch.zeros(1, 2)], dim=1)
    first, second = task.targets(np.array([0])), task.targets(np.array([1]))
    sets = 0.25 * first[:, 3:5] + 0.75 * second[:, 3:5]
    column, others = task.columns["one"].loss, task.columns["many"].loss
    scales = task.loss.scales
    expected = 0.25 * scales[0] * column(outputs[:, :3], first[:, :3]) + scales[1] * others(outputs[:, 3:5], sets)
    assert float(task.loss(outputs, 0.25 * first + 0.75 * second)) == pytest.approx(float(expected), rel=1e-5)


def test_each_head_starts_from_and_ends_as_that_of_its_column_alone() -> None:
    task, rows, layers = made(some_known()), np.arange(40), (Layer("last", 0, 6),)
    head = task.head(6, PLAN, seed=0)
    task.fit_head(head, FEATURES, rows, layers=layers, seed=0)
    values = torch.from_numpy(FEATURES)
    logits = task.predictions(head(values)).detach().numpy()
    found, calibrated = task.model(head, layers[0], 6, logits[:20], rows[:20])
    assert isinstance(found, ColumnHeads)
    for place, (name, part) in enumerate((("one", slice(0, 3)), ("many", slice(3, 5)))):
        column, there = task.columns[name], rows[task.known[:, place]]
        alone = column.head(6, PLAN, seed=place)
        column.fit_head(alone, FEATURES[there], there, layers=layers, seed=0)
        np.testing.assert_allclose(logits[:, part], alone(values).detach().numpy(), atol=1e-5)
        held = there[there < 20]
        expected, _ = column.model(alone, layers[0], 6, logits[held][:, part], held)
        assert found.heads[name].temperature == pytest.approx(expected.temperature, rel=1e-4)
        np.testing.assert_allclose(calibrated[:, part], logits[:20, part] / found.heads[name].temperature, rtol=1e-5)
    targets = task.targets(rows)
    validation = task.validate(torch.from_numpy(logits), targets)
    each = [
        column.validate(torch.from_numpy(logits[task.known[:, place], part]), targets[task.known[:, place], part])
        for place, (part, column) in enumerate(zip((slice(0, 3), slice(3, 5)), task.columns.values(), strict=True))
    ]
    assert validation.criterion == pytest.approx(np.mean([one.criterion for one in each]))
    assert validation.score == pytest.approx(np.mean([one.score for one in each]))


@pytest.fixture(scope="module")
def listed(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pictures with their shape and whether it is round, a third of the second missing."""
    folder = tmp_path_factory.mktemp("joint")
    with (folder / "list.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "shape", "form", "split"])
        for index, path in enumerate(sorted(pictures.glob("*/*.png"))):
            form = "" if index % 3 == 1 else "round" if path.parent.name == "rings" else "straight"
            writer.writerow([os.path.relpath(path, folder), path.parent.name, form, "test" if index % 4 == 0 else "train"])
    return folder / "list.csv"


@pytest.mark.parametrize(
    ("shipped", "backbone"),
    [({"shape": "trained", "form": "trained"}, "trained"), ({"shape": "mean", "form": "probe"}, "both"),
     ({"shape": "probe", "form": "probe"}, "frozen")],
)  # fmt: skip
def test_each_column_has_the_model_that_its_validation_images_prefer(
    listed: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shipped: dict[str, str], backbone: str
) -> None:
    monkeypatch.setattr(fine_tuning, "_chosen", lambda found, both: dict(shipped))
    plan = replace(PLAN, image_size=None if backbone == "both" else 32)  # both networks take the same images
    plain = FitSettings(labels=("shape", "form"), backbone="lite0@96", head="centroid", engine="onnxruntime", cache=cache)
    settings = replace(plain, fine_tuning=plan)
    monkeypatch.setattr("headstart.training.tuning.Trained.learned", True)  # one epoch need not be better than the beginning
    result = fit(listed, out=tmp_path / "run", settings=settings)
    assert {name: one.fine_tuned.shipped for name, one in result.learned.columns.items()} == shipped
    assert {name: probe.shipped for name, probe in result.probes.items()} == shipped
    frozen = fit(listed, settings=plain)
    for name, kind in shipped.items():
        head = result.learned.choice.estimator.heads[name]
        assert isinstance(head, MeanHead) == (backbone == "both")
        assert result.probes[name].test.scores == frozen.test.columns[name].scores
        if kind == "probe":
            first, second = (log_softmax(one.tested[f"{name}.logits"]) for one in (result, frozen))
            np.testing.assert_allclose(first, second, atol=0.02)
        own = result.learned.columns[name]
        known = np.isfinite(own.choice.out_of_sample).all(axis=1)
        assert known.all() == (kind == "probe")
        assert known.any()
    run = load(tmp_path / "run", engine="onnxruntime")
    again, _ = run.evaluate(run.read(tmp_path / "run" / "split.csv").take(result.table.test))
    assert again.headline[1] == pytest.approx(result.test.headline[1])
    for name in shipped:
        found = run.predict(list(result.dataset.take(result.table.test).inputs)).outputs[f"{name}.logits"]
        np.testing.assert_allclose(found, result.tested[f"{name}.logits"], atol=2e-2)
    page = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert "One backbone was trained for 2 columns together" in page
    assert (run.record.columns[0].probe or {})["shipped"] == shipped["shape"]


def test_a_dense_head_is_trained_for_each_column_on_the_frozen_backbone(listed: Path, cache: Path) -> None:
    plan = FineTuning(strategy="probe", start="random", head_layers=(8,), epochs=1, image_size=32)
    result = fit(listed, settings=FitSettings(labels=("shape", "form"), engine="onnxruntime", cache=cache, fine_tuning=plan))
    heads = result.learned.choice.estimator.heads
    assert [len(head.weights) for head in heads.values()] == [2, 2]
    assert not result.probes
