"""Keeping a choice, so that the same features and labels need not be judged twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from headstart.errors import RunError
from headstart.maps import LayerLike
from headstart.selection.choice import Candidate, Choice
from headstart.selection.pipeline import HeadPipeline

VERSION = 4
"""Changes with anything that changes what is chosen."""


class Memo(Protocol):
    """Keeps bytes by key; `headstart.features.FeatureStore` is one."""

    def get_memo(self, key: str) -> bytes | None:
        """Return what is kept under `key`, or None."""
        ...

    def put_memo(self, key: str, value: bytes) -> None:
        """Keep `value` under `key`."""
        ...


def memo_key(
    X: npt.NDArray[np.float32],
    y: npt.NDArray[Any],
    *,
    layers: Sequence[LayerLike],
    groups: npt.NDArray[Any] | None,
    settings: dict[str, Any],
) -> str:
    """A key that covers everything a choice depends on."""
    described = {
        "version": VERSION,
        "numpy": np.__version__.split(".")[:2],
        "layers": [[layer.name, layer.start, layer.stop] for layer in layers],
        "settings": settings,
        "features": list(X.shape),
        "labels": [str(y.dtype), list(y.shape)],
    }
    digest = hashlib.sha256(json.dumps(described, sort_keys=True, default=repr).encode())
    digest.update(np.ascontiguousarray(X).data)
    for labels in (y, groups):
        if labels is None:
            digest.update(b"none")
        elif labels.dtype == object:
            digest.update(repr([(type(label).__name__, label) for label in labels.ravel().tolist()]).encode())
        else:
            digest.update(np.ascontiguousarray(labels).tobytes())
    return f"choice/{digest.hexdigest()}"


def pack(choice: Choice) -> bytes:
    """A choice as bytes (safetensors)."""
    from safetensors.numpy import save

    settings, arrays = choice.estimator.state()
    evidence = [candidate.to_dict() for candidate in choice.evidence]
    said = {"estimator": settings, "evidence": evidence, "reason": choice.reason}
    packed: bytes = save({**arrays, "out_of_sample": np.ascontiguousarray(choice.out_of_sample)}, metadata={"choice": json.dumps(said)})
    return packed


def unpack(packed: bytes) -> Choice | None:
    """The choice again; None where the bytes are not one."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        arrays = load(packed)
        length = int.from_bytes(packed[:8], "little")
        said = json.loads(json.loads(packed[8 : 8 + length])["__metadata__"]["choice"])
        out_of_sample = arrays.pop("out_of_sample")
        evidence = tuple(
            Candidate(**{**entry, "layers": tuple(entry["layers"]), "weights": entry["weights"] and tuple(entry["weights"])})
            for entry in said["evidence"]
        )
        estimator = HeadPipeline.from_state(said["estimator"], arrays)
        estimator.out_of_sample_logits_ = out_of_sample
        return Choice(estimator=estimator, evidence=evidence, out_of_sample=out_of_sample, reason=str(said["reason"]))
    except (SafetensorError, RunError, ValueError, KeyError, TypeError):
        return None
