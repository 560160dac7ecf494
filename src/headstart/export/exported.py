"""Running an exported file, as its user would: image after image, of any size; for a LiteRT file each is prepared before."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.engine import available_cores
from headstart.errors import BackboneError, MissingExtraError, ParameterError
from headstart.export.litert_file import with_litert
from headstart.export.onnx_file import OUTPUTS
from headstart.modalities.image import Preprocessing

_MODULES = {"onnxruntime": "onnxruntime", "openvino": "openvino", "litert": "ai_edge_litert"}

Outputs = dict[str, npt.NDArray[np.float32]]


class Exported:
    """An exported file, opened.

    Args:
        file: an ONNX file, the ``.xml`` of an OpenVINO IR, or a LiteRT file (``.tflite``).
        engine: ``onnxruntime``, for ONNX only, ``openvino``, for ONNX and IR, or ``litert``.
        preprocessing: of the run; a LiteRT file needs it, the others hold it.

    Raises:
        ParameterError: an engine that does not take this file, or a LiteRT file without preprocessing.
        MissingExtraError: the engine is not installed.
        BackboneError: the file cannot be opened.
    """

    def __init__(self, file: Path, *, engine: str, preprocessing: Preprocessing | None = None) -> None:
        if engine not in _takers(file):
            raise ParameterError(f"{file.name} is run by {' or '.join(_takers(file))}, and not by {engine!r}.")
        if importlib.util.find_spec(_MODULES[engine]) is None:
            raise MissingExtraError(f"The engine {engine!r}", extra=engine)
        if engine == "litert" and preprocessing is None:
            raise ParameterError(f"{file.name} takes images that are prepared already; give the preprocessing of the run as well.")
        self.engine = engine
        self._prepare = preprocessing if engine == "litert" else None
        try:
            self._run = {"onnxruntime": _with_onnxruntime, "openvino": _with_openvino, "litert": with_litert}[engine](file)
        except Exception as error:  # neither engine exports its exception types
            raise BackboneError(f"{file}: {engine} cannot open this file ({str(error).splitlines()[-1][:200]}).") from None

    def __call__(self, images: Iterable[npt.NDArray[np.uint8]]) -> Iterator[Outputs]:
        """Yield the outputs of each image (H, W, 3) by name, without the dimension of the batch."""
        for image in images:
            taken = image if self._prepare is None else self._prepare(image)
            yield {name: np.array(value[0]) for name, value in self._run(np.ascontiguousarray(taken)[None]).items()}


def engines_for(file: Path) -> tuple[str, ...]:
    """The engines that are installed and take this file."""
    return tuple(kind for kind in _takers(file) if importlib.util.find_spec(_MODULES[kind]) is not None)


def _takers(file: Path) -> tuple[str, ...]:
    return {".xml": ("openvino",), ".tflite": ("litert",)}.get(file.suffix, ("onnxruntime", "openvino"))


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
