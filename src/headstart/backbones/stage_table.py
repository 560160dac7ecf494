"""The stages of a network with their sizes and costs, as far as they are known without PyTorch: those of the catalogue.

The figures stand in ``stages.csv`` beside this file, one row per stage, written by ``docs/make_catalogue.py`` from what
`headstart.backbones.staged.stages_of` finds. For any other network of timm they are found when they are asked for.
"""

from __future__ import annotations

import csv
import functools
import importlib.resources
from collections.abc import Mapping
from dataclasses import dataclass

from headstart.backbones import timm_models
from headstart.backbones.onnx_export import silence
from headstart.backbones.records import BackboneRecord


@dataclass(frozen=True)
class StageFigures:
    """What is known of one stage.

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
        """Of the stages."""
        return tuple(stage.name for stage in self.stages)

    @property
    def parameters(self) -> int:
        """Of all stages."""
        return sum(stage.parameters for stage in self.stages)

    @property
    def flops(self) -> int:
        """Of all stages."""
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
    """The stages of a backbone: of the catalogue's as they are written down, of others computed with random weights.

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
    with silence():
        from headstart.backbones.staged import stages_of

        stages = stages_of(network, side=record.input_size)
    return StageTable(tuple(StageFigures(stage.name, stage.parameters, stage.flops) for stage in stages), network.sizes[-1])
