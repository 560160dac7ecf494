"""A run folder with one byte changed: is it refused in words, or is the change harmless?

    python benchmarks/run_tampering.py RUN [--image FILE] [--places 1000] [--manifest-step 1] [--seed 0]

RUN is copied; it is not touched itself. Every byte of the copy's manifest.json is changed, one at a time, and so many bytes at random
places of the other files, the file drawn first and then the place in it. Each time the run is opened and asked for one image. Only two
outcomes are right: a `HeadstartError` that names the run or the file, or the very prediction of the whole run. Everything else is printed
and counted as wrong: another exception, another prediction, a new file, or a program, a connection or a pickle that was begun.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from headstart import load
from headstart.data import list_images
from headstart.errors import HeadstartError
from measurement_data import DATA

MANIFEST = "manifest.json"
BEGUN = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.connect", "pickle.find_class", "ctypes.dlopen")


class Witness:
    """What Python began to do between `start` and `stop`: programs, connections, pickles, libraries."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self._watching = False
        sys.addaudithook(self._note)

    def _note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._watching and event in BEGUN:
            self.seen.append(f"{event} {arguments!r:.200}")

    def start(self) -> None:
        self.seen.clear()
        self._watching = True

    def stop(self) -> list[str]:
        self._watching = False
        return list(self.seen)


def answer(folder: Path, image: bytes) -> dict[str, Any]:
    """What the run in a folder says about an image."""
    run = load(folder)
    predictions = run.predict([image])
    judged = predictions.judgement
    return {
        "classes": predictions.classes,
        "probabilities": predictions.probabilities.tobytes(),
        "refused": len(predictions.refused),
        "sets": None if judged is None or judged.sets is None else np.asarray(judged.sets).tolist(),
        "unlike": None if judged is None or judged.unlike is None else np.asarray(judged.unlike).tolist(),
    }


def outcome(folder: Path, image: bytes, whole: dict[str, Any], witness: Witness) -> tuple[str, str]:
    """``refused``, ``harmless`` or ``WRONG``, and what is to say about it."""
    witness.start()
    try:
        said = answer(folder, image)
        verdict = ("harmless", "") if said == whole else ("WRONG", "another prediction")
    except HeadstartError as error:
        words = str(error)
        verdict = ("refused", type(error).__name__) if str(folder) in words and len(words) > len(str(folder)) + 20 else ("WRONG", words)
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        verdict = ("WRONG", "".join(traceback.format_exception_only(error)).strip())
    begun = witness.stop()
    return ("WRONG", f"began {begun[0]}") if begun else verdict


def places_of(folder: Path, *, count: int, step: int, random: np.random.Generator) -> list[tuple[str, int]]:
    """Which bytes to change: (file, place)."""
    places = [(MANIFEST, place) for place in range(0, (folder / MANIFEST).stat().st_size, step)]
    sizes = {file.name: file.stat().st_size for file in sorted(folder.iterdir()) if file.name != MANIFEST and file.stat().st_size}
    names = list(sizes)
    return places + [
        (name, int(random.integers(sizes[name]))) for name in (names[index] for index in random.integers(len(names), size=count))
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--image", type=Path, help="to ask about [default: the first test image of cats_dogs]")
    parser.add_argument("--places", type=int, default=1000, help="random places in the other files")
    parser.add_argument("--manifest-step", type=int, default=1, help="1 for every byte of the manifest, 10 for every tenth")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    random = np.random.default_rng(options.seed)
    image = (options.image or Path(list_images([DATA / "cats_dogs" / "test"])[0])).read_bytes()
    witness = Witness()
    counts: dict[str, Counter[str]] = {}
    slowest = 0.0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(shutil.copytree(options.run, Path(temporary) / "run"))
        whole = answer(folder, image)
        files = {file.name for file in folder.iterdir()}
        for name, place in places_of(folder, count=options.places, step=options.manifest_step, random=random):
            mask, begun = int(random.integers(1, 256)), time.perf_counter()
            flip(folder / name, place, mask)
            verdict, words = outcome(folder, image, whole, witness)
            flip(folder / name, place, mask)
            slowest = max(slowest, time.perf_counter() - begun)
            if {file.name for file in folder.iterdir()} != files:
                raise SystemExit(f"{name}, byte {place}: files of the run have come or gone")
            counts.setdefault(name, Counter())[verdict] += 1
            if verdict == "WRONG":
                print(f"{name}, byte {place} xor {mask}: {words}")
        unharmed = all(sha(folder / name) == sha(options.run / name) for name in files)
    report(counts, slowest=slowest, unharmed=unharmed)


def flip(file: Path, place: int, mask: int) -> None:
    """Change one byte in place; the same again changes it back."""
    with file.open("r+b") as opened:
        opened.seek(place)
        byte = opened.read(1)[0]
        opened.seek(place)
        opened.write(bytes([byte ^ mask]))


def sha(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def report(counts: dict[str, Counter[str]], *, slowest: float, unharmed: bool) -> None:
    """Print the counts; exit with 1 when anything was wrong."""
    for name, found in (*counts.items(), ("all", sum(counts.values(), Counter()))):
        said = ", ".join(f"{found[kind]} {kind}" for kind in ("refused", "harmless", "WRONG"))
        print(f"{name:<28} {found.total():>6} changed: {said}")
    print(f"slowest {slowest:.2f} s   (goal: nothing wrong)")
    if not unharmed:
        raise SystemExit("the copy was not restored: the figures are worth nothing")
    if any(found["WRONG"] for found in counts.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
