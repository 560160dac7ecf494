"""OpenVINO IR: the exported graph as a file of operators (.xml) and one of numbers (.bin)."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headstart.errors import MissingExtraError
from headstart.export.onnx_file import OUTPUTS


def openvino_model(onnx_bytes: bytes, told: Mapping[str, str]) -> Any:
    """The exported ONNX model as a model of OpenVINO.

    Args:
        onnx_bytes: the file's content.
        told: metadata by name, which go to ``rt_info`` under ``headstart``.

    Raises:
        MissingExtraError: OpenVINO is not installed.
    """
    if importlib.util.find_spec("openvino") is None:
        raise MissingExtraError("An export for OpenVINO", extra="openvino")
    import openvino as ov
    from openvino.passes import ConstantFolding, Manager

    model = ov.Core().read_model(onnx_bytes)
    folding = Manager()
    folding.register_pass(ConstantFolding())  # without it NNCF sees no biases, and every engine works out what is known
    folding.run_passes(model)
    for output in model.outputs:  # each also has the name of the node that an Identity stood for
        output.get_tensor().set_names(output.get_names() & {*OUTPUTS})
    for name, value in told.items():
        model.set_rt_info(value, ["headstart", name.removeprefix("headstart.")])
    return model


def write_openvino(model: Any, file: Path) -> tuple[Path, Path]:
    """Write ``file`` (.xml) and the file of its numbers (.bin) beside it, both in float32 where the model is; returns the two paths."""
    import openvino as ov

    ov.save_model(model, str(file), compress_to_fp16=False)  # the default would halve every number
    return file, file.with_suffix(".bin")
