"""The service under load: how fast against `headstart predict`, how long an answer takes, and whether its memory grows.

    python benchmarks/serve_load.py RUN [IMAGES] [--count 1000] [--clients 8] [--rounds 3] [--minutes 10]

The JPEGs in IMAGES (by default cats_dogs) are predicted

1. by a run that is opened as `headstart predict` opens it, in one batch, in a fresh process; opening is not counted, and the best of all
   rounds counts;
2. by `headstart serve` in a process of its own, with so many clients in this one, each sending one image after the other, as the body of a
   request; again the best round;
3. by the same service at half of that rate: requests begin whether or not those before are answered, evenly spaced, and then at random
   moments (a Poisson process, seeded); the time of an answer counts from the moment that was planned, so that waiting is not left out;
4. for --minutes at the full load of 2., with the memory of the service every minute; its slope is that after the first fifth.

Asked for: 0.7 of the rate of `predict`, p99 under 150 ms at half of the load, under 1 MB a minute, and no answer of 500 or above.
"""

from __future__ import annotations

import argparse
import http.client
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from itertools import count
from pathlib import Path

import numpy as np

from headstart.data import list_images
from measurement_data import DATA
from serve_process import Client, Served, serving, wait_until

GOAL_SHARE, GOAL_P99, GOAL_SLOPE = 0.7, 0.150, 1.0
BATCH = """
import json, sys, time
from headstart import load
run, paths = load(sys.argv[1]), json.load(sys.stdin)
run.predict(paths[:32])
for _ in range(int(sys.argv[2])):
    begun = time.perf_counter()
    assert len(run.predict(paths)) == len(paths)
    print(len(paths) / (time.perf_counter() - begun), flush=True)
"""


class Answers:
    """What came back, and when; for several threads."""

    def __init__(self) -> None:
        self.statuses: Counter[str] = Counter()
        self.seconds: list[float] = []
        self._lock = threading.Lock()

    def add(self, status: str, seconds: float) -> None:
        with self._lock:
            self.statuses[status] += 1
            self.seconds.append(seconds)

    @property
    def faults(self) -> int:
        """Requests that were refused, or not answered."""
        return self.statuses.total() - self.statuses["200"]


def ask(client: Client, image: bytes, *, since: float, answers: Answers) -> None:
    """Send one image; note what came back."""
    try:
        status = str(client.post(image)[0])
    except (OSError, http.client.HTTPException) as error:
        status = type(error).__name__
    answers.add(status, time.perf_counter() - since)


def together(threads: int, work: object) -> None:
    """Run `work` in so many threads, and wait for them."""
    begun = [threading.Thread(target=work) for _ in range(threads)]  # type: ignore[arg-type]
    for thread in begun:
        thread.start()
    for thread in begun:
        thread.join()


def full_load(served: Served, images: list[bytes], *, clients: int, until: float | None = None) -> tuple[float, Answers]:
    """Images a second with so many clients, and the answers; each image once, or over and over until a moment."""
    answers, numbers = Answers(), count()

    def work() -> None:
        client = Client(served.port)
        while True:
            number = next(numbers)
            if number >= len(images) if until is None else time.perf_counter() >= until:
                break
            ask(client, images[number % len(images)], since=time.perf_counter(), answers=answers)
        client.close()

    begun = time.perf_counter()
    together(clients, work)
    return answers.statuses["200"] / (time.perf_counter() - begun), answers


def at_rate(served: Served, images: list[bytes], *, rate: float, seed: int | None) -> Answers:
    """Send each image once, so many a second in the mean: evenly spaced, or with a seed at random moments."""
    gaps = np.full(len(images), 1 / rate) if seed is None else np.random.default_rng(seed).exponential(1 / rate, len(images))
    moments = np.cumsum(gaps)
    answers, numbers, begun = Answers(), count(), time.perf_counter() + 0.5

    def work() -> None:
        client = Client(served.port)
        while (number := next(numbers)) < len(images):
            moment = begun + float(moments[number])
            wait_until(moment)
            ask(client, images[number], since=moment, answers=answers)
        client.close()

    together(64, work)  # more than ever wait at once, so that none has to wait for a thread
    return answers


def in_batch(run: Path, paths: list[str], *, rounds: int) -> float:
    """Images a second of `predict` in a fresh process; the best round."""
    done = subprocess.run(
        [sys.executable, "-c", BATCH, str(run), str(rounds)], input=json.dumps(paths), check=True, capture_output=True, text=True
    )
    return max(map(float, done.stdout.split()))


def memory_by_minute(served: Served, images: list[bytes], *, clients: int, minutes: float) -> tuple[float, Answers]:
    """Print the memory of the service under full load by minute; returns its slope in MB a minute, and the answers."""
    begun, samples, stop = time.perf_counter(), [], threading.Event()
    pause = min(10.0, minutes * 60 / 30)

    def watch() -> None:
        told = -1
        while not stop.wait(pause):
            minute = (time.perf_counter() - begun) / 60
            samples.append((minute, served.memory()))
            if int(minute) > told:
                told = int(minute)
                print(f"  minute {minute:5.1f}: {samples[-1][1]:.1f} MB", flush=True)

    watcher = threading.Thread(target=watch)
    watcher.start()
    rate, answers = full_load(served, images, clients=clients, until=begun + minutes * 60)
    stop.set()
    watcher.join()
    late = np.array([sample for sample in samples if sample[0] >= minutes / 5])
    slope = float(np.polyfit(late[:, 0], late[:, 1], 1)[0]) if len(late) > 2 else float("nan")
    print(f"  {rate:.1f} images/s, {answers.statuses.total()} requests: {dict(answers.statuses)}")
    print(f"  first {samples[0][1]:.1f} MB, last {samples[-1][1]:.1f} MB, at most {served.memory('VmHWM'):.1f} MB")
    return slope, answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("images", nargs="?", type=Path, default=DATA / "cats_dogs")
    parser.add_argument("--count", type=int, default=1000, help="images of one round")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=10.0, help="of full load for the memory; 0 to leave it out")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    found = [str(path) for path in list_images([options.images]) if str(path).lower().endswith((".jpg", ".jpeg"))]
    paths = [found[index] for index in np.random.default_rng(options.seed).permutation(len(found))[: options.count]]
    images = [Path(path).read_bytes() for path in paths]
    print(f"{len(images)} JPEGs, {np.mean([len(image) for image in images]) / 1000:.0f} kB in the mean")
    batch = in_batch(options.run, paths, rounds=options.rounds)
    print(f"predict in one batch: {batch:.1f} images/s", flush=True)
    with tempfile.TemporaryDirectory() as folder, serving(options.run, Path(folder) / "log") as served:
        measure(served, images, batch=batch, options=options)
        complaints = served.complaints()
    if complaints:
        raise SystemExit(f"{len(complaints)} complaints in the log of the service, the first: {complaints[0]}")


def measure(served: Served, images: list[bytes], *, batch: float, options: argparse.Namespace) -> None:
    """Points 2 to 4; exits with 1 when an answer was wrong."""
    full_load(served, images[: 8 * options.clients], clients=options.clients)  # warm
    rounds = [full_load(served, images, clients=options.clients) for _ in range(options.rounds)]
    rate = max(found for found, _ in rounds)
    waited = np.concatenate([answers.seconds for _, answers in rounds])
    print(f"{options.clients} clients: {rate:.1f} images/s, {rate / batch:.2f} of predict   (goal: {GOAL_SHARE})")
    print(
        f"  p50 {np.median(waited) * 1000:.0f} ms, p99 {np.quantile(waited, 0.99) * 1000:.0f} ms; rounds {[round(r, 1) for r, _ in rounds]}"
    )
    every = [answers for _, answers in rounds]
    for spaced, seed in (("evenly spaced", None), ("at random moments", options.seed)):
        every.append(at_rate(served, images, rate=rate / 2, seed=seed))
        p50, p99, most = (f"{seconds * 1000:.0f} ms" for seconds in np.quantile(every[-1].seconds, [0.5, 0.99, 1.0]))
        print(
            f"{rate / 2:.1f} images/s, {spaced}: p50 {p50}, p99 {p99}, slowest {most}   (goal: p99 under {GOAL_P99 * 1000:.0f} ms)",
            flush=True,
        )
    if options.minutes > 0:
        print(f"memory of the service during {options.minutes:g} minutes of full load:")
        slope, answers = memory_by_minute(served, images, clients=options.clients, minutes=options.minutes)
        print(f"  slope {slope:+.2f} MB a minute   (goal: under {GOAL_SLOPE:g})")
        every.append(answers)
    statuses: Counter[str] = sum((answers.statuses for answers in every), Counter())
    print(f"all answers: {dict(statuses)}   (goal: nothing but 200)")
    if any(answers.faults for answers in every):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
