"""int8 by post-training quantisation (NNCF) of the network; preprocessing, head and the score for what is unlike stay in float32.

Ranges of values are taken from training images. Where the accuracy gate fails, the layers that suffer most are left in float32, a share
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
    outside = [node.get_friendly_name() for node in model.get_ordered_ops() if node.get_friendly_name() not in inner]
    ignored = nncf.IgnoredScope(names=[*outside, *leave], validate=False)
    with quiet("nncf"), redirect_stdout(io.StringIO()):  # it names every layer that is left alone, and draws bars of its own
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


def by_damage(model: Any, int8: Any, images: Images) -> list[str]:
    """The layers of `model`, that first which loses most by int8: whose output gains most error over the layer before it."""
    names = layers_of(model)
    exact, rough = (_LayerOutputs(one, names) for one in (model, int8))
    errors = np.zeros(len(names))
    for image in images[:_RANKING]:
        for place, (want, found) in enumerate(zip(exact(image), rough(image), strict=True)):
            errors[place] += np.linalg.norm(found - want) / max(float(np.linalg.norm(want)), 1e-12)
    gained = np.diff(errors, prepend=0.0)
    return [names[place] for place in np.argsort(-gained, kind="stable")]


class _LayerOutputs:
    """The outputs of some layers of a model."""

    def __init__(self, model: Any, names: Sequence[str]) -> None:
        import openvino as ov

        copy = model.clone()
        nodes = {node.get_friendly_name(): node for node in copy.get_ordered_ops()}
        cut = ov.Model([ov.opset13.result(nodes[name].output(0)) for name in names], copy.get_parameters(), "layers")
        self._compiled = ov.Core().compile_model(cut, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def __call__(self, image: npt.NDArray[np.uint8]) -> list[npt.NDArray[np.float32]]:
        found = self._compiled([image[None]])
        return [np.array(found[output]) for output in self._compiled.outputs]


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
