"""Reads a folder of broken and odd image files: no crash, none slow, every refusal with path and reason.

python benchmarks/hostile_files.py [FOLDER]
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from pathlib import Path

from headstart.errors import ImageError
from headstart.modalities.image import Preprocessing, quiet_decoding
from measurement_data import DATA


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=DATA / "bad_images")
    options = parser.parse_args()
    preprocessing = Preprocessing(224, crop=0.875)
    reasons: Counter[str] = Counter()
    slowest, read = (0.0, Path()), 0
    with quiet_decoding():
        for path in sorted(path for path in options.folder.rglob("*") if path.is_file() and path.suffix != ".md"):
            begun = time.perf_counter()
            try:
                preprocessing(path)
                read += 1
            except ImageError as error:
                if error.path != str(path) or not error.reason:
                    raise SystemExit(f"{path}: refused without path or reason: {error}") from None
                reasons[error.reason.partition(" (it starts")[0]] += 1
            slowest = max(slowest, (time.perf_counter() - begun, path))
    print(f"{read} read, {reasons.total()} refused, slowest {slowest[0]:.2f} s ({slowest[1].name})   (goal: under 1 s)")
    for reason, count in reasons.most_common():
        print(f"{count:>5}  {reason}")


if __name__ == "__main__":
    main()
