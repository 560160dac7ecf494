"""OpenVINO: the fastest engine on the processors measured so far (x86-64, two cores)."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.engine import Outputs, available_cores, check_image
from headstart.errors import BackboneError

_log = logging.getLogger(__name__)


class OpenVinoEngine:
    """Runs an ONNX network with OpenVINO on the CPU, one image a request, a request a core and some waiting."""

    name = "openvino"

    def __init__(self, network: Path, *, outputs: tuple[str, ...], size: int) -> None:
        import openvino as ov

        self._ov = ov
        settings: dict[str, Any] = {
            "PERFORMANCE_HINT": "THROUGHPUT",
            # The default on recent processors is bfloat16, which is off by several per cent.
            "INFERENCE_PRECISION_HINT": "f32",
            # The default is one thread for each physical core of the machine, whatever the container allows.
            "INFERENCE_NUM_THREADS": available_cores(),
        }
        core = ov.Core()
        try:
            model = core.read_model(network)
            model.reshape({model.inputs[0]: [1, size, size, 3]})
            self._compiled = core.compile_model(model, "CPU", settings)
            self._indices = [self._compiled.outputs.index(self._compiled.output(name)) for name in outputs]
        except RuntimeError as error:
            raise BackboneError(f"{network}: OpenVINO cannot load this network ({str(error).splitlines()[-1][:200]}).") from None
        # The thread that runs the last callback may still hold references when wait_all() returns. Were they the last ones, it would
        # destroy the queue, join itself and abort the process. So the engine keeps its last queue, and open_engine keeps engines.
        self._last_queue: Any = None
        _log.debug("%s: OpenVINO %s, %d threads", network, ov.__version__, available_cores())

    def run(self, images: Iterable[npt.NDArray[np.uint8]]) -> Iterator[Outputs]:
        """Yield the outputs of each image, in order (see `headstart.engine.Engine`)."""
        done: dict[int, Outputs] = {}
        indices = self._indices

        def keep(request: Any, index: int) -> None:  # refers to nothing of OpenVINO's: see _last_queue
            done[index] = tuple(request.get_output_tensor(output).data[0].copy() for output in indices)

        queue = self._ov.AsyncInferQueue(self._compiled, available_cores() + 2)
        queue.set_callback(keep)
        self._last_queue = queue
        following = 0
        try:
            for index, image in enumerate(images):
                queue.start_async({0: check_image(image)}, index)
                while following in done:
                    yield done.pop(following)
                    following += 1
        finally:
            queue.wait_all()
        while following in done:
            yield done.pop(following)
            following += 1
