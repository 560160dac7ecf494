"""Large images with small things: is what is lost at the size of the network's input found through windows, and at what cost?

    python benchmarks/windows.py [--windows 1 4] [--images 40] [options of `headstart fit`]

Draws a set: images of 1,024 px, half of them as many again to test on, with discs and squares of 8 to 16 px, of a colour close to that of
the blotchy ground, under noise. Fits it once for each number of windows, and prints the last line of each fit with its seconds.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 1024


def drawn(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """An image and its mask: ground 0, discs 1, squares 2."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    blotches = Image.fromarray(rng.integers(0, 256, (SIDE // 32, SIDE // 32, 3), dtype=np.uint8)).resize((SIDE, SIDE), Image.BICUBIC)
    pixels = np.array((60, 80, 70)) + 0.25 * (np.asarray(blotches, float) - 128)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    for _ in range(rng.integers(60, 120)):
        kind, radius, y, x = rng.integers(1, 3), rng.uniform(4, 8), rng.uniform(0, SIDE), rng.uniform(0, SIDE)
        part = tuple(slice(max(0, int(centre) - 10), int(centre) + 10) for centre in (y, x))
        down, across = rows[part] - y, columns[part] - x
        inside = down**2 + across**2 < radius**2 if kind == 1 else np.maximum(abs(down), abs(across)) < 0.89 * radius
        mask[part][inside] = kind
        pixels[part][inside] = (150, 120, 100) if kind == 1 else (130, 130, 110)
    return (pixels + rng.normal(0, 14, pixels.shape)).clip(0, 255).astype(np.uint8), mask


def write_set(folder: Path, *, train: int, test: int) -> None:
    rng = np.random.default_rng(0)
    for part, count in (("train", train), ("test", test)):
        for kind in ("images", "masks"):
            (folder / kind / part).mkdir(parents=True)
        for number in range(count):
            for kind, array in zip(("images", "masks"), drawn(rng), strict=True):
                Image.fromarray(array).save(folder / kind / part / f"{number}.png")
    (folder / "classes.txt").write_text("ground\ndisc\nsquare\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", nargs="+", type=int, default=[1, 4])
    parser.add_argument("--images", type=int, default=40)
    given, options = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        write_set(Path(folder) / "data", train=given.images, test=given.images // 2)
        for count in given.windows:
            began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
            command = [sys.executable, "-m", "headstart", "fit", f"{folder}/data", "--out", f"{folder}/run{count}", "--windows", str(count)]
            done = subprocess.run([*command, *options], check=True, capture_output=True, text=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            hints = [line for line in (done.stdout + done.stderr).splitlines() if "--windows" in line]
            print(f"{count} x {count} windows: {done.stdout.splitlines()[-1]}; {time.perf_counter() - began:.0f} s, {cpu:.0f} s of CPU")
            print("\n".join(f"  {line}" for line in hints))


if __name__ == "__main__":
    main()
