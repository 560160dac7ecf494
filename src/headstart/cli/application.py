"""The application: its commands, and what all of them do with errors and interruptions."""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

import headstart
from headstart.cli.options import expanded
from headstart.cli.terminal import Terminal
from headstart.errors import HeadstartError, InputError, MissingExtraError, options_typed
from headstart.files import WRITTEN, writable
from headstart.text import visible_lines

COMMANDS = {
    "fit": "fit_command", "lr-find": "fit_command", "predict": "predict_command", "evaluate": "run_commands", "explain": "predict_command",
    "serve": "serve_command", "export": "export_commands", "report": "run_commands", "compare": "run_commands", "check": "data_commands",
    "recommend": "recommend_command", "backbones": "backbones_command", "fetch": "backbones_command", "recipe": "recipe_command",
    "cache": "data_commands", "bench": "export_commands", "demo": "recipe_command",
}  # fmt: skip
"""In the order in which ``--help`` lists them, each with the module that registers it."""

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130
_CONTEXT = {"help_option_names": ["-h", "--help"]}

application = typer.Typer(
    name="headstart",
    help="From a folder of labelled images to a tested classifier, in seconds.",
    epilog="Start with:  headstart demo   then:  headstart fit YOUR_FOLDER",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings=_CONTEXT,
    rich_markup_mode=None,
)


def command_group(name: str, short: str | None = None, *, help: str, examples: str) -> typer.Typer:
    """Add a command that has commands of its own."""
    group = typer.Typer(
        name=name, help=help, epilog=f"\b\nExamples:{examples}", short_help=short, no_args_is_help=True, rich_markup_mode=None,
        context_settings=_CONTEXT,
    )  # fmt: skip
    application.add_typer(group)
    return group


def command(name: str, short: str | None = None, *, group: typer.Typer = application) -> Callable[[Callable[..., None]], Any]:
    """Make a function a command. Its docstring is the text of ``--help``, where the part from "Example" on keeps its lines."""

    def register(function: Callable[..., None]) -> Any:
        text, _, examples = inspect.cleandoc(function.__doc__ or "").partition("\n\nExample")
        return group.command(name=name, help=text, epilog=f"\b\nExample{examples}", short_help=short)(guarded(function))

    return register


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"headstart {headstart.__version__}")
        raise typer.Exit


@application.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """From a folder of labelled images to a tested classifier, in seconds."""


def guarded(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command a `Terminal` and the options of its settings, and turn what goes wrong in it into a sentence and an exit code.

    2 for bad input or a missing optional part, 1 for any other failure, 130 for Ctrl-C.
    """
    signature, arguments = expanded(command)

    @functools.wraps(command)
    def run(*, quiet: bool = False, verbose: bool = False, **typed: Any) -> None:
        try:
            with options_typed(), Terminal(quiet=quiet, verbose=verbose) as terminal:
                command(terminal, **arguments(typed))
        except (typer.Exit, typer.Abort):
            raise
        except (InputError, MissingExtraError) as error:
            _stop(f"Error: {error}", BAD_INPUT)
        except HeadstartError as error:
            _stop(f"Error: {error}", FAILED)
        except KeyboardInterrupt as interrupted:
            _stop(str(interrupted) or "Interrupted. Finished work is kept; run the same command again to resume.", INTERRUPTED)
        except BrokenPipeError:
            # The reader of a pipe went away, as `head` does. Python would complain again while flushing at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        except MemoryError:
            _stop("Error: Out of memory.", FAILED)
        except OSError as error:
            named = f"{error.filename}: " if error.filename else ""
            _stop(f"Error: {named}{error.strerror or error}", FAILED)
        except Exception as error:
            if verbose:
                raise
            bug = "This is a bug in Headstart. Run again with -v for the traceback, and report it."
            _stop(f"Error: {type(error).__name__}: {error}\n{bug}", FAILED)

    run.__signature__ = signature  # type: ignore[attr-defined]
    run.__annotations__ = {name: parameter.annotation for name, parameter in signature.parameters.items()}
    return run


def _stop(message: str, code: int) -> Any:
    typer.echo(visible_lines(message), err=True)
    raise typer.Exit(code) from None


def write_json(path: Path, value: Any) -> None:
    """Write a file that the user asked for, an object or a list of these; ParameterError if it cannot be written."""
    value = [{**one, "about": WRITTEN} for one in value] if isinstance(value, list) else {**value, "about": WRITTEN}
    with writable(path):
        path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8", errors="backslashreplace")


def _prepare_streams() -> None:
    """Let nothing that is printed fail: not for the names of files, not for the encoding of the terminal, not for closed streams."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115 - stays open to the end
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _hint_for_a_path(arguments: list[str]) -> str:
    """What was meant by ``headstart photos/``."""
    first = arguments[0] if arguments else ""
    if not first or first.startswith("-") or first in COMMANDS or not os.path.exists(first):  # noqa: PTH110 - any text is allowed
        return ""
    given = shlex.join(arguments)
    is_a_run = os.path.isfile(os.path.join(first, "manifest.json"))  # noqa: PTH113, PTH118
    meant = f"predict {given} IMAGE" if is_a_run and len(arguments) == 1 else f"predict {given}" if is_a_run else f"fit {given}"
    return f"There is no command {first!r}. Did you mean: headstart {meant}"


def register_commands(only: str | None = None) -> None:
    """Import the modules of all commands, or of one, which add them to the application."""
    for module in dict.fromkeys(COMMANDS.values() if only is None else [COMMANDS[only]]):
        importlib.import_module(f"headstart.cli.{module}")
    order = list(COMMANDS)
    application.registered_commands.sort(key=lambda command: order.index(command.name or ""))


def main() -> None:
    """Entry point of the ``headstart`` command."""
    _prepare_streams()
    try:
        if hint := _hint_for_a_path(sys.argv[1:]):
            typer.echo(f"Error: {hint}", err=True)
            sys.exit(BAD_INPUT)
        first = sys.argv[1] if len(sys.argv) > 1 else ""
        register_commands(first if first in COMMANDS else None)
        application()
    except KeyboardInterrupt:  # before or after the command itself
        sys.exit(INTERRUPTED)
