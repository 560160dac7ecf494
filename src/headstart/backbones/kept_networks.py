"""Converted networks on disk: written whole or not at all, and checked by their digest before each use.

``cache/networks/NAME-<16 digits of the weights' digest>-v<BUILD>.onnx`` with a ``.json`` of the same name beside it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from headstart.backbones.backbone import Backbone, Layer
from headstart.backbones.records import BackboneRecord, folded
from headstart.errors import BackboneError
from headstart.files import file_digest, write_file
from headstart.locations import networks_folder

BUILD = 1  # raised whenever a conversion would come out differently


class KeptNetworks:
    """The folder ``networks`` inside the cache."""

    def __init__(self, cache: Path) -> None:
        self.folder = networks_folder(cache)

    def _stem(self, name: str, weights_digest: str) -> str:
        return f"{re.sub(r'[^A-Za-z0-9._-]', '_', name)}-{weights_digest[:16]}-v{BUILD}"

    def _opened(self, description: Path, *, accept: Callable[[Backbone], bool]) -> Backbone | None:
        """The backbone that a description tells of, or None where it is not wanted, or either file is not what was written."""
        try:
            told = json.loads(description.read_text(encoding="utf-8"))
            found = Backbone(
                record=BackboneRecord.from_dict(told["record"]),
                network=description.with_suffix(".onnx"),
                network_digest=told["network_digest"],
                weights_digest=told["weights_digest"],
                weights_source=told["weights_source"],
                layers=tuple(Layer(**layer) for layer in told["layers"]),
                any_size=told["any_size"],
            )
            return found if accept(found) and file_digest(found.network) == found.network_digest else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def named(self, name: str, *, weights_digest: str | None = None) -> Backbone | None:
        """A network called `name`, made from these weights (by default: its published ones), if one is here and unharmed."""
        wanted = folded(name)

        def accept(kept: Backbone) -> bool:
            if wanted not in {folded(spelling) for spelling in (kept.record.name, *kept.record.aliases)}:
                return False
            return kept.weights_source == kept.record.source if weights_digest is None else kept.weights_digest == weights_digest

        ending = f"{'' if weights_digest is None else weights_digest[:16]}-v{BUILD}.json"
        found = (self._opened(description, accept=accept) for description in sorted(self.folder.glob(f"*{ending}")))
        return next((backbone for backbone in found if backbone is not None), None)

    def keep(
        self,
        network: bytes,
        *,
        record: BackboneRecord,
        weights_digest: str,
        weights_source: str,
        layers: tuple[Layer, ...],
        any_size: bool = True,
        versions: dict[str, str],
    ) -> Backbone:
        """Write a converted network and its description, and return the backbone.

        Raises:
            BackboneError: the folder cannot be written.
        """
        path = self.folder / f"{self._stem(record.name, weights_digest)}.onnx"
        backbone = Backbone(
            record=record, network=path, network_digest=hashlib.sha256(network).hexdigest(), weights_digest=weights_digest,
            weights_source=weights_source, layers=layers, any_size=any_size,
        )  # fmt: skip
        description: dict[str, Any] = {
            "record": record.to_dict(), "network_digest": backbone.network_digest, "weights_digest": weights_digest,
            "weights_source": weights_source, "layers": [asdict(layer) for layer in layers], "any_size": any_size,
            "versions": versions,
        }  # fmt: skip
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_file(path, network, shared=True)
            write_file(path.with_suffix(".json"), json.dumps(description, indent=2).encode(), shared=True)
        except OSError as error:
            raise BackboneError(
                f"The converted network cannot be kept in {self.folder}: {error.strerror or error}. "
                "Free some space or choose another folder with --cache DIR."
            ) from None
        return backbone
