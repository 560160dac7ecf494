"""How far does a probability swing when one pixel is rounded the other way?

    python benchmarks/rounding.py RUN [RUN ...] [--images 20] [--changes 30] [--data FOLDER]

For test images of each run, half of them those of the least certain labels: of the square that the network takes, one pixel is changed by
one level in one colour, again and again, and once a share of all pixels (one in fifty, about 3,000). Prints the largest change of a
probability by one pixel, with the 99th percentile and the median over all changes, and by many pixels. Goal: no single pixel changes a
probability by 0.003.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt

from headstart import load
from headstart.export.comparison import Comparison
from headstart.export.sample import sample_of
from headstart.run import Run

SHARE = 1 / 50


def squares(run: Run, count: int, data: Path | None) -> list[npt.NDArray[np.uint8]]:
    """Preprocessed test images: those of the least certain labels, and others."""
    sample = sample_of(run, "test", 10**6, data=data)
    prepared = [run.preprocessing(path) for path in sample.paths]
    outputs = probabilities(run, prepared)
    order = np.argsort(np.sort(outputs, axis=1)[:, -1], kind="stable")
    least, others = order[: count // 2], order[count // 2 :]
    spread = np.unique(np.linspace(0, len(others) - 1, min(count - len(least), len(others))).round().astype(int))
    return [prepared[row] for row in (*least.tolist(), *others[spread].tolist())]


def probabilities(run: Run, pixels: list[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float64]:
    place = run.outputs.index(Comparison.of(run).output)
    return np.stack([np.asarray(outputs[place], dtype=np.float64) for outputs in run.engine.run(iter(pixels))])


def changed(pixels: npt.NDArray[np.uint8], share: float, generator: np.random.Generator) -> npt.NDArray[np.uint8]:
    """One value, or a share of the values, up or down by one level."""
    flat = pixels.astype(np.int16).ravel()
    places = generator.choice(flat.size, max(1, round(share * flat.size)), replace=False)
    steps = generator.choice([-1, 1], len(places))
    flat[places] += np.where((flat[places] + steps < 0) | (flat[places] + steps > 255), -steps, steps)
    return flat.reshape(pixels.shape).astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--images", type=int, default=20)
    parser.add_argument("--changes", type=int, default=30)
    parser.add_argument("--data", type=Path)
    options = parser.parse_args()
    over = 0
    for path in options.runs:
        run, generator = load(path), np.random.default_rng(0)
        one, many = [], []
        for pixels in squares(run, options.images, options.data):
            versions = [changed(pixels, 0, generator) for _ in range(options.changes)]
            found = probabilities(run, [pixels, *versions, changed(pixels, SHARE, generator)])
            away = np.abs(found[1:] - found[0]).max(axis=1)
            one.append(away[:-1])
            many.append(away[-1])
        flat = np.concatenate(one)
        over += bool(flat.max() >= 0.003)
        print(
            f"{path.name:<28} one pixel: {flat.max():.1e} (99 % below {np.quantile(flat, 0.99):.1e}, median {np.median(flat):.1e}); "
            f"{SHARE:.0%} of the values: {max(many):.1e}",
            flush=True,
        )
    print(f"{over} of {len(options.runs)} runs change by 0.003 or more for one pixel")


if __name__ == "__main__":
    main()
