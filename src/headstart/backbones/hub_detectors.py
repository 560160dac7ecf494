"""Detectors as the Hugging Face Hub has them: ``config.json`` and ``model.safetensors``, with a backbone, an encoder and a decoder.

Their backbone becomes one of Headstart, and the rest where a detection head begins. They are read by transformers, which is imported
inside the functions only; nothing in them is executed.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headstart.backbones.records import FILE_SOURCE, BackboneRecord
from headstart.backbones.timm_models import silence
from headstart.errors import BackboneError, MissingExtraError
from headstart.files import file_digest
from headstart.progress import quiet

if TYPE_CHECKING:
    from headstart.backbones.stages import PooledStages

CONFIGURATION, PREPROCESSING, WEIGHTS, CARD = "config.json", "preprocessor_config.json", "model.safetensors", "README.md"
ARCHITECTURES = ("d_fine", "rt_detr")
BACKBONES = ("hgnet_v2", "rt_detr_resnet")
"""Kinds of backbones of such detectors: what comes first, and then stages one after the other."""
SIDE = 640
"""Of the input of published detectors, in pixels, where the folder does not say it."""
_ON_HUB = re.compile(r"[\w.-]+/[\w.-]+")
_FILES = (".safetensors", ".pth", ".pt", ".bin", ".h5")


def require(what: str) -> None:
    """Raises MissingExtraError where transformers is not installed; the message says that `what` needs it."""
    if importlib.util.find_spec("transformers") is None:
        raise MissingExtraError(what, extra="detection")


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Hold back what transformers writes of its imports and of reading weights."""
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with silence(), quiet("transformers"):
            yield
    finally:
        if bars:
            logging.enable_progress_bar()


def names_detector(weights: str | Path | None) -> bool:
    """Whether weights are a folder with a configuration, or may be a name on the Hub: no file."""
    if weights is None:
        return False
    path = Path(weights)
    if path.exists():
        return path.is_dir()
    return isinstance(weights, str) and not weights.endswith(_FILES) and _ON_HUB.fullmatch(weights) is not None


def backbone_name(weights: str | Path) -> str:
    """What the backbone of a detector is called, by its folder or name."""
    return re.sub(r"[^\w.-]", "_", Path(weights).name) + "-backbone"


def side_of(weights: str | Path) -> int:
    """Side of the input of a detector in pixels, without a download."""
    return HubDetector(Path(weights), str(weights)).side if Path(weights).is_dir() else SIDE


@dataclass(frozen=True)
class HubDetector:
    """A detector in a folder.

    Attributes:
        folder: where its files lie.
        name: for people: that on the Hub, or of the folder.
    """

    folder: Path
    name: str

    @classmethod
    def find(cls, weights: str | Path, *, announce: Callable[[str], None] = lambda line: None) -> HubDetector:
        """The detector in a folder, or on the Hub, from which it is downloaded if it has not been; `announce` is called before that.

        BackboneError where it is not there, cannot be downloaded, or is of another kind; MissingExtraError without transformers.
        """
        require("A detector in the layout of the Hugging Face Hub")
        found = cls(Path(weights), Path(weights).name) if Path(weights).is_dir() else cls(_downloaded(str(weights), announce), str(weights))
        for name in (CONFIGURATION, WEIGHTS):
            if not (found.folder / name).is_file():
                raise BackboneError(
                    f"{found.folder} has no {name}. The folder of a detector has {CONFIGURATION} and {WEIGHTS}, as `hf download NAME "
                    "--local-dir DIR` writes them; other weight files may hold programs, and are not read."
                )
        if found.architecture not in ARCHITECTURES or found._backbone_type not in BACKBONES:
            kind = found.architecture if found.architecture not in ARCHITECTURES else f"{found.architecture} on {found._backbone_type}"
            raise BackboneError(
                f"{found.name} is a network of the kind {kind or 'that its configuration does not tell'}. Detectors that can be taken are "
                f"{' and '.join(ARCHITECTURES)} on {' or '.join(BACKBONES)}."
            )
        return found

    def _read(self, name: str) -> dict[str, Any]:
        try:
            found = json.loads((self.folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise BackboneError(f"{self.folder / name} cannot be read ({error}).") from None
        if not isinstance(found, dict):
            raise BackboneError(f"{self.folder / name} is not a configuration.")
        return found

    @property
    def architecture(self) -> str:
        """``d_fine``, ``rt_detr`` or what the configuration says."""
        return str(self._read(CONFIGURATION).get("model_type") or "")

    @property
    def _backbone_type(self) -> str:
        own = self._read(CONFIGURATION).get("backbone_config")
        return str(own.get("model_type") or "") if isinstance(own, dict) else ""

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of its classes, in the order of its outputs."""
        names = self._read(CONFIGURATION).get("id2label") or {}
        return tuple(str(names[key]) for key in sorted(names, key=int))

    @property
    def finest(self) -> int:
        """The finest map that it takes has a position for every so-many-th row and column of the input."""
        return int(min(self._read(CONFIGURATION).get("feat_strides") or (8,)))

    @property
    def licence(self) -> str | None:
        """What its card says, where there is one."""
        return _licence(self.folder / CARD)

    def settings(self) -> dict[str, Any]:
        """The settings of transformers' configuration, without those of the backbone and of the classes."""
        require(f"The detector {self.name}")
        from transformers import AutoConfig

        with quiet_transformers(), self._damage():
            made = AutoConfig.from_pretrained(str(self.folder), local_files_only=True, trust_remote_code=False)
        found: dict[str, Any] = made.to_dict()
        for name in ("backbone_config", "backbone", "id2label", "label2id", "num_labels", "architectures", "dtype", "torch_dtype"):
            found.pop(name, None)
        return found

    @contextmanager
    def _damage(self) -> Iterator[None]:
        """Whatever transformers raises is a BackboneError."""
        try:
            yield
        except Exception as error:  # it has no tree of its own
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise BackboneError(f"{self.name} cannot be read from {self.folder}: {reason}") from None

    def model(self) -> Any:
        """The detector with its weights in transformers, in evaluation mode; BackboneError where they do not fit."""
        return _loaded(self)

    def record(self) -> BackboneRecord:
        """What is known of its backbone."""
        path = self.folder / PREPROCESSING
        given = self._read(PREPROCESSING) if path.is_file() else {}
        normalised = bool(given.get("do_normalize"))
        return BackboneRecord(
            name=backbone_name(self.name), source=f"{FILE_SOURCE}{self.name}", licence=self.licence, input_size=self.side,
            mean=tuple(given.get("image_mean") or ()) if normalised else (0.0, 0.0, 0.0),
            std=tuple(given.get("image_std") or ()) if normalised else (1.0, 1.0, 1.0),
            interpolation="bilinear", crop=1.0, fit="squash", weights_digest=self.digest,
        )  # fmt: skip

    @property
    def side(self) -> int:
        """Of its input, in pixels."""
        path = self.folder / PREPROCESSING
        size = self._read(PREPROCESSING).get("size") if path.is_file() else None
        return int(size.get("height") or SIDE) if isinstance(size, dict) else SIDE

    @property
    def digest(self) -> str:
        """SHA-256 of its weights, hexadecimal."""
        return file_digest(self.folder / WEIGHTS)


@functools.lru_cache(maxsize=1)
def _loaded(detector: HubDetector) -> Any:
    require(f"The detector {detector.name}")
    from transformers import AutoModelForObjectDetection

    with quiet_transformers(), detector._damage():
        model, report = AutoModelForObjectDetection.from_pretrained(
            str(detector.folder), use_safetensors=True, local_files_only=True, trust_remote_code=False, freeze_backbone_batch_norms=False,
            output_loading_info=True,
        )  # fmt: skip
    missing = sorted(name for name in report["missing_keys"] if not name.endswith("num_batches_tracked"))
    if missing:
        raise BackboneError(f"{detector.folder / WEIGHTS} lacks {missing[0]} and {len(missing) - 1} more: is it of another network?")
    return model.eval()


def torch_backbone(detector: HubDetector) -> PooledStages:
    """The backbone of a detector as a PyTorch module, as `headstart.backbones.timm_models.build` makes one of timm's."""
    with silence():
        from headstart.backbones.stages import PooledStages, noise

    record = detector.record()
    network = PooledStages(staged(detector.model().model.backbone.model), mean=record.mean, std=record.std)
    network.drop_repeated(noise(record.input_size, record.input_size, seed=1))
    return network


def staged(network: Any) -> Any:
    """A backbone of transformers, with ``embedder`` and ``encoder.stages``, as a module with timm's interface."""
    from torch import nn

    class Staged(nn.Module):  # type: ignore[misc]
        """Images (N, 3, H, W) to the map of the last stage; no classifier."""

        output_fmt, pretrained_cfg = "NCHW", {"fixed_input_size": False}

        def __init__(self) -> None:
            super().__init__()
            self.embedder, self.stages = network.embedder, network.encoder.stages
            widths = network.num_features[1:]
            self.feature_info = [{"module": f"stages.{number}", "num_chs": width} for number, width in enumerate(widths)]

        def forward_features(self, images: Any) -> Any:
            value = self.embedder(images)
            for stage in self.stages:
                value = stage(value)
            return value

        def forward_head(self, value: Any, *, pre_logits: bool = True) -> Any:
            return value.mean(dim=(2, 3))

        def forward(self, images: Any) -> Any:
            return self.forward_head(self.forward_features(images))

        def reset_classifier(self, classes: int) -> None: ...

    return Staged()


def _licence(card: Path) -> str | None:
    """The licence in the header of a model card."""
    try:
        text = card.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = re.search(r"^licen[cs]e:\s*(\S+)", text, flags=re.MULTILINE)
    return found[1] if found else None


def _downloaded(name: str, announce: Callable[[str], None]) -> Path:
    """The folder of a detector on the Hub."""
    import huggingface_hub

    for file in (CONFIGURATION, WEIGHTS):
        path = huggingface_hub.try_to_load_from_cache(name, file)
        if not isinstance(path, str):
            break
    else:
        return Path(path).parent
    page = f"https://huggingface.co/{name}"
    try:
        with quiet("huggingface_hub"):
            card, _ = (_optional(name, file) for file in (CARD, PREPROCESSING))
            licence = None if card is None else _licence(card)
            announce(f"Downloading {name} (licence {licence or 'unknown'}) from {page} to {huggingface_hub.constants.HF_HUB_CACHE}")
            return [Path(huggingface_hub.hf_hub_download(name, file)) for file in (CONFIGURATION, WEIGHTS)][-1].parent
    except Exception as error:  # network, proxy, permission, disk, a name that is not there: each has its own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BackboneError(
            f"{name} is no folder here, and cannot be downloaded from {page} now ({reason.rstrip('.')}). On a machine with internet, "
            f"`hf download {name} --local-dir DIR` writes it; copy that folder here and give it with --weights DIR."
        ) from None


def _optional(name: str, file: str) -> Path | None:
    """A file on the Hub that need not be there."""
    import huggingface_hub

    try:
        return Path(huggingface_hub.hf_hub_download(name, file))
    except huggingface_hub.errors.RemoteEntryNotFoundError:
        return None
