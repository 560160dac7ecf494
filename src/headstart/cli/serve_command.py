"""``headstart serve``."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from headstart.cli.application import application, guarded
from headstart.cli.options import Verbose
from headstart.settings.field import PATH, TEXT, Limit, Settings, list_of, option

_EXAMPLES = """\b
Examples:
  headstart serve runs/photos
  headstart serve runs/photos runs/xrays --port 9000
  headstart serve runs/photos --host 0.0.0.0 --token-file token.txt
"""


_CHECKED_LATER = Limit("a value", lambda value: True)
"""`ServerSettings` and `Limits` check the values, and name the option or the limit."""


@dataclass(frozen=True, kw_only=True)
class ServeOptions(Settings):
    """The options of the command."""

    host: str = option("127.0.0.1", "Where to listen; any but this machine's own addresses need --token-file.", TEXT, metavar="ADDRESS")
    port: int = option(8000, "0 for any that is free.", _CHECKED_LATER, metavar="N")
    token_file: Path | None = option(None, "Holds the token that clients must send.", PATH, metavar="FILE")
    cors: tuple[str, ...] = option(
        (), "A web page of this address may send requests too, such as https://example.org; repeatable.", list_of(TEXT),
        metavar="ORIGIN", several=True,
    )  # fmt: skip
    workers: int = option(1, "Processes; each has its own copy of the runs, and its own limits.", _CHECKED_LATER, metavar="N")
    max_body: str = option("10MB", "Of one request.", TEXT, metavar="SIZE")
    max_images: int = option(64, "In one request.", _CHECKED_LATER, metavar="N")
    max_waiting: int = option(256, "Images queued; half of them from one client address.", _CHECKED_LATER, metavar="N")
    max_connections: int = option(512, "Open at once; three quarters of them from one client address.", _CHECKED_LATER, metavar="N")
    header_seconds: float = option(10.0, "For the headers of a request to arrive.", _CHECKED_LATER, metavar="S")
    body_seconds: float = option(30.0, "For its body to arrive.", _CHECKED_LATER, metavar="S")
    answer_seconds: float = option(30.0, "For predicting.", _CHECKED_LATER, metavar="S")
    engine: str = option("auto", "auto, openvino or onnxruntime.", TEXT, metavar="NAME")


@application.command(name="serve", epilog=_EXAMPLES, short_help="A web page and an HTTP service around saved runs.")
@guarded
def serve_command(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders that `headstart fit` wrote; each is a model of that name.")],
    options: ServeOptions,
    verbose: Verbose = False,
) -> None:
    """Serve saved runs: a web page at /, predictions at POST /predict, the Open Inference Protocol at /v2, the list of routes at /docs.

    It listens on this machine only; any other address needs a token. Runs that are rewritten are reloaded without interruption. The
    log on stderr has one JSON object a line. Ctrl-C or SIGTERM ends it after the requests in progress.
    """
    from headstart.errors import MissingExtraError

    # Before NumPy is imported: its products are small here, and its threads would take the cores from the engine.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        from headstart.serve.limits import Limits, read_bytes
        from headstart.serve.server import ServerSettings, serve
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("headstart"):
            raise
        raise MissingExtraError("Serving", extra="serve") from None
    body, images = read_bytes(options.max_body), options.max_images
    limits = Limits(
        body=body,
        bodies=max(Limits.bodies, body),
        images=images,
        explained=min(Limits.explained, images),
        waiting=options.max_waiting,
        waiting_per_client=max(images, options.max_waiting // 2),
        connections=options.max_connections,
        connections_per_client=max(1, options.max_connections * 3 // 4),
        header_seconds=options.header_seconds,
        body_seconds=options.body_seconds,
        answer_seconds=options.answer_seconds,
    )
    settings = ServerSettings(
        runs=tuple(runs), host=options.host, port=options.port, token_file=options.token_file, origins=options.cors,
        engine=options.engine, workers=options.workers, limits=limits,
    )  # fmt: skip
    serve(settings, announce=_announce)


def _announce(address: str) -> None:
    typer.echo(f"Serving at {address}  (Ctrl-C ends it)")
