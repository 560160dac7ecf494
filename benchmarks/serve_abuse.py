"""The service under abuse: does it stay up, does it refuse in words, and does it answer a good request within a second all along?

    python benchmarks/serve_abuse.py RUN [--bodies 10000] [--idle 200] [--half-sent 200] [--gigabytes 1] [--only PHASE ...] [--seed 0]

`headstart serve` runs in a process of its own, with its own limits. From here come, one kind after the other: forms that were changed at
random; the images of bad_images, as they are and in a form; requests that end in the midst of their headers or of their body, of which
half hang up and half send a byte a second; connections that say nothing; bodies of a gigabyte, announced, and in chunks; and small
requests that would be large if they were believed, each three times at once. Meanwhile a third process, from another address, sends a
good photograph ten times a second.

Asked for: no crash; no status of 500 or above; an answer to every whole request; every good request answered with 200 within a
second; a log of JSON lines, of which none tells of an error. Exits with 1 when something of this is not so.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import multiprocessing
import re
import selectors
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import numpy as np

from headstart.data import list_images
from hostile_requests import FORM, Hostile, bombs, form, mutated, part
from measurement_data import DATA
from serve_process import HOST, Client, Served, serving, wait_until

GOOD_SECONDS, EVERY = 1.0, 0.1
GOOD_ADDRESS = "127.0.0.2" if sys.platform == "linux" else HOST


def good_asker(port: int, image: bytes, stop: Event, told: Any) -> None:
    """Send a good image ten times a second, on a new connection each time, until told to stop; tells (moment, seconds, status)."""
    planned = time.perf_counter()
    while not stop.is_set():
        planned = max(planned + EVERY, time.perf_counter())
        wait_until(planned)
        client, begun = Client(port, source=GOOD_ADDRESS, seconds=30), time.perf_counter()
        try:
            status = str(client.post(image)[0])
        except (OSError, http.client.HTTPException) as error:
            status = type(error).__name__
        told.put((begun, time.perf_counter() - begun, status))
        client.close()


class Good:
    """What became of the good requests, phase by phase."""

    def __init__(self, port: int, image: bytes) -> None:
        context = multiprocessing.get_context("spawn")
        self._stop, self._told = context.Event(), context.Queue()
        self._process = context.Process(target=good_asker, args=(port, image, self._stop, self._told), daemon=True)
        self._process.start()
        self._told.get(timeout=60)  # the first one starts the clock
        self.late = 0

    def phase(self) -> str:
        """Words on those since the last call; late and wrong ones are counted in `late`."""
        found = []
        while not self._told.empty():
            found.append(self._told.get())
        late = sum(seconds > GOOD_SECONDS or status != "200" for _, seconds, status in found)
        self.late += late
        if not found:
            self.late += 1
            return "no good request was answered"
        seconds, statuses = [entry[1] for entry in found], dict(Counter(entry[2] for entry in found))
        return (
            f"{len(found)} good requests {statuses}, median {np.median(seconds):.3f} s, slowest {max(seconds):.3f} s, {late} late or wrong"
        )

    def close(self) -> None:
        """End the process."""
        self._stop.set()
        self._process.join(40)


def send_all(served: Served, requests: Iterable[Hostile], *, threads: int = 8, tell: bool = False) -> Counter[str]:
    """Send whole requests from several threads; counts the statuses, and ``no answer`` where the connection just ended."""
    counts: Counter[str] = Counter()
    lock, waiting = threading.Lock(), iter(requests)

    def work() -> None:
        client = Client(served.port)
        while True:
            with lock:
                request = next(waiting, None)
            if request is None:
                break
            begun = time.perf_counter()
            try:
                status = str(client.post(request.body, path=request.path, headers=request.headers)[0])
            except (OSError, http.client.HTTPException) as error:
                status = "no answer"
                print(f"    {request.name}: {type(error).__name__} {error}")
            if tell or status >= "500":
                print(f"    {request.name}: {status} in {time.perf_counter() - begun:.2f} s, {served.memory():.0f} MB", flush=True)
            with lock:
                counts[status] += 1
        client.close()

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return counts


def bad_images() -> Iterator[Hostile]:
    """Every bad image, as a body and in a form."""
    for path in sorted(path for path in (DATA / "bad_images").rglob("*") if path.is_file() and path.suffix != ".md"):
        data = path.read_bytes()
        yield Hostile(path.name, data, "/predict", {"Content-Type": "application/octet-stream"})
        yield Hostile(path.name, form(part(data), part(data)), "/predict", {"Content-Type": FORM})


def half_sent(served: Served, images: list[bytes], *, count: int, seed: int) -> Counter[str]:
    """Requests cut at a random place; every second one hangs up, the others go on with a byte a second until they are refused."""
    random = np.random.default_rng(seed)
    counts: Counter[str] = Counter()
    left: list[socket.socket] = []
    for number in range(count):
        body = form(part(images[random.integers(len(images))]))
        head = f"POST /predict HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: {FORM}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        cut = int(random.integers(1, len(head) - 4)) if number % 4 < 2 else len(head) + int(random.integers(0, len(body) - 200))
        connection = socket.create_connection((HOST, served.port), timeout=10)
        try:
            connection.sendall((head + body)[:cut])
        except OSError:
            counts["closed while sending"] += 1
        if number % 2:
            connection.close()
            counts["hung up"] += 1
        else:
            left.append(connection)
    return counts + drained(left, drip=b"x", seconds=60)


def idle(served: Served, *, count: int) -> Counter[str]:
    """Connections that say nothing, until the service has closed all."""
    return drained([socket.create_connection((HOST, served.port), timeout=10) for _ in range(count)], drip=b"", seconds=60)


def drained(connections: list[socket.socket], *, drip: bytes, seconds: float) -> Counter[str]:
    """How each connection was ended by the service: by its status, or without a word. A byte goes out on each every second."""
    counts: Counter[str] = Counter()
    until, next_drip = time.perf_counter() + seconds, time.perf_counter() + 1
    with selectors.DefaultSelector() as selector:
        for connection in connections:
            connection.setblocking(False)
            selector.register(connection, selectors.EVENT_READ)
        while selector.get_map() and time.perf_counter() < until:
            for key, _ in selector.select(0.2):
                counts[_ending(key.fileobj)] += 1
                selector.unregister(key.fileobj)
                key.fileobj.close()  # type: ignore[union-attr]
            if drip and time.perf_counter() > next_drip:
                next_drip += 1
                for key in list(selector.get_map().values()):
                    with contextlib.suppress(OSError):  # the next reading tells
                        key.fileobj.send(drip)  # type: ignore[union-attr]
        for key in list(selector.get_map().values()):
            counts["STILL OPEN"] += 1
            key.fileobj.close()  # type: ignore[union-attr]
    return counts


def _ending(connection: Any) -> str:
    """What an answer on a bare connection begins with."""
    try:
        answer = connection.recv(4096)
    except OSError as error:
        return type(error).__name__
    return answer.split()[1].decode("latin-1") if answer.startswith(b"HTTP/1.1 ") else "closed without a word" if not answer else "nonsense"


def endless(served: Served, *, gigabytes: float) -> Counter[str]:
    """A body of so many gigabytes: announced, in chunks, and with a length that is less than what comes."""
    size, block = int(gigabytes * 10**9), b"\0" * (1 << 16)
    chunk = f"{len(block):x}\r\n".encode() + block + b"\r\n"
    counts: Counter[str] = Counter()
    for name, line, piece in (
        ("announced", f"Content-Length: {size}", block),
        ("in chunks", "Transfer-Encoding: chunked", chunk),
        ("more than announced", "Content-Length: 1000000", block),
    ):
        connection, sent = socket.create_connection((HOST, served.port), timeout=60), 0
        try:
            connection.sendall(f"POST /predict HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: image/jpeg\r\n{line}\r\n\r\n".encode())
            connection.settimeout(0.5)
            while sent < size:
                sent += connection.send(piece)  # of a chunk that is sent in part the rest is missing: that is no better a body
        except OSError:
            pass
        connection.settimeout(60)
        found = _ending(connection)
        connection.close()
        print(f"    {name}: {found} after {sent / 1e6:.0f} MB, the service has {served.memory():.0f} MB", flush=True)
        counts[found] += 1
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--bodies", type=int, default=10_000)
    parser.add_argument("--idle", type=int, default=200)
    parser.add_argument("--half-sent", type=int, default=200)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--only", nargs="+", metavar="PHASE", help="some of: bodies, bad_images, half_sent, idle, endless, bombs")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    photographs = [Path(path).read_bytes() for path in list_images([DATA / "cats_dogs" / "test"])[:40]]
    small = sorted(photographs, key=len)[:10]
    with tempfile.TemporaryDirectory() as folder, serving(options.run, Path(folder) / "log") as served:
        phases: dict[str, Callable[[], Counter[str]]] = {
            "bodies": lambda: send_all(served, mutated(small, count=options.bodies, seed=options.seed)),
            "bad_images": lambda: send_all(served, bad_images()),
            "half_sent": lambda: half_sent(served, small, count=options.half_sent, seed=options.seed),
            "idle": lambda: idle(served, count=options.idle),
            "endless": lambda: endless(served, gigabytes=options.gigabytes),
        }
        for bomb in named(bombs(small[0]), options.run.name):
            phases[f"bombs: {bomb.name}"] = lambda bomb=bomb: send_all(served, [bomb] * 3, threads=3, tell=True)  # type: ignore[misc]
        wrong = abuse(
            served,
            {name: phase for name, phase in phases.items() if not options.only or name.partition(":")[0] in options.only},
            photograph=photographs[0],
        )
    if wrong:
        raise SystemExit(f"{len(wrong)} things are not as they should be: {'; '.join(wrong)}")


def named(requests: Iterable[Hostile], model: str) -> Iterator[Hostile]:
    """Requests with the name of the model in their path."""
    for request in requests:
        yield Hostile(request.name, request.body, request.path.replace("{model}", model), request.headers)


def abuse(served: Served, phases: dict[str, Callable[[], Counter[str]]], *, photograph: bytes) -> list[str]:
    """Go through the phases, printing what came of each; returns what is wrong."""
    good, wrong = Good(served.port, photograph), []
    time.sleep(2)
    print(f"before: {served.memory():.0f} MB; {good.phase()}", flush=True)
    for name, phase in phases.items():
        begun = time.perf_counter()
        counts = phase()
        seconds = time.perf_counter() - begun
        time.sleep(1)  # the good requests after it count too
        print(f"{name}: {seconds:.0f} s, {dict(sorted(counts.items()))}; {served.memory():.0f} MB, at most {served.memory('VmHWM'):.0f} MB")
        print(f"    {good.phase()}", flush=True)
        for status, found in counts.items():
            if (status.isdigit() and status >= "500") or status in ("no answer", "STILL OPEN", "nonsense"):
                wrong.append(f"{name}: {found} x {status}")
        if served.process.poll() is not None:
            return [*wrong, f"{name}: the service ended with {served.process.returncode}"]
    good.close()
    if good.late:
        wrong.append(f"{good.late} good requests late or wrong")
    complaints = Counter(re.sub(r"\d+", "N", line)[:200] for line in served.complaints())
    for line, found in complaints.most_common(10):
        print(f"in the log, {found} times: {line}")
    if complaints:
        wrong.append(f"{complaints.total()} lines of the log tell of an error or are no JSON")
    return wrong


if __name__ == "__main__":
    main()
