"""Does the peak memory of `fit` grow with the number of images beyond their features?

    python benchmarks/memory.py [--counts 1000 10000]

Makes folders of small JPEGs, fits each in a fresh process, and prints the peak memory less the features.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

CODE = """
import resource, sys
from pathlib import Path
from headstart.pipeline import FitSettings, fit
result = fit(sys.argv[1], out=Path(sys.argv[2]) / "run", settings=FitSettings(cache=sys.argv[2], head="logistic"))
dim = result.classifier.extractor_.dim
print(len(result.dataset) * dim * 4 / 2**20, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10)
"""


def make_images(folder: Path, count: int) -> None:
    """Two classes of smooth coloured noise, bluish and reddish, 320x240."""
    random = np.random.default_rng(0)
    for index in range(count):
        label = index % 2
        small = random.integers(0, 200, (6, 8, 3), dtype=np.uint8)
        small[:, :, 2 * label] += 55
        target = folder / ("red", "blue")[label]
        target.mkdir(parents=True, exist_ok=True)
        Image.fromarray(small).resize((320, 240), Image.Resampling.BICUBIC).save(target / f"{index:06d}.jpg", quality=85)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", type=int, nargs="+", default=[1000, 10000])
    options = parser.parse_args()
    for count in options.counts:
        with tempfile.TemporaryDirectory() as folder:
            make_images(Path(folder) / "images", count)
            done = subprocess.run(
                [sys.executable, "-c", CODE, str(Path(folder) / "images"), str(Path(folder) / "cache")],
                check=True, capture_output=True, text=True,
            )  # fmt: skip
            features, peak = map(float, done.stdout.split()[-2:])
            print(f"{count:>6} images: peak {peak:.0f} MB, features {features:.0f} MB, peak less features {peak - features:.0f} MB")


if __name__ == "__main__":
    main()
