"""What can be asked of a fit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from headstart.classifier import Cache, TransferClassifier
from headstart.errors import ParameterError
from headstart.reliability import COVERAGE
from headstart.training import FineTuning


@dataclass(frozen=True, kw_only=True)
class FitSettings:
    """Everything that can be asked of a fit, with its defaults.

    Attributes:
        test: a folder or list of test images; if None, the data's own test part, else one that is held out.
        test_share: share of the images held out for testing where the data have no test part; 0 < share < 1.
        group_from: regular expression on file names; images with the same first group (or match) stay on one side of every split.
        columns: of a list file, ``{"path": ..., "label": ..., "split": ..., "group": ...}``, where they are not recognised.
        plan: a file that `headstart check --fix` wrote, whose changes are followed; see `headstart.audit.Plan`.
        coverage: how often the prediction sets are to hold the right class; 0 < coverage < 1; with `coverage_by_class` within each class.
        folds: also cross-validate over the training part with this many folds; 0 for none.
        backbone, weights, head, class_weight, fit_image, cache, engine, seed, fine_tuning: as `TransferClassifier` takes them.
    """

    test: str | Path | None = None
    test_share: float = 0.2
    group_from: str | None = None
    columns: dict[str, str] | None = None
    plan: str | Path | None = None
    coverage: float = COVERAGE
    coverage_by_class: bool = False
    folds: int = 0
    backbone: str = "efficientnet_lite0"
    weights: str | Path | None = None
    head: str = "auto"
    class_weight: str | None = None
    fit_image: str | None = None
    cache: Cache = "auto"
    engine: str = "auto"
    seed: int = 0
    fine_tuning: FineTuning | None = None

    def __post_init__(self) -> None:
        if not 0 < self.test_share < 1:
            raise ParameterError(f"test_share must be above 0 and below 1, got {self.test_share!r}.")
        if not 0 < self.coverage < 1:
            raise ParameterError(f"coverage must be above 0 and below 1, got {self.coverage!r}.")
        if self.folds < 0 or self.folds == 1:
            raise ParameterError(f"folds must be 0 (none) or at least 2, got {self.folds!r}.")
        if self.class_weight not in (None, "balanced"):
            raise ParameterError(f"class_weight must be 'balanced' or left out, got {self.class_weight!r}.")
        self.classifier().check_parameters()

    def classifier(self) -> TransferClassifier:
        """An unfitted classifier with these settings."""
        return TransferClassifier(
            self.backbone,
            weights=self.weights,
            head=self.head,
            class_weight=self.class_weight,
            fit_image=self.fit_image,
            cache=self.cache,
            engine=self.engine,
            seed=self.seed,
            fine_tuning=self.fine_tuning,
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-able values, for the manifest."""
        paths = {"test": self.test, "weights": self.weights, "plan": self.plan}
        return {
            **{name: getattr(self, name) for name in ("test_share", "group_from", "columns", "coverage", "coverage_by_class", "folds",
               "backbone", "head", "class_weight", "fit_image", "engine", "seed")},
            **{name: None if value is None else str(value) for name, value in paths.items()},
            "fine_tuning": None if self.fine_tuning is None else self.fine_tuning.to_dict(),
        }  # fmt: skip

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, cache: Cache = "auto") -> Self:
        """The inverse of `to_dict`; where features are kept is not a part of it.

        Raises:
            ParameterError: a value outside its limits.
        """
        plan = values.get("fine_tuning")
        return cls(**{**values, "fine_tuning": None if plan is None else FineTuning.from_dict(plan), "cache": cache})
