"""Engines: run a frozen network over images, in order, as fast as this machine can.

A network is an ONNX file that takes uint8 images (N, H, W, 3) and normalises inside. On a CPU every image is computed alone, on as many
streams as there are cores: that is faster than batches here (the activations stay in the cache), and it makes the result of an image
independent of its neighbours, bit for bit. OpenVINO is used where it can be imported, else ONNX Runtime; PyTorch is for GPUs. All give the
same numbers to about 1e-5, so features computed by one may be used with another. With OpenVINO an image that comes alone has all cores.

Every engine has threads, and a process that is forked has none of its parent's: whatever waits for them would wait for ever. So an engine
opens its network again in a child (see `OfProcess`).
"""

from __future__ import annotations

import ctypes
import importlib.util
import logging
import os
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from headstart.errors import BackboneError, MissingExtraError, ParameterError

ENGINES = ("auto", "openvino", "onnxruntime", "torch")
Outputs = tuple[npt.NDArray[np.float32], ...]
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")
_Session = Callable[[Mapping[str, npt.NDArray[Any]]], dict[str, npt.NDArray[Any]]]
_log = logging.getLogger(__name__)


class Engine(Protocol):
    """What every engine offers."""

    name: str

    def run(self, images: Iterable[Any], /) -> Iterator[Outputs]:
        """Yield, for each image (H, W, 3) and in order, one float32 array for each output, without the batch dimension.

        The iterable is drawn from while earlier images are being computed; at most a few more images than there are cores are held.
        """


def available_cores() -> int:
    """Cores this process may use (its affinity, where the system reports it; a container's CPU quota is not considered)."""
    if hasattr(os, "process_cpu_count"):
        return int(os.process_cpu_count() or 1)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_kind(kind: str) -> str:
    """Return `kind` if it names an engine; else raise ParameterError."""
    if kind not in ENGINES:
        raise ParameterError(f"Engine must be one of {', '.join(ENGINES)}, got {kind!r}.")
    return kind


def gpu_is_there() -> bool:
    """Whether PyTorch could use an NVIDIA GPU, found out without importing PyTorch unless a driver is present."""
    if not Path("/proc/driver/nvidia/version").exists() or not all(importlib.util.find_spec(name) for name in ("torch", "timm")):
        return False
    import torch

    return bool(torch.cuda.is_available())


def open_engine(network: Path, *, kind: str = "auto", outputs: Sequence[str] = ("features",), size: int = 224) -> Engine:
    """Open a network, a self-contained ONNX file, for computing these outputs of images of `size` pixels.

    `kind` is ``auto`` (OpenVINO, else ONNX Runtime), ``openvino`` or ``onnxruntime``; for ``torch`` see `TorchEngine`. Raises
    ParameterError for another one, MissingExtraError where it is not installed, and BackboneError where the network is missing or cannot be
    loaded.
    """
    return _opened(installed_kind(kind), network, file_version(network), tuple(outputs), size)


def installed_kind(kind: str) -> str:
    """Which of ``openvino`` and ``onnxruntime`` a kind stands for here; errors as of `open_engine`."""
    check_kind(kind)
    if kind == "torch":
        raise ParameterError(
            "The engine 'torch' is for extracting features with a backbone; a saved run needs 'openvino' or 'onnxruntime'."
        )
    if kind == "auto":
        kind = "openvino" if importlib.util.find_spec("openvino") else "onnxruntime"
    if importlib.util.find_spec(kind) is None:
        raise MissingExtraError(f"The engine {kind!r}", extra=kind)
    return kind


def file_version(network: Path) -> tuple[int, ...]:
    """What changes when a file is written anew. Raises BackboneError where there is none."""
    try:
        status = network.stat()
    except OSError as error:
        raise BackboneError(f"{network}: cannot be opened ({error.strerror}).") from None
    return status.st_mtime_ns, status.st_size, status.st_ino


@lru_cache(maxsize=4)
def _opened(kind: str, network: Path, version: tuple[int, ...], outputs: tuple[str, ...], size: int) -> Engine:
    """Open an engine, or return it from the cache: opening costs 0.3 s, and cross-validation requests the same one repeatedly."""
    same = unchanged(network, version)
    return OpenVinoEngine(same, outputs=outputs, size=size) if kind == "openvino" else OnnxRuntimeEngine(same, outputs=outputs)


def unchanged(network: Path, version: tuple[int, ...]) -> Callable[[], Path]:
    """Gives the file as long as it is the one that was opened, for a child that opens it again; else raises BackboneError."""

    def same() -> Path:
        if file_version(network) != version:
            raise BackboneError(f"{network}: has changed since the process was forked that had opened it. Load the run again.")
        return network

    return same


class OfProcess(Generic[_Item]):
    """Something opened that has threads: in a forked child, which has none of them, it is opened again when it is next needed.

    What the parent opened is never destroyed there: its destructor would wait for the threads.
    """

    forked: ClassVar[bool] = False
    _held: ClassVar[weakref.WeakSet[OfProcess[Any]]] = weakref.WeakSet()

    def __init__(self, opened: Callable[[], _Item]) -> None:
        self._open, self._lock = opened, threading.Lock()
        self._found: _Item | None = opened()
        self._held.add(self)

    def __call__(self) -> _Item:
        """What was opened, in this process."""
        with self._lock:
            if self._found is None:
                self._found = self._open()
            return self._found

    @classmethod
    def in_child(cls) -> None:
        """After a fork, in the child."""
        cls.forked = True
        for one in list(cls._held):
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(one._found))
            one._found, one._lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=OfProcess.in_child)


def check_image(image: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Add the batch dimension; refuse what is not a uint8 RGB image, which would otherwise give wrong numbers silently."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ParameterError(f"An engine takes uint8 images of shape (H, W, 3), got {image.dtype} {image.shape}.")
    return image[None]


def ahead(
    pool: ThreadPoolExecutor, function: Callable[[_Item], _Result], items: Iterable[_Item], *, most: int | None = None
) -> Iterator[_Result]:
    """The results in order, like those of ``pool.map``, but at most `most` calls (4 per core) ahead of whoever takes them."""
    limit = 4 * available_cores() if most is None else most
    waiting: deque[Future[_Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > limit:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


class _SignalStack(ctypes.Structure):
    """``stack_t`` of Linux: where a thread handles signals."""

    _fields_ = (("pointer", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextmanager
def same_signal_stack() -> Iterator[None]:
    """Within it OpenVINO may be opened: afterwards this thread handles signals on the stack on which it did before.

    OpenVINO's CPU plugin sets a stack of its own, and takes it back only if it is closed last and in the same thread. Else the stack is
    left in memory that is gone, and the next Ctrl-C ends the process with a segmentation fault (OpenVINO 2026.4).
    """
    if sys.platform != "linux":
        yield
        return
    set_stack, before = ctypes.CDLL(None).sigaltstack, _SignalStack()
    set_stack(None, ctypes.byref(before))
    try:
        yield
    finally:
        if set_stack(ctypes.byref(before), None):  # it is too small for the registers of AMX: the ordinary stack then
            set_stack(ctypes.byref(_SignalStack(flags=2)), None)  # SS_DISABLE


class OpenVinoEngine:
    """Runs an ONNX network with OpenVINO on the CPU: several images at once, on one core each; one image alone on all cores.

    The fastest engine on the processors measured so far (x86-64, two cores).
    """

    name = "openvino"

    def __init__(self, network: Callable[[], Path], *, outputs: tuple[str, ...], size: int) -> None:
        self._opened = OfProcess(lambda: _OfOpenVino(network(), outputs, size))

    def run(self, images: Iterable[npt.NDArray[np.uint8]]) -> Iterator[Outputs]:
        """Yield the outputs of each image, in order (see `Engine`)."""
        opened, waiting = self._opened(), iter(images)
        first = list(islice(waiting, 2))
        if len(first) == 2:
            yield from opened.many(chain(first, waiting))
        elif first:
            yield opened.alone(first[0])


class Compiled:
    """A network in OpenVINO, compiled in one way or the other when it is first needed so; both give the same bits.

    `shapes` are those of inputs whose shapes the file leaves free. `precision` may be ``bf16``, see `headstart.sequence_engine`.
    """

    def __init__(
        self, network: Path, outputs: tuple[str, ...], *, shapes: Mapping[int, list[int]] | None = None, precision: str = "f32"
    ) -> None:  # fmt: skip
        import openvino as ov

        self._network, self._core, self._lock, self._precision = network, ov.Core(), threading.Lock(), precision
        with self._reading():
            self.model = self._core.read_model(network)
            for place, shape in (shapes or {}).items():
                self.model.reshape({self.model.inputs[place]: shape})
            self.indices = [self.model.outputs.index(self.model.output(name)) for name in outputs]
        self._compiled: dict[str, Any] = {}

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            trouble = str(error).splitlines()[-1][:200]
            raise BackboneError(f"{self._network}: OpenVINO cannot load this network ({trouble}).") from None

    def compiled(self, hint: str) -> Any:
        """Compiled for the throughput of many inputs, or for the latency of one."""
        with self._lock:
            if hint not in self._compiled:
                settings: dict[str, Any] = {
                    "PERFORMANCE_HINT": hint,
                    # The default on recent processors is bfloat16, which is off by several per cent.
                    "INFERENCE_PRECISION_HINT": self._precision,
                    # The default is one thread for each physical core of the machine, whatever the container allows.
                    "INFERENCE_NUM_THREADS": available_cores(),
                }
                with self._reading(), same_signal_stack():
                    self._compiled[hint] = self._core.compile_model(self.model, "CPU", settings)
                _log.debug("%s: OpenVINO, %d threads, for %s", self._network, available_cores(), hint.lower())
            return self._compiled[hint]


class _OfOpenVino(Compiled):
    """A network for images of `size` pixels."""

    def __init__(self, network: Path, outputs: tuple[str, ...], size: int) -> None:
        super().__init__(network, outputs, shapes={0: [1, size, size, 3]})
        # The thread that runs the last callback may still hold references when wait_all() returns. Were they the last ones, it would
        # destroy the queue, join itself and abort the process. So the last queue is kept, and open_engine caches engines.
        self._last_queue: Any = None

    def alone(self, image: npt.NDArray[np.uint8]) -> Outputs:
        """The outputs of one image."""
        request = self.compiled("LATENCY").create_infer_request()
        request.infer({0: check_image(image)})
        return _taken(request, self.indices)

    def many(self, images: Iterable[npt.NDArray[np.uint8]]) -> Iterator[Outputs]:
        """Yield the outputs of each image, in order: one image per request, one request per core and a few waiting."""
        import openvino as ov

        done: dict[int, Outputs] = {}
        indices = self.indices

        def store(request: Any, index: int) -> None:  # refers to nothing of OpenVINO's: see `_last_queue`
            done[index] = _taken(request, indices)

        self._last_queue = queue = ov.AsyncInferQueue(self.compiled("THROUGHPUT"), available_cores() + 2)
        queue.set_callback(store)
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


def _taken(request: Any, indices: Sequence[int]) -> Outputs:
    """The outputs at these places of a request of OpenVINO that is done, without the batch dimension."""
    return tuple(request.get_output_tensor(index).data[0].copy() for index in indices)


def one_thread_session(network: Path) -> Any:
    """A session of ONNX Runtime, each of whose calls takes one thread. Raises BackboneError where the network cannot be loaded."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1  # parallel over inputs instead: no synchronisation inside a layer
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(str(network), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own exception types are not exported
        raise BackboneError(f"{network}: ONNX Runtime cannot load this network ({str(error).splitlines()[0][:200]}).") from None


class OnnxRuntimeEngine:
    """Runs an ONNX network with ONNX Runtime on the CPU: one single-threaded computation for each core."""

    name = "onnxruntime"

    def __init__(self, network: Callable[[], Path], *, outputs: tuple[str, ...]) -> None:
        self._session, self._outputs = OfProcess(lambda: one_thread_session(network())), list(outputs)
        self._input = self._session().get_inputs()[0].name

    def _one(self, image: npt.NDArray[np.uint8]) -> Outputs:
        values = self._session().run(self._outputs, {self._input: check_image(image)})
        return tuple(value[0] for value in values)

    def run(self, images: Iterable[npt.NDArray[np.uint8]]) -> Iterator[Outputs]:
        """Yield the outputs of each image, in order (see `Engine`)."""
        cores = available_cores()
        with ThreadPoolExecutor(cores, thread_name_prefix="headstart-engine") as pool:
            yield from ahead(pool, self._one, images, most=cores + 2)


class TorchEngine:
    """Runs a PyTorch module, in evaluation mode, from uint8 images (N, H, W, 3) to float32 features (N, D), on a GPU if there is one.

    On a GPU it computes in float32 without TF32, in the memory format that convolutions prefer, while the next images are being decoded in
    threads (tested on the CPU only). Unlike in the other engines, a result may depend on its neighbours in the `batch` in the last bits.
    """

    name = "torch"

    def __init__(self, network: Any, *, device: str | None = None, batch: int = 64) -> None:
        torch = torch_of_process()
        self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._network = network.eval().to(self._device, memory_format=torch.channels_last)
        self._batch = batch

    def run(self, images: Iterable[npt.NDArray[np.uint8]]) -> Iterator[Outputs]:
        """Yield the features of each image, in order (see `Engine`)."""
        waiting = iter(images)
        while chunk := [check_image(image) for image in islice(waiting, self._batch)]:
            for row in self._features(np.concatenate(chunk)):
                yield (row,)

    def _features(self, batch: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        torch = torch_of_process(self._device)
        pixels = torch.from_numpy(batch)
        if self._device.type == "cuda":
            pixels = pixels.pin_memory()
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            features = self._network(pixels.to(self._device, non_blocking=True))
        found: npt.NDArray[np.float32] = features.float().cpu().numpy()
        return found


def torch_of_process(device: Any = None) -> Any:
    """PyTorch, to be used on `device`. In a forked child it has one thread, since those of the parent's OpenMP are missing there.

    Raises ParameterError where the parent has used a GPU, which the child cannot.
    """
    import torch

    if OfProcess.forked and torch.get_num_threads() > 1:
        torch.set_num_threads(1)
    if OfProcess.forked and device is not None and device.type == "cuda" and torch.cuda._is_in_bad_fork():
        raise ParameterError(
            "This process was forked from one that has used the GPU, and PyTorch cannot use it in both. Start it with "
            "multiprocessing.get_context('spawn'), or load the model in the child alone."
        )
    return torch


def open_session(model: Path | bytes, *, kind: str, outputs: Sequence[str] = ()) -> _Session:
    """Open an ONNX model, a file or its bytes (with OpenVINO also its own format), to run it on named inputs of any shapes, on all cores.

    Returns what computes `outputs` (by default all) by name. Errors are those of the engine.
    """
    session = OfProcess(lambda: (_openvino_session if kind == "openvino" else _onnxruntime_session)(model, list(outputs)))
    return lambda inputs: session()(inputs)


def _openvino_session(model: Path | bytes, outputs: list[str]) -> _Session:
    import openvino as ov

    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": available_cores()}
    core = ov.Core()
    network = core.read_model(model)
    names = outputs or [output.get_any_name() for output in network.outputs]  # once compiled, they have further names
    with same_signal_stack():
        compiled = core.compile_model(network, "CPU", settings)
    ports = {name: compiled.output(name) for name in names}

    def run(inputs: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
        found = compiled(dict(inputs))
        return {name: found[port] for name, port in ports.items()}

    return run


def _onnxruntime_session(model: Path | bytes, outputs: list[str]) -> _Session:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = available_cores()
    options.log_severity_level = 3
    session = ort.InferenceSession(model if isinstance(model, bytes) else str(model), options, providers=["CPUExecutionProvider"])
    names = outputs or [output.name for output in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(names, dict(inputs)), strict=True))
