"""``headstart explain``."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headstart.cli.application import BAD_INPUT, application, guarded, writable
from headstart.cli.options import Quiet, Verbose
from headstart.cli.terminal import TerminalListener, print_result

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from headstart.explain import HeatMaps, Neighbour, TrainingImages
    from headstart.run import Run

_TOGETHER = 32  # images in memory
_SHARP = 400  # pixels of the picture that is drawn, whatever the network takes

_EXAMPLES = """\b
Examples:
  headstart explain runs/photos new.jpg
  headstart explain runs/photos new.jpg --class dog
  headstart explain runs/photos new_photos/ --out explained/
"""


@application.command(name="explain", epilog=_EXAMPLES, short_help="Why: heat maps, and the nearest training images.")
@guarded
def explain_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder that `headstart fit` wrote.")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE|FOLDER...", help="Images, or folders of images at any depth.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the pictures, one an image; made if need be.")] = Path("explained"),
    name: Annotated[
        str | None, typer.Option("--class", metavar="NAME", help="Whose evidence to show. [default: the most probable class]")
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            metavar="auto|fast|cells|occlusion",
            help="auto is occlusion: 65 passes of the network an image. fast is cells: one pass; or 17 where that does not fit.",
        ),
    ] = "auto",
    nearest: Annotated[int, typer.Option(metavar="K", help="How many of the nearest training images to name; the picture has five.")] = 5,
    engine: Annotated[str, typer.Option(metavar="NAME", help="auto, openvino or onnxruntime.")] = "auto",
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Show where in an image the evidence for its class lies, and which training images are most alike.

    For each image a picture is written: the image, its heat map, and the nearest training images with their labels.
    """
    from headstart.cli.predict_command import check_order
    from headstart.data import list_images
    from headstart.errors import ParameterError
    from headstart.errors import nearest as names_near
    from headstart.run import load

    if nearest < 0:
        raise ParameterError(f"--nearest must be 0 or more, got {nearest}.")
    check_order(run, images)
    opened = load(run, engine=engine)
    if name is not None and name not in opened.classes:
        raise ParameterError(f"--class: the run has no class {name!r}.{names_near(name, opened.classes)} It has: {_some(opened.classes)}.")
    paths = list_images(images)
    _make_folder(out)
    target = None if name is None else opened.classes.index(name)
    with TerminalListener(quiet=quiet, verbose=verbose) as listener:
        explainer = _Explainer(opened, out, method=method, engine=engine, nearest=nearest, target=target)
        if len(paths) > 1:
            listener.stage(f"Explaining {len(paths)} images")
        written = 0
        for done, lines in enumerate(explainer.explained(paths), 1):
            if isinstance(lines, Exception):
                listener.warn(str(lines))
            else:
                written += 1
                for line in lines[:1] if quiet else lines:
                    print_result(line)
            if len(paths) > 1:
                listener.progress(done, len(paths))
    if not written:
        raise typer.Exit(BAD_INPUT)


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _make_folder(out: Path) -> None:
    from headstart.errors import ParameterError

    if out.exists() and not out.is_dir():
        raise ParameterError(f"--out {out}: is a file. Give the name of a folder.")
    with writable(out):
        out.mkdir(parents=True, exist_ok=True)


class _Explainer:
    """Everything that is opened once for all images."""

    def __init__(self, run: Run, out: Path, *, method: str, engine: str, nearest: int, target: int | None) -> None:
        from headstart.engine import open_engine
        from headstart.explain import HeatMaps, TrainingImages
        from headstart.run.run import MODEL

        self._run, self._out, self._nearest, self._target = run, out, nearest, target
        model, size = run.path / MODEL, run.preprocessing.size
        self._maps: HeatMaps = HeatMaps(
            model, preprocessing=run.preprocessing, classes=run.classes, multilabel=run.multilabel, method=method, engine=engine
        )
        self._engine = open_engine(model, kind=engine, outputs=("features", "probabilities"), size=size)
        self._training: TrainingImages | None = TrainingImages.read(run.path) if nearest else None
        last = next((layer for layer in run.manifest["backbone"]["layers"] if layer["name"] == "last"), None)
        self._last = slice(None) if last is None else slice(last["start"], last["stop"])
        self._taken: set[Path] = set()

    def explained(self, paths: list[Path]) -> Iterator[list[str] | Exception]:
        """For each image, in order, the lines to print, or why it is refused."""
        from headstart.engine import available_cores
        from headstart.errors import ImageError
        from headstart.modalities.image import quiet_decoding

        def prepared(path: Path) -> npt.NDArray[np.uint8] | ImageError:
            try:
                return self._run.preprocessing(path)
            except ImageError as error:
                return error

        with quiet_decoding(), ThreadPoolExecutor(available_cores(), thread_name_prefix="headstart-decode") as pool:
            for start in range(0, len(paths), _TOGETHER):
                some = paths[start : start + _TOGETHER]
                results = list(pool.map(prepared, some))
                readable = [(path, pixels) for path, pixels in zip(some, results, strict=True) if not isinstance(pixels, ImageError)]
                lines = iter(self._together(readable))
                for result in results:
                    yield result if isinstance(result, ImageError) else next(lines)

    def _together(self, readable: list[tuple[Path, npt.NDArray[np.uint8]]]) -> Iterator[list[str]]:
        import numpy as np

        if not readable:
            return
        pixels = np.stack([image for _, image in readable])
        features, probabilities = (np.stack(rows) for rows in zip(*self._engine.run(iter(pixels)), strict=True))
        targets = probabilities.argmax(axis=1) if self._target is None else np.full(len(pixels), self._target)
        heat = self._maps(pixels, targets)
        for row, (path, _) in enumerate(readable):
            alike = self._alike(features[row, self._last], self._run.classes[targets[row]])
            yield self._write(path, heat[row], int(targets[row]), probabilities[row], alike)

    def _alike(self, features: npt.NDArray[np.float32], name: str) -> list[tuple[Path, Neighbour]]:
        from headstart.explain import Neighbour

        if self._training is None:
            return []
        order, closeness = self._training.nearest(features[None], count=self._nearest)
        return [
            (
                self._training.paths[index],
                Neighbour(
                    label=self._training.labels[index],
                    note=f"similarity {closeness[0, place]:.2f}",
                    same=name in self._training.labels[index].split(";") if self._run.multilabel else name == self._training.labels[index],
                ),
            )
            for place, index in enumerate(order[0].tolist())
        ]

    def _write(
        self,
        path: Path,
        heat: npt.NDArray[np.float32],
        target: int,
        probabilities: npt.NDArray[np.float32],
        alike: list[tuple[Path, Neighbour]],
    ) -> list[str]:
        from headstart.explain import explanation_picture
        from headstart.report.fonts import font_at
        from headstart.text import percent, visible

        name, probability = visible(self._run.classes[target]), float(probabilities[target])
        best = int(probabilities.argmax())
        caption = "Where the evidence for it lies in " + visible(path.name)
        if best != target:
            caption += f" (most probable: {visible(self._run.classes[best])}, {percent(float(probabilities[best]))})"
        sharp = dataclasses.replace(self._run.preprocessing, size=max(_SHARP, self._run.preprocessing.size))
        if not heat.any():
            caption = f"No place of {visible(path.name)} speaks for it"
        drawn = [dataclasses.replace(one, label=visible(one.label), pixels=_thumbnail(file)) for file, one in alike[:5]]
        title = f"{name}  {percent(probability)}"
        picture = explanation_picture(sharp(path), heat, title=title, caption=caption, neighbours=drawn, font=font_at)
        file = self._file(path)
        with writable(file):
            picture.save(file, quality=90, subsampling=0)
        lines = [f"{_shown(path)}  {name} {probability:.4f}  {_shown(file)}"]
        return lines + [f"  {one.note}  {visible(one.label)}  {_shown(Path(os.path.normpath(other)))}" for other, one in alike]

    def _file(self, path: Path) -> Path:
        """A name for the picture of an image, different for each image of one command."""
        number, file = 2, self._out / f"{path.stem}.jpg"
        while file in self._taken or (file.exists() and file.resolve() == path.resolve()):
            file = self._out / f"{path.stem}-{number}.jpg"
            number += 1
        self._taken.add(file)
        return file


def _thumbnail(path: Path) -> npt.NDArray[np.uint8] | None:
    from headstart.errors import ImageError
    from headstart.modalities.image import read_image

    try:
        return read_image(path, at_least=160)
    except ImageError:
        return None


def _shown(path: Path) -> str:
    """A path that can be printed."""
    from headstart.text import visible

    return visible(str(path).encode("utf-8", "replace").decode("utf-8"))
