"""``headstart demo``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from headstart.cli.application import CacheFolder, Quiet, Verbose, application, guarded
from headstart.cli.fit_command import show_result
from headstart.cli.terminal import TerminalListener, print_result

_EACH = 100  # images of each digit: enough for a real result, seconds on a laptop


@application.command(name="demo", epilog="Example:  headstart demo", short_help="See it work on real images, offline.")
@guarded
def demo_command(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for the images and the run.")] = Path("headstart-demo"),
    cache: CacheFolder = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """See the whole thing on real images that come with scikit-learn: 1,000 handwritten digits. Offline, half a minute at most."""
    from headstart.errors import ParameterError
    from headstart.pipeline import FitSettings, fit
    from headstart.run import check_target, load

    run, images = out / "run", out / "digits"
    check_target(run)
    tell = print_result if not quiet else lambda text="": None
    try:
        count = _write_digits(images)
    except OSError as error:
        raise ParameterError(f"The images cannot be written to {images}: {error.strerror or error}. Choose another --out.") from None
    tell(f"Wrote {count} scanned digits (UCI Optical Recognition of Handwritten Digits) to {images}/CLASS/*.png")
    command = shlex.join(["headstart", "fit", str(images), "--out", str(run)])
    tell(f"$ {command}")
    settings = FitSettings(cache=cache or "auto")
    with TerminalListener(quiet=quiet, verbose=verbose) as listener:
        result = fit(images, out=run, settings=settings, listener=listener, command=command)
    some = list(result.dataset.take(result.dataset.part("test")).images)[:: max(1, result.test.images // 5)][:5]
    tell("$ " + shlex.join(["headstart", "predict", str(run), *map(str, some)]))
    predictions = load(run).predict(some)
    for path, label, row in zip(some, predictions.labels, predictions.probabilities, strict=True):
        tell(f"{path}  {label}  {row.max():.4f}")
    tell()
    tell("Next, your own images, one folder a class:  headstart fit YOUR_FOLDER")
    tell()
    show_result(result, quiet=quiet)


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
