"""``headstart recipe``."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headstart.cli.application import CacheFolder, Quiet, Verbose, application, guarded
from headstart.cli.data_options import Data
from headstart.cli.fit_command import free_run, leads, show_result
from headstart.cli.terminal import TerminalListener, hanging, print_result

if TYPE_CHECKING:
    from headstart.pipeline import FitSettings
    from headstart.pipeline.recipes import Recipe

_EXAMPLES = """\b
Examples:
  headstart recipe list
  headstart recipe show cats-dogs-vgg16
  headstart recipe run cats-dogs-vgg16 photos/
  headstart recipe run mine.toml photos/
"""
_RUN_EXAMPLES = """\b
Examples:
  headstart recipe run chest-xray-vgg16 xrays/
      Headstart's own way
  headstart recipe run chest-xray-vgg16 xrays/ --exact
      as described; downloads VGG16, and needs headstart[torch]
  headstart recipe run chest-xray-vgg16 xrays/ --exact --weights vgg16.safetensors
"""
_RANDOM = "random"

recipe_application = typer.Typer(
    name="recipe",
    help="List, show and run whole systems that are described elsewhere, as described or Headstart's own way.",
    epilog=_EXAMPLES,
    short_help="Whole systems by name, as described or Headstart's own way.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
application.add_typer(recipe_application)

Name = Annotated[str, typer.Argument(metavar="NAME", help="See `headstart recipe list`; or a .toml file of your own.")]


@recipe_application.command(name="list", epilog="Example:  headstart recipe list")
@guarded
def list_recipes(verbose: Verbose = False) -> None:
    """The recipes that come with Headstart."""
    from headstart.pipeline.recipes import recipes

    found = recipes()
    width = max(len(recipe.name) for recipe in found)
    for recipe in found:
        print_result(f"{recipe.name:<{width}}  {recipe.title}")
    print_result()
    print_result("To read one: headstart recipe show NAME. To run one: headstart recipe run NAME DATA")


@recipe_application.command(name="show", epilog="Example:  headstart recipe show chest-xray-vgg16")
@guarded
def show(name: Name, verbose: Verbose = False) -> None:
    """Everything that a recipe says: what it is, what was reported, and every setting."""
    from headstart.pipeline.recipes import read_recipe

    recipe = read_recipe(name)
    print_result(f"{recipe.name}: {recipe.title}", style="bold")
    for key in ("what", "source", "expected", "data"):
        if text := " ".join(getattr(recipe, key).split()):
            print_result(hanging(f"{key:<9} {text}", indent=10))
    for number, line in enumerate(recipe.command.splitlines()):
        print_result(f"{'command' if not number else '':<9} {line}")
    print_result(f"{'file':<9} {recipe.path}")
    for title, table in (("fast: Headstart's own way", recipe.fast), ("exact: as described, with --exact", recipe.exact)):
        if table is not None:
            print_result()
            print_result(title, style="bold")
            for line in _setting_lines(table):
                print_result(f"  {line}")


def _setting_lines(table: Mapping[str, Any], before: str = "") -> Iterator[str]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _setting_lines(value, f"{before}{key}.")
        else:
            text = ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)
            yield f"{before + key:<28} {text}"


@recipe_application.command(name="run", epilog=_RUN_EXAMPLES)
@guarded
def run(
    name: Name,
    data: Data,
    exact: Annotated[bool, typer.Option("--exact", help="As described, and not Headstart's own way; needs headstart[torch].")] = False,
    weights: Annotated[
        str | None,
        typer.Option(metavar="FILE|random", help="With --exact: a .safetensors or .pth file; or random, only to see it run."),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="RUN", help="Run folder to write. [default: runs/NAME-OF-RECIPE]")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same result. [default: the recipe's, else 0]")] = None,
    cache: CacheFolder = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Run a recipe on your data: learn, test, and write a run folder, as `headstart fit` does."""
    from headstart.errors import ParameterError
    from headstart.pipeline import fit
    from headstart.pipeline.recipes import read_recipe

    recipe = read_recipe(name)
    if weights is not None and not exact:
        raise ParameterError("--weights is for --exact: Headstart's own way has a backbone of its own. Give both, or neither.")
    overrides: dict[str, Any] = {} if seed is None else {"seed": seed}
    settings = recipe.settings(exact, weights=weights, **overrides, **({"cache": cache} if cache else {}))
    target = out or free_run(f"{recipe.name}-exact" if exact else recipe.name)
    command = "headstart " + shlex.join(sys.argv[1:])
    with TerminalListener(quiet=quiet, verbose=verbose, mute=not leads()) as listener, _offering_weights(settings, exact=exact):
        if weights == _RANDOM:
            listener.warn(_meaningless(recipe))
        if exact and not quiet and leads():
            _show_layers(data, settings)
        result = fit(data, out=target, settings=settings, listener=listener, command=command)
        if weights == _RANDOM:
            listener.warn(_meaningless(recipe))
    if recipe.expected and not quiet and leads():
        print_result(hanging(f"{'reported':<9} {' '.join(recipe.expected.split())}", indent=10))
    show_result(result, quiet=quiet)


def _meaningless(recipe: Recipe) -> str:
    return (
        f"RANDOM WEIGHTS. The backbone has learned nothing: this shows that {recipe.name} runs and how long it takes, "
        "and THE ACCURACY MEANS NOTHING about the recipe."
    )


def _show_layers(data: str, settings: FitSettings) -> None:
    """Print the layers, as they will be trained; the number of classes is read from the data."""
    from headstart.data import read_dataset
    from headstart.pipeline.recipes import model_summary

    if settings.fine_tuning is None:
        return
    columns = settings.columns or {}
    dataset = read_dataset(
        data, test=settings.test, group_from=settings.group_from, path_column=columns.get("path"), label_column=columns.get("label"),
        split_column=columns.get("split"), group_column=columns.get("group"),
    )  # fmt: skip
    for line in model_summary(settings, classes=len(dataset.classes), multilabel=dataset.multilabel).lines():
        print_result(line)
    print_result()


@contextmanager
def _offering_weights(settings: FitSettings, *, exact: bool) -> Iterator[None]:
    """Where the published weights cannot be had, say what else can be given."""
    from headstart.backbones import find
    from headstart.errors import BackboneError

    try:
        yield
    except BackboneError as error:
        if not exact or settings.weights is not None or find(settings.backbone).embedded:
            raise
        raise BackboneError(
            f"{error}\n--exact needs the ImageNet weights of {settings.backbone}, and takes no others unasked. Either give them:\n"
            f"  --weights FILE     a .safetensors or .pth file of {settings.backbone} with the names of timm or torchvision\n"
            "or see it run without them:\n"
            "  --weights random   random weights; the accuracy then means nothing about the recipe"
        ) from None
