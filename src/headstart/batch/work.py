"""The work on one part of a job; the same wherever it is done, so that its bytes are the same too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from headstart.batch.answers import answers
from headstart.batch.output import Form
from headstart.errors import RunError
from headstart.progress import Progress
from headstart.run import Run, load

PART = 512  # images in a part: what a killed job loses at most; a multiple of the images that are judged together


@dataclass(frozen=True)
class Part:
    """A part that was made: its number from 0, its rows, how many of them were refused, and its bytes."""

    index: int
    rows: int
    refused: int
    body: bytes


@dataclass(frozen=True, kw_only=True)
class Work:
    """What is to be done with every image.

    Attributes:
        run: the run folder, as it was given.
        digest: of its manifest.
        engine: as `load` takes it.
        top: how many classes to name.
        least: as `answers` takes it.
        form: how the answers are written.
    """

    run: Path
    digest: str
    engine: str
    top: int
    least: float | None
    form: Form

    def open(self) -> Run:
        """Open the run, and see that it is the one that the work is about.

        Raises:
            RunError: it cannot be opened, or is another one.
        """
        run = load(self.run, engine=self.engine)
        if run.manifest.digest != self.digest:
            raise RunError(f"{self.run}: is another run than the one that this job began with. Give all machines the same run.")
        return run

    def do(self, run: Run, index: int, names: Sequence[str], *, progress: Progress | None = None) -> Part:
        """Predict the images of one part."""
        paths = [Path(name) for name in names]
        predictions = run.predict(paths, progress=progress)
        rows = answers(paths, predictions, run, top=self.top, least=self.least)
        return Part(index, len(rows), len(predictions.refused), self.form.part(rows))
