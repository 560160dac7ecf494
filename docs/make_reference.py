"""Write the pages of docs/reference/ that come from the code: cli.md, api.md, backbones.md, errors.md.

python docs/make_reference.py             writes them
python docs/make_reference.py --check     writes nothing; exit code 1 if one of them is out of date
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import headstart

REFERENCE = Path(__file__).parent / "reference"
NOTICE = "<!-- Written by docs/make_reference.py from the code. Do not edit: run `make docs`. -->\n"
FURTHER = {
    "Predictions": "headstart.tasks",
    "ClassPredictions": "headstart.tasks.classification.predictions",
    "Manifest": "headstart.run",
    "Audit": "headstart.audit",
    "Finding": "headstart.audit",
    "Plan": "headstart.audit",
    "DeepAudit": "headstart.pipeline",
    "Recommendation": "headstart.pipeline.recommending",
    "Recommended": "headstart.pipeline.recommending",
    "Explanation": "headstart.explanation",
    "Comparison": "headstart.evaluate",
    "RunEvaluation": "headstart.evaluate",
}
"""What the public functions return, by the module that it is imported from."""

_WIDE = 110
_SECTIONS = ("Args", "Returns", "Raises", "Attributes", "Yields")


# --- the command line ---------------------------------------------------------------------------------------------------------


def commands() -> dict[str, Any]:
    """Every command by the words that call it; groups are included."""
    import typer

    from headstart.cli import application
    from headstart.cli.application import register_commands

    register_commands()
    found: dict[str, Any] = {}

    def add(words: str, command: Any) -> None:
        found[words] = command
        for name, below in getattr(command, "commands", {}).items():
            add(f"{words} {name}", below)

    add("headstart", typer.main.get_command(application))
    return found


def help_text(words: str) -> str:
    """Return what ``WORDS --help`` prints, 100 columns wide at most."""
    from typer.testing import CliRunner

    from headstart.cli import application

    commands()
    environment = {"COLUMNS": "100", "TERMINAL_WIDTH": "100", "NO_COLOR": "1", "LC_ALL": "C.UTF-8"}
    result = CliRunner(env=environment).invoke(application, [*words.split()[1:], "--help"], prog_name="headstart")
    if result.exit_code:
        raise RuntimeError(f"{words} --help: {result.output}")
    return "\n".join(line.rstrip() for line in result.output.strip().splitlines())


def cli_page() -> str:
    """Return the page of the command line."""
    found = commands()
    toc = "\n".join(f"- [`{words}`](#{words.replace(' ', '-')})" for words in found)
    parts = [
        NOTICE,
        "# Command line\n",
        "Results go to standard output, everything else to standard error: progress on a terminal, plain lines in a pipe. "
        "Exit codes: 0 done, 1 failed, 2 the input or an option cannot be used, 130 interrupted with Ctrl-C.\n",
        toc + "\n",
    ]
    for words in found:
        parts += [f"## {words}\n", f"```text\n{help_text(words)}\n```\n"]
    return "\n".join(parts)


# --- the Python interface -----------------------------------------------------------------------------------------------------


def _plain(text: str) -> str:
    """Docstring text as Markdown: double backquotes become single ones."""
    return text.replace("``", "`")


def _section(name: str, lines: list[str]) -> Iterator[str]:
    """An ``Args:`` section and its like as a list."""
    yield f"\n*{name}*\n"
    for line in inspect.cleandoc("\n".join(lines)).splitlines():
        entry = re.match(r"([\w*., ]{1,120}?): (.*)", line)
        if line.startswith(" ") or entry is None:
            yield ("  " if line.startswith(" ") else "- " if name not in ("Returns", "Yields") else "") + _plain(line.strip())
        else:
            yield f"- `{entry[1]}`: {_plain(entry[2])}"


def docstring(thing: Any) -> str:
    """Return a docstring as Markdown."""
    lines = (inspect.getdoc(thing) or "").splitlines()
    out: list[str] = []
    i = 0
    while i < len(lines):
        heading = re.fullmatch(r"(\w+):", lines[i])
        if heading and heading[1] in _SECTIONS:
            end = i + 1
            while end < len(lines) and (not lines[end].strip() or lines[end].startswith(" ")):
                end += 1
            out += _section(heading[1], lines[i + 1 : end])
            i = end
        else:
            out.append(_plain(lines[i]))
            i += 1
    return "\n".join(out).strip()


def signature(thing: Any, *, called: str = "") -> str:
    """Return the arguments after `called`, one a line where they are many; annotations as they stand in the code."""
    try:
        text = str(inspect.signature(thing))
    except (TypeError, ValueError):
        return called
    text = re.sub(r"(: |-> )(?:'([^']*)'|\"([^\"]*)\")", lambda match: match[1] + (match[2] or match[3]), text)
    text = re.sub(r"\((self|cls)(, )?", "(", text, count=1)
    text = re.sub(r"np\.ndarray\[Any, np\.dtype\[([\w.]+)\]\]", r"NDArray[\1]", text).replace("npt.", "").replace("headstart.", "")
    text = re.sub(r"<factory>|<object object at 0x\w+>", "...", text)
    text = re.sub(r"<(?:function|class) '?([\w.]+)'?(?: at 0x\w+)?>", r"\1", text)
    text = text.removesuffix(" -> None")
    if len(called + text) <= _WIDE:
        return called + text
    inside, _, after = text[1:].rpartition(")")
    return f"{called}(\n" + "".join(f"    {argument},\n" for argument in _split(inside)) + f"){after}"


def _split(arguments: str) -> list[str]:
    """Split at the commas that stand in no bracket."""
    found, depth = [""], 0
    for letter in arguments:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and not depth:
            found.append("")
        else:
            found[-1] += letter
    return [argument.strip() for argument in found]


def _members(cls: type) -> Iterator[tuple[str, Any]]:
    """The public methods and properties that a class defines itself, in their order."""
    for name, member in vars(cls).items():
        target = getattr(member, "__func__", member)
        is_property = isinstance(target, property) or hasattr(target, "func")
        if not name.startswith("_") and (inspect.isfunction(target) or is_property):
            yield name, target


def _entry(name: str, thing: Any, *, level: str) -> Iterator[str]:
    if inspect.isclass(thing) and not (issubclass(thing, tuple) and not thing.__module__.startswith("headstart")):
        error = issubclass(thing, Exception)
        yield f"{level} {name}\n"
        if not error:
            yield f"```text\n{signature(thing, called=name)}\n```\n"
        yield docstring(thing) + "\n"
        parents = [f"`{b.__name__}`" for b in thing.__mro__[1:] if b.__module__.startswith("headstart") and inspect.getdoc(b)]
        if parents and not error:
            yield f"Further methods: those of {', '.join(parents)}.\n"
        for member, target in _members(thing) if not error else ():
            is_property = isinstance(target, property) or hasattr(target, "func")
            shown = f".{member}" if is_property else signature(target, called=f".{member}")
            text = docstring(getattr(target, "func", target))
            yield (f"**`{shown}`**\n" if "\n" not in shown else f"```text\n{shown}\n```\n") + f"\n{text}\n"
    elif inspect.isroutine(thing) or hasattr(thing, "__wrapped__"):
        yield f"{level} {name}\n"
        yield f"```text\n{signature(thing, called=name)}\n```\n"
        yield docstring(thing) + "\n"
    else:
        yield f"{level} {name}\n"
        yield f"`{name} = {_value(thing)}`\n"


def _value(thing: Any) -> str:
    if isinstance(thing, dict):
        return "{" + ", ".join(map(repr, thing)) + "}"
    if isinstance(thing, frozenset):
        return "{" + ", ".join(sorted(map(repr, thing))) + "}"
    if isinstance(thing, tuple) and thing and callable(thing[0]):
        return "(" + ", ".join(one.__name__ for one in thing) + ")"
    return re.sub(r"numpy\.ndarray\[.*\]", "NDArray", repr(thing))


def public_names() -> list[str]:
    """Every name with an entry: those of ``headstart``, and what its functions return."""
    return [*headstart.__all__, *FURTHER]


def api_page() -> str:
    """Return the page of the Python interface."""
    out = [
        NOTICE,
        "# Python interface\n",
        "These names are imported from `headstart` itself, on first use, and are the whole public interface:\n",
        ", ".join(f"[`{name}`](#{name.lower()})" for name in headstart.__all__ if name != "__version__") + "\n",
        "What their functions return is described [at the end](#what-these-return). Everything else is internal and may change without "
        "notice; its docstrings are the reference, and [architecture](../explanation/architecture.md) says where things are.\n",
    ]
    for name in headstart.__all__:
        if name == "__version__":
            out += ["## \\_\\_version\\_\\_\n", "The version, text.\n"]
        else:
            out += _entry(name, getattr(headstart, name), level="##")
    out.append("## What these return\n")
    for name, module in FURTHER.items():
        out += _entry(name, getattr(importlib.import_module(module), name), level="###")
    return "\n".join(out)


# --- tables -------------------------------------------------------------------------------------------------------------------


def backbones_page() -> str:
    """Return the page of the catalogue."""

    def number(value: float | None, scale: float = 1, digits: int = 1) -> str:
        return "-" if value is None else f"{value / scale:.{digits}f}"

    star = " \\*"
    rows = [
        (
            f"`{r.name}`{star if r.embedded else ''}", ", ".join(r.aliases) or "-", number(r.parameters, 1e6), number(r.gflops, 1, 2),
            number(r.depth, 1, 0), str(r.input_size), number(r.dim, 1, 0), number(r.file_size, 1e6, 0), number(r.top1), number(r.top5),
            r.licence or "-",
        )
        for r in headstart.catalogue()
    ]  # fmt: skip
    read_in = {(r.accuracy_source or "").partition(", tested at")[0] for r in headstart.catalogue()} - {""}
    return "\n".join(
        [
            NOTICE,
            "# Backbones\n",
            "`headstart backbones` prints this table, `headstart backbones NAME` names the source of every figure of one. "
            "`headstart backbones --all` lists every network of the installed timm (this needs `headstart[torch]`).\n",
            "- \\* comes with Headstart and works offline. The others are downloaded at their first use, by `headstart[torch]`.",
            "- Case and punctuation of a name do not matter: `ResNet50`, `resnet-50` and `resnet50` are the same.",
            "- **GFLOPs**: for one image of the input size; a multiplication and an addition are two operations.",
            "- **depth**: layers with weights on the longest way from input to output. **features**: of the last layer.",
            "- **top-1, top-5**: ImageNet accuracy in per cent, as published. `-`: no published figure was found.\n",
            "| name | also called | M parameters | GFLOPs | depth | input px | features | MB | top-1 | top-5 | licence |",
            "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---|",
            *(f"| {' | '.join(row)} |" for row in rows),
            "",
            "Accuracies were read in:\n",
            *(f"- {source}" for source in sorted(read_in)),
            "",
        ]
    )


def errors_page() -> str:
    """Return the page of the errors: the tree of the module's docstring, then each class."""
    from headstart import errors

    text = inspect.getdoc(errors) or ""
    first, _, rest = text.partition("\n\n")
    tree, _, after = rest.partition("\n\n")
    out = [NOTICE, "# Errors\n", _plain(first) + "\n", f"```text\n{inspect.cleandoc(tree)}\n```\n", _plain(after) + "\n"]
    out.append(
        "On the command line an `InputError` or a `MissingExtraError` ends with exit code 2, any other error with 1.\n\n"
        "`ParameterError` is also a `ValueError`, and `MissingExtraError` an `ImportError`.\n"
    )
    for name, thing in vars(errors).items():
        if inspect.isclass(thing) and issubclass(thing, errors.HeadstartError):
            bases = " and ".join(f"`{base.__name__}`" for base in thing.__bases__)
            out += [f"## {name}\n", f"A kind of {bases}.\n", docstring(thing) + "\n"]
    return "\n".join(out)


def pages() -> dict[Path, str]:
    """Every generated page with its text."""
    made = {"cli.md": cli_page(), "api.md": api_page(), "backbones.md": backbones_page(), "errors.md": errors_page()}
    return {REFERENCE / name: text.rstrip() + "\n" for name, text in made.items()}


def outdated() -> list[Path]:
    """Return the pages on disk that are not what would be written now."""
    return [path for path, text in pages().items() if not path.is_file() or path.read_text(encoding="utf-8") != text]


def main() -> int:
    """Write or check the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    if parser.parse_args().check:
        old = outdated()
        for path in old:
            print(f"{os.path.relpath(path)} is out of date: run `make docs`", file=sys.stderr)
        return min(len(old), 1)
    REFERENCE.mkdir(exist_ok=True)
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
        print(os.path.relpath(path))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
