"""`fine_tune` from end to end on small pictures: what stays frozen, what is learned, and what comes of it."""

from __future__ import annotations

import dataclasses
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from headstart.backbones import Backbone, load_backbone, timm_models, torch_network
from headstart.backbones.records import Conversion
from headstart.errors import Interrupted, ParameterError
from headstart.features import BackboneExtractor
from headstart.settings import FineTuning

pytest.importorskip("timm", reason="needs headstart[torch]")

import torch

from conftest import draw
from headstart.metrics.link import SIGMOID, SOFTMAX, Link
from headstart.progress import Listener
from headstart.training import inputs, preparation
from headstart.training.checkpoint import FILE, CheckpointFolder
from headstart.training.job import Pretrained, TrainingJob
from headstart.training.labels import LabelTraining, make_loss
from headstart.training.network import STATISTICS
from headstart.training.tuning import FineTuned, FrozenWeightsError, fine_tune

NAME = "test_efficientnet"
"""The smallest at hand."""
PLAN = FineTuning(epochs=3, batch_size=8, image_size=64, device="cpu", lr=2e-3, augment="none", keep="last")


def loaded(name: str, cache: Path) -> Backbone:
    return load_backbone(name, cache=cache, weights="random", announce=lambda message: None)


@pytest.fixture(scope="module")
def small(cache: Path) -> Backbone:
    return loaded(NAME, cache)


def job(plan: FineTuning = PLAN, *, labels: int = 3, link: Link = SOFTMAX, validation: int = 6, **more: Any) -> TrainingJob:
    images = np.stack([draw(index % 3, index, side=64) for index in range(27)])
    targets = np.eye(labels, dtype=np.float32)[np.arange(27) % labels]
    if link is SIGMOID:
        targets[::4, 0] = 1
    rows = np.arange(27)
    classes = np.arange(labels) if link is SIGMOID else np.array(["rings", "stripes", "checks"][:labels])
    task = LabelTraining(indicators=targets, classes=classes, loss=make_loss(plan, link=link, classes=labels))
    return TrainingJob(plan=plan, task=task, images=images, train=rows[validation:], validation=rows[:validation], **more)


def pretrained(backbone: Backbone, **more: Any) -> Pretrained:
    return Pretrained(backbone=backbone, preprocessing=backbone.preprocessing, **more)


@dataclass
class Came:
    """What came of a training, and the weights of its network and head."""

    done: FineTuned
    weights: dict[str, torch.Tensor]

    @property
    def all(self) -> dict[str, np.ndarray]:
        _, arrays = self.done.head.state()
        return {**{name: value.numpy() for name, value in self.weights.items()}, **arrays}


Tune = Callable[..., Came]


@pytest.fixture
def tune(small: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tune:
    """Fine-tune the small network; converting what comes of it, which has tests of its own, is left out."""
    seen: list[dict[str, torch.Tensor]] = []
    known = {field.name for field in dataclasses.fields(FineTuning)}

    def written(record: Any, network: Any) -> Conversion:
        assert not any("forward" in vars(module) for module in network.model.modules())  # nothing is left of the training's shortcuts
        seen.append({name: value.clone() for name, value in network.model.state_dict().items()})
        layers = small.layers
        if network.flat:
            size = int(network(torch.zeros(1, 64, 64, 3, dtype=torch.uint8)).shape[1])
            layers = (*layers, dataclasses.replace(layers[-1], name="map", start=size - network.sizes[-1], stop=size))
        return Conversion(network=small.network.read_bytes(), record=record, layers=layers, any_size=True, versions={})

    monkeypatch.setattr(timm_models, "convert_module", written)

    def run(*, backbone: Backbone = small, **changes: Any) -> Came:
        plan = {name: changes.pop(name) for name in list(changes) if name in known}
        done = fine_tune(
            job(dataclasses.replace(PLAN, **plan), **changes), pretrained(backbone, weights="random", engine="torch"), cache=tmp_path
        )
        return Came(done, seen[-1])

    return run


def weights_of(backbone: Backbone) -> dict[str, torch.Tensor]:
    network = torch_network(backbone, weights="random")
    return {name: value.clone() for name, value in network.model.state_dict().items()}


@pytest.fixture(scope="module")
def original(small: Backbone) -> dict[str, torch.Tensor]:
    return weights_of(small)


def same(one: Came, other: Came) -> bool:
    return one.all.keys() == other.all.keys() and all(np.array_equal(value, other.all[name]) for name, value in one.all.items())


def changed(came: Came, original: dict[str, torch.Tensor]) -> set[str]:
    assert came.weights.keys() == original.keys()
    return {name for name, value in came.weights.items() if not torch.equal(value, original[name])}


def entries(came: Came, stages: tuple[str, ...], *, statistics: bool = False) -> set[str]:
    return {
        entry
        for stage in came.done.stages
        if stage.name in stages
        for entry in stage.entries
        if statistics or not entry.endswith(STATISTICS)
    }


class Interrupting(Listener):
    """Ctrl-C after so many steps."""

    def __init__(self, after: int) -> None:
        self.left = after

    def detail(self, text: str) -> None:
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGINT)


class Told(Listener):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, message: str) -> None:
        self.lines.append(message)

    warn = say


# The same again -------------------------------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tune: Tune) -> None:
    changes: dict[str, Any] = {"augment": "flip=0.5,mixup=0.2", "dropout": 0.2, "epochs": 2}
    one, other, third = tune(**changes), tune(**changes), tune(**changes, seed=1)
    assert same(one, other)
    assert one.done.backbone.weights_digest == other.done.backbone.weights_digest != third.done.backbone.weights_digest
    assert not same(one, third)
    assert [epoch.loss for epoch in one.done.history.epochs] == [epoch.loss for epoch in other.done.history.epochs]


def test_interrupted_and_resumed(tune: Tune, tmp_path: Path) -> None:
    """In the middle of its second epoch; at every step: `test_finetune_resume`."""
    changes: dict[str, Any] = {"augment": "light", "views": 2, "dropout": 0.2}
    whole = tune(**changes)
    checkpoints = CheckpointFolder.beside(tmp_path / "run")
    checkpoints.begin({})
    with pytest.raises(Interrupted, match=r"The state of the training is saved\. To resume: --resume .*run$"):
        tune(**changes, checkpoints=checkpoints, listener=Interrupting(5))
    assert (checkpoints.path / FILE).is_file()
    assert same(tune(**changes, checkpoints=checkpoints, resume=True), whole)


# Frozen ---------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "stages"),
    [
        ({"strategy": "probe"}, ()),
        ({}, ("stage2", "stage3", "stage4", "stage5", "last")),
        ({"unfreeze": "stage3,last"}, ("stage3", "last")),
        ({"strategy": "full"}, ("stem", "stage1", "stage2", "stage3", "stage4", "stage5", "last")),
    ],
)
def test_what_is_frozen_is_bit_identical_and_the_rest_has_learned(
    tune: Tune, original: dict[str, torch.Tensor], changes: dict[str, Any], stages: tuple[str, ...]
) -> None:
    came = tune(**changes)
    assert came.done.trained == stages
    assert changed(came, original) == entries(came, stages)
    assert "and all BatchNorm statistics are bit-identical" in came.done.facts[-1]
    assert {name for epoch in came.done.history.epochs for name in epoch.trained} == set(stages)


def test_batchnorm_statistics_are_learned_where_that_is_asked_for_and_nowhere_else(tune: Tune, original: dict[str, torch.Tensor]) -> None:
    came = tune(batchnorm="train", unfreeze=2)
    assert changed(came, original) == entries(came, ("stage5", "last"), statistics=True)
    assert "statistics" not in came.done.facts[-1]


def test_gradual_unfreezing(tune: Tune, original: dict[str, torch.Tensor]) -> None:
    came = tune(unfreeze="gradual", epochs=4)
    stages = ("stage2", "stage3", "stage4", "stage5", "last")
    assert [epoch.trained for epoch in came.done.history.epochs] == [stages[-1:], stages[-3:], stages, stages]
    assert changed(came, original) == entries(came, stages)
    early = tune(unfreeze="gradual", epochs=4, keep="best", early_stop=1, lr=1e-9)
    learned = {name for epoch in early.done.history.epochs for name in epoch.trained}
    assert changed(early, original) <= entries(early, tuple(learned))


@pytest.mark.parametrize("name", ["conv_stem.weight", "blocks.4.0.bn1.running_var"])
def test_a_frozen_weight_that_was_changed_is_an_error(tune: Tune, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    from headstart.training.loop import Training

    usual = Training.run
    found: list[Any] = []

    def run(self: Training) -> Any:
        history = usual(self)
        entry = self.network.tail.model.state_dict()[name]
        with torch.no_grad():
            entry[(0,) * entry.ndim] += 1e-3
        found.append(name)
        return history

    monkeypatch.setattr(Training, "run", run)
    monkeypatch.setattr(inputs.shutil, "disk_usage", lambda path: SimpleNamespace(free=0))  # so that the whole network is in the loop
    with pytest.raises(FrozenWeightsError, match="were to stay frozen have changed"):
        tune(unfreeze="stage5,last", epochs=1)
    assert found == [name]


# Stored activations ---------------------------------------------------------------------------------------------------------------------


def test_stored_activations_give_the_same_training_as_the_frozen_part_in_the_loop(tune: Tune, monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told()
    stored = tune(listener=told)
    assert any("their output is computed once for 21 images" in line for line in told.lines)
    monkeypatch.setattr(inputs.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    told = Told()
    whole = tune(listener=told)
    assert any("more than half of the free space" in line and "training is slower" in line for line in told.lines)
    assert "The frozen part runs in every epoch: its output cannot be stored." in told.lines
    for one, other in zip(stored.done.history.epochs, whole.done.history.epochs, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=2e-3)
        assert one.val_loss == pytest.approx(other.val_loss, rel=2e-3)
    assert not same(stored, whole)  # float16
    for name, value in whole.all.items():
        assert np.abs(stored.all[name] - value).max() < 5e-3, name


@pytest.mark.parametrize(
    ("strategy", "mixing"), [("probe", "cutmix=1"), ("partial", "cutmix=1"), ("partial", "mixup=0.4,cutmix=1,flip=0.5")]
)
def test_images_are_mixed_as_stored_activations(tune: Tune, strategy: str, mixing: str) -> None:
    came, plain = tune(augment=mixing, strategy=strategy, epochs=1), tune(strategy=strategy, epochs=1)
    assert not same(came, plain)
    assert np.isfinite([epoch.loss for epoch in came.done.history.epochs]).all()


# Heads and losses -----------------------------------------------------------------------------------------------------------------------


def test_several_labels(tune: Tune) -> None:
    given: dict[str, Any] = {"link": SIGMOID, "validation": 12, "epochs": 1}
    came = tune(**given)
    assert came.done.predictions is not None
    assert came.done.predictions.shape == (12, 3)
    assert came.done.head.link_ is SIGMOID
    again = tune(**given, loss="focal", label_smoothing=0.1)
    assert not same(came, again)


def test_two_classes_with_one_sigmoid(tune: Tune) -> None:
    came = tune(labels=2, loss="binary")
    assert came.done.head.single_sigmoid
    assert came.done.predictions is not None
    np.testing.assert_allclose(came.done.predictions.sum(axis=1), 0, atol=1e-6)
    with pytest.raises(ParameterError, match="'binary' is for two classes"):
        tune(loss="binary")


def test_a_flattened_head_with_dense_layers_and_dropout(tune: Tune, cache: Path) -> None:
    """Of a network with a part that lies behind its last feature map."""
    backbone = loaded("mobilenetv3_small_050", cache)
    came = tune(backbone=backbone, pooling="flatten", head_layers=(16, 8), dropout=0.5, unfreeze=2)
    weights = came.done.head.weights
    assert [weight.shape[0] for weight in weights] == [16, 8, 3]
    assert weights[0].shape[1] == 2 * 2 * 288  # every position of the last feature map
    # What comes after the map is not run, and so has no gradient.
    learned = {name for name in entries(came, ("stage6", "last")) if not name.startswith("conv_head")}
    assert changed(came, weights_of(backbone)) == learned


def test_bfloat16_on_a_cpu(tune: Tune) -> None:
    exact, half = tune(epochs=2), tune(epochs=2, precision="bf16")
    assert not same(exact, half)
    for one, other in zip(exact.done.history.epochs, half.done.history.epochs, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=0.02)
    assert all(value.dtype != np.float16 and np.isfinite(value).all() for value in half.all.values())


# Retaining ------------------------------------------------------------------------------------------------------------------------------


def moved(came: Came, original: dict[str, torch.Tensor]) -> float:
    return max(float((value - original[name]).abs().max()) for name, value in came.weights.items() if value.is_floating_point())


def test_l2sp_holds_the_weights(tune: Tune, original: dict[str, torch.Tensor]) -> None:
    changes: dict[str, Any] = {"optimizer": "sgd", "epochs": 4, "lr": 0.05, "weight_decay": 0.5, "clip": 0, "layer_decay": 1.0}
    free, held = tune(**changes), tune(**changes, retain="l2sp", retain_strength=15.0)
    assert moved(held, original) < 0.02 * moved(free, original)


def features(came: Came, small: Backbone) -> torch.Tensor:
    network = torch_network(small, weights="random").eval()
    network.model.load_state_dict(came.weights)
    with torch.inference_mode():
        return network(torch.from_numpy(job().images))[:, -network.sizes[-1] :]


def test_distillation_holds_the_features(tune: Tune, small: Backbone, original: dict[str, torch.Tensor]) -> None:
    changes: dict[str, Any] = {"optimizer": "sgd", "lr": 0.05, "clip": 0, "layer_decay": 1.0, "unfreeze": 2}
    free, held = tune(**changes), tune(**changes, retain="distill", retain_strength=10.0)
    begun = features(Came(free.done, original), small)
    far, near = ((features(came, small) - begun).square().sum(1).mean() for came in (free, held))
    assert near < 0.5 * far


# What comes of it -----------------------------------------------------------------------------------------------------------------------


FULL = {"loss": "binary", "pixels": "unit", "strategy": "full", "warmup": 0.0, "label_smoothing": 0.0}


@pytest.mark.parametrize("changes", [{}, pytest.param(FULL, marks=pytest.mark.slow)])
def test_engine_and_head_say_what_the_network_in_training_said(
    backbone: Backbone, cache: Path, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "_FEW", 0)  # the frozen part is converted, as for many images
    plan = dataclasses.replace(PLAN, epochs=2, **changes)
    given = job(plan, labels=2 if "loss" in changes else 3, validation=12, listener=Told())
    done = fine_tune(given, pretrained(backbone), cache=cache)
    extractor = BackboneExtractor(done.backbone, preprocessing=done.preprocessing)
    assert extractor.id != BackboneExtractor(backbone, preprocessing=done.preprocessing).id
    found = done.head.logits(extractor(given.images[:12]).values)
    assert done.predictions is not None
    scale = np.abs(done.predictions).max()
    assert scale > 0.01
    np.testing.assert_allclose(found, done.predictions, atol=scale * (1e-3 if "strategy" in changes else 1e-2))
    assert done.head.temperature != 1.0


def test_it_begins_with_the_head_that_was_fitted_on_frozen_features(backbone: Backbone, cache: Path) -> None:
    """With a rate of nearly nothing, the fine-tuned model is the probe."""
    from sklearn.linear_model import LogisticRegression

    plan = dataclasses.replace(PLAN, epochs=1, lr=1e-12, strategy="probe", keep="best")
    given = job(plan, validation=12)
    small = dataclasses.replace(backbone.preprocessing, size=64)
    values = BackboneExtractor(backbone, preprocessing=small)(given.images).values
    asked: list[int] = []

    def start(size: int) -> np.ndarray:
        asked.append(size)
        return values[given.train].copy()

    done = fine_tune(given, pretrained(backbone, features=start), cache=cache)
    assert asked == [64]
    labels = given.task.targets(np.arange(27)).argmax(1).numpy()
    reference = LogisticRegression(max_iter=1000).fit(values[given.train], labels[given.train])
    assert done.predictions is not None
    assert (done.predictions.argmax(1) == reference.predict(values[:12])).mean() > 0.8
    found = done.head.logits(BackboneExtractor(done.backbone, preprocessing=done.preprocessing)(given.images[:12]).values)
    np.testing.assert_allclose(found, done.predictions, atol=0.02 * np.abs(found).max())


def test_an_image_size_that_the_network_cannot_take(backbone: Backbone, tmp_path: Path) -> None:
    fixed = dataclasses.replace(backbone, any_size=False)
    with pytest.raises(ParameterError, match=r"takes images of 224 pixels only, and image_size is 64\. Leave it out"):
        fine_tune(job(), pretrained(fixed), cache=tmp_path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(tune: Tune) -> None:
    with pytest.raises(ParameterError, match=r"device is 'cuda', and PyTorch finds no GPU here\. Use 'cpu' or 'auto'"):
        tune(device="cuda")


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")])
def test_memory_that_is_not_there(tune: Tune, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    from headstart.errors import HeadstartError
    from headstart.training.loop import Training

    def fail(*_: Any) -> Iterator[Any]:
        raise error

    monkeypatch.setattr(Training, "step", fail)
    with pytest.raises(HeadstartError, match=r"not enough memory for batches of 8 images\. Try a smaller --batch-size or --image-size"):
        tune()
