"""Run the examples of the README and the pages in docs/, as a reader would, and compare or renew what they print.

    python docs/run_examples.py [--write | --json] [--plain] [PAGE ...]

Of a page, these blocks are run, from top to bottom, in one empty folder with the real images that `prepare` puts there:

* ``python``: all blocks of a page share their names; a ``text`` block right after one is what it printed;
* ``console``: lines that begin with ``$ `` are commands, those that follow are what the command printed.

``<!-- not run: REASON -->`` on the line above a block keeps it from being run. ``sh`` blocks hold what is no example of Headstart
itself (pip, make, git) and are never run. With ``--write`` the printed parts are replaced by what was printed now;
a part that is only ``?`` is filled in, one that is missing stays so, and ``...`` stands for lines left out.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import multiprocessing
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
_FENCE = re.compile(r"^( *)```(\w*)\s*$")
_PLAIN = re.compile(r"headstart ([^|<>&;$`~\\\"'(){}#!\n]|'[^']*')*")  # quotes and patterns of file names apart, nothing for a shell to do
_ready: list[Any] = []
_plain: list[bool] = []
_begun: dict[str, tuple[int, str, Path]] = {}  # by command: what it printed, and the folder as it was left
_NOT_RUN = re.compile(r"^\s*<!-- not run: (.+?) -->\s*$")


@dataclass
class Block:
    """One fenced block of a page.

    Attributes:
        kind: the word after the fence.
        lines: its lines.
        first: index of the first of these in the page.
        skip: the reason for not running it, or "".
        adjacent: whether only empty lines stand between it and the block before.
    """

    kind: str
    lines: list[str]
    first: int
    skip: str = ""
    adjacent: bool = False


@dataclass
class Ran:
    """What a block printed now, beside what the page says that it prints."""

    page: Path
    line: int
    what: str
    documented: list[str]
    printed: list[str] = field(default_factory=list)
    failed: str = ""


def blocks(text: str) -> list[Block]:
    """Return the fenced blocks of a page."""
    found: list[Block] = []
    open_at: int | None = None
    kind, skip, since = "", "", 0
    lines = text.splitlines()
    for number, line in enumerate(lines):
        fence = _FENCE.match(line)
        if open_at is None and fence:
            open_at, kind = number + 1, fence[2]
            reason = _NOT_RUN.match(lines[number - 1]) if number else None
            skip = reason[1] if reason else ""
        elif open_at is not None and fence:
            between = lines[since : open_at - 1]
            found.append(Block(kind, lines[open_at:number], open_at, skip, bool(found) and not any(map(str.strip, between))))
            open_at, since = None, number + 1
    return found


def commands(block: Block) -> list[tuple[str, int, int]]:
    """Return (command, first line of its output, line after it) for each command of a console block; lines count within the block."""
    starts = [number for number, line in enumerate(block.lines) if line.startswith("$ ")]
    found = []
    for start, end in zip(starts, [*starts[1:], len(block.lines)], strict=True):
        stop = start + 1
        while block.lines[stop - 1].endswith("\\"):
            stop += 1
        found.append(("\n".join(block.lines[start:stop])[2:], stop, end))
    return found


def prepare(folder: Path) -> None:
    """Put real images into `folder`: pieces of scikit-learn's two photographs and its handwritten digits, in the forms that pages use."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits, load_sample_images

    def pieces(photo: Any, count: int, seed: int) -> list[Any]:
        random = np.random.default_rng(seed)
        corners = random.integers(0, (photo.shape[0] - 160, photo.shape[1] - 200), (count, 2))
        return [Image.fromarray(photo[y : y + 160, x : x + 200]) for y, x in corners]

    photos = dict(zip(("temple", "flower"), load_sample_images().images, strict=True))
    for name, photo in photos.items():
        for where, count, seed in (("photos", 30, 0), ("newer_photos", 6, 1), ("new_photos", 2, 2)):
            target = folder / where / (name if where != "new_photos" else "")
            target.mkdir(parents=True, exist_ok=True)
            for index, image in enumerate(pieces(photo, count, seed)):
                image.save(target / f"{name}{index:02d}.jpg", quality=90)
    Image.open(folder / "new_photos" / "flower00.jpg").save(folder / "new.jpg")
    rows = [(f"photos/{name}/{name}{index:02d}.jpg", name) for name in photos for index in range(30)]
    with (folder / "list.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "label"), *rows])
    with (folder / "tags.csv").open("w", newline="", encoding="utf-8") as file:
        kinds = {"temple": ("outdoors;building",) * 2, "flower": ("plant", "outdoors;plant")}
        tags = [(path, kinds[label][index % 2]) for index, (path, label) in enumerate(rows)]
        csv.writer(file).writerows([("path", "labels"), *tags])
    _prepare_plates(folder / "plates", photos["temple"])
    _prepare_digits(folder, load_digits())


def _prepare_plates(folder: Path, photo: Any) -> None:
    """Things to inspect, as MVTec AD has them: a piece of a photograph, moved and dimmed a little; some have a scratch."""
    import numpy as np
    from PIL import Image, ImageDraw

    random = np.random.default_rng(3)
    for part, kind, count in (("train", "good", 30), ("test", "good", 10), ("test", "scratched", 10)):
        target, truth = folder / part / kind, folder / "ground_truth" / kind
        target.mkdir(parents=True)
        for index in range(count):
            y, x = random.integers((120, 200), (125, 205))
            image = Image.fromarray((photo[y : y + 160, x : x + 200] * random.uniform(0.93, 1)).astype(np.uint8))
            if kind != "good":
                truth.mkdir(parents=True, exist_ok=True)
                mask, start, step = Image.new("L", image.size), random.integers(20, 120, 2), random.integers(20, 35, 2)
                line = [*start.tolist(), *(start + step).tolist()]
                ImageDraw.Draw(mask).line(line, fill=255, width=5)
                ImageDraw.Draw(image).line(line, fill=(225, 225, 215), width=5)
                mask.save(truth / f"{index:02d}_mask.png")
            image.save(target / f"{index:02d}.jpg", quality=90)


def _prepare_digits(folder: Path, digits: Any) -> None:
    """Handwritten digits: `scans` with the writer in the name; `blurred` and `newer_blurred`, shrunk to 3 x 3, so that mistakes occur.

    `chalk`, in white on black, and `paper`, others in black on white; `cards.csv` lists both, with two columns of labels.
    """
    import numpy as np
    from PIL import Image, ImageOps

    def picture(index: int) -> Any:
        return Image.fromarray(np.rint(digits.images[index] * (255 / 16)).astype(np.uint8))

    for label, name in enumerate(("zero", "one")):
        target = folder / "scans" / name
        target.mkdir(parents=True)
        for count, index in enumerate(np.flatnonzero(digits.target == label)[:32]):
            picture(index).resize((64, 64), Image.Resampling.BICUBIC).save(target / f"writer{8 * label + count // 4}_{count % 4}.png")
    for label, name in ((3, "three"), (5, "five"), (8, "eight"), (9, "nine")):
        for count, index in enumerate(np.flatnonzero(digits.target == label)[:120]):
            target = folder / ("blurred" if count < 80 else "newer_blurred") / name
            target.mkdir(parents=True, exist_ok=True)
            small = picture(index).resize((3, 3), Image.Resampling.BOX)
            small.resize((64, 64), Image.Resampling.BICUBIC).save(target / f"{name}{count:03d}.png")
            target = folder / ("chalk" if count < 60 else "paper") / name
            target.mkdir(parents=True, exist_ok=True)
            whole = picture(index).resize((64, 64), Image.Resampling.BICUBIC)
            (whole if count < 60 else ImageOps.invert(whole)).save(target / f"{name}{count:03d}.png")
    with (folder / "cards.csv").open("w", newline="", encoding="utf-8") as file:
        rows = [
            (path, ground) for where, ground in (("chalk", "dark"), ("paper", "light")) for path in sorted((folder / where).glob("*/*"))
        ]
        table = [(path.relative_to(folder), path.parent.name, "" if row % 3 == 2 else ground) for row, (path, ground) in enumerate(rows)]
        csv.writer(file).writerows([("path", "digit", "ground"), *table])


def tidied(text: str, folder: Path) -> list[str]:
    """Return what was printed as the page shows it: no trace of the folders of this machine."""
    cache = os.environ.get("HEADSTART_CACHE", "")
    for path in {str(folder), str(folder.resolve())}:
        text = text.replace(path + os.sep, "").replace(path, ".")
    if cache:
        text = text.replace(cache, "~/.cache/headstart")
    lines = [line.rstrip() for line in text.splitlines() if not line.startswith("Converting ")]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _run_console(page: Path, block: Block, folder: Path, *, first: bool) -> list[Ran]:
    found = []
    for number, (command, start, stop) in enumerate(commands(block)):
        run = _forked if _ready and _PLAIN.fullmatch(command) else _by_shell
        code, said = _once(run, command, folder) if first and not number else run(command, folder)
        failed = f"exit code {code}:\n{said}" if code else ""
        documented = [line.rstrip() for line in block.lines[start:stop]]
        while documented and not documented[-1]:
            documented.pop()
        found.append(Ran(page, block.first + start + 1, f"$ {command}", documented, tidied(said, folder), failed))
    return found


def _once(run: Callable[[str, Path], tuple[int, str]], command: str, folder: Path) -> tuple[int, str]:
    """The same of a page's first command: in the same folder it does the same, so that it is run for one page and copied for others."""
    if command not in _begun:
        code, said = run(command, folder)
        _begun[command] = (code, said, Path(shutil.copytree(folder, folder.with_name(f"begun{len(_begun)}"))))
        return code, said
    code, said, left = _begun[command]
    shutil.copytree(left, folder, dirs_exist_ok=True)
    return code, said


def _by_shell(command: str, folder: Path) -> tuple[int, str]:
    """Exit code and all that was printed."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    done = subprocess.run(
        [shutil.which("bash") or "sh", "-c", command], cwd=folder, env={**os.environ, "PATH": path, "COLUMNS": "100"}, check=False,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8",
    )  # fmt: skip
    return done.returncode, done.stdout


def _forked(command: str, folder: Path) -> tuple[int, str]:
    """The same of a command of Headstart, from a process that has imported everything: imports would take half of the time."""
    with tempfile.NamedTemporaryFile() as printed:
        process = _ready[0].Process(target=_headstart, args=(_words(command, folder), str(folder), printed.name, bool(_plain)))
        process.start()
        process.join()
        return process.exitcode or 0, Path(printed.name).read_text("utf-8")


def _words(command: str, folder: Path) -> list[str]:
    """The words of a command as a shell passes them on: without quotes, and with the files that a pattern stands for."""
    found: list[str] = []
    for word in shlex.split(command, posix=False):
        pattern = "'" not in word and re.search(r"[*?\[]", word)
        files = [path.relative_to(folder).as_posix() for path in sorted(folder.glob(word))] if pattern else []
        found += files or shlex.split(word)
    return found


def _headstart(command: list[str], folder: str, printed: str, plain: bool) -> None:
    """In a process of its own: what the command of this name does."""
    target = os.open(printed, os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(target, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(folder)
    os.environ["COLUMNS"] = "100"
    sys.argv = command
    if plain:
        show_no_pictures()
    from headstart.cli import main

    main()


def show_no_pictures() -> None:
    """Reports show no test images from now on: their heat maps take half the time of a small fit, and no page prints anything of them."""
    from headstart.report import run_report

    run_report.cards_of = lambda *_, **__: {}
    _plain.append(True)


def compile_templates() -> None:
    """Do once what each process that writes a report would do."""
    from headstart.report.page import environment

    for name in environment().list_templates(extensions=["html", "svg"]):
        environment().get_template(name)


def make_ready() -> None:
    """Start the process from which `_forked` forks, where the system can."""
    if "forkserver" in multiprocessing.get_all_start_methods():
        context = multiprocessing.get_context("forkserver")
        ours = [f"headstart.{name}" for name in ("cli", "pipeline", "explanation", "run", "reliability", "report.page")]
        context.set_forkserver_preload(
            ["__main__", *ours, "jinja2", "onnx", "openvino", "PIL.Image", "pydantic", "rich.progress", "sklearn.tree"]
        )
        _ready.append(context)


def _run_python(page: Path, block: Block, names: dict[str, Any], folder: Path) -> Ran:
    ran = Ran(page, block.first + 1, "python", [])
    printed = io.StringIO()
    before = Path.cwd()
    os.chdir(folder)
    sys.path.insert(0, str(folder))  # as of a program there
    try:
        code = compile("\n" * block.first + "\n".join(block.lines), str(page), "exec")
        with contextlib.redirect_stdout(printed):
            exec(code, names)  # noqa: S102 - the project's own documentation
    except Exception as error:
        ran.failed = f"{type(error).__name__}: {error}"
    finally:
        os.chdir(before)
        sys.path.remove(str(folder))
    ran.printed = tidied(printed.getvalue(), folder)
    return ran


def run_page(page: Path, folder: Path, *, write: bool = False) -> list[Ran]:
    """Run the examples of one page in `folder`.

    Args:
        page: a Markdown file.
        folder: an empty folder with what `prepare` makes.
        write: replace the printed parts in the page.
    """
    text = page.read_text(encoding="utf-8")
    names: dict[str, Any] = {"__name__": "__main__"}
    found: list[Ran] = []
    changes: list[tuple[int, int, list[str]]] = []  # lines of the page to replace
    last: Ran | None = None
    for block in blocks(text):
        runnable = not block.skip
        if block.kind == "python" and runnable:
            last = _run_python(page, block, names, folder)
            found.append(last)
            continue
        if block.kind == "text" and block.adjacent and last is not None:
            last.documented = list(block.lines)
            changes.append((block.first, block.first + len(block.lines), last.printed))
        if block.kind == "console" and runnable:
            ran = _run_console(page, block, folder, first=not found)
            found += ran
            for one, (_, start, stop) in zip(ran, commands(block), strict=True):
                if one.documented:
                    changes.append((block.first + start, block.first + stop, one.printed))
        last = None
    if write and not any(one.failed for one in found):
        lines = text.splitlines()
        for start, stop, new in reversed(changes):
            lines[start:stop] = _elided(lines[start:stop], new)
        page.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return found


def _elided(old: list[str], new: list[str]) -> list[str]:
    """Keep a page's ``...``: what stood before and after it keeps its number of lines. A single ``?`` asks for everything."""
    if "..." not in old:
        return [*new, ""] if old and not old[-1].strip() else new
    place = old.index("...")
    after = len([line for line in old[place + 1 :] if line.strip()])
    blank = [""] if old and not old[-1].strip() else []
    return [*new[:place], "...", *(new[-after:] if after else []), *blank]


def alike(documented: list[str], printed: list[str]) -> list[str]:
    """Return the documented lines that were not printed, figures and spaces apart."""

    def masked(line: str) -> str:
        if line.startswith("time "):
            return "time"  # which stages took long enough to be named differs from machine to machine
        return " ".join(re.sub(r"\d[\d.,]*(e-?\d+)?", "#", line).split())

    there = {masked(line) for line in printed}
    return [line for line in documented if line.strip() and line != "..." and masked(line) not in there]


def main() -> int:
    """Run the pages named, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", type=Path)
    parser.add_argument("--write", action="store_true", help="renew what the pages say is printed")
    parser.add_argument("--json", action="store_true", help="print what was run as JSON, a line for each page, and compare nothing")
    parser.add_argument("--plain", action="store_true", help="write reports without test images, which saves time")
    options = parser.parse_args()
    if options.plain:
        show_no_pictures()
    make_ready()
    wrong = 0
    with tempfile.TemporaryDirectory() as temporary:
        os.environ.setdefault("HEADSTART_CACHE", f"{temporary}/cache")
        prepared = Path(temporary, "prepared")
        prepare(prepared)
        for number, page in enumerate(options.pages or PAGES):
            folder = Path(shutil.copytree(prepared, Path(temporary, f"page{number}")))
            found = run_page(page.resolve(), folder, write=options.write)
            if options.json:
                print(json.dumps([asdict(ran) for ran in found], default=str), flush=True)
                continue
            for ran in found:
                differing = alike(ran.documented, ran.printed)
                wrong += bool(ran.failed)
                state = f"FAILED {ran.failed}" if ran.failed else f"{len(differing)} lines differ" if differing else "ok"
                print(f"{page.name}:{ran.line}: {ran.what.splitlines()[0][:90]}: {state}")
                for line in differing if not options.write else ():
                    print(f"    - {line}")
    return min(wrong, 1)


if __name__ == "__mp_main__":  # the process from which commands are forked
    compile_templates()
if __name__ == "__main__":
    raise SystemExit(main())
