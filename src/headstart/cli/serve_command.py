"""``headstart serve``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from headstart.cli.application import application, guarded
from headstart.cli.options import Verbose

_EXAMPLES = """\b
Examples:
  headstart serve runs/photos
  headstart serve runs/photos runs/xrays --port 9000
  headstart serve runs/photos --host 0.0.0.0 --token-file token.txt
"""


@application.command(name="serve", epilog=_EXAMPLES, short_help="A web page and an HTTP service around saved runs.")
@guarded
def serve_command(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders that `headstart fit` wrote; each is a model of that name.")],
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Where to listen; other addresses than this machine's own need --token-file.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="N", help="0 for any that is free.")] = 8000,
    token_file: Annotated[Path | None, typer.Option(metavar="FILE", help="Holds the token that clients must send.")] = None,
    cors: Annotated[
        list[str] | None,
        typer.Option(metavar="ORIGIN", help="A web page of this address may send requests too, such as https://example.org; repeatable."),
    ] = None,
    workers: Annotated[
        int, typer.Option(metavar="N", help="Processes; each has its own copy of the runs, and its own limits.")
    ] = 1,
    max_body: Annotated[str, typer.Option(metavar="SIZE", help="Of one request.")] = "10MB",
    max_images: Annotated[int, typer.Option(metavar="N", help="In one request.")] = 64,
    max_waiting: Annotated[int, typer.Option(metavar="N", help="Images queued; half of them from one client address.")] = 256,
    max_connections: Annotated[int, typer.Option(metavar="N", help="Open at the same time; three quarters of them from one client address.")] = 512,
    header_seconds: Annotated[float, typer.Option(metavar="S", help="For the headers of a request to arrive.")] = 10.0,
    body_seconds: Annotated[float, typer.Option(metavar="S", help="For its body to arrive.")] = 30.0,
    answer_seconds: Annotated[float, typer.Option(metavar="S", help="For predicting.")] = 30.0,
    engine: Annotated[str, typer.Option(metavar="NAME", help="auto, openvino or onnxruntime.")] = "auto",
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
    body = read_bytes(max_body)
    limits = Limits(
        body=body,
        bodies=max(Limits.bodies, body),
        images=max_images,
        explained=min(Limits.explained, max_images),
        waiting=max_waiting,
        waiting_per_client=max(max_images, max_waiting // 2),
        connections=max_connections,
        connections_per_client=max(1, max_connections * 3 // 4),
        header_seconds=header_seconds,
        body_seconds=body_seconds,
        answer_seconds=answer_seconds,
    )
    settings = ServerSettings(
        runs=tuple(runs),
        host=host,
        port=port,
        token_file=token_file,
        origins=tuple(cors or ()),
        engine=engine,
        workers=workers,
        limits=limits,
    )
    serve(settings, announce=_announce)


def _announce(address: str) -> None:
    typer.echo(f"Serving at {address}  (Ctrl-C ends it)")
