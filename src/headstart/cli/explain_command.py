"""``headstart explain``."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from headstart.cli.application import BAD_INPUT, application, guarded, writable
from headstart.cli.options import Images, InferenceEngine, Quiet, RunFolder, Verbose
from headstart.cli.terminal import TerminalListener, print_result
from headstart.errors import ParameterError
from headstart.settings.field import PATH, TEXT, Settings, option, whole

if TYPE_CHECKING:
    from headstart.explanation import Explanation

_EXAMPLES = """\b
Examples:
  headstart explain runs/photos new.jpg
  headstart explain runs/photos new.jpg --class dog
  headstart explain runs/photos new_photos/ --out explained/
"""


@dataclass(frozen=True, kw_only=True)
class _Explain(Settings):
    """What is explained, how, and where the pictures go."""

    out: Path = option(Path("explained"), "Folder for the pictures; created if needed.", PATH, metavar="DIR")
    name: str | None = option(
        None, "The class whose evidence to show. [default: the most probable class]", TEXT, flag="--class", metavar="NAME"
    )  # fmt: skip
    method: str = option(
        "auto", "auto is occlusion: 65 passes of the network per image. fast is cells: one pass; or 17 where that does not fit.", TEXT,
        metavar="auto|fast|cells|occlusion",
    )  # fmt: skip
    nearest: int = option(5, "How many of the nearest training images to name; the picture has five.", whole(0), metavar="K")


@application.command(name="explain", epilog=_EXAMPLES, short_help="Why: heat maps, and the nearest training images.")
@guarded
def explain_command(
    run: RunFolder, images: Images, *, how: _Explain, engine: InferenceEngine = "auto", quiet: Quiet = False, verbose: Verbose = False
) -> None:
    """Show where in an image the evidence for its class lies, and which training images are nearest.

    For each image a picture is written: the image, its heat map, and the nearest training images with their labels.
    """
    from headstart.cli.predict_command import check_order
    from headstart.data import list_images
    from headstart.explanation import Explanation, explain

    check_order(run, images)
    paths = list_images(images)
    with TerminalListener(quiet=quiet, verbose=verbose) as listener:
        explanations = explain(run, paths, target=how.name, method=how.method, nearest_images=how.nearest, engine=engine)
        _make_folder(how.out)
        if len(paths) > 1:
            listener.stage(f"Explaining {len(paths)} images")
        written: set[Path] = set()
        for done, (path, found) in enumerate(zip(paths, explanations, strict=True), 1):
            if isinstance(found, Explanation):
                file = _free_name(how.out, path, written)
                with writable(file):
                    found.picture().save(file, quality=90, subsampling=0)
                for line in _lines(path, file, found)[: 1 if quiet else None]:
                    print_result(line)
            else:
                listener.warn(str(found))
            if len(paths) > 1:
                listener.progress(done, len(paths))
    if not written:
        raise typer.Exit(BAD_INPUT)


def _make_folder(out: Path) -> None:

    if out.exists() and not out.is_dir():
        raise ParameterError(f"--out {out}: is a file. Give the name of a folder.")
    with writable(out):
        out.mkdir(parents=True, exist_ok=True)


def _free_name(out: Path, path: Path, written: set[Path]) -> Path:
    """A name for the picture of an image, different for each image of one command."""
    number, file = 2, out / f"{path.stem}.jpg"
    while file in written or (file.exists() and file.resolve() == path.resolve()):
        file = out / f"{path.stem}-{number}.jpg"
        number += 1
    written.add(file)
    return file


def _lines(path: Path, file: Path, found: Explanation) -> list[str]:
    from headstart.text import visible

    lines = [f"{_shown(path)}  {visible(found.name)} {found.probability:.4f}  {_shown(file)}"]
    return lines + [
        f"  similarity {one.similarity:.2f}  {visible(one.label)}  {_shown(Path(os.path.normpath(one.path)))}" for one in found.neighbours
    ]


def _shown(path: Path) -> str:
    """A path that can be printed."""
    from headstart.text import visible

    return visible(str(path).encode("utf-8", "replace").decode("utf-8"))
