"""The application: its commands, and what all of them do with errors and interruptions."""

from __future__ import annotations

import functools
import importlib
import os
import sys
from collections.abc import Callable
from typing import Annotated, Any, ParamSpec

import typer

import headstart
from headstart.errors import HeadstartError, InputError, MissingExtraError

COMMANDS = ("fit", "predict", "evaluate", "check", "backbones", "cache", "demo")
"""In the order in which ``--help`` lists them; each is registered by the module of its name."""

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130
_P = ParamSpec("_P")

application = typer.Typer(
    name="headstart",
    help="From a folder of labelled images to a tested classifier, in seconds.",
    epilog="Start with:  headstart demo   then:  headstart fit YOUR_FOLDER",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
)

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print the result only.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Print more; show the traceback of unexpected errors.")]
CacheFolder = Annotated[
    str | None,
    typer.Option(
        "--cache", metavar="DIR", help="Folder for features and networks. [default: $HEADSTART_CACHE, else the user's cache folder]"
    ),
]


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"headstart {headstart.__version__}")
        raise typer.Exit


@application.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """From a folder of labelled images to a tested classifier, in seconds."""


def guarded(command: Callable[_P, None]) -> Callable[_P, None]:
    """Turn what goes wrong in a command into a sentence on stderr and an exit code.

    2 for bad input or a missing optional part, 1 for any other failure, 130 for Ctrl-C.
    """

    @functools.wraps(command)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except (InputError, MissingExtraError) as error:
            _stop(str(error), BAD_INPUT)
        except HeadstartError as error:
            _stop(str(error), FAILED)
        except KeyboardInterrupt:
            _stop("Interrupted. What was finished is kept: the same command goes on from there.", INTERRUPTED, label="")
        except BrokenPipeError:
            # The reader of a pipe went away, as `head` does. Python would complain again while flushing at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        except MemoryError:
            _stop("Out of memory.", FAILED)
        except OSError as error:
            _stop(str(error), FAILED)
        except Exception as error:
            if kwargs.get("verbose"):
                raise
            _stop(
                f"{type(error).__name__}: {error}\nThis is a bug in Headstart. Run again with -v for the traceback, and report it.", FAILED
            )

    return run


def _stop(message: str, code: int, *, label: str = "Error: ") -> Any:
    typer.echo(f"{label}{message}", err=True)
    raise typer.Exit(code) from None


def main() -> None:
    """Entry point of the ``headstart`` command."""
    for name in COMMANDS:
        importlib.import_module(f"headstart.cli.{name}_command")
    application()
