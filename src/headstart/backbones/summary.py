"""What a network consists of: its layers with output shapes and parameters, and its stages with parameters and operations.

The layers are found on PyTorch's "meta" device, which knows shapes and no numbers, so that this needs neither weights nor time. The stages
of the catalogue's networks are in ``stages.csv``, a row per stage, written by ``docs/make_catalogue.py``; those of any other network of
timm are found when they are requested. PyTorch is imported inside the functions only.
"""

from __future__ import annotations

import csv
import functools
import importlib.resources
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from headstart.backbones import timm_models
from headstart.backbones.records import BackboneRecord, Stage


@dataclass(frozen=True, kw_only=True)
class LayerRow:
    """One layer of a network."""

    name: str  # in the network
    kind: str  # its type, for example ``Conv2d``
    shape: tuple[int, ...]  # of its output for one image; channels first where it is a map
    parameters: int = 0  # their number; the statistics of a batch normalisation do not count
    trained: bool | None = None  # whether they are trained; None where there are none, or it is unknown


@dataclass(frozen=True)
class LayerSummary:
    """The layers of a network in the order of computation, and the shape of its output for one image. ``+`` concatenates summaries."""

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


def backbone_summary(
    record: BackboneRecord, *, size: int | None = None, pooled: bool = True, trained: Callable[[str], bool | None] = lambda name: False
) -> LayerSummary:
    """The layers of a backbone without its top, for square images of `size` pixels (by default the backbone's own).

    It is followed to the pooled features, or only to its last map. Layers that neither have parameters nor change the shape (ReLU, dropout)
    are omitted, and so are those that are not used. `trained` tells whether the parameter of a name is trained.
    """
    timm_models.require(f"The layers of {record.name}")
    rows: dict[str, LayerRow] = {}

    def note(name: str, module: Any, inputs: Any, output: Any) -> None:
        value, own = output[0] if isinstance(output, tuple | list) else output, dict(module.named_parameters(recurse=False))
        changes = not any(module.children()) and bool(inputs) and inputs[0].shape != value.shape
        if name not in rows and (own or changes):
            states = {trained(f"{name}.{parameter}") for parameter in own}
            rows[name] = LayerRow(
                name=name, kind=type(module).__name__, shape=tuple(value.shape[1:]), parameters=sum(part.numel() for part in own.values()),
                trained=states.pop() if len(states) == 1 else True in states if states else None,
            )  # fmt: skip

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch

        from headstart.backbones.stages import watched

        side = size or record.input_size
        with torch.device("meta"):
            model = timm_models.created(record, side=side)
            timm_models.remove_top(model)
            with torch.inference_mode(), watched(model, after=note):
                output = model.forward_features(torch.empty(1, 3, side, side))
                if pooled:
                    output = model.forward_head(output, pre_logits=True).flatten(1)
    free = [
        LayerRow(name=name, kind="Parameter", shape=tuple(value.shape[1:]), parameters=value.numel(), trained=trained(name))
        for name, value in model.named_parameters(recurse=False)
    ]
    return LayerSummary((*free, *rows.values()), tuple(output.shape[1:]))


def head_summary(
    shape: tuple[int, ...], *, outputs: int, layers: tuple[int, ...] = (), dropout: float = 0.0, activation: str = ""
) -> LayerSummary:
    """The layers of a trained head on the output of a backbone: dense ReLU layers, each after dropout, and one with the last `activation`.

    `shape` is that of the backbone's output for one image; a map is flattened.
    """
    inputs, rows = math.prod(shape), []
    if len(shape) > 1:
        rows.append(LayerRow(name="flatten", kind="Flatten", shape=(inputs,)))
    last = "Dense" + (f", {activation}" if activation else "")
    dense = [(f"dense{number}", "Dense, ReLU", width) for number, width in enumerate(layers, 1)]
    for name, kind, width in (*dense, ("output", last, outputs)):
        if dropout:
            rows.append(LayerRow(name=f"{name}.dropout", kind=f"Dropout {dropout:g}", shape=(inputs,)))
        rows.append(LayerRow(name=name, kind=kind, shape=(width,), parameters=(inputs + 1) * width, trained=True))
        inputs = width
    return LayerSummary(tuple(rows), (outputs,))


@dataclass(frozen=True)
class StageTable:
    """The stages of a backbone without its classifier, in the order in which they run, and the length of its features."""

    stages: tuple[Stage, ...]
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
def _stored() -> Mapping[str, tuple[Stage, ...]]:
    table = importlib.resources.files(__package__).joinpath("stages.csv").read_text(encoding="utf-8")
    found: dict[str, tuple[Stage, ...]] = {}
    for row in csv.DictReader(table.splitlines()):
        stage = Stage(row["stage"], int(row["parameters"]), int(row["flops"]))
        found[row["backbone"]] = (*found.get(row["backbone"], ()), stage)
    return found


def stage_table(record: BackboneRecord) -> StageTable:
    """The stages of a backbone: from ``stages.csv`` where it is in the catalogue, else computed."""
    stages = _stored().get(record.name)
    return computed(record) if stages is None or record.dim is None else StageTable(stages, record.dim)


def computed(record: BackboneRecord) -> StageTable:
    """The stages of any network of timm, found by running it with random weights. Raises MissingExtraError without PyTorch and timm."""
    timm_models.require(f"The stages of {record.name}")
    network, _ = timm_models.build(record, tensors=None)
    with timm_models.silence():
        from headstart.backbones.stages import stages_of

        stages = stages_of(network, side=record.input_size)
    return StageTable(stages, network.sizes[-1])
