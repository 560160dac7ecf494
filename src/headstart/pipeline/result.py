"""What comes of a fit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from headstart.audit import Finding
from headstart.audit.copies import LeakTest
from headstart.data import Dataset
from headstart.errors import ParameterError, UnreadableError
from headstart.features.table import FeatureTable
from headstart.metrics.differences import SIGNIFICANT, Difference, told
from headstart.selection import Baseline, Choice, Tried
from headstart.selection.choice import describe_head
from headstart.settings import FitSettings
from headstart.tasks import Evaluation, Judged, Learned, Outputs, Task
from headstart.tasks.comparable import Comparable

if TYPE_CHECKING:
    from headstart.classifier import TransferClassifier


@dataclass(frozen=True, eq=False, kw_only=True)
class ProbeTest:
    """The head on the frozen backbone, tested beside the model that came of the training.

    That is the fine-tuned one, the mean of both, or the head itself (`shipped`). `gains` are the scores of the model less its own on the
    same images, that of the leading score first.
    """

    test: Evaluation
    head: str
    gains: tuple[Difference, ...]
    shipped: str = "trained"  # or ``mean`` or ``probe``

    @classmethod
    def of(cls, task: Task, learned: Learned, frozen: FeatureTable, tuned: Evaluation) -> Self | None:
        """Test the model on the frozen backbone on the images that the fine-tuned one was tested on; None where there is no such model, or
        the task cannot compare two; of several columns of labels see `of_columns`.
        """
        if learned.probe is None or learned.columns or not isinstance(tuned, Comparable):
            return None
        outputs = task.apply(learned.probe.estimator, frozen.inputs(frozen.test))
        return cls._of(learned, task.evaluate(outputs, frozen.dataset.targets.take(frozen.test)), tuned)

    @classmethod
    def of_columns(cls, task: Task, learned: Learned, frozen: FeatureTable, tuned: Evaluation) -> dict[str, Self]:
        """The same of each of several columns of labels, by its name."""
        if learned.probe is None or not learned.columns:
            return {}
        outputs = task.apply(learned.probe.estimator, frozen.inputs(frozen.test))
        before: Any = task.evaluate(outputs, frozen.dataset.targets.take(frozen.test))
        after: Any = tuned
        return {name: cls._of(one, before.columns[name], after.columns[name]) for name, one in learned.columns.items()}

    @classmethod
    def _of(cls, learned: Learned, probe: Evaluation, tuned: Any) -> Self:
        assert learned.probe is not None
        gains = tuned.differences(probe).scores
        return cls(test=probe, head=describe_head(learned.probe), gains=gains, shipped=learned.fine_tuned.shipped)

    @property
    def gain(self) -> Difference:
        """That of the leading score."""
        return self.gains[0]

    def summary(self) -> str:
        """The comparison in a sentence or two."""
        if self.shipped == "probe":
            return f"before: {self.test.summary('test')}. Fine-tuning changed nothing: the head on the frozen backbone is the model"
        what = {"mean": "The mean with the fine-tuned model"}.get(self.shipped, "Fine-tuning")
        leading, *further = told(self.gains, [one.p_value for one in self.gains])
        changed = ", ".join([f"changed the {self.gain.word} by {leading.removeprefix(f'{self.gain.word} ')}", *further])
        verdict = "" if self.gain.p_value < SIGNIFICANT else "; on so few test images that may be chance"
        return f"before: {self.test.summary('test')}. {what} {changed}{verdict}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for the manifest: those of `gain` under general names, of all further ones under the names of their scores."""
        name, value, interval = self.test.headline
        gain = self.gain.to_dict() or {"difference": None, "interval": None, "p_value": None}
        further = {f"{one.score}_gain": None if math.isnan(one.value) else one.value for one in self.gains[1:]}
        return {
            "score": name, name: value, f"{name}_interval": list(interval), "head": self.head, "gain": gain["difference"],
            "gain_interval": gain["interval"], "p_value": gain["p_value"], **further, "shipped": self.shipped,
        }  # fmt: skip


@dataclass(frozen=True, eq=False, kw_only=True)
class FitResult:
    """What came of a fit.

    Attributes:
        run: the run folder, or None when none was asked for.
        task: what was learned.
        learned: the model, the evidence for it, and the table of features with the final split.
        settings: of the fit.
        test: the evaluation on the test part.
        tested: the outputs that gave it, by name, in the order of the test part.
        tried: the backbones that a search within a budget considered; empty where there was none.
        baseline: how far a pre-trained backbone is ahead of handcrafted features, where the fit had such.
        held_out: a sentence on where the test part came from.
        cross_validation: the evaluation over the folds of the training part, if asked for; `by_fold` has the headline score of each.
        findings: what is known to be wrong with the data, the gravest first.
        judged: how far the model can be trusted, how well that held on the test part, and the learning curve.
        probe: where the backbone was fine-tuned, the model before that, tested on the same images; of several columns of labels `probes`,
            by column.
        leaks: the accuracy with and without the test images that training has seen in some form; empty where there are none.
        seconds: time by stage.
    """

    run: Path | None
    task: Task
    learned: Learned
    settings: FitSettings
    test: Evaluation
    tested: Outputs
    judged: Judged
    tried: tuple[Tried, ...] = ()
    baseline: Baseline | None = None
    held_out: str = ""
    cross_validation: Evaluation | None = None
    by_fold: tuple[float, ...] = ()
    findings: tuple[Finding, ...] = ()
    probe: ProbeTest | None = None
    probes: Mapping[str, ProbeTest] = field(default_factory=dict)
    leaks: tuple[LeakTest, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def table(self) -> FeatureTable:
        """The inputs that could be read, with their final parts (``train`` or ``test``)."""
        return self.learned.table

    @property
    def dataset(self) -> Dataset:
        """The same without features."""
        return self.table.dataset

    @property
    def refused(self) -> tuple[UnreadableError, ...]:
        """Images that could not be read, with their reasons."""
        return self.table.refused

    @property
    def choice(self) -> Choice:
        """The model and the evidence for it."""
        return self.learned.choice

    @property
    def head(self) -> str:
        """The chosen head, with its layers and settings."""
        return describe_head(self.choice)

    @cached_property
    def classifier(self) -> TransferClassifier:
        """The model as a scikit-learn classifier whose labels are the numbers of the classes.

        ParameterError where several columns of labels were learned.
        """
        from headstart.classifier import TransferClassifier

        if self.learned.columns:
            raise ParameterError(
                f"A classifier has one column of labels, and this fit learned {len(self.learned.columns)}: "
                f"{', '.join(self.learned.columns)}. Predict with the run: headstart.load(result.run)."
            )

        classes = np.asarray(self.choice.estimator.classes_)
        settings = replace(self.settings, backbone=self.learned.prepared.settings.backbone)
        return TransferClassifier.of_learned(self.learned, settings, classes=classes)


@dataclass(frozen=True)
class ShardResult:
    """What came of one shard: how many images it had, how many were computed now, and the store that now has them."""

    images: int
    computed: int
    refused: tuple[UnreadableError, ...]
    store: Path
