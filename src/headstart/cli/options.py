"""Options of the command line, made from the fields of settings; and the options that many commands share.

A parameter of a command that is annotated with a class of settings stands for all of its options, and the command gets an instance. One
annotated ``Annotated[Typed, OptionsOf(...)]`` stands for some of them, and the command gets what was typed: names of fields and values.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, get_args, get_type_hints

import typer

from headstart.errors import DataError, ParameterError
from headstart.settings import FineTuning, FitSettings
from headstart.settings.field import Option, Settings, options


def image_path(typed: str | Path) -> Path:
    """The path of an image or folder, as of `typed_path`; typer.BadParameter for what is none."""
    from headstart.data.listing import typed_path

    try:
        return typed_path(str(typed))
    except DataError as error:
        raise typer.BadParameter(str(error)) from None


Data = Annotated[str, typer.Argument(metavar="DATA", help="Folder, list file or named set of labelled images.")]
RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Folder that `headstart fit` wrote.")]
Images = Annotated[
    list[Path], typer.Argument(metavar="IMAGE|FOLDER...", help="Images, or folders of images at any depth.", parser=image_path)
]
Inputs = Annotated[
    list[str],
    typer.Argument(metavar="INPUT...", help="Images, or folders of images. Of texts: a list, a file, - for lines of stdin, or a sentence."),
]
InferenceEngine = Annotated[str, typer.Option("--engine", metavar="NAME", help="auto, openvino or onnxruntime.")]
JsonFile = Annotated[Path | None, typer.Option(metavar="FILE", help="Write all figures as JSON.")]
_QUIET = typer.Option("--quiet", "-q", help="Print the result only.")
_VERBOSE = typer.Option("--verbose", "-v", help="Print more; show the traceback of unexpected errors.")

_CACHE = options(FitSettings)["cache"]
CacheFolder = Annotated[str | None, typer.Option(_CACHE.flag, metavar=_CACHE.metavar, help=f"{_CACHE.help}  [default: {_CACHE.shown}]")]

Typed = Mapping[str, Any]


@dataclass(frozen=True)
class OptionsOf:
    """The options of classes of settings: those of all fields, of `only` some, or `without` some.

    `help` and `default` have, by the names of fields, another help text, and another default to name in it.
    """

    classes: tuple[type, ...]
    only: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    help: Mapping[str, str] = field(default_factory=dict)
    default: Mapping[str, str] = field(default_factory=dict)

    def fields(self) -> Iterator[tuple[str, Option, Any, Any]]:
        """Name, option, type and default of each field that has an option."""
        for cls in self.classes:
            hints, defaults = get_type_hints(cls), {one.name: one.default for one in fields(cls)}
            for name, option in options(cls).items():
                if option.flag and name not in self.without and (not self.only or name in self.only):
                    yield name, option, hints[name], defaults[name]

    def parameters(self) -> Iterator[inspect.Parameter]:
        """The parameters of a command that make Typer offer these options; None, or False, for what is not typed."""
        for name, option, hint, value in self.fields():
            text = self.help.get(name, option.help)
            default = self.default.get(name) or option.shown or ("" if value is None or value is False or value == () else str(value))
            about = typer.Option(
                option.flag, metavar=option.metavar, help=f"{text}  [default: {default}]" if default else text,
                rich_help_panel=option.panel,
            )  # fmt: skip
            kind = list[str] if option.several else str if option.parse else _type(hint)
            yield _parameter(name, kind, about)
            if option.off is not None:
                yield _parameter(f"no_{name}", bool, typer.Option(option.off[0], help=option.off[1]))

    def typed(self, given: dict[str, Any]) -> dict[str, Any]:
        """Take these options out of the arguments of a command; the values of those that were typed, as their options parse them."""
        found = {}
        for name, option, _, _ in self.fields():
            value = given.pop(name)
            if value is not None and value is not False and value != []:
                found[name] = value if option.parse is None else option.parse(value)
            if option.off is not None and given.pop(f"no_{name}"):
                found[name] = None
        return found


def _type(hint: Any) -> Any:
    """The type that an option has: of several, the first that is not None."""
    return next((kind for kind in get_args(hint) if kind is not NoneType), hint)


def _parameter(name: str, kind: Any, about: Any) -> inspect.Parameter:
    annotation, default = (Annotated[bool, about], False) if kind is bool else (Annotated[kind | None, about], None)
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def expanded(command: Callable[..., None]) -> tuple[inspect.Signature, Callable[[dict[str, Any]], dict[str, Any]]]:
    """The signature of a command, after its `Terminal`, with options in place of settings; and what makes its arguments from theirs."""
    parameters: list[inspect.Parameter] = []
    settings: dict[str, tuple[OptionsOf, Any]] = {}
    hints = get_type_hints(command, include_extras=True)
    for name, parameter in list(inspect.signature(command).parameters.items())[1:]:
        hint = hints[name]
        if isinstance(hint, type) and issubclass(hint, Settings):
            of: OptionsOf | None = OptionsOf((hint,))
        else:
            of = next((one for one in getattr(hint, "__metadata__", ()) if isinstance(one, OptionsOf)), None)
        if of is None:
            parameters.append(parameter.replace(annotation=hint, kind=inspect.Parameter.KEYWORD_ONLY))
        else:
            settings[name] = of, hint
            parameters += of.parameters()
    parameters += [_parameter("quiet", bool, _QUIET), _parameter("verbose", bool, _VERBOSE)]

    def arguments(typed: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, (of, hint) in settings.items():
            values = of.typed(typed)
            found[name] = hint(**values) if isinstance(hint, type) else values
        return {**typed, **found}

    return inspect.Signature(parameters), arguments


def words_typed(context: typer.Context, *, without: tuple[str, ...]) -> list[str]:
    """The options of a command as they were typed, to be repeated in another command."""
    words: list[str] = []
    for parameter in context.command.params:
        name = parameter.name or ""
        source = context.get_parameter_source(name)
        if name in without or source is None or source.name != "COMMANDLINE":
            continue
        value = context.params[name]
        if isinstance(value, bool):
            words.append(parameter.opts[0])
        else:
            for each in value if isinstance(value, list | tuple) else [value]:
                words += [parameter.opts[0], str(each)]
    return words


def fit_settings(typed: Typed, *, strategy: str = "probe") -> FitSettings:
    """The settings of a fit from what was typed; `strategy` where none was."""
    own, training = split_typed(typed, FineTuning)
    return FitSettings(**own, fine_tuning=_fine_tuning({"strategy": strategy, **training}))


def split_typed(typed: Typed, cls: type[Settings]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What was typed for other settings, and for those of `cls`."""
    theirs = {name: value for name, value in typed.items() if name in options(cls)}
    return {name: value for name, value in typed.items() if name not in theirs}, theirs


def _fine_tuning(asked: dict[str, Any]) -> FineTuning | None:
    """None where the backbone stays frozen and the head needs no training."""
    given = [options(FineTuning)[name].flag for name in asked if name != "strategy"]
    if asked["strategy"] != "probe":
        return FineTuning(**asked)
    idle = [flag for flag in given if flag in ("--unfreeze", "--layer-decay", "--retain")]
    head = {"head_layers", "dropout", "pooling"} & asked.keys()
    if idle and not head:
        raise ParameterError(
            f"{', '.join(idle)}: for training, and with --strategy probe nothing is trained: the backbone stays as it is. "
            "Give --strategy partial or full."
        )
    if idle:
        raise ParameterError(f"{', '.join(idle)}: for training the backbone, and --strategy probe trains the head alone.")
    plan = FineTuning(**{"start": "random" if head else "probe", **asked})
    return plan if head or plan.changed() else None  # which tasks train a head, only these know
