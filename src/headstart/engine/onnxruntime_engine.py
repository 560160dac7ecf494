"""ONNX Runtime: for machines without OpenVINO."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from headstart.engine import Outputs, available_cores, check_image
from headstart.errors import BackboneError


class OnnxRuntimeEngine:
    """Runs an ONNX network with ONNX Runtime on the CPU: one single-threaded computation for each core."""

    name = "onnxruntime"

    def __init__(self, network: Path, *, outputs: tuple[str, ...]) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = 1  # parallel over images instead: no synchronisation inside a layer
        options.log_severity_level = 3
        try:
            self._session = ort.InferenceSession(str(network), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's own exception types are not exported
            raise BackboneError(f"{network}: ONNX Runtime cannot load this network ({str(error).splitlines()[0][:200]}).") from None
        self._input = self._session.get_inputs()[0].name
        self._outputs = list(outputs)

    def _one(self, image: npt.NDArray[np.uint8]) -> Outputs:
        values = self._session.run(self._outputs, {self._input: check_image(image)})
        return tuple(value[0] for value in values)

    def run(self, images: Iterable[npt.NDArray[np.uint8]]) -> Iterator[Outputs]:
        """Yield the outputs of each image, in order (see `headstart.engine.Engine`)."""
        cores = available_cores()
        with ThreadPoolExecutor(cores, thread_name_prefix="headstart-engine") as pool:
            waiting: deque[Future[Outputs]] = deque()
            for image in images:
                waiting.append(pool.submit(self._one, image))
                if len(waiting) > cores + 2:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
