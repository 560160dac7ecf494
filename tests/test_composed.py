"""Backbones composed of others: side by side, at another size, averaged over mirror images; as one network, with one id."""

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import headstart
from headstart import FitSettings
from headstart.backbones import Backbone, find, load_backbone, torch_network
from headstart.backbones.composed import Specification
from headstart.engine import TorchEngine, open_engine
from headstart.errors import BackboneError, DataError, ParameterError
from headstart.features import BackboneExtractor
from headstart.features.extractor import Features
from headstart.features.store import FeatureStore
from headstart.settings import FineTuning

BOTH = "efficientnet_lite0+efficientnet_lite1@64"


@pytest.fixture(scope="module")
def both(cache: Path) -> Backbone:
    return load_backbone(BOTH, cache=cache)


def pixels(seed: int, side: int = 64) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def features(backbone: Backbone, *images: np.ndarray, kind: str = "openvino") -> np.ndarray:
    engine = open_engine(backbone.network, kind=kind, size=len(images[0]))
    return np.stack([values for (values,) in engine.run(images)])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("resnet50", Specification(("resnet50",))),
        ("lite0@320", Specification(("lite0",), 320)),
        (" a + b@96 + Mirrored", Specification(("a", "b"), 96, True)),
        ("a@64+b@64", Specification(("a", "b"), 64)),
    ],
)
def test_what_a_specification_says(text: str, expected: Specification) -> None:
    assert Specification.parse(text) == expected
    assert Specification.parse(str(expected)) == expected


@pytest.mark.parametrize("text", ["", "+", "a+", "a@", "a@x", "a@64+b@65", "mirrored", "a@1", "@64"])
def test_what_is_no_specification_says_what_is_one(text: str) -> None:
    with pytest.raises(BackboneError, match=r"NAME@SIZE|need a backbone and one image size"):
        Specification.parse(text)


def test_the_record_of_two_networks_adds_up() -> None:
    first, second, whole = find("efficientnet_lite0"), find("efficientnet_lite1"), find(BOTH)
    assert (whole.name, whole.input_size) == ("tf_efficientnet_lite0+tf_efficientnet_lite1", 64)
    assert whole.parameters == first.parameters + second.parameters
    assert (whole.dim, whole.licence, whole.top1) == (2560, "apache-2.0", None)
    assert find("efficientnet_lite0+efficientnet_lite2").input_size == 260, "the larger of the two"


def test_two_networks_side_by_side_compute_what_each_computes(both: Backbone, cache: Path) -> None:
    image = pixels(0)
    parts = [features(load_backbone(f"efficientnet_lite{number}@64", cache=cache), image)[0] for number in (0, 1)]
    whole = features(both, image)[0]
    names = [layer.name for layer in both.layers]
    assert names[0] == "tf_efficientnet_lite0.stage1"
    assert names[-1] == "last"
    stage = both.layers[names.index("tf_efficientnet_lite1.stage1")]
    np.testing.assert_allclose(whole[both.last.start : both.last.stop], np.concatenate([part[-1280:] for part in parts]), rtol=1e-5)
    np.testing.assert_allclose(whole[stage.start : both.last.start], parts[1][:-1280], rtol=1e-5)


def test_features_of_one_network_at_a_time_are_there_twice(both: Backbone) -> None:
    def computed_by(part: Backbone) -> Callable[..., Features]:
        def compute(images: list[bytes], **rest: object) -> Features:
            count = len(images) - (part is both.parts[-1] and images[-1] == b"gone")
            values = np.ones((count, part.dim), dtype=np.float32)
            return Features(values=values, kept=np.arange(count), refused=(), refused_at=(), computed=count)

        return compute

    extractor = BackboneExtractor(both)
    extractor.__dict__["parts"] = tuple(map(computed_by, both.parts))
    tracemalloc.start()
    whole = extractor([b""] * 1000).values
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert whole.min() == 1
    assert peak < 1.6 * whole.nbytes
    with pytest.raises(DataError, match="Images were changed or removed while their features were computed"):
        extractor([b"", b"gone"])


@pytest.mark.parametrize("kind", ["openvino", "onnxruntime"])
def test_mirrored_features_are_the_mean_and_do_not_change_with_the_image_mirrored(kind: str, backbone: Backbone, cache: Path) -> None:
    image = pixels(1)
    other = np.ascontiguousarray(image[:, ::-1])
    mirrored = load_backbone("lite0@64+mirrored", cache=cache)
    found = features(mirrored, image, other, pixels(2), kind=kind)
    plain = features(backbone, image, other, kind=kind)
    np.testing.assert_allclose(found[0], plain.mean(axis=0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found[0], found[1], rtol=1e-4, atol=1e-6)
    assert np.abs(found[0] - found[2]).max() > 0.1


def test_features_of_the_parts_are_found_by_every_combination(both: Backbone, cache: Path, tmp_path: Path) -> None:
    images = [pixels(seed) for seed in range(3)]
    with FeatureStore(tmp_path / "store.sqlite") as store:
        alone = BackboneExtractor(load_backbone("efficientnet_lite1@64", cache=cache), preprocessing=both.preprocessing)
        assert alone(images, store=store).computed == 3
        told: list[tuple[int, int]] = []
        together = BackboneExtractor(both)(images, store=store, progress=lambda *state: told.append(state))
        assert together.computed == 3, "of the other part"
        assert told[-1] == (6, 6)
        assert BackboneExtractor(both)(images, store=store).computed == 0
    np.testing.assert_allclose(together.values, features(both, *[both.preprocessing(image) for image in images]), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_pytorch_computes_the_same(cache: Path) -> None:
    pytest.importorskip("timm")
    whole = load_backbone(f"{BOTH}+mirrored", cache=cache)
    image = pixels(3)
    (found,) = TorchEngine(torch_network(whole), device="cpu").run([image])
    np.testing.assert_allclose(found[0], features(whole, image)[0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "weights", "reason"),
    [
        ("efficientnet_lite0+tf_efficientnet_lite0", None, "the same network twice"),
        ("efficientnet_lite0+efficientnet_lite1", "some.pth", "of one network"),
        ("efficientnet_lite0+nonesuch_network", None, "no backbone 'nonesuch_network'"),
    ],
)
def test_what_cannot_be_composed(name: str, weights: str | None, reason: str, cache: Path) -> None:
    with pytest.raises(BackboneError, match=reason):
        load_backbone(name, weights=weights, cache=cache)


def test_a_composed_backbone_is_not_trained(pictures: Path) -> None:
    pytest.importorskip("timm")
    with pytest.raises(ParameterError, match="--strategy probe"):
        headstart.fit(pictures, settings=FitSettings(backbone=BOTH, fine_tuning=FineTuning()))


@pytest.mark.slow
def test_the_whole_way_from_the_command_line(cli: Callable[..., SimpleNamespace], pictures: Path, photo: Path, tmp_path: Path) -> None:
    """Fitted, loaded, explained and exported as any other."""
    fitted = cli("fit", pictures, "--backbone", "efficientnet_lite0@64", "--backbone", "efficientnet_lite1", "--out", tmp_path / "run")
    assert fitted.code == 0, fitted.err
    run = headstart.load(tmp_path / "run")
    assert run.manifest.backbone.name == "tf_efficientnet_lite0+tf_efficientnet_lite1"
    assert run.preprocessing.size == 64
    (heat,) = run_explanations(run, photo)
    assert heat.shape == (64, 64) or heat.ndim == 2
    exported = cli("export", tmp_path / "run", "--out", tmp_path / "model.onnx")
    assert exported.code == 0, exported.err
    assert "same label for all" in exported.out + exported.err


def run_explanations(run: headstart.Run, photo: Path) -> list[np.ndarray]:
    from headstart import explain

    return [explanation.heat for explanation in explain(run, [photo])]
