"""The formats beside ONNX, OpenVINO IR and LiteRT, and how a file of any format is run: image after image, as its user would.

LiteRT files are made by the program onnx2tf, which requires old versions of NumPy and onnx and brings TensorFlow; so it is a program in an
environment of its own, and not a library here. They are of one size: preparing an image, and the novelty score, stay outside.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from headstart.engine import open_session
from headstart.errors import BackboneError, HeadstartError, MissingExtraError, ParameterError
from headstart.export.onnx_file import IMAGES
from headstart.run import MODEL, Run
from headstart.sequence_engine import padded, vectors

if TYPE_CHECKING:
    import onnx

CONVERTER = "HEADSTART_ONNX2TF"  # the environment variable that names the program onnx2tf where it is not on the path
_TRIAL_IMAGES = "calibration_image_sample_data_20x128x128x3_float32.npy"  # what onnx2tf would otherwise download
_TIMEOUT = 1800.0  # seconds
_MODULES = {"onnxruntime": "onnxruntime", "openvino": "openvino", "litert": "ai_edge_litert"}

Image = npt.NDArray[np.uint8]
Outputs = Mapping[str, npt.NDArray[Any]]
"""What a run or a file gives for n images: arrays (n, ...) by the name of the output."""

Keep = Callable[[Mapping[str, npt.NDArray[Any]]], Mapping[str, npt.NDArray[Any]]]
"""What is kept of the outputs of one image."""


class ConverterError(HeadstartError):
    """The program that converts to LiteRT failed."""


def openvino_model(model: onnx.ModelProto) -> Any:
    """An ONNX model as a model of OpenVINO, its metadata in ``rt_info`` under ``headstart``.

    Raises MissingExtraError where OpenVINO is not installed.
    """
    if importlib.util.find_spec("openvino") is None:
        raise MissingExtraError("An export for OpenVINO", extra="openvino")
    import openvino as ov
    from openvino.passes import ConstantFolding, Manager

    converted = ov.Core().read_model(model.SerializeToString())
    folding = Manager()
    folding.register_pass(ConstantFolding())  # without it NNCF sees no biases, and every engine folds again
    folding.run_passes(converted)
    for output, value in zip(converted.outputs, model.graph.output, strict=True):
        output.get_tensor().set_names({value.name})  # it also has the name of the node that an Identity stood for
    for entry in model.metadata_props:
        converted.set_rt_info(entry.value, ["headstart", entry.key.removeprefix("headstart.")])
    return converted


def write_openvino(model: Any, file: Path) -> None:
    """Write ``file`` (.xml) and its weights (.bin) beside it, both in float32 where the model is."""
    import openvino as ov

    ov.save_model(model, str(file), compress_to_fp16=False)  # the default would write float16


def add_entry(model: Any, name: str, value: Any) -> None:
    """Add an entry to the metadata of an ONNX or OpenVINO model, as those of `headstart.export.onnx_file.metadata`."""
    text = json.dumps(value, ensure_ascii=False)
    if hasattr(model, "metadata_props"):
        model.metadata_props.add(key=f"headstart.{name}", value=text)
    else:
        model.set_rt_info(text, ["headstart", name])


def find_converter() -> str:
    """The program onnx2tf.

    Raises ParameterError where it is not found, and MissingExtraError where LiteRT, which runs the file for the comparison, is not
    installed.
    """
    found = shutil.which(os.environ.get(CONVERTER) or "onnx2tf")
    if found is None:
        raise ParameterError(
            "LiteRT files are made by the program onnx2tf, which was not found. It requires old versions of NumPy and onnx, so install it "
            f"into an environment of its own: pipx install onnx2tf. Or name it in the environment variable {CONVERTER}."
        )
    if importlib.util.find_spec("ai_edge_litert") is None:
        raise MissingExtraError("Comparing a LiteRT file with the run", extra="litert")
    return found


def square_model(run: Run) -> onnx.ModelProto:
    """The saved model for one image (1, 3, size, size), uint8, channels first: the order from which onnx2tf converts."""
    import onnx
    from onnx import TensorProto, helper

    model = onnx.load(str(run.path / MODEL), load_external_data=False)
    graph, size = model.graph, run.preprocessing.size
    graph.node.insert(0, helper.make_node("Transpose", ["pixels"], [graph.input[0].name], perm=[0, 2, 3, 1]))
    del graph.input[:], graph.value_info[:]
    graph.input.append(helper.make_tensor_value_info("pixels", TensorProto.UINT8, [1, 3, size, size]))
    for output in graph.output:
        output.type.tensor_type.shape.dim[0].dim_value = 1
    _gather_mirror_images(graph, size)
    return model


def _gather_mirror_images(graph: onnx.GraphProto, size: int) -> None:
    """Take the columns of mirror images by their numbers: onnx2tf passes over a slice that goes backwards."""
    from onnx import helper, numpy_helper

    numbers = {tensor.name: numpy_helper.to_array(tensor).tolist() for tensor in graph.initializer if tensor.dims == [1]}
    for node in graph.node:
        if node.op_type == "Slice" and [numbers.get(name) for name in node.input[3:]] == [[2], [-1]]:
            columns = numpy_helper.from_array(np.arange(size - 1, -1, -1), f"{node.output[0]}_columns")
            graph.initializer.append(columns)
            node.CopyFrom(helper.make_node("Gather", [node.input[0], columns.name], list(node.output), name=node.name, axis=2))


def write_litert(run: Run, file: Path, examples: Iterable[Image]) -> None:
    """Write the LiteRT file, and the class names, if there are any, beside it, one a line, as ``NAME.labels.txt``.

    onnx2tf checks its conversion on `examples`, some real images, uint8 (H, W, 3). Raises ConverterError, with its last line, where it
    fails; else errors as of `find_converter`.
    """
    from PIL import Image as Pillow

    program = find_converter()
    with tempfile.TemporaryDirectory(prefix="headstart-litert-") as folder:
        work = Path(folder)
        (work / "model.onnx").write_bytes(square_model(run).SerializeToString())
        tried = [np.asarray(Pillow.fromarray(image).resize((128, 128)), dtype=np.float32) / 255 for image in examples]
        np.save(work / _TRIAL_IMAGES, np.resize(tried, (20, 128, 128, 3)))
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
        command = [program, "-i", "model.onnx", "-o", "made", "-osd", "-n"]
        try:
            done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ConverterError(f"{program} did not finish ({error}).") from None
        made = work / "made" / "model_float32.tflite"
        if done.returncode or not made.is_file():
            output = (done.stderr.strip() or done.stdout.strip() or "it printed nothing").splitlines()[-1]
            raise ConverterError(f"{program} could not convert the network ({output[:300]}). An ONNX file does not need this program.")
        shutil.copyfile(made, file)
    if run.classes:
        file.with_suffix(".labels.txt").write_text("".join(f"{name}\n" for name in run.classes), encoding="utf-8")


class ExportedModel:
    """An exported file, opened: ONNX (any engine but ``litert``), the ``.xml`` of an OpenVINO IR, or ``.tflite`` (``litert``).

    A LiteRT file needs the preprocessing of the run, and so does one of texts; the others contain it. Raises ParameterError for an engine
    that cannot run this file or missing preprocessing, MissingExtraError where the engine is not installed, and BackboneError where the
    file cannot be opened.
    """

    def __init__(self, file: Path, *, engine: str, preprocessing: Any = None) -> None:
        if engine not in _engines(file):
            raise ParameterError(f"{file.name} runs on {' or '.join(_engines(file))}, not on {engine!r}.")
        if importlib.util.find_spec(_MODULES[engine]) is None:
            raise MissingExtraError(f"The engine {engine!r}", extra=engine)
        if engine == "litert" and preprocessing is None:
            raise ParameterError(f"{file.name} takes preprocessed images; pass the preprocessing of the run as well.")
        self._prepare = preprocessing if engine == "litert" else None
        self._text = preprocessing if preprocessing is not None and not preprocessing.size else None
        try:
            self._run = _open_litert(file) if engine == "litert" else _open(file, engine)
        except Exception as error:  # neither engine exports its exception types
            raise BackboneError(f"{file}: {engine} cannot open this file ({str(error).splitlines()[-1][:200]}).") from None

    def __call__(self, images: Iterable[Any], *, keep: Keep = dict) -> Outputs:
        """The outputs for images (H, W, 3) of any sizes, or for texts, each run by itself: arrays (n, ...) by name.

        What is as large as an image is better not kept for all of them: `keep` makes of the outputs of each image those to be returned.
        """
        rows = []
        for image in images:
            found = self._run(self._feed(image))
            rows.append(keep({name: values[0] for name, values in found.items()}))
        return {name: np.stack([row[name] for row in rows]) for name in rows[0]}

    def _feed(self, image: Any) -> Any:
        """What the file is given for one input."""
        if self._text is not None:
            return padded([vectors(self._text(image), tuple(self._text.inputs))])
        return np.ascontiguousarray(image if self._prepare is None else self._prepare(image))[None]


def engines_for(file: Path) -> tuple[str, ...]:
    """The installed engines that can run this file."""
    return tuple(engine for engine in _engines(file) if importlib.util.find_spec(_MODULES[engine]) is not None)


def _engines(file: Path) -> tuple[str, ...]:
    return {".xml": ("openvino",), ".tflite": ("litert",)}.get(file.suffix, ("onnxruntime", "openvino"))


def _open(file: Path, engine: str) -> Any:
    outputs: list[str] = []
    if file.suffix == ".onnx":  # OpenVINO gives outputs further names, of the nodes that an Identity stood for
        import onnx

        outputs = [value.name for value in onnx.load(str(file), load_external_data=False).graph.output]
    session = open_session(file, kind=engine, outputs=outputs)
    return lambda batch: session(batch if isinstance(batch, dict) else {IMAGES: batch})


def _open_litert(file: Path) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(str(file)).get_signature_runner()
    return lambda batch: runner(pixels=batch)
