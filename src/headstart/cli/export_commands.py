"""``headstart export`` and ``headstart bench``: a run as a file for other programs, and how fast both are."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from headstart.cli.application import command, write_json
from headstart.cli.options import RunFolder
from headstart.cli.terminal import Terminal
from headstart.files import check_writable
from headstart.settings.field import PATH, TEXT, Settings, number, option, whole


@dataclass(frozen=True, kw_only=True)
class _Export(Settings):
    """What is exported, and how it is compared with the run."""

    format: str = option(
        "onnx", "int8 is OpenVINO's format with 8-bit integers, which is faster.", TEXT, metavar="onnx|openvino|int8|litert"
    )  # fmt: skip
    out: Path | None = option(None, "File to write.", PATH, metavar="FILE", shown="the run's name and .onnx, .xml or .tflite, here")
    max_drop: str = option("0.5%", "How much accuracy int8 may lose.", TEXT, metavar="SHARE")
    max_difference: float = option(
        0.001, "How far a probability may be from the run's, in other formats.", number(above=0, most=1), metavar="X"
    )  # fmt: skip
    images: int | None = option(
        None, "How many of the run's images to compare on, at most.", whole(1), metavar="N", shown="300, for int8 1000"
    )  # fmt: skip
    data: Path | None = option(None, "Folder of the data, if the images have been moved since the fit.", PATH, metavar="DIR")
    snippet: str | None = option(
        None, "Print a program that uses the file; write nothing.", TEXT, metavar="python|javascript|cpp"
    )  # fmt: skip


@command("export", "One file that takes raw pixels, for other programs.")
def export_command(terminal: Terminal, run: RunFolder, *, how: _Export) -> None:
    """Write the run as one file: images of any size in; probabilities, logits, features and the novelty score out.

    Resizing, cropping and normalisation are inside. Before it is written, the file is compared with the run on real images, the same arrays
    for both; the differences are in FILE.parity.json. A file that differs by more than 0.001 is refused, or, within --max-difference,
    written under a name that says by how much, such as photos.max-diff-0.0032.onnx. int8 is written only if accuracy falls by no more than
    --max-drop on the run's test images; the layers that cause the largest error are left in float32 if need be, and each look at the test
    images is recorded in the run. LiteRT files take one preprocessed image of a fixed size, and are made by the program onnx2tf: pipx
    install onnx2tf.

    Examples:
      headstart export runs/photos
      headstart export runs/photos --format int8 --max-drop 0.5% --out photos-int8.xml
      headstart export runs/photos --snippet python > predict.py
    """
    from headstart.export import SUFFIXES, check_format, export, read_drop, snippet
    from headstart.run import load

    check_format(how.format)
    drop = read_drop(how.max_drop)
    opened = load(run)
    terminal.speak_of(opened.modality)
    name = how.out or Path(f"{opened.path.resolve().name}{'-int8' if how.format == 'int8' else ''}{SUFFIXES[how.format]}")
    if how.snippet is not None:
        file = name if how.format == "litert" else name.with_suffix(".onnx")
        terminal.result(snippet(how.snippet, opened, file=file.name).rstrip("\n"))
        return
    report = name.with_name(f"{name.name}.parity.json")
    check_writable(report)
    if not report.exists():  # it says of the other files that they were written here
        beside = {".xml": [name.with_suffix(".bin")], ".tflite": [name.with_suffix(".labels.txt")]}.get(name.suffix, [])
        check_writable(name, *beside)
    done = export(
        opened, name, form=how.format, max_drop=drop, max_difference=how.max_difference, images=how.images, data=how.data, listener=terminal
    )
    terminal.tell(*(parity.summary() for parity in done.parities), *(gate.summary() for gate in done.gates[-1:]))
    if done.files[0].name != name.name:
        faults = "; ".join(fault for parity in done.parities for fault in parity.faults())
        terminal.warn(f"The file is not exact, as --max-difference {how.max_difference:g} allows, and its name says so: {faults}.")
    terminal.result(" ".join(str(file) for file in (*done.files, done.report)), style="bold green")


@command("bench", "How fast a run is on this machine.")
def bench_command(
    terminal: Terminal,
    run: RunFolder,
    exported: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="A file that `headstart export` wrote, to compare; may be given again.")
    ] = None,
    images: Annotated[int, typer.Option(metavar="N", help="How many of the run's images to use, at most.")] = 100,
    rounds: Annotated[int, typer.Option(metavar="N", help="How many times to measure each, in turn; the median counts.")] = 3,
    data: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the data, if the images have been moved since the fit.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE.json", help="Write the figures as JSON.")] = None,
) -> None:
    """Measure images per second, and the time for one image, on the run's own images.

    All are measured in turn, round after round, because the speed of a machine drifts: compare lines of one call, not of different days.

    Examples:
      headstart bench runs/photos
      headstart bench runs/photos --exported photos.onnx --exported photos-int8.xml
    """
    from headstart.export.speed import measure
    from headstart.run import load

    opened = load(run)
    terminal.speak_of(opened.modality)
    speeds = measure(opened, exported or (), images=images, rounds=rounds, data=data, listener=terminal)
    if out is not None:
        write_json(out, [asdict(speed) for speed in speeds])
    width = max(len(speed.what) for speed in speeds)
    terminal.result(f"{'':<{width}}  images/s  one image: median   99 of 100")
    for one in speeds:
        terminal.result(f"{one.what:<{width}}  {one.rate:8.1f}  {one.median * 1e3:14.1f} ms  {one.slow * 1e3:7.1f} ms")
