"""Recipes: whole systems as small TOML files that a person can read, run and change."""

from __future__ import annotations

import functools
import importlib.resources
import tomllib
from collections.abc import Callable, Mapping
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
    """A whole system, as it was described elsewhere (`exact`) and as Headstart would build it (`fast`).

    Attributes:
        name: used to select it.
        title: a few words.
        what: a few sentences about it.
        source: where it is described.
        expected: the result that was reported.
        data: the layout of the data that it expects.
        command: the commands that run it, one a line.
        fast, exact: settings by the names of `FitSettings`, under ``fine_tuning`` by those of `FineTuning`; None where the recipe has no
            such variant.
        path: the file.
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
        """The settings that `headstart.fit` takes.

        Args:
            exact: as described, instead of Headstart's own way.
            weights: a weight file in place of the published ones, or ``"random"``.
            **overrides: fields of `FitSettings` that replace those of the recipe.

        Raises:
            ParameterError: the recipe has no such variant, or there is no such field.
        """
        table = self.exact if exact else self.fast
        if table is None:
            this, other = ("[exact]", "without --exact") if exact else ("[fast]", "with --exact")
            raise ParameterError(f"The recipe {self.name} has no table {this}. Run it {other}.")
        return FitSettings.from_dict({**table, **({} if weights is None else {"weights": weights}), **overrides})


def recipes(folder: str | Path | None = None) -> tuple[Recipe, ...]:
    """The recipes that come with Headstart, or those of the ``.toml`` files in `folder`, sorted by name.

    Raises:
        ParameterError: `folder` is not a folder, or one of its files is not a recipe.
    """
    if folder is None:
        return _own_recipes()
    if not Path(folder).is_dir():
        raise ParameterError(f"{folder}: there is no such folder of recipes.")
    return tuple(sorted((_read(path) for path in Path(folder).glob("*.toml")), key=lambda recipe: recipe.name))


@functools.cache
def _own_recipes() -> tuple[Recipe, ...]:
    folder = importlib.resources.files("headstart.pipeline") / "recipe_files"
    return recipes(Path(str(folder)))


def read_recipe(name: str | Path) -> Recipe:
    """Return the recipe of this name that comes with Headstart, or that of a ``.toml`` file.

    Raises:
        ParameterError: there is no recipe of that name, or the file cannot be read or is not a recipe; the message says why.
    """
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
    _check_keys(path, entries)
    for name in _TEXTS:
        if name in entries and not isinstance(entries[name], str):
            raise ParameterError(f"{path}: {name} must be text, got {entries[name]!r}.")
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


def _check_keys(path: Path, given: Mapping[str, Any]) -> None:
    allowed = (*_TEXTS, *_TABLES)
    for name in given:
        if name not in allowed:
            raise ParameterError(f"{path}: There is no entry {name!r}.{nearest(name, allowed)} Allowed: {', '.join(allowed)}.")


def _check_table(path: Path, table: str, given: Any) -> None:
    """Refuse a table that cannot become settings, naming the file and the table."""
    nested = f"{table}.{_FINE_TUNING}"
    for where, values, settings in ((table, given, FitSettings), (nested, _nested(given), FineTuning)):
        if not isinstance(values, dict):
            raise ParameterError(f"{path}: {where} must be a table, written [{where}], got {values!r}.")
        try:
            settings.from_dict({name: value for name, value in values.items() if name != _FINE_TUNING})
        except ParameterError as error:
            raise ParameterError(f"{path}: [{where}] {error}") from None


def _nested(table: Any) -> Any:
    return table.get(_FINE_TUNING, {}) if isinstance(table, dict) else {}


def layers_of(data: str | Path, settings: FitSettings) -> LayerSummary | None:
    """The layers of backbone and head as a fit of these data trains them; None where it trains none. Errors as of `fit`."""
    if settings.fine_tuning is None:
        return None
    _, dataset = read(data, settings)
    return model_summary(settings, classes=len(dataset.classes), link=dataset.targets.link or SOFTMAX)


def model_summary(
    settings: FitSettings, *, classes: int, link: Link = SOFTMAX, trained: Callable[[str], bool | None] | None = None
) -> LayerSummary:
    """The layers of backbone and head as these settings train them.

    Args:
        settings: with `fine_tuning`.
        classes: their number.
        link: `SIGMOID` where an image may have several labels.
        trained: whether the parameter of the backbone with this name is trained; by default as the strategy says, and left open for
            ``partial``.

    Raises:
        ParameterError: the settings train no layers.
        BackboneError, MissingExtraError: the backbone is unknown, or PyTorch is not installed.
    """
    plan = settings.fine_tuning
    if plan is None:
        raise ParameterError("Only settings with fine_tuning have a summary of layers.")
    whole = {"probe": False, "full": True}.get(plan.strategy)
    pooled = plan.pooling == "avg"
    body = backbone_summary(find(settings.backbone), size=plan.image_size, pooled=pooled, trained=trained or (lambda name: whole))
    single = plan.loss == "binary" and not link.independent and classes == 2
    return body + head_summary(
        body.output, outputs=1 if single else classes, layers=plan.head_layers, dropout=plan.dropout,
        activation="sigmoid" if plan.loss == "binary" else link.name,
    )  # fmt: skip
