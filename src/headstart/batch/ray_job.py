"""The parts of a job on a Ray cluster, made by a pool of actors.

Every node must see the run and the images under the same path. Parts go out as lists of names and come back as bytes; this process writes
them, as it does its own, so that a job may be started here and resumed on a cluster, or the other way round. Ray Data would do the same,
but the thread of its executor can outlive the connection, and Ray then ends the whole process without a word.

Anyone who can reach a Ray cluster can run any program on it. So it must be on this machine's loopback address, or require a token. The one
that is started here listens on every address of the machine, as Ray does, and requires a token that only this process and its children
know.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import secrets
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

from headstart.batch.folder import Part
from headstart.batch.job import Compute, Tasks, Work
from headstart.engine import available_cores
from headstart.errors import DataError, HeadstartError, MissingExtraError, ParameterError
from headstart.progress import Listener, Progress
from headstart.run import Run

_RESTARTS = 3  # of a worker that died, and attempts at the part that it had


def on_ray(address: str, sources: Sequence[str | Path], *, listener: Listener | None = None) -> Compute:
    """What `predict_folder` takes as `compute` to have parts made by a Ray cluster, one worker a node that must see `sources`.

    At the address ``local`` Ray is started on this machine alone; ``auto`` is the cluster that this machine belongs to; else ``HOST:PORT``.
    Raises `MissingExtraError` where Ray is not installed, `ParameterError` for a cluster that is open to a network without a token, and
    `DataError` where a node does not see the run or the images.
    """
    if address.startswith("ray://"):
        raise ParameterError(
            f"--ray {address}: Ray's client is not supported. Run this on a machine of the cluster with --ray auto, "
            "or give the HOST:PORT of its head node."
        )
    if address not in ("local", "auto"):
        _check_guarded(address)

    def compute(work: Work, run: Run, tasks: Tasks, progress: Progress) -> Iterator[Part]:
        del run, progress  # each worker opens the run itself; what is done comes back a part at a time
        first = next(tasks, None)
        if first is None:
            return
        with _connected(address) as ray:
            workers, cores = _workers(ray)
            if listener is not None:
                listener.say(f"Ray: {workers} workers with {cores} cores each on {len(_nodes(ray))} nodes.")
            pool = _pool(ray, work, [str(source) for source in sources], workers=workers, cores=cores)
            try:
                yield from _parts(pool, chain([first], tasks))
            except ray.exceptions.RayError as error:
                raise DataError(f"the Ray cluster failed: {str(error).strip().splitlines()[0]} Start again with --resume.") from None

    return compute


def _check_guarded(address: str) -> None:
    """Refuse with a ParameterError a cluster that anyone on the network could use: it is not of this machine, and requires no token."""
    host = address.rpartition(":")[0].strip("[]") or address
    try:
        loopback = all(ipaddress.ip_address(found[4][0]).is_loopback for found in socket.getaddrinfo(host, None))
    except (OSError, ValueError):
        loopback = False
    if not loopback and os.environ.get("RAY_AUTH_MODE") != "token":
        raise ParameterError(
            f"the Ray cluster at {address} is open to its network: anyone who reaches it can run any program there. Start it with tokens "
            "and set RAY_AUTH_MODE=token here too (see Ray's documentation on token authentication), or use --ray local."
        )


@contextmanager
def _connected(address: str) -> Iterator[Any]:
    """Ray, connected to the cluster for as long as the context lasts; no usage statistics are sent."""
    settings = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    if address == "local":
        settings |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    before = {name: os.environ[name] for name in settings if name in os.environ}
    os.environ.update(settings)  # Ray reads them when it is imported
    try:
        ray = _begun(address)
        try:
            yield ray
        finally:
            ray.shutdown()
    finally:
        for name in settings:
            del os.environ[name]
        os.environ.update(before)


def _begun(address: str) -> Any:
    try:
        import ray
    except ImportError:
        raise MissingExtraError("A Ray cluster", extra="ray") from None
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    try:
        if address == "local":
            ray.init("local", num_cpus=available_cores(), include_dashboard=False, **quiet)
        else:
            ray.init(address, **quiet)
            _check_guarded(ray.get_runtime_context().gcs_address)
    except ParameterError:
        ray.shutdown()
        raise
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise ParameterError(f"no Ray cluster answers at {address}: {str(error).strip().splitlines()[0]}") from None
    return ray


def _nodes(ray: Any) -> list[int]:
    """The cores of every node that has some."""
    return [int(node["Resources"]["CPU"]) for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]


def _workers(ray: Any) -> tuple[int, int]:
    """How many workers, and the cores of each: as many as the smallest node has, since an engine uses all cores of its machine."""
    nodes = _nodes(ray)
    if not nodes:
        raise ParameterError("the Ray cluster has no node with a core to spare. Start its nodes with --num-cpus 1 or more.")
    cores = min(nodes)
    return sum(node // cores for node in nodes), cores


def _pool(ray: Any, work: Work, sources: list[str], *, workers: int, cores: int) -> Any:
    from ray.util import ActorPool

    remote = ray.remote(num_cpus=cores, scheduling_strategy="SPREAD", max_restarts=_RESTARTS, max_task_retries=_RESTARTS)(_Worker)
    return ActorPool([remote.remote(work, sources, str(Path.cwd())) for _ in range(workers)])


def _parts(pool: Any, tasks: Tasks) -> Iterator[Part]:
    """Every part, as it is done; a task is taken only when a worker is free for it."""
    for task in tasks:
        if not pool.has_free():
            yield _received(pool)
        pool.submit(lambda worker, task: worker.make.remote(*task), task)
    while pool.has_next():
        yield _received(pool)


def _received(pool: Any) -> Part:
    made = pool.get_next_unordered()
    if isinstance(made, Part):
        return made
    raise DataError(made)


class _Worker:
    """Makes parts on a node of the cluster, which must see `sources`; relative paths start from the folder `here`."""

    def __init__(self, work: Work, sources: list[str], here: str) -> None:
        self._work, self._sources, self._here = work, sources, here
        self._run: Run | None = None

    def make(self, index: int, names: list[str]) -> Part | str:
        """A part, or why it could not be made: Ray would wrap an exception in its own."""
        try:
            return self._work.do(self._opened(), index, names)
        except HeadstartError as error:
            return f"on the node {socket.gethostname()}: {error}"

    def _opened(self) -> Run:
        if self._run is None:
            try:
                os.chdir(self._here)
            except OSError:
                raise DataError(f"there is no folder {self._here}. Every node must see the same folders under the same paths.") from None
            unseen = next((source for source in self._sources if not Path(source).exists()), None)
            if unseen is not None:
                raise DataError(f"{unseen} is not there. Every node must see the images under the same path.")
            self._run = self._work.open()
        return self._run
