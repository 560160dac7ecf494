"""Recipes: whole systems as small TOML files that a person can read, run and change."""

from __future__ import annotations

import functools
import importlib.resources
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from headstart.backbones import find
from headstart.backbones.records import folded
from headstart.backbones.summary import LayerSummary, backbone_summary, head_summary
from headstart.errors import ParameterError, nearest
from headstart.settings import FineTuning, FitSettings

_TEXTS = ("name", "title", "what", "source", "expected", "data", "command")
_NEEDED = ("name", "title", "what")
_TABLES = ("fast", "exact")
_FINE_TUNING = "fine_tuning"
_WORDS: Mapping[Any, str] = {
    int: "a whole number", float: "a number", str: "text", bool: "true or false", tuple: "a list of whole numbers",
    dict: "a table of texts",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A system for one task, as it was described (`exact`) and as Headstart would do it (`fast`).

    Attributes:
        name: by which it is called.
        title: in a few words.
        what: in a few sentences.
        source: where it is described.
        expected: what result was reported.
        data: which layout of the data it wants.
        command: what runs it, a line each.
        fast, exact: what is set, by the names of `FitSettings`; under ``fine_tuning`` by those of `FineTuning`. None for no such way.
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
        """What `headstart.fit` takes.

        Args:
            exact: as described, and not Headstart's own way.
            weights: a weight file in place of the published ones, or ``"random"``.
            **overrides: further fields of `FitSettings`, in place of those of the recipe.

        Raises:
            ParameterError: the recipe has no such way, or there is no such field.
        """
        table = self.exact if exact else self.fast
        if table is None:
            this, other = ("[exact]", "without --exact") if exact else ("[fast]", "with --exact")
            raise ParameterError(f"The recipe {self.name} has no table {this}. Run it {other}.")
        known = [field.name for field in fields(FitSettings)]
        for name in overrides:
            if name not in known:
                raise ParameterError(f"There is no setting {name!r}.{nearest(name, known)}")
        given = {**table, **({} if weights is None else {"weights": weights})}
        if _FINE_TUNING in given:
            given[_FINE_TUNING] = FineTuning.from_dict(given[_FINE_TUNING])
        return FitSettings(**{**given, **overrides})


def recipes(folder: str | Path | None = None) -> tuple[Recipe, ...]:
    """The recipes that come with Headstart, or those of the ``.toml`` files in `folder`, by name.

    Raises:
        ParameterError: `folder` is none, or one of its files is no recipe.
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
    """Return a recipe that comes with Headstart, by its name, or that of a ``.toml`` file.

    Raises:
        ParameterError: there is none of that name, or the file cannot be read or holds something else; the message says what.
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


def model_summary(
    settings: FitSettings, *, classes: int, multilabel: bool = False, trained: Callable[[str], bool | None] | None = None
) -> LayerSummary:
    """The layers of backbone and head as these settings train them.

    Args:
        settings: with `fine_tuning`.
        classes: how many there are.
        multilabel: whether an image may have several.
        trained: says of the name of a parameter of the backbone whether it is trained; by default the strategy does, except for
            ``partial``, where it is left open.

    Raises:
        ParameterError: settings without fine-tuning train no layers.
        BackboneError, MissingExtraError: the backbone is unknown, or PyTorch is not installed.
    """
    plan = settings.fine_tuning
    if plan is None:
        raise ParameterError("Only a network that is trained by fine_tuning has a summary of its layers.")
    whole = {"probe": False, "full": True}.get(plan.strategy)
    pooled = plan.pooling == "avg"
    body = backbone_summary(find(settings.backbone), size=plan.image_size, pooled=pooled, trained=trained or (lambda name: whole))
    single = plan.loss == "binary" and not multilabel and classes == 2
    sigmoid = multilabel or plan.loss == "binary"
    return body + head_summary(
        body.output, outputs=1 if single else classes, layers=plan.head_layers, dropout=plan.dropout,
        activation="sigmoid" if sigmoid else "softmax",
    )  # fmt: skip


def _read(path: Path) -> Recipe:
    try:
        told = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ParameterError(f"{path}: this recipe cannot be read: {error.strerror or error}.") from None
    except ValueError as error:
        raise ParameterError(f"{path}: this is no TOML file: {error}.") from None
    _check_keys(path, "", told, (*_TEXTS, *_TABLES))
    for name in _TEXTS:
        if name in told and not isinstance(told[name], str):
            raise ParameterError(f"{path}: {name} must be text, got {told[name]!r}.")
    missing = [name for name in _NEEDED if not told.get(name, "").strip()]
    if missing:
        raise ParameterError(f"{path}: a recipe needs {' and '.join(missing)}.")
    if not any(table in told for table in _TABLES):
        raise ParameterError(f"{path}: a recipe needs a table [fast] or [exact] with the settings of a fit; both may be empty.")
    for table in _TABLES:
        if table in told:
            _check_table(path, table, told[table])
    texts = {name: told[name].strip() for name in _TEXTS if name in told}
    return Recipe(**texts, fast=told.get("fast"), exact=told.get("exact"), path=path)


def _check_table(path: Path, table: str, given: Any) -> None:
    """Refuse a table that could not become settings, naming the file and the table."""
    if not isinstance(given, dict):
        raise ParameterError(f"{path}: {table} must be a table, written [{table}], got {given!r}.")
    settings = {name: value for name, value in given.items() if name != _FINE_TUNING}
    _check_values(path, table, settings, FitSettings)
    try:
        FitSettings(**settings)
        if _FINE_TUNING in given:
            inner = f"{table}.{_FINE_TUNING}"
            if not isinstance(given[_FINE_TUNING], dict):
                raise ParameterError(f"must be a table, written [{inner}], got {given[_FINE_TUNING]!r}.")
            _check_values(path, inner, given[_FINE_TUNING], FineTuning)
            FineTuning.from_dict(given[_FINE_TUNING])
    except ParameterError as error:
        text = str(error)
        raise error if text.startswith(str(path)) else ParameterError(f"{path}: [{table}] {text}") from None


def _check_values(path: Path, table: str, given: Mapping[str, Any], kind: type) -> None:
    hints = get_type_hints(kind)
    _check_keys(path, table, given, tuple(field.name for field in fields(kind)))
    for name, value in given.items():
        if not _fits(value, hints[name]):
            allowed = " or ".join(dict.fromkeys(_words(hints[name])))
            raise ParameterError(f"{path}: [{table}] {name} must be {allowed}, got {value!r}.")


def _check_keys(path: Path, table: str, given: Mapping[str, Any], allowed: tuple[str, ...]) -> None:
    for name in given:
        if name not in allowed:
            where = f"[{table}] " if table else ""
            raise ParameterError(f"{path}: {where}there is no setting {name!r}.{nearest(name, allowed)} Allowed: {', '.join(allowed)}.")


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value of a TOML file can stand where this annotation is."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is Literal:
        return value in parts
    if origin is tuple:
        return isinstance(value, list) and all(_fits(one, parts[0]) for one in value)
    if origin is dict:
        return isinstance(value, dict) and all(_fits(one, parts[1]) for one in value.values())
    if isinstance(value, bool) or hint is bool:
        return isinstance(value, bool) and hint is bool
    return isinstance(value, int | float if hint is float else hint)


def _words(hint: Any) -> list[str]:
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return [word for part in parts for word in _words(part)]
    if origin is Literal or hint in (NoneType, Path):
        return []
    return [_WORDS[origin or hint]]
