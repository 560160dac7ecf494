"""Batch prediction: how fast against `headstart predict`, how much memory, and what a killed job costs.

    python benchmarks/batch.py RUN IMAGES [--counts 500 4000] [--kills 5] [--listed 300000]

RUN is a run folder and IMAGES a folder of images. For each count a folder of so many links to these images is made, and predicted in a
fresh process: by `headstart predict --format csv`, and by `--batch` into each form of table. Then a batch job is killed (SIGKILL) at random
moments until it comes to its end. Last, a folder of many empty files is listed.

Asked for: at least 0.95 of the rate of `predict` (on a busy machine compare the processor time), a peak of memory that does not grow with
the folder, the same bytes after all kills, and the same CSV as `predict` prints.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path

from headstart.data import list_images

MAIN = """
import resource, sys
from headstart.cli import main
try:
    main()
finally:
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(used.ru_utime + used.ru_stime, used.ru_maxrss, file=sys.stderr)
"""
LIST = """
import resource, sys
from pathlib import Path
from headstart.batch.folder import write_listing
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(write_listing([sys.argv[1]], Path(sys.argv[2])).images, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-c", MAIN, *map(str, arguments)]


def measured(*arguments: str | Path, printed: Path | None = None) -> tuple[float, float, float]:
    """Run a command; return its seconds, the seconds of processor time, and its peak of memory in MB."""
    begun = time.perf_counter()
    done = subprocess.run(command(*arguments), check=True, capture_output=True, text=True)
    if printed is not None:
        printed.write_text(done.stdout)
    processor, peak = map(float, done.stderr.split()[-2:])
    return time.perf_counter() - begun, processor, peak / 1024


def links(folder: Path, images: list[Path], count: int) -> Path:
    folder.mkdir()
    for index, image in enumerate(islice(cycle(images), count)):
        (folder / f"{index:07d}{image.suffix}").symlink_to(image.absolute())
    return folder


def killed(run: Path, images: Path, out: Path, kills: int, seconds: float) -> int:
    """Kill a job so many times, then let it end; return how many parts that last start found."""
    chance = random.Random(0)
    arguments = ("predict", run, images, "--batch", "--out", out, "--resume", "-q")
    for _ in range(kills):
        process = subprocess.Popen(command(*arguments), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(chance.uniform(0, 1.5 * seconds / kills))
        process.send_signal(signal.SIGKILL)
        process.wait()
    kept = len(list(out.with_name(out.name + ".parts").glob("*.part")))
    measured(*arguments)
    return kept


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("images", type=Path)
    parser.add_argument("--counts", type=int, nargs="+", default=[500, 4000])
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--listed", type=int, default=300_000)
    options = parser.parse_args()
    images = list_images([options.images])
    with tempfile.TemporaryDirectory() as made:
        place = Path(made)
        for count in options.counts:
            folder = links(place / f"images{count}", images, count)
            plain, busy, memory = measured("predict", options.run, folder, "--format", "csv", "-q", printed=place / "printed.csv")
            speed = f"{count / plain:6.1f} images/s, {busy:.0f} s of processor"
            print(f"{count:>6} images  predict   {speed}, peak {memory:.0f} MB", flush=True)
            for suffix in ("csv", "jsonl", "parquet"):
                out = place / f"{count}.{suffix}"
                seconds, busy, memory = measured("predict", options.run, folder, "--batch", "--out", out, "-q")
                speed = f"{count / seconds:6.1f} images/s ({plain / seconds:.2f}), {busy:.0f} s of processor"
                print(f"{count:>6} images  {suffix:<8}  {speed}, peak {memory:.0f} MB", flush=True)
            same = (place / "printed.csv").read_bytes() == (place / f"{count}.csv").read_bytes()
            print(f"{count:>6} images  the CSV is {'what predict prints' if same else 'DIFFERENT from what predict prints'}", flush=True)
        kept = killed(options.run, folder, place / "killed.parquet", options.kills, plain)
        same = (place / "killed.parquet").read_bytes() == (place / f"{count}.parquet").read_bytes()
        verdict = "the same bytes" if same else "DIFFERENT bytes"
        print(f"killed {options.kills} times, {kept} parts found at the last start: {verdict} as undisturbed")
        many = place / "many"
        many.mkdir()
        for index in range(options.listed):
            (many / f"{index:08d}.jpg").touch()
        begun = time.perf_counter()
        done = subprocess.run([sys.executable, "-c", LIST, str(many), str(place / "listing")], check=True, capture_output=True, text=True)
        listed, kilobytes = map(int, done.stdout.split())
        print(f"listed {listed} images in {time.perf_counter() - begun:.1f} s with {kilobytes / 1024:.0f} MB more than before")


if __name__ == "__main__":
    main()
