"""Kills `headstart fit` at random moments, and shows that nothing is lost.

    python benchmarks/store_kill9.py [DATA] [--kills 20] [--seed 0]

Runs `fit` once undisturbed. Then runs it again and again on an empty cache and kills it (SIGKILL) at random moments, one half of them
anywhere in the run and the other half while features are being computed; whenever a run comes to its end, the store is compared and the
next one starts from an empty cache. Then two runs fill one store at the same time. Without DATA, 600 images are made.

Asked for: every vector byte for byte that of the undisturbed run, and after each kill at most one batch computed again.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from headstart.features import FeatureStore
from headstart.features.extractor import BATCH
from headstart.files import feature_store_file
from memory import make_images

# `headstart fit`, which also writes down the digest of every image as soon as it is computed, before it can reach the store.
FIT = """
import os, sys
import headstart.features as features
log = os.open(sys.argv.pop(1), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
run_images = features.run_images
def counted(*positional, **named):
    for result in run_images(*positional, **named):
        os.write(log, result.digest.hex().encode() + b"\\n")
        yield result
features.run_images = counted
from headstart.cli import main
main()
"""


@dataclass
class Trial:
    """One cache that is filled over several killed runs."""

    cache: Path
    computed: set[str] = field(default_factory=set)
    runs: int = 0

    def start(self, data: Path) -> tuple[subprocess.Popen[bytes], Path]:
        """Start a run on this cache; return the process and the file in which it writes down what it computes."""
        self.runs += 1
        self.cache.mkdir(parents=True, exist_ok=True)
        label = f"{self.cache.name}-{self.runs}"
        log = self.cache.parent / f"{label}.log"
        log.touch()
        options = [str(log), "fit", str(data), "--cache", str(self.cache), "--out", str(self.cache.parent / f"{label}.run"), "--quiet"]
        with (self.cache.parent / f"{label}.txt").open("wb") as output:
            return subprocess.Popen([sys.executable, "-c", FIT, *options], stdout=output, stderr=output), log

    def again(self, log: Path) -> int:
        """Count the images of a run that earlier runs on this cache had computed already."""
        lines = [line for line in log.read_text().split("\n")[:-1] if line]
        repeated = len(self.computed.intersection(lines))
        self.computed.update(lines)
        return repeated


def rows(cache: Path) -> dict[tuple[str, bytes], bytes]:
    """Return every vector of a store by extractor and digest, after the store has checked itself."""
    path = feature_store_file(cache)
    if not path.exists():
        return {}
    with FeatureStore(path) as store:
        found = store.verify()
        assert found.sound, found
    connection = sqlite3.connect(path)
    try:
        query = "SELECT name, digest, vector FROM features JOIN extractors USING (extractor)"
        return {(name, digest): vector for name, digest, vector in connection.execute(query)}
    finally:
        connection.close()


def finish(process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait for a run, and show what it said if it failed."""
    if process.wait() != 0:
        raise SystemExit(f"fit failed with exit code {process.returncode}:\n{log.with_suffix('.txt').read_text()}")


def kill_at_random(process: subprocess.Popen[bytes], log: Path, *, chance: random.Random, seconds: float) -> bool:
    """Kill the run at a random moment; return False where it ended before."""
    deadline = time.monotonic() + chance.uniform(0, seconds)
    if chance.random() < 0.5:
        while process.poll() is None and not log.stat().st_size:
            time.sleep(0.01)
        deadline = time.monotonic() + chance.uniform(0, seconds / 4)
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    if process.poll() is not None:
        return False
    process.send_signal(signal.SIGKILL)
    process.wait()
    return True


def killed_runs(data: Path, folder: Path, *, kills: int, seed: int, seconds: float, reference: dict[tuple[str, bytes], bytes]) -> bool:
    """Kill runs, compare every store that is filled in the end, and print what was found; return whether all is as asked for."""
    chance = random.Random(seed)
    trial, trials, killed, repeated, same = Trial(folder / "killed-1"), 1, 0, [], True
    print(f"{'kill':>4} {'store':>5} {'rows kept':>9} {'computed in this run':>20} {'of these again':>14}")
    while True:
        process, log = trial.start(data)
        if killed < kills and kill_at_random(process, log, chance=chance, seconds=seconds):
            killed += 1
            mark = f"{killed:>4}"
        else:
            finish(process, log)
            mark = " end"
        before = len(log.read_text().split())
        repeated.append(trial.again(log))
        kept = rows(trial.cache)
        same &= all(reference[key] == vector for key, vector in kept.items())
        print(f"{mark} {trials:>5} {len(kept):>9} {before:>20} {repeated[-1]:>14}", flush=True)
        if mark == " end":
            same &= kept == reference
            if killed >= kills:
                break
            trials += 1
            trial = Trial(folder / f"killed-{trials}")
    print(f"killed {killed} times: at most {max(repeated)} images computed again (a batch is {BATCH}); vectors {verdict(same)}")
    return same and max(repeated) <= BATCH


def verdict(same: bool) -> str:
    return "byte for byte those of the undisturbed run" if same else "DIFFER from those of the undisturbed run"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", help="a folder of labelled images")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="headstart-kill9-"))
    try:
        data = options.data or folder / "images"
        if options.data is None:
            make_images(data, 600)
        begun = time.monotonic()
        trial = Trial(folder / "undisturbed")
        finish(*trial.start(data))
        seconds = time.monotonic() - begun
        reference = rows(trial.cache)
        print(f"undisturbed: {len(reference)} vectors in {seconds:.1f} s")
        good = killed_runs(data, folder, kills=options.kills, seed=options.seed, seconds=seconds, reference=reference)
        trial = Trial(folder / "two")
        for process, log in [trial.start(data), trial.start(data)]:
            finish(process, log)
        same = rows(trial.cache) == reference
        print(f"two runs at once into one store: vectors {verdict(same)}")
    finally:
        shutil.rmtree(folder)
    sys.exit(0 if good and same else 1)


if __name__ == "__main__":
    main()
