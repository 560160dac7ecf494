"""Running an exported file, as its user would: image after image, of any size."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.engine import available_cores
from headstart.errors import BackboneError, MissingExtraError, ParameterError
from headstart.export.onnx_file import OUTPUTS

Outputs = dict[str, npt.NDArray[np.float32]]


class Exported:
    """An exported file, opened.

    Args:
        file: an ONNX file, or the ``.xml`` of an OpenVINO IR.
        engine: ``onnxruntime``, for ONNX only, or ``openvino``.

    Raises:
        ParameterError: an unknown engine, or an IR for ONNX Runtime.
        MissingExtraError: the engine is not installed.
        BackboneError: the file cannot be opened.
    """

    def __init__(self, file: Path, *, engine: str) -> None:
        if engine not in ("onnxruntime", "openvino") or (engine == "onnxruntime" and file.suffix == ".xml"):
            raise ParameterError(f"An exported file is run by openvino, or, if it is ONNX, by onnxruntime; got {engine!r} for {file.name}.")
        if importlib.util.find_spec(engine) is None:
            raise MissingExtraError(f"The engine {engine!r}", extra=engine)
        self.engine = engine
        try:
            self._run = _with_onnxruntime(file) if engine == "onnxruntime" else _with_openvino(file)
        except Exception as error:  # neither engine exports its exception types
            raise BackboneError(f"{file}: {engine} cannot open this file ({str(error).splitlines()[-1][:200]}).") from None

    def __call__(self, images: Iterable[npt.NDArray[np.uint8]]) -> Iterator[Outputs]:
        """Yield the outputs of each image (H, W, 3) by name, without the dimension of the batch."""
        for image in images:
            yield {name: np.array(value[0]) for name, value in self._run(np.ascontiguousarray(image)[None]).items()}


def engines_for(file: Path) -> tuple[str, ...]:
    """The engines that are installed and take this file."""
    kinds = ("openvino",) if file.suffix == ".xml" else ("onnxruntime", "openvino")
    return tuple(kind for kind in kinds if importlib.util.find_spec(kind) is not None)


def _with_onnxruntime(file: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = available_cores()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    names, given = [output.name for output in session.get_outputs()], session.get_inputs()[0].name
    return lambda batch: dict(zip(names, session.run(names, {given: batch}), strict=True))


def _with_openvino(file: Path) -> Any:
    import openvino as ov

    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": available_cores()}
    compiled = ov.Core().compile_model(str(file), "CPU", settings)
    names = [(output, name) for output in compiled.outputs for name in OUTPUTS if name in output.get_names()]

    def run(batch: npt.NDArray[np.uint8]) -> dict[str, Any]:
        found = compiled([batch])
        return {name: found[output] for output, name in names}

    return run
