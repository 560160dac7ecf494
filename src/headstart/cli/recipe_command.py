"""``headstart recipe``, and ``headstart demo``: fits whose settings are ready-made."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from headstart.cli.application import command, command_group
from headstart.cli.fit_command import run_fit, show_result
from headstart.cli.options import CacheFolder, Data, OptionsOf, Typed
from headstart.cli.terminal import Terminal
from headstart.errors import BackboneError, ParameterError
from headstart.settings import FitSettings, ListOptions
from headstart.settings.field import PATH, SWITCH, TEXT, Settings, option, options

_EXAMPLES = """
  headstart recipe list
  headstart recipe show cats-dogs-vgg16
  headstart recipe run cats-dogs-vgg16 photos/
  headstart recipe run mine.toml photos/
"""
_HELP = "List, show and run whole systems that are described elsewhere, as described or Headstart's own way."
recipe_application = command_group("recipe", "Whole systems by name, as described or Headstart's own way.", help=_HELP, examples=_EXAMPLES)

Name = Annotated[str, typer.Argument(metavar="NAME", help="See `headstart recipe list`; or a .toml file of your own.")]


@command("list", group=recipe_application)
def list_recipes(terminal: Terminal) -> None:
    """The recipes that come with Headstart.

    Example:  headstart recipe list
    """
    from headstart.pipeline.recipes import recipes

    found = recipes()
    width = max(len(recipe.name) for recipe in found)
    terminal.result(*(f"{recipe.name:<{width}}  {recipe.title}" for recipe in found))
    terminal.tell("", "To read one: headstart recipe show NAME. To run one: headstart recipe run NAME DATA")


@command("show", group=recipe_application)
def show(terminal: Terminal, name: Name) -> None:
    """Everything that a recipe says: what it is, what was reported, and every setting.

    Example:  headstart recipe show chest-xray-vgg16
    """
    from headstart.pipeline.recipes import read_recipe

    recipe = read_recipe(name)
    terminal.result(f"{recipe.name}: {recipe.title}", style="bold")
    for key in ("what", "source", "expected", "data"):
        if text := " ".join(getattr(recipe, key).split()):
            terminal.fact(key, text)
    for number, line in enumerate(recipe.command.splitlines()):
        terminal.result(f"{'command' if not number else '':<9} {line}")
    terminal.result(f"{'file':<9} {recipe.path}")
    for title, table in (("fast: Headstart's own way", recipe.fast), ("exact: as described, with --exact", recipe.exact)):
        if table is not None:
            terminal.result("", title, style="bold")
            terminal.result(*(f"  {line}" for line in _setting_lines(table)))


def _setting_lines(table: Mapping[str, Any], before: str = "") -> Iterator[str]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _setting_lines(value, f"{before}{key}.")
        else:
            text = ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)
            yield f"{before + key:<28} {text}"


@dataclass(frozen=True, kw_only=True)
class _Variant(Settings):
    """Which variant of a recipe is run, with which weights, and where."""

    exact: bool = option(False, "As described, instead of Headstart's own way; needs headstart[torch].", SWITCH)
    weights: str | None = option(
        None, "With --exact: a .safetensors, .pth or .h5 file; or random, only to see it run.", TEXT, metavar="FILE|random"
    )  # fmt: skip
    out: Path | None = option(None, "Run folder to write.", PATH, metavar="RUN", shown="runs/NAME-OF-RECIPE")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weights is not None and not self.exact:
            raise ParameterError("--weights is for --exact: Headstart's own way has a backbone of its own. Give both, or neither.")


@command("run", group=recipe_application)
def run(
    terminal: Terminal,
    name: Name,
    data: Data,
    *,
    variant: _Variant,
    typed: Annotated[
        Typed, OptionsOf((FitSettings,), only=("seed", "cache", *options(ListOptions)), default={"seed": "the recipe's, else 0"})
    ],
) -> None:
    """Run a recipe on your data: learn, test, and write a run folder, as `headstart fit` does.

    Examples:
      headstart recipe run chest-xray-vgg16 xrays/
          Headstart's own way
      headstart recipe run chest-xray-vgg16 xrays/ --exact
          as described; downloads VGG16, and needs headstart[torch]
      headstart recipe run chest-xray-vgg16 xrays/ --exact --weights vgg16.safetensors
    """
    from headstart.backbones import file_of_keras, find
    from headstart.pipeline.recipes import layers_of, read_recipe

    recipe, exact = read_recipe(name), variant.exact
    settings = recipe.settings(exact, weights=variant.weights, **typed)
    if exact and settings.weights is None and (own := file_of_keras(settings.backbone)) is not None:
        settings = dataclasses.replace(settings, weights=own)
        terminal.say(f"Weights: {own}, which Keras downloaded to this machine. --weights FILE takes another file.")
    warning = (
        f"RANDOM WEIGHTS. The backbone has learned nothing: this shows that {recipe.name} runs and how long it takes, "
        "and THE ACCURACY MEANS NOTHING about the recipe."
    )
    terminal.lead()
    if variant.weights == "random":
        terminal.warn(warning)
    try:
        if exact and not terminal.quiet and (layers := layers_of(data, settings)) is not None:
            terminal.tell(*layers.lines(), "")
        result = run_fit(data, variant.out, settings, terminal, name=f"{recipe.name}-exact" if exact else recipe.name)
    except BackboneError as error:
        if not exact or settings.weights is not None or find(settings.backbone).embedded:
            raise
        raise BackboneError(
            f"{error}\n--exact needs the ImageNet weights of {settings.backbone}, and uses no others unless told to. Either give them:\n"
            f"  --weights FILE     a .safetensors or .pth file of {settings.backbone} with the names of timm or torchvision,\n"
            "                     or an .h5 file of Keras\n"
            "or see it run without them:\n"
            "  --weights random   random weights; the accuracy then means nothing about the recipe"
        ) from None
    if variant.weights == "random":
        terminal.warn(warning)
    if recipe.expected:
        terminal.fact("reported", " ".join(recipe.expected.split()))
    show_result(result, terminal)


_EACH = 100  # images of each digit: enough for a real result, seconds on a laptop


@command("demo", "See it work on real images, offline.")
def demo_command(
    terminal: Terminal,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the images and the run.")] = Path("headstart-demo"),
    cache: CacheFolder = None,
) -> None:
    """See the whole thing on real images that come with scikit-learn: 1,000 handwritten digits. Offline, half a minute at most.

    Example:  headstart demo
    """
    from headstart.pipeline import fit
    from headstart.run import check_target, load

    run, images = out / "run", out / "digits"
    check_target(run)
    try:
        count = _write_digits(images)
    except OSError as error:
        raise ParameterError(f"The images cannot be written to {images}: {error.strerror or error}. Choose another --out.") from None
    terminal.tell(f"Wrote {count} scanned digits (UCI Optical Recognition of Handwritten Digits) to {images}/CLASS/*.png")
    typed = shlex.join(["headstart", "fit", str(images), "--out", str(run)])
    terminal.tell(f"$ {typed}")
    result = fit(images, out=run, settings=FitSettings(cache=cache or "auto"), listener=terminal, command=typed)
    some = list(result.dataset.take(result.dataset.part("test")).inputs)[:: max(1, result.test.images // 5)][:5]
    terminal.tell("$ " + shlex.join(["headstart", "predict", str(run), *map(str, some)]))
    predictions = load(run).predict(some)
    for path, label, row in zip(some, predictions.labels, predictions.probabilities, strict=True):
        terminal.tell(f"{path}  {label}  {row.max():.4f}")
    terminal.tell("", "Next, your own images, one folder a class:  headstart fit YOUR_FOLDER", "")
    show_result(result, terminal)


def _write_digits(folder: Path) -> int:
    """Write scikit-learn's digits as PNG files, a folder a class. Returns how many."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    written = 0
    for label in range(10):
        target = folder / str(label)
        target.mkdir(parents=True, exist_ok=True)
        for index in np.flatnonzero(digits.target == label)[:_EACH]:
            pixels = np.rint(digits.images[index] * (255 / 16)).astype(np.uint8)
            Image.fromarray(pixels).resize((64, 64), Image.Resampling.BICUBIC).save(target / f"{index:04d}.png")
            written += 1
    return written
