"""int8 by post-training quantisation (NNCF) of the network; preprocessing, head and novelty score stay in float32.

Activation ranges are taken from training images. Where the accuracy gate fails, the layers that cause the largest error are left in
float32, a growing share of them. They too are found on training images: the images of the gate decide nothing but pass or fail.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.engine import same_signal_stack
from headstart.errors import DataError, ParameterError
from headstart.export.formats import ExportedModel, Outputs, openvino_model, write_openvino
from headstart.export.gate import Gate
from headstart.export.onnx_file import IMAGES, onnx_model
from headstart.export.parity import Reference
from headstart.export.sample import sample_of
from headstart.progress import Listener, Progress, quiet

FLOAT_SHARES = (0.0, 0.1, 0.25, 0.5)  # of the layers, left in float32 one after the other until the gate is passed
CALIBRATION = 300  # images
_RANKING = 16  # images on which layers are ranked
_LAYERS = ("Convolution", "GroupConvolution", "MatMul")
_POOLINGS = ("ReduceMean", "ReduceMax")  # cheap, and rounding before them would erase small features

PIXELS = "pixels"  # what the network takes

Images = Sequence[npt.NDArray[np.uint8]]
Inputs = dict[str, npt.NDArray[np.uint8]]


def write_int8(
    reference: Reference, file: Path, *, max_drop: float, data: Path | None, listener: Listener
) -> tuple[Outputs, tuple[Gate, ...]]:
    """Write an int8 file (``.xml``), with more and more layers in float32 until the accuracy gate is passed or no share is left.

    `reference` has the run and the images of the gate, `data` is the folder of the data if the training images have been moved, and
    `max_drop` is how much accuracy may be lost, as a share. Returns the outputs of the last file for the images of the gate, and every
    attempt, of which the last one may have failed. Raises DataError where no training images are left, ParameterError where the model
    assigns no labels.
    """
    comparison = reference.comparison
    if comparison.decision == "value":
        raise ParameterError(
            f"int8 is for models that assign labels, whose accuracy is checked; this one gives {comparison.output}. Use openvino."
        )
    training = sample_of(reference.run, "train", CALIBRATION, data=data)
    if not training:
        raise DataError("int8 needs training images, and none are where they were. Give their folder with --data.")
    model = openvino_model(onnx_model(reference.run))
    layers, gates = layers_of(model), []
    ranked: Sequence[str] = ()
    made: Any = None
    for share in FLOAT_SHARES:
        if share and not ranked:
            listener.stage(f"Ranking {len(layers)} layers by the error that they cause")
            ranked = ranked_by_error(model, made, training, progress=listener.progress)
        in_float = ranked[: round(share * len(layers))]
        listener.stage(f"Quantising with {len(training)} training images, {len(in_float)} of {len(layers)} layers in float32")
        made = quantised(model, training, in_float=in_float, progress=listener.progress)
        write_openvino(made, file)
        outputs = ExportedModel(file, engine="openvino")(reference.sample, keep=comparison.keep)
        gates.append(Gate.worst(reference, outputs, max_drop=max_drop, in_float=len(in_float), layers=len(layers)))
        listener.say(gates[-1].summary())
        if gates[-1].passed:
            break
    return outputs, tuple(gates)


def layers_of(model: Any) -> list[str]:
    """Names of the layers that can be quantised, in their order: all between the pixels and ``features``."""
    inner = _network_nodes(model)
    return [name for name, kind in _kinds(model) if kind in _LAYERS and name in inner]


def _kinds(model: Any) -> list[tuple[str, str]]:
    return [(node.get_friendly_name(), node.get_type_name()) for node in model.get_ordered_ops()]


def quantised(model: Any, images: Images, *, in_float: Sequence[str] = (), progress: Progress | None = None) -> Any:
    """An int8 copy of an OpenVINO model as `openvino_model` makes it; layers named `in_float` stay in float32.

    Training `images`, uint8 (H, W, 3), give the activation ranges; `progress` is called after each.
    """
    os.environ.setdefault("NNCF_CI", "1")  # without it NNCF would report its use over the network without asking
    import nncf

    preparing, rest = _parted(model)
    inner, done, inputs = _network_nodes(rest), count(1), _inputs(preparing, rest)

    def batch(image: npt.NDArray[np.uint8]) -> Inputs:
        if progress is not None:
            progress(next(done), len(images))
        return inputs(image)

    outside = [name for name, kind in _kinds(rest) if name not in inner or kind in _POOLINGS]
    ignored = nncf.IgnoredScope(names=[*outside, *in_float], validate=False)
    # NNCF names every ignored layer and draws bars of its own; PyTorch, if installed, reports graphics cards that are absent
    with quiet("nncf", "torch.utils.cpp_extension"), redirect_stdout(io.StringIO()), same_signal_stack():
        made = nncf.quantize(
            rest, nncf.Dataset(images, batch), preset=nncf.QuantizationPreset.MIXED, subset_size=len(images), ignored_scope=ignored,
        )  # fmt: skip
    _joined(preparing, made)
    return made


def ranked_by_error(model: Any, int8: Any, images: Images, *, progress: Progress | None = None) -> list[str]:
    """The layers of `model`, in float32, first the one that alone, as it is in `int8` (all layers `quantised`), changes the features most.

    The error of a layer's own output tells little: a small error of the first layers is carried through all the others. `images` are some
    training images; `progress` is called after each layer.
    """
    preparing, rest = _parted(model)
    inputs, names = _inputs(preparing, rest), layers_of(model)
    few = [inputs(image) for image in islice(images, _RANKING)]
    exact = _features(rest, few)
    scale = exact.std(axis=0) + 1e-3 * exact.std()
    errors = []
    for done, name in enumerate(names, 1):
        errors.append(float(np.abs((_features(_with_one_layer(rest, int8, name), few) - exact) / scale).mean()))
        if progress is not None:
            progress(done, len(names))
    return [names[place] for place in np.argsort(-np.array(errors), kind="stable")]


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


def _features(model: Any, batches: Sequence[Inputs]) -> npt.NDArray[np.float32]:
    compiled = _compiled(model)
    return np.concatenate([np.array(compiled(batch)["features"]) for batch in batches])


def _compiled(model: Any) -> Any:
    import openvino as ov

    with same_signal_stack():
        return ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})


def _parted(model: Any) -> tuple[Any, Any]:
    """Two models: from an image to the pixels that the network takes, and from these to the outputs. Only the second one is quantised.

    It takes the image as well where its outputs depend on the size of that.
    """
    import openvino as ov

    whole, rest = model.clone(), model.clone()
    pixels = _pixels_of(rest)
    start = ov.opset13.parameter(pixels.get_partial_shape(), ov.Type.u8)
    start.output(0).get_tensor().set_names({PIXELS})
    for target in pixels.get_target_inputs():
        target.replace_source_output(start.output(0))
    rest.add_parameters([start])
    image = rest.get_parameters()[0]
    needed = ov.Model([_pixels_of(whole)], whole.get_parameters())
    if not _is_needed(rest, image):
        rest.remove_parameter(image)
    return needed, rest


def _is_needed(model: Any, parameter: Any) -> bool:
    """Whether an output depends on a parameter."""
    found: set[str] = set()
    pending = [result.input_value(0).get_node() for result in model.get_results()]
    while pending:
        node = pending.pop()
        if node.get_friendly_name() not in found:
            found.add(node.get_friendly_name())
            pending += [entry.get_source_output().get_node() for entry in node.inputs()]
    return parameter.get_friendly_name() in found


def _inputs(preparing: Any, rest: Any) -> Callable[[npt.NDArray[np.uint8]], Inputs]:
    """What makes, of an image, the inputs of the second part of a model, by name."""
    prepare, whole = _compiled(preparing), len(rest.get_parameters()) > 1

    def inputs(image: npt.NDArray[np.uint8]) -> Inputs:
        return {PIXELS: np.array(prepare(image[None])[0]), **({IMAGES: image[None]} if whole else {})}

    return inputs


def _joined(preparing: Any, rest: Any) -> None:
    """Put both parts together again, in the place of the second one."""
    source, pixels = preparing.get_parameters()[0], preparing.get_results()[0].input_value(0)
    for parameter in rest.get_parameters():
        new = pixels if PIXELS in parameter.output(0).get_names() else source.output(0)
        for target in parameter.output(0).get_target_inputs():
            target.replace_source_output(new)
    before = rest.get_parameters()
    rest.add_parameters([source])
    for parameter in before:
        rest.remove_parameter(parameter)


def _network_nodes(model: Any) -> set[str]:
    """Names of the nodes from the pixels of the resized image to the features."""
    import openvino as ov

    found: set[str] = set()
    pending = [next(output for output in model.outputs if "features" in output.get_names()).node]
    while pending:
        node = pending.pop()
        if node.get_friendly_name() in found or (node.get_type_name() == "Convert" and node.get_element_type() == ov.Type.u8):
            continue
        found.add(node.get_friendly_name())
        pending += [entry.get_source_output().get_node() for entry in node.inputs()]
    return found


def _pixels_of(model: Any) -> Any:
    """The output that has the pixels of the resized image, from which all of the network is computed: a mirror image comes after it."""
    import openvino as ov

    inner = _network_nodes(model)
    node = next(
        node for node in model.get_ordered_ops() if node.get_friendly_name() in inner and node.get_output_element_type(0) == ov.Type.u8
    )
    while True:
        after = [target.get_node() for target in node.output(0).get_target_inputs()]
        if len(after) != 1 or after[0].get_output_element_type(0) != ov.Type.u8:
            return node.output(0)
        node = after[0]
