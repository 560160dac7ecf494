"""LiteRT (TensorFlow Lite): the saved model with one image of its own size in, as phones and small boards want it.

The ONNX file is converted by onnx2tf, which asks for old versions of NumPy and onnx, and brings TensorFlow; so it is a program in an
environment of its own, and not a library here. LiteRT's files are of one size: preparing an image, and the score for what is unlike the
training images, stay outside.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from headstart.errors import HeadstartError, MissingExtraError, ParameterError
from headstart.run import MODEL, Run

if TYPE_CHECKING:
    import onnx

CONVERTER = "HEADSTART_ONNX2TF"
"""The environment variable that names the program onnx2tf where it is not on the path."""

_TRIED = "calibration_image_sample_data_20x128x128x3_float32.npy"  # what onnx2tf would otherwise fetch, to try the network on
_SECONDS = 1800


class ConverterError(HeadstartError):
    """The program that converts did not do its work."""


def find_converter() -> str:
    """The program onnx2tf.

    Raises:
        ParameterError: it is not there.
        MissingExtraError: LiteRT itself is not, with which the file is compared with the run.
    """
    found = shutil.which(os.environ.get(CONVERTER) or "onnx2tf")
    if found is None:
        raise ParameterError(
            "LiteRT files are made by the program onnx2tf, which was not found. It asks for old versions of NumPy and onnx, so give it an "
            f"environment of its own: pipx install onnx2tf. Or name it in the environment variable {CONVERTER}."
        )
    if importlib.util.find_spec("ai_edge_litert") is None:
        raise MissingExtraError("Comparing a LiteRT file with the run", extra="litert")
    return found


def square_model(run: Run) -> onnx.ModelProto:
    """The saved model for one image (1, 3, size, size), uint8, with the colours first: the order that onnx2tf turns round."""
    import onnx
    from onnx import TensorProto, helper

    model = onnx.load(str(run.path / MODEL), load_external_data=False)
    graph, size = model.graph, run.preprocessing.size
    graph.node.insert(0, helper.make_node("Transpose", ["pixels"], [graph.input[0].name], perm=[0, 2, 3, 1]))
    del graph.input[:], graph.value_info[:]
    graph.input.append(helper.make_tensor_value_info("pixels", TensorProto.UINT8, [1, 3, size, size]))
    for output in graph.output:
        output.type.tensor_type.shape.dim[0].dim_value = 1
    return model


def write_litert(run: Run, file: Path, examples: Iterable[npt.NDArray[np.uint8]]) -> None:
    """Write the LiteRT file, and the names of the classes beside it, one a line, as ``NAME.labels.txt``.

    Args:
        run: the run.
        file: to write.
        examples: some real images, uint8 (H, W, 3), on which onnx2tf tries its work.

    Raises:
        ConverterError: onnx2tf failed; the end of what it said comes with it.
        ParameterError, MissingExtraError: as `find_converter`.
    """
    program = find_converter()
    with tempfile.TemporaryDirectory(prefix="headstart-litert-") as folder:
        work = Path(folder)
        (work / "model.onnx").write_bytes(square_model(run).SerializeToString())
        np.save(work / _TRIED, _small(examples))
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""}
        command = [program, "-i", "model.onnx", "-o", "made", "-osd", "-n"]
        try:
            done = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, errors="replace", timeout=_SECONDS)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ConverterError(f"{program} did not finish ({error}).") from None
        made = work / "made" / "model_float32.tflite"
        if done.returncode or not made.is_file():
            said = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()[-1]
            raise ConverterError(f"{program} could not convert the network ({said[:300]}). The ONNX file can be had without it.")
        shutil.copyfile(made, file)
    file.with_suffix(".labels.txt").write_text("".join(f"{name}\n" for name in run.classes), encoding="utf-8")


def _small(images: Iterable[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
    """Twenty images, float32 (20, 128, 128, 3), from 0 to 1."""
    from PIL import Image

    found = [np.asarray(Image.fromarray(image).resize((128, 128)), dtype=np.float32) / 255 for image in images]
    return np.stack([found[i % len(found)] for i in range(20)])


def with_litert(file: Path) -> Any:
    """Open a LiteRT file: a function from uint8 (1, size, size, 3) to outputs by name."""
    from ai_edge_litert.interpreter import Interpreter

    runner = Interpreter(str(file)).get_signature_runner()
    return lambda batch: runner(pixels=batch)
