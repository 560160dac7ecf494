"""Recipes: whole systems as small TOML files that a person can read, run and change."""

from __future__ import annotations

import functools
import importlib.resources
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headstart.backbones import find
from headstart.backbones.records import folded
from headstart.backbones.summary import LayerSummary, backbone_summary, head_summary
from headstart.errors import ParameterError, nearest
from headstart.metrics import SOFTMAX, Link
from headstart.pipeline.reading import read
from headstart.settings import FineTuning, FitSettings

_TEXTS = ("name", "title", "what", "source", "expected", "data", "command")
_NEEDED = ("name", "title", "what")
_TABLES = ("fast", "exact")
_FINE_TUNING = "fine_tuning"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A whole system, as it was described elsewhere (`exact`) and as Headstart would build it (`fast`); one of them may be None.

    The texts say in a few sentences `what` it is, the `source`, the result that was reported there, the layout of the `data` and the
    commands that run it, one a line. Settings have the names of `FitSettings`, under ``fine_tuning`` those of `FineTuning`.
    """

    name: str
    title: str
    what: str
    source: str = ""
    expected: str = ""
    data: str = ""
    command: str = ""
    fast: Mapping[str, Any] | None = None
    exact: Mapping[str, Any] | None = None
    path: Path

    def settings(self, exact: bool = False, *, weights: str | Path | None = None, **overrides: Any) -> FitSettings:
        """The settings that `headstart.fit` takes, with `overrides` of their fields; ParameterError where there is no such variant.

        The weights are those of a file, or ``"random"``, in place of the published ones.
        """
        table = self.exact if exact else self.fast
        if table is None:
            this, other = ("[exact]", "without --exact") if exact else ("[fast]", "with --exact")
            raise ParameterError(f"The recipe {self.name} has no table {this}. Run it {other}.")
        return FitSettings.from_dict({**table, **({} if weights is None else {"weights": weights}), **overrides})


@functools.cache
def recipes() -> tuple[Recipe, ...]:
    """The recipes that come with Headstart, sorted by name."""
    folder = Path(str(importlib.resources.files("headstart.pipeline") / "recipe_files"))
    return tuple(sorted(map(_read, folder.glob("*.toml")), key=lambda recipe: recipe.name))


def read_recipe(name: str | Path) -> Recipe:
    """The recipe of this name that comes with Headstart, or that of a ``.toml`` file; ParameterError where there is none."""
    if isinstance(name, Path) or name.casefold().endswith(".toml"):
        return _read(Path(name).expanduser())
    known = {folded(recipe.name): recipe for recipe in recipes()}
    if (found := known.get(folded(name))) is not None:
        return found
    names = [recipe.name for recipe in known.values()]
    raise ParameterError(
        f"There is no recipe {name!r}. Known: {', '.join(names)}.{nearest(name, names)} A recipe of your own is given as a .toml file."
    )


def _read(path: Path) -> Recipe:
    try:
        entries = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ParameterError(f"{path}: this recipe cannot be read: {error.strerror or error}.") from None
    except ValueError as error:
        raise ParameterError(f"{path}: not a TOML file: {error}.") from None
    allowed = (*_TEXTS, *_TABLES)
    for name, value in entries.items():
        if name not in allowed:
            raise ParameterError(f"{path}: There is no entry {name!r}.{nearest(name, allowed)} Allowed: {', '.join(allowed)}.")
        if name in _TEXTS and not isinstance(value, str):
            raise ParameterError(f"{path}: {name} must be text, got {value!r}.")
    missing = [name for name in _NEEDED if not entries.get(name, "").strip()]
    if missing:
        raise ParameterError(f"{path}: a recipe needs {' and '.join(missing)}.")
    if not any(table in entries for table in _TABLES):
        raise ParameterError(f"{path}: a recipe needs a table [fast] or [exact] with the settings of a fit; both may be empty.")
    for table in _TABLES:
        if table in entries:
            _check_table(path, table, entries[table])
    texts = {name: entries[name].strip() for name in _TEXTS if name in entries}
    return Recipe(**texts, fast=entries.get("fast"), exact=entries.get("exact"), path=path)


def _check_table(path: Path, table: str, given: Any) -> None:
    """Refuse a table that cannot become settings, naming the file and the table."""
    nested = given.get(_FINE_TUNING, {}) if isinstance(given, dict) else {}
    for where, values, settings in ((table, given, FitSettings), (f"{table}.{_FINE_TUNING}", nested, FineTuning)):
        if not isinstance(values, dict):
            raise ParameterError(f"{path}: {where} must be a table, written [{where}], got {values!r}.")
        try:
            settings.from_dict({name: value for name, value in values.items() if name != _FINE_TUNING})
        except ParameterError as error:
            raise ParameterError(f"{path}: [{where}] {error}") from None


def layers_of(data: str | Path, settings: FitSettings) -> LayerSummary | None:
    """The layers of backbone and head as a fit of these data trains them; None where it trains none. Errors as of `fit`."""
    if settings.fine_tuning is None:
        return None
    _, dataset = read(data, settings)
    return model_summary(settings, classes=len(dataset.classes), link=dataset.targets.link or SOFTMAX)


def model_summary(settings: FitSettings, *, classes: int, link: Link = SOFTMAX) -> LayerSummary:
    """The layers of backbone and head as these settings train them; ParameterError where they train none.

    What is trained of the backbone is left open for the strategy ``partial``.
    """
    plan = settings.fine_tuning
    if plan is None:
        raise ParameterError("Only settings with fine_tuning have a summary of layers.")
    whole = {"probe": False, "full": True}.get(plan.strategy)
    body = backbone_summary(find(settings.backbone), size=plan.image_size, pooled=plan.pooling == "avg", trained=lambda name: whole)
    single = plan.loss == "binary" and not link.independent and classes == 2
    return body + head_summary(
        body.output, outputs=1 if single else classes, layers=plan.head_layers, dropout=plan.dropout,
        activation="sigmoid" if plan.loss == "binary" else link.name,
    )  # fmt: skip
