"""Encoders that Headstart does not write itself, such as DeBERTa, ModernBERT and MPNet: converted by transformers and PyTorch."""

from __future__ import annotations

import importlib.util
import io
from typing import Any

from headstart.backbones.bert import INPUTS
from headstart.backbones.hub_detectors import quiet_transformers
from headstart.backbones.text_folders import TextFolder
from headstart.backbones.timm_models import open_plain
from headstart.errors import BackboneError, MissingExtraError

_TOLERANCE = 1e-3  # relative to the largest feature; converted in float32, they differ by 1e-6 to 1e-4
_MAX_BYTES = 2_000_000_000  # of one ONNX file


def convert_encoder(folder: TextFolder, *, name: str) -> tuple[bytes, tuple[tuple[str, int], ...], dict[str, str]]:
    """The network as an ONNX file like those of `headstart.backbones.bert`; its layers with their lengths; versions of the libraries.

    Raises MissingExtraError where transformers is not installed, and BackboneError where it does not know the network, cannot convert it,
    or the file computes something else than PyTorch.
    """
    if any(importlib.util.find_spec(library) is None for library in ("torch", "transformers", "onnxruntime")):
        raise MissingExtraError(f"Converting {name}, a network of the kind {folder.kind or 'unknown'!r},", extra="transformers")
    with quiet_transformers():
        import torch
        import transformers

        module = _module(folder, name)
        sizes = _sizes(module)
        written = _exported(module, name)
        _check(written, module, name)
    return written, sizes, {"torch": torch.__version__, "transformers": transformers.__version__}


def _module(folder: TextFolder, name: str) -> Any:
    """The network in evaluation mode, which takes and gives what the ONNX file shall."""
    import torch
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(folder.folder, local_files_only=True, trust_remote_code=False)
        encoder = transformers.AutoModel.from_pretrained(
            folder.folder, config=config, local_files_only=True, trust_remote_code=False, attn_implementation="eager", dtype=torch.float32,
            use_safetensors=True,
        ).eval()  # fmt: skip
    except Exception as error:  # of a library with many networks: whatever each raises
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise BackboneError(f"transformers cannot load {name} from {folder.folder} ({reason}).") from None
    if sum(value.numel() * 4 for value in encoder.parameters()) > _MAX_BYTES:
        raise BackboneError(f"{name} has more than 2 GB of weights, and one ONNX file holds 2 GB at most. Use a smaller network.")

    class Pooled(torch.nn.Module):  # type: ignore[misc]
        """Means of every layer, maximum and first piece of the last one, its mean; averaged over windows."""

        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoder

        def forward(self, input_ids: Any, attention_mask: Any, windows: Any) -> Any:
            states = self.encoder(input_ids=input_ids, attention_mask=attention_mask, output_hidden_states=True).hidden_states
            share = attention_mask.to(torch.float32).unsqueeze(2)
            count = share.sum(1).clamp(min=1.0)
            means = [(state * share).sum(1) / count for state in states]
            largest = (states[-1] + (share - 1.0) * 1e9).amax(1)
            return windows @ torch.cat([*means[:-1], largest, states[-1][:, 0], means[-1]], 1)

    return Pooled().eval()


def _feed(rows: int, length: int) -> tuple[Any, Any, Any]:
    """Pieces from the middle of the vocabulary, the second row half as long."""
    import torch

    ids = torch.arange(rows * length).reshape(rows, length) % 40 + 10
    mask = torch.ones_like(ids)
    mask[1, length // 2 :] = 0
    return ids, mask, torch.eye(rows)


def _sizes(module: Any) -> tuple[tuple[str, int], ...]:
    import torch

    with torch.inference_mode():
        ids, mask, _ = _feed(2, 6)
        states = module.encoder(input_ids=ids, attention_mask=mask, output_hidden_states=True).hidden_states
    names = ["embeddings", *(f"layer{number}" for number in range(1, len(states) - 1)), "max", "cls", "last"]
    lengths = [state.shape[-1] for state in (*states[:-1], states[-1], states[-1], states[-1])]
    return tuple(zip(names, lengths, strict=True))


def _exported(module: Any, name: str) -> bytes:
    import torch

    from headstart.onnx_graph import OPSET

    stream = io.BytesIO()
    axes = {value: dict(enumerate(map(str, shape))) for value, (_, shape) in INPUTS.items()} | {"features": {0: "N"}}
    try:
        with torch.inference_mode():
            torch.onnx.export(
                module, _feed(2, 9), stream, input_names=list(INPUTS), output_names=["features"], opset_version=OPSET, dynamo=False,
                dynamic_axes=axes,
            )  # fmt: skip
    except Exception as error:  # of the exporter: many kinds
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise BackboneError(f"PyTorch cannot convert {name} ({reason}). Use a network of another kind.") from None
    return stream.getvalue()


def _check(written: bytes, module: Any, name: str) -> None:
    """Compare with PyTorch, for other numbers of rows and lengths than the file was made with."""
    import numpy as np
    import torch

    session = open_plain(written)
    for rows, length in ((2, 9), (3, 33), (2, 2)):
        feed = _feed(rows, length)
        with torch.inference_mode():
            expected = module(*feed).numpy()
        try:
            found = session.run(None, {key: value.numpy() for key, value in zip(INPUTS, feed, strict=True)})[0]
            difference = float(np.abs(found - expected).max() / np.abs(expected).max())
        except Exception:  # of ONNX Runtime
            difference = float("inf")
        if not difference <= _TOLERANCE:
            raise BackboneError(f"The converted {name} differs from PyTorch by {difference:.1e} (relative) at {length} pieces: not used.")
