"""``headstart serve``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from headstart.cli.application import command
from headstart.cli.options import OptionsOf, Typed, split_typed
from headstart.cli.terminal import Terminal
from headstart.errors import MissingExtraError
from headstart.settings.serving import Limits, ServerSettings


@command("serve", "A web page and an HTTP service around saved runs.")
def serve_command(
    terminal: Terminal,
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders that `headstart fit` wrote; each is a model of that name.")],
    typed: Annotated[Typed, OptionsOf((ServerSettings, Limits))],
) -> None:
    """Serve saved runs: a web page at /, predictions at POST /predict, the Open Inference Protocol at /v2, the list of routes at /docs.

    It listens on this machine only; any other address needs a token. Runs that are rewritten are reloaded without interruption. The
    log on stderr has one JSON object a line. Ctrl-C or SIGTERM ends it after the requests in progress.

    Examples:
      headstart serve runs/photos
      headstart serve runs/photos runs/xrays --port 9000
      headstart serve runs/photos --host 0.0.0.0 --token-file token.txt
    """
    # Before NumPy is imported: its products are small here, and its threads would take the cores from the engine.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    own, limits = split_typed(typed, Limits)
    settings = ServerSettings(runs=tuple(runs), limits=Limits.around(**limits), **own)
    try:
        from headstart.serve.server import serve
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("headstart"):
            raise
        raise MissingExtraError("Serving", extra="serve") from None
    serve(settings, announce=lambda address: terminal.result(f"Serving at {address}  (Ctrl-C ends it)"))
