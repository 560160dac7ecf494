"""int8 by post-training quantisation (NNCF) of the network; preprocessing, head and the score for what is unlike stay in float32.

Ranges of values are taken from training images. Where the accuracy gate fails, the layers that do most harm are left in float32, a share
of them at a time. Which these are is found on the training images as well, so that the images of the gate decide nothing but yes or no.
"""

from __future__ import annotations

import importlib.util
import io
import os
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.errors import MissingExtraError
from headstart.progress import Progress, quiet

FLOAT_SHARES = (0.0, 0.1, 0.25, 0.5)
"""Shares of the layers that are left in float32, one after the other until the gate is passed."""

CALIBRATION = 300
_RANKING = 16  # images that tell which layers suffer
_LAYERS = ("Convolution", "GroupConvolution", "MatMul")
_POOLINGS = ("ReduceMean", "ReduceMax")  # take no time, and rounding before them would cost features that are small

Images = Sequence[npt.NDArray[np.uint8]]


def check_nncf() -> None:
    """Say so, before any work, when NNCF is not installed.

    Raises:
        MissingExtraError: it is not.
    """
    for package in ("openvino", "nncf"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError("int8", extra="int8")


def layers_of(model: Any) -> list[str]:
    """Names of the layers of the network that can be quantised, in their order: all between the pixels and ``features``."""
    inner = _inside(model)
    return [
        node.get_friendly_name()
        for node in model.get_ordered_ops()
        if node.get_type_name() in _LAYERS and node.get_friendly_name() in inner
    ]


def quantised(model: Any, images: Images, *, leave: Sequence[str] = (), progress: Progress | None = None) -> Any:
    """An int8 copy of an OpenVINO model.

    Args:
        model: as `openvino_model` makes it.
        images: training images, uint8 (H, W, 3), which tell the ranges of values.
        leave: names of layers that stay in float32.
        progress: called as images are looked at.
    """
    nncf = _nncf()
    inner = _inside(model)
    outside = [
        node.get_friendly_name()
        for node in model.get_ordered_ops()
        if node.get_friendly_name() not in inner or node.get_type_name() in _POOLINGS
    ]
    ignored = nncf.IgnoredScope(names=[*outside, *leave], validate=False)
    # NNCF names every layer that is left alone and draws bars of its own; PyTorch, where it is there, tells of graphics cards that are not
    with quiet("nncf", "torch.utils.cpp_extension"), redirect_stdout(io.StringIO()):
        return nncf.quantize(
            model, nncf.Dataset(_Batches(images, progress)),
            preset=nncf.QuantizationPreset.MIXED, subset_size=len(images), ignored_scope=ignored,
        )  # fmt: skip


class _Batches:
    """The images as batches of one, decoded when they are drawn."""

    def __init__(self, images: Images, progress: Progress | None) -> None:
        self._images, self._progress = images, progress

    def __iter__(self) -> Iterator[npt.NDArray[np.uint8]]:
        for done, image in enumerate(self._images, 1):
            if self._progress is not None:
                self._progress(done, len(self._images))
            yield image[None]

    def __len__(self) -> int:
        return len(self._images)


def by_damage(model: Any, int8: Any, images: Images, *, progress: Progress | None = None) -> list[str]:
    """The layers of `model`, that first which does most harm in int8: each alone, to the features at the end.

    What a layer does to its own output tells little: a small error of the first ones is carried through all the others.

    Args:
        model: in float32.
        int8: what `quantised` made of it, all layers.
        images: some training images.
        progress: called as layers are tried.
    """
    names, few = layers_of(model), [image[None] for image in images[:_RANKING]]
    exact = _features(model, few)
    scale = exact.std(axis=0) + 1e-3 * exact.std()
    harm = []
    for done, name in enumerate(names, 1):
        harm.append(float(np.abs((_features(_with_one_layer(model, int8, name), few) - exact) / scale).mean()))
        if progress is not None:
            progress(done, len(names))
    return [names[place] for place in np.argsort(-np.array(harm), kind="stable")]


def _with_one_layer(model: Any, int8: Any, name: str) -> Any:
    """A copy of `model` in which this layer rounds its input and its weights as in `int8`."""
    import openvino as ov

    copy = model.clone()
    layer, rough = (next(node for node in one.get_ordered_ops() if node.get_friendly_name() == name) for one in (copy, int8))
    rounded = rough.input_value(0).get_node()
    if rounded.get_type_name() == "FakeQuantize":
        ends = [ov.opset13.constant(rounded.input_value(place).get_node().get_data()) for place in range(1, 5)]
        same = ov.opset13.fake_quantize(layer.input_value(0), *ends, levels=rounded.get_attributes()["levels"])
        layer.input(0).replace_source_output(same.output(0))
    weights = rough.input_value(1)
    if weights.get_partial_shape() == layer.input_value(1).get_partial_shape():
        layer.input(1).replace_source_output(weights)
    copy.validate_nodes_and_infer_types()
    return copy


def _features(model: Any, batches: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
    import openvino as ov

    compiled = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.concatenate([np.array(compiled(batch)["features"]) for batch in batches])


def _inside(model: Any) -> set[str]:
    """Names of the nodes from the pixels of the resized image to the features."""
    import openvino as ov

    node = next(output for output in model.outputs if "features" in output.get_names()).node
    found: set[str] = set()
    waiting = [node]
    while waiting:
        one = waiting.pop()
        if one.get_friendly_name() in found:
            continue
        if one.get_type_name() == "Convert" and one.get_element_type() == ov.Type.u8:
            continue
        found.add(one.get_friendly_name())
        waiting += [given.get_source_output().get_node() for given in one.inputs()]
    return found


def _nncf() -> Any:
    """NNCF, which would otherwise report its use over the network without a question (its telemetry is off where this variable is set)."""
    os.environ.setdefault("NNCF_CI", "1")
    import nncf

    return nncf
