"""The modalities: what kinds of input there are, and what each is called."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from headstart.errors import ParameterError, nearest


@dataclass(frozen=True)
class Modality:
    """A kind of input: its name, as in manifests and the catalogue; what one is called in messages, with its article; the column of tables
    that names one; the class of its `Preprocessing`, in the package of the modality; the backbone that is used where none is named; what
    loads backbones, in `headstart.backbones`; the settings of a fit that are for it alone; and whether its backbones can be trained further
    for labels.
    """

    name: str
    noun: str
    column: str
    article: str
    preprocessing: str
    backbone: str
    loader: str
    options: tuple[str, ...] = ()
    trained: bool = True

    def backbone_for(self, named: str) -> str:
        """The backbone that is named; where that is the usual one for images, the usual one for this modality."""
        return self.backbone if named == IMAGE.backbone else named


IMAGE = Modality(
    "image",
    "image",
    "path",
    "an",
    "Preprocessing",
    "efficientnet_lite0",
    "loading.load_backbone",
    ("fit_image", "levels", "windows", "background", "adapt_to", "budget"),
)
TEXT = Modality("text", "text", "row", "a", "TextPreprocessing", "minilm", "text_models.load_text_backbone", trained=False)
MODALITIES = {one.name: one for one in (IMAGE, TEXT)}


def modality_named(name: str) -> Modality:
    """The modality of this name; ParameterError for another."""
    found = MODALITIES.get(name)
    if found is None:
        raise ParameterError(f"There is no modality {name!r}. There are {', '.join(MODALITIES)}.{nearest(name, MODALITIES)}")
    return found


class Counts(Protocol):
    """What was counted in n inputs, such as the words of texts."""

    def __len__(self) -> int:
        """Number n of inputs."""

    def take(self, rows: Any, /) -> Counts:
        """That of some inputs."""


class Preprocessing(Protocol):
    """The one way from an input to what a network takes: fit, predict, evaluate, serve and export share it."""

    modality: ClassVar[Modality]

    @property
    def id(self) -> str:
        """Covers everything that changes what the network takes."""

    @property
    def size(self) -> int:
        """Side of the square of pixels that the network takes; 0 where it takes sequences of any length."""

    @property
    def inputs(self) -> Mapping[str, tuple[Any, tuple[int | str, ...]]]:
        """The inputs of the network: type and shape by name, a text for each dimension of any length."""

    def read(self, source: Any, /) -> Any:
        """The content of an input: of a file its bytes; `UnreadableError` where it cannot be read."""

    def digest(self, content: Any, /) -> bytes:
        """SHA-256 of the content (32 bytes)."""

    def called(self, source: Any, /) -> str:
        """What the input is called in messages."""

    def __call__(self, content: Any, /, *, name: str | None = None) -> Any:
        """What the network takes; `UnreadableError`, with the name, where the content is refused."""

    def counted(self, inputs: Sequence[Any], /) -> Counts | None:
        """What is counted in inputs beside the features of a network, which a head may learn from; None where there is no such."""

    def to_dict(self) -> dict[str, Any]:
        """JSON values, as the manifest keeps them."""

    def files(self) -> dict[str, bytes]:
        """What it needs beside `to_dict`: files of a run folder, by name."""


def preprocessing_from(modality: str, entry: Mapping[str, Any], files: Callable[[str], bytes]) -> Preprocessing:
    """The preprocessing that a manifest describes; `files` gives the bytes of a file of the run by its name.

    Each modality has a class for it, with ``from_dict``. ParameterError for an unknown modality, or an entry that is wrong.
    """
    kind = modality_named(modality)
    package = importlib.import_module(f"headstart.modalities.{kind.name}")
    made: Preprocessing = getattr(package, kind.preprocessing).from_run(entry, files)
    return made
