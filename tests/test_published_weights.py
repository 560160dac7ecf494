"""Published weights: from the cache of the Hub or downloaded; announced, checked, and clear about what cannot be had."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from headstart.backbones import find, load_backbone
from headstart.backbones.records import Layer
from headstart.backbones.weights import find_weights
from headstart.errors import BackboneError

pytest.importorskip("timm", reason="needs headstart[torch]")

import torch

from small_networks import expected_last, noise, onnx_output, relative, small_model, smaller

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def model() -> Any:
    return small_model()


def hub_folder(root: Path, source: Path, repository: str, *, digest: str | None = None, file: str = "model.safetensors") -> Path:
    """A folder as huggingface_hub keeps it, holding one file."""
    repo = root / f"models--{repository.replace('/', '--')}"
    blob = repo / "blobs" / (digest or hashlib.sha256(source.read_bytes()).hexdigest())
    commit = "0123456789abcdef0123456789abcdef01234567"
    for folder in (blob.parent, repo / "refs", repo / "snapshots" / commit):
        folder.mkdir(parents=True)
    shutil.copy(source, blob)
    (repo / "refs" / "main").write_text(commit)
    (repo / "snapshots" / commit / file).symlink_to(blob)
    return blob


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the Hub, and no network."""
    import huggingface_hub.constants as constants

    folder = tmp_path / "hub"
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.setattr(constants, name, str(folder), raising=False)
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(folder), raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return folder


def test_weights_from_the_hub_cache(tmp_path: Path, hub: Path, model: Any) -> None:
    from safetensors.torch import save_file

    save_file(dict(model.state_dict()), tmp_path / "file")
    blob = hub_folder(hub, tmp_path / "file", "timm/mobilenetv3_small_050.lamb_in1k")
    said: list[str] = []
    with smaller(64):
        backbone = load_backbone("mobilenetv3_small_050", cache=tmp_path, announce=said.append)
    assert backbone.weights_digest == blob.name
    assert backbone.weights_source == "hub:timm/mobilenetv3_small_050.lamb_in1k"
    assert re.fullmatch(rf"Weights of mobilenetv3_small_050\.lamb_in1k: model\.safetensors, 6\.\d MB, SHA-256 {blob.name}", said[0])
    images = noise(2, 64, 64, 3)
    assert relative(onnx_output(backbone.network, images)[:, -1024:], expected_last(model, images), (Layer("last", 0, 1024),)) < 1e-4
    shutil.rmtree(hub)
    script = (
        "import sys; from pathlib import Path; from headstart.backbones import load_backbone\n"
        f"found = load_backbone('MobileNetV3 small 050', cache=Path({str(tmp_path)!r}), announce=sys.exit)\n"
        "print(found.network_digest, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [backbone.network_digest, "False"]


def test_a_download_is_announced_and_checked(tmp_path: Path, hub: Path, model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    torch.save(model.state_dict(), tmp_path / "file")
    asked = []

    def download(repository: str, name: str) -> str:
        asked.append(name)
        if name == "model.safetensors":
            raise huggingface_hub.errors.EntryNotFoundError("404")
        blob = hub_folder(hub, tmp_path / "file", repository, file=name)
        return str(next(blob.parents[1].glob(f"snapshots/*/{name}")))

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    said: list[str] = []
    record = find("MobileNetV3Small")
    found = find_weights(record, None, seed=0, announce=said.append)
    path, digest = found.path, found.digest
    assert path is not None
    assert asked == ["model.safetensors", "pytorch_model.bin"]
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert said[0] == (
        "Downloading the weights of mobilenetv3_small_100.lamb_in1k (about 10 MB, licence apache-2.0) from "
        f"https://huggingface.co/timm/mobilenetv3_small_100.lamb_in1k to {hub}"
    )
    assert digest in said[1]
    path.resolve().write_bytes(b"damaged")
    with pytest.raises(BackboneError, match=rf"is damaged: its SHA-256 is \w+, it should begin with {digest}\. Delete it and try again"):
        find_weights(record, None, seed=0, announce=lambda message: None)


@pytest.mark.parametrize("name", ["ResNet50", "Xception"])
def test_offline_the_error_names_the_file_and_what_helps(tmp_path: Path, hub: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    with pytest.raises(BackboneError) as caught:
        load_backbone(name, cache=tmp_path, announce=lambda message: None)
    message = str(caught.value)
    assert {"ResNet50": "timm/resnet50.tv_in1k/resolve/main/model.safetensors", "Xception": "xception-43020ad28.pth"}[name] in message
    assert "are not on this machine and cannot be downloaded now" in message
    for help_ in (
        "headstart fetch",
        "--out DIR",
        "--weights FILE",
        "HF_HOME",
        "HF_HUB_OFFLINE",
        "tf_efficientnet_lite0, 1 and 2 need no download",
    ):
        assert help_ in message
    assert "\n" not in message


def test_any_failure_of_a_download_is_told(tmp_path: Path, hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def broken(*arguments: str) -> str:
        raise ConnectionResetError(104, "Connection reset by peer")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", broken)
    with pytest.raises(
        BackboneError,
        match=r"resnet50\.tv_in1k/resolve/main/model\.safetensors are not on this machine .* \(\[Errno 104\] Connection reset by peer\)",
    ):
        find_weights(find("ResNet50"), None, seed=0, announce=lambda message: None)

    def empty(*arguments: str) -> str:
        raise huggingface_hub.errors.EntryNotFoundError("404")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", empty)
    with pytest.raises(BackboneError, match=r"timm/resnet50\.tv_in1k has none of model\.safetensors, pytorch_model\.bin\."):
        find_weights(find("ResNet50"), None, seed=0, announce=lambda message: None)


def test_an_altered_file_of_torchs_cache_is_refused(tmp_path: Path, hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    (folder / "xception-43020ad28.pth").write_bytes(b"something else")
    with pytest.raises(BackboneError, match=r"xception-43020ad28\.pth is damaged: .* it should begin with 43020ad28\."):
        find_weights(find("Xception"), None, seed=0, announce=lambda message: None)


def test_a_gated_repository_says_how_to_log_in(tmp_path: Path, hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def gated(*arguments: str) -> str:
        raise huggingface_hub.errors.GatedRepoError("403", response=mock.Mock(headers={}))

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", gated)
    with pytest.raises(
        BackboneError, match=r"timm/vit_small_patch16_dinov3\.lvd1689m is gated: .*\(dinov3-license\).* `hf auth login` .*HF_TOKEN"
    ):
        find_weights(find("vit_small_patch16_dinov3"), None, seed=0, announce=lambda message: None)


# headstart fetch -------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def connected(tmp_path: Path, hub: Path, model: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A Hub that has the weights of the small network and of no other. Gives the names of what was downloaded."""
    import huggingface_hub
    from safetensors.torch import save_file

    save_file(dict(model.state_dict()), tmp_path / "published")
    downloaded: list[str] = []

    def download(repository: str, name: str) -> str:
        if "mobilenetv3_small_050" not in repository:
            raise ConnectionResetError(104, "Connection reset by peer")
        downloaded.append(repository)
        blob = hub_folder(hub, tmp_path / "published", repository)
        return str(next(blob.parents[1].glob(f"snapshots/*/{name}")))

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return downloaded


def test_what_was_fetched_needs_no_internet(cli: Any, tmp_path: Path, hub: Path, connected: list[str]) -> None:
    cache = tmp_path / "cache"
    with smaller(64):
        first = cli("fetch", "mobilenetv3_small_050", "efficientnet_lite0", "--cache", cache)
        again = cli("fetch", "mobilenetv3_small_050", "--cache", cache, "--out", "weights")
    assert (first.code, again.code) == (0, 0), first.err + again.err
    assert re.search(r"Downloading the weights of mobilenetv3_small_050\.lamb_in1k \(size unknown, licence apache-2\.0\) from", first.err)
    assert re.search(r"SHA-256 [0-9a-f]{64}", first.err)
    lines = first.out.splitlines()
    assert re.fullmatch(r"mobilenetv3_small_050\.lamb_in1k  fetched: .*model\.safetensors, 6\.\d MB", lines[0])
    assert lines[1] == "  headstart fit DATA --backbone mobilenetv3_small_050"
    assert lines[2].startswith("tf_efficientnet_lite0  comes with Headstart: ")
    copied = Path("weights/mobilenetv3_small_050.lamb_in1k.safetensors")
    assert again.out.startswith(f"mobilenetv3_small_050.lamb_in1k  was fetched before: {copied}, ")
    assert f"--weights {copied}" in again.out
    assert "Downloading" not in again.err
    assert copied.read_bytes() == (tmp_path / "published").read_bytes()
    assert len(connected) == 1
    shutil.rmtree(hub)
    connected.append("offline")
    backbone = load_backbone("mobilenetv3_small_050", cache=cache, announce=pytest.fail)
    assert backbone.weights_source == "hub:timm/mobilenetv3_small_050.lamb_in1k"
    copied.write_bytes(b"mine")
    with smaller(64):
        kept = cli("fetch", "mobilenetv3_small_050", "--cache", cache, "--out", "weights")
    assert kept.code == 2
    assert "is there and is another file: it is left as it is" in kept.err
    assert copied.read_bytes() == b"mine"


def test_what_cannot_be_fetched_is_told_and_the_rest_is_fetched(cli: Any, tmp_path: Path, connected: list[str]) -> None:
    wrong = cli("fetch", "mobilenetv3_small_050", "resnet52", "--cache", tmp_path)
    assert (wrong.code, connected) == (2, [])
    assert "There is no backbone 'resnet52'" in wrong.err
    with smaller(64):
        done = cli("fetch", "resnet50", "mobilenetv3_small_050", "resnetv2_152", "--cache", tmp_path)
    assert done.code == 2
    assert (
        "The weights of resnet50.tv_in1k at https://huggingface.co/timm/resnet50.tv_in1k/resolve/main/model.safetensors are not" in done.err
    )
    assert "timm knows of no published ImageNet weights for resnetv2_152.untrained. Give your own with --weights FILE." in done.err
    assert done.out.startswith("mobilenetv3_small_050.lamb_in1k  fetched: ")
