"""What a network consists of: its layers with output shapes and parameters, and its stages with parameters and operations.

The layers are found on PyTorch's "meta" device, which knows shapes and no numbers, so that this needs neither weights nor time. The
stages of the catalogue's networks are in ``stages.csv`` beside this file, one row per stage, written by ``docs/make_catalogue.py`` from
what `headstart.backbones.stages.stages_of` finds; those of any other network of timm are found when they are requested. PyTorch is
imported inside the functions only.
"""

from __future__ import annotations

import csv
import functools
import importlib.resources
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from headstart.backbones import timm_models
from headstart.backbones.records import BackboneRecord

_Trained = Callable[[str], bool | None]


@dataclass(frozen=True, kw_only=True)
class LayerRow:
    """One layer.

    Attributes:
        name: in the network.
        kind: its type, for example ``Conv2d``.
        shape: of its output for one image; channels first where it is a map.
        parameters: their number; the statistics of a batch normalisation do not count.
        trained: whether they are trained; None where there are none, or it is unknown.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int = 0
    trained: bool | None = None


@dataclass(frozen=True)
class LayerSummary:
    """The layers of a network in the order of computation. Summaries are concatenated with ``+``.

    Attributes:
        rows: the layers.
        output: shape of the output for one image.
    """

    rows: tuple[LayerRow, ...]
    output: tuple[int, ...]

    def __add__(self, other: LayerSummary) -> LayerSummary:
        return LayerSummary(self.rows + other.rows, other.output)

    @property
    def parameters(self) -> int:
        """All parameters."""
        return sum(row.parameters for row in self.rows)

    @property
    def trained(self) -> int:
        """Parameters that are trained."""
        return sum(row.parameters for row in self.rows if row.trained)

    @property
    def frozen(self) -> int:
        """Parameters that stay unchanged."""
        return sum(row.parameters for row in self.rows if row.trained is False)

    def lines(self) -> list[str]:
        """A table for the terminal, with the totals below it."""
        states = {True: "trained", False: "frozen", None: ""}
        table = [("layer", "kind", "output", "parameters", "")]
        table += [(row.name, row.kind, " x ".join(map(str, row.shape)), f"{row.parameters:,}", states[row.trained]) for row in self.rows]
        widths = [max(len(line[column]) for line in table) for column in range(4)]
        known = all(row.trained is not None for row in self.rows if row.parameters)
        totals = (("parameters", self.parameters), *((("trained", self.trained), ("frozen", self.frozen)) if known else ()))
        wide = max(len(f"{count:,}") for _, count in totals)
        return [
            *(f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:<{widths[2]}}  {d:>{widths[3]}}  {e}".rstrip() for a, b, c, d, e in table),
            "",
            *(f"{name:<10}  {count:>{wide},}" for name, count in totals),
        ]


def layer_summary(network: Any, images: Any, *, run: Callable[[Any], Any] | None = None, trained: _Trained | None = None) -> LayerSummary:
    """Run a network once and record its layers.

    Layers that neither have parameters nor change the shape (ReLU, dropout) are omitted, and so are those that are not used.

    Args:
        network: a PyTorch module.
        images: its input, float32 (N, 3, H, W), on the device of the network.
        run: called with the images in place of the network itself; gives one tensor.
        trained: whether the parameter of a name is trained; by default, its ``requires_grad``.
    """
    import torch

    trainable = {name: parameter.requires_grad if trained is None else trained(name) for name, parameter in network.named_parameters()}
    rows: dict[str, LayerRow] = {}

    def note(name: str, module: Any) -> Callable[[Any, Any, Any], None]:
        def noted(_module: Any, inputs: Any, output: Any) -> None:
            value = output[0] if isinstance(output, tuple | list) else output
            own = _own(module)
            changes = not any(module.children()) and bool(inputs) and inputs[0].shape != value.shape
            if name not in rows and (own or changes):
                rows[name] = _row(name, module, tuple(value.shape[1:]), own, trainable)

        return noted

    handles = [module.register_forward_hook(note(name, module)) for name, module in network.named_modules() if name]
    try:
        with torch.inference_mode():
            output = (run or network)(images)
    finally:
        for handle in handles:
            handle.remove()
    free = [
        LayerRow(name=name, kind="Parameter", shape=tuple(value.shape[1:]), parameters=value.numel(), trained=trainable[name])
        for name, value in _own(network).items()
    ]
    return LayerSummary((*free, *rows.values()), tuple(output.shape[1:]))


def _own(module: Any) -> dict[str, Any]:
    """The parameters of a module itself, without those of its submodules."""
    return dict(module.named_parameters(recurse=False))


def _row(name: str, module: Any, shape: tuple[int, ...], own: dict[str, Any], trainable: dict[str, bool | None]) -> LayerRow:
    states = {trainable[f"{name}.{parameter}"] for parameter in own}
    state = states.pop() if len(states) == 1 else True in states if states else None
    return LayerRow(
        name=name, kind=type(module).__name__, shape=shape, parameters=sum(value.numel() for value in own.values()), trained=state
    )


def backbone_summary(
    record: BackboneRecord, *, size: int | None = None, pooled: bool = True, trained: _Trained = lambda name: False
) -> LayerSummary:
    """The layers of a backbone without its top.

    Args:
        record: which network of timm; the embedded ones are known to timm too.
        size: side of the square input in pixels; the backbone's own by default.
        pooled: whether to follow it to the pooled features, or only to its last map.
        trained: whether the parameter of a name is trained; by default, everything is frozen.

    Raises:
        MissingExtraError: PyTorch or timm is not installed.
    """
    timm_models.require(f"The layers of {record.name}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import timm
        import torch

        architecture = record.name.partition(".")[0]
        side = size or record.input_size
        fixed = side != record.input_size and timm.get_pretrained_cfg(architecture).fixed_input_size
        with torch.device("meta"):
            model = timm.create_model(architecture, pretrained=False, **({"img_size": side} if fixed else {})).eval()
            if type(model).__name__ == "VGG":
                model.pre_logits = torch.nn.Identity()  # the fully connected layers belong to the top
            model.reset_classifier(0)

            def run(images: Any) -> Any:
                last_map = model.forward_features(images)
                return model.forward_head(last_map, pre_logits=True).flatten(1) if pooled else last_map

            return layer_summary(model, torch.empty(1, 3, side, side), run=run, trained=trained)


def head_summary(
    shape: tuple[int, ...], *, outputs: int, layers: tuple[int, ...] = (), dropout: float = 0.0, activation: str = ""
) -> LayerSummary:
    """The layers of a trained head on the output of a backbone.

    Args:
        shape: of the backbone's output for one image; a map is flattened.
        outputs: of the last layer.
        layers: widths of dense ReLU layers before it.
        dropout: rate before each of them and before the last.
        activation: name of the last layer's activation: ``softmax`` or ``sigmoid``.
    """
    return LayerSummary(tuple(_head_rows(shape, outputs=outputs, layers=layers, dropout=dropout, activation=activation)), (outputs,))


def _head_rows(shape: tuple[int, ...], *, outputs: int, layers: tuple[int, ...], dropout: float, activation: str) -> Iterator[LayerRow]:
    inputs = math.prod(shape)
    if len(shape) > 1:
        yield LayerRow(name="flatten", kind="Flatten", shape=(inputs,))
    kinds = [*("Dense, ReLU" for _ in layers), f"Dense, {activation}" if activation else "Dense"]
    names = [*(f"dense{number}" for number in range(1, len(layers) + 1)), "output"]
    for name, kind, width in zip(names, kinds, (*layers, outputs), strict=True):
        if dropout:
            yield LayerRow(name=f"{name}.dropout", kind=f"Dropout {dropout:g}", shape=(inputs,))
        yield LayerRow(name=name, kind=kind, shape=(width,), parameters=(inputs + 1) * width, trained=True)
        inputs = width


@dataclass(frozen=True)
class StageFigures:
    """The figures of one stage.

    Attributes:
        name: ``stem``, ``stage1``, ..., ``last``: what ``--unfreeze`` takes.
        parameters: how many numbers are learned in it.
        flops: operations for one image of the backbone's input size, a multiplication and an addition counted as two.
    """

    name: str
    parameters: int
    flops: int


@dataclass(frozen=True)
class StageTable:
    """The stages of a backbone without its classifier, in the order in which they run.

    Attributes:
        stages: at least one.
        dim: length of the features that a new classifier takes.
    """

    stages: tuple[StageFigures, ...]
    dim: int

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the stages."""
        return tuple(stage.name for stage in self.stages)

    @property
    def parameters(self) -> int:
        """Parameters of all stages."""
        return sum(stage.parameters for stage in self.stages)

    @property
    def flops(self) -> int:
        """Operations of all stages."""
        return sum(stage.flops for stage in self.stages)


@functools.cache
def _stored() -> Mapping[str, tuple[StageFigures, ...]]:
    table = importlib.resources.files(__package__).joinpath("stages.csv").read_text(encoding="utf-8")
    found: dict[str, tuple[StageFigures, ...]] = {}
    for row in csv.DictReader(table.splitlines()):
        stage = StageFigures(row["stage"], int(row["parameters"]), int(row["flops"]))
        found[row["backbone"]] = (*found.get(row["backbone"], ()), stage)
    return found


def stage_table(record: BackboneRecord) -> StageTable:
    """The stages of a backbone: from ``stages.csv`` where it is in the catalogue, else computed with random weights.

    Raises:
        BackboneError: timm's network cannot be run without its classifier.
        MissingExtraError: a network outside the catalogue, and PyTorch or timm is not installed.
    """
    stages = _stored().get(record.name)
    return computed(record) if stages is None or record.dim is None else StageTable(stages, record.dim)


def computed(record: BackboneRecord) -> StageTable:
    """The stages of any network of timm, found by running it with random weights.

    Errors as of `stage_table`.
    """
    timm_models.require(f"The stages of {record.name}")
    network, _ = timm_models.build(record, tensors=None)
    with timm_models.silence():
        from headstart.backbones.stages import stages_of

        stages = stages_of(network, side=record.input_size)
    return StageTable(tuple(StageFigures(stage.name, stage.parameters, stage.flops) for stage in stages), network.sizes[-1])
