"""What a hurried person gets wrong on the command line: each has its sentence, and exit code 2."""

from __future__ import annotations

import ast
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

import headstart
from headstart.cli.application import application, register_commands

RESULT = re.compile(r"test accuracy (\d\.\d{4}) \[(\d\.\d{4}), (\d\.\d{4})\] on (\d+) images?")
Cli = Callable[..., Any]


def refused(cli: Cli, message: str, *arguments: Any) -> Any:
    """The result of a command that ends with exit code 2 and a message in which the pattern is found."""
    done = cli(*arguments)
    assert done.code == 2, (arguments, done.err)
    assert re.search(message, done.err, re.DOTALL), (arguments, done.err)
    return done


def test_wrong_data(cli: Cli, pictures: Path, run: Path, photo: Path) -> None:
    shutil.copytree(pictures, "photos")
    Path("empty").mkdir()
    Path("notes.txt").write_text("hello")
    Path("photos.zip").write_bytes(b"PK")
    shutil.copytree(pictures / "rings", "one/rings")
    Path("bad/a").mkdir(parents=True)
    Path("bad/b").mkdir(parents=True)
    for name in "ab":
        for index in range(3):
            Path(f"bad/{name}/{index}.jpg").write_bytes(b"nothing")
    for data, message in {
        "photo": "there is no file or folder 'photo'.* Did you mean photos",
        "nowhere/photos": "there is no file or folder",
        "empty": "the folder empty is empty. The layout must be",
        "photos/rings": "20 images lie directly in photos/rings, and there are no class folders",
        "one": "there is one class only|no class folders",
        "bad": "None of the 6 images can be read. The first: bad/a/0.jpg: not an image",
        "photos.zip": "is an archive; unpack it",
        "https://example.org/x.zip": "is an address; .*download them first",
        "torchvisoin:Flowers102": "Did you mean torchvision",
        str(photo): "is a single image; give the folder that holds the class folders",
        str(run): "is a run folder, which an earlier `headstart fit` wrote.*headstart predict",
        "": "there is no file or folder|is empty",
    }.items():
        refused(cli, message, "fit", data)
        assert not Path("runs").exists()


def test_wrong_options(cli: Cli, pictures: Path) -> None:
    Path("file").write_text("")
    Path("mine").mkdir()
    Path("mine/thesis.txt").write_text("")
    for options, message in {
        ("--backbone", "resnet500"): r"There is no backbone 'resnet500'.*Did you mean (ResNet|resnet)50",
        ("--head", "kernel-rige"): r"--head must be one of .*Did you mean kernel_ridge",
        ("--engine", "cuda"): r"--engine must be one of auto, openvino, onnxruntime, torch, got 'cuda'",
        ("--fit-image", "stretch"): r"--fit-image must be one of crop, squash, got 'stretch'",
        ("--class-weight", "equal"): r"--class-weight must be 'balanced'",
        ("--test-share", "1.5"): r"--test-share must be a number above 0 and below 1, got 1.5",
        ("--folds", "1"): r"--folds must be 0 \(none\) or a whole number of at least 2, got 1",
        ("--folds", "1000"): r"1000 folds need at least 1000 images",
        ("--folds", "many"): r"Invalid value for '--folds'",
        ("--seed", "-1"): r"--seed must be a whole number",
        ("--shard", "3/2"): r"--shard must be i/n with i from 1 to n",
        ("--shard", "1/2", "--no-cache"): r"cannot be combined with --no-cache",
        ("--group-from", "(("): r"is not a regular expression",
        ("--group-from", "xyz(1)"): r"xyz",
        ("--test", "nowhere"): r"there is no file or folder 'nowhere'",
        ("--test", str(pictures)): r"60 images are in the training data and in the test data",
        ("--weights", "absent.pth"): r"absent.pth: no such weight file",
        ("--weights", "file"): r"file",
        ("--cache", "file"): r"cache must be a folder, and .*file is a file",
        ("--out", "mine"): r"mine is a folder that is not an earlier run; it is left as it is",
        ("--out", "file"): r"file is a file; it is left as it is",
        ("--out", "file/run"): r"file is a file. Choose another --out",
        ("--otu", "x"): r"No such option: --otu",
    }.items():
        done = refused(cli, message, "fit", pictures, *options)
        assert "bug" not in done.err


def test_wrong_predictions(cli: Cli, run: Path, pictures: Path, photo: Path) -> None:
    Path("empty").mkdir()
    for arguments, message in {
        (photo, run): rf"is the run: it comes first. Type: headstart predict .*{run.name}",
        (pictures, photo): r"not a run folder \(it has no manifest.json\)",
        (run.parent, photo): rf"It holds the runs {run.name}: give one of them",
        (run.with_name("picturse"), photo): r"no such run folder. Did you mean pictures",
        (photo, photo): r"is a file and not a run folder",
        (run, "absent.jpg"): r"absent.jpg: no such file or folder",
        (run, pictures / "rings" / "rings 0.png"): r"Did you mean rings \d\d.png",
        (run, "empty"): r"no images at any depth below this folder",
        (run,): r"Missing argument",
        (run, photo, "--top", "0"): r"top must be a whole number of at least 1, got 0",
        (run, photo, "--format", "xml"): r"format must be one of table, csv, json, coco, coco-polygons, voc, yolo, got 'xml'",
        (run, photo, "--format", "coco"): r"classification has no format 'coco': use table, csv or json",
        (run, photo, "--out", "masks"): r"the task classification predicts none. For a table add --batch",
        (run, photo, "--overlay"): r"--overlay is for pictures, which are written into a folder: give it as --out DIR",
        (run, photo, "--engine", "tpu"): r"Engine must be one of auto, openvino, onnxruntime",
    }.items():
        done = refused(cli, message, "predict", *arguments)
        assert done.out == ""


def test_wrong_evaluations_and_checks(cli: Cli, run: Path, pictures: Path) -> None:
    for arguments, message in {
        ("evaluate", pictures, run): r"is the run: it comes first. Type: headstart evaluate",
        ("evaluate", run, pictures, "--part", "tset"): r"--part tset: must be train, val or test",
        ("evaluate", run, pictures, "--part", "test"): r"no images in the part 'test'",
        ("evaluate", run, pictures, "--out", "no/such.json"): r"there is no folder .*here/no",
        ("evaluate", run, pictures, "--picture", "."): r"it is a folder. Give the name of a file",
        ("check", pictures, "--out", "no/such.json"): r"no/such.json cannot be written",
        ("check", "nowhere"): r"there is no file or folder 'nowhere'",
        ("cache", "show", "--cache", "nowhere"): r"no features are stored there yet",
        ("cache", "merge", "nowhere"): r"nowhere",
        ("cache", "prune", "--older-than", "-1"): r"older_than|older-than|days",
    }.items():
        done = cli(*arguments)
        assert done.code in (1, 2), (arguments, done.err)
        assert re.search(message, done.err, re.DOTALL), (arguments, done.err)
        assert "bug" not in done.err


@pytest.mark.slow
def test_a_cache_that_cannot_be_written(cli: Cli, pictures: Path, run: Path, photo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("file").write_text("")
    monkeypatch.setenv("HEADSTART_CACHE", str(Path("file/cache").absolute()))
    done = cli("fit", pictures, "--head", "centroid", "--out", "run", "-q")
    assert done.code == 0, done.err
    assert RESULT.fullmatch(done.out.strip())
    assert done.err.count("Warning") == 1
    assert "Continuing without storing features" in done.err
    assert cli("predict", run, photo).code == 0
    assert cli("fit", pictures, "--shard", "1/2").code == 1


SAID = re.compile(r"[`']headstart ([a-z][a-z-]*(?: [a-z][a-z-]*)?(?![\w/]))((?: (?:--?[a-z][a-z-]*|[A-Z_]+))*)")
FLAG = re.compile(r"(?<![\w<!-])--[a-z][a-z-]*[a-z](?![\w-])")
OTHERS = {
    "--help",
    "--local-dir",
    "--write-png",
    "--data-binary",
    "--logdir",
    "--num-cpus",
    "--rate",
}  # of other programs, or in an example


def _texts() -> list[str]:
    """Every text in the package, docstrings included, whose parts that are computed are a dash."""
    texts = []
    for file in Path(headstart.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                texts.append("".join(str(part.value) if isinstance(part, ast.Constant) else "-" for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return texts


def _options() -> dict[str, set[str]]:
    """The options of each command."""
    register_commands()
    found: dict[str, set[str]] = {}
    waiting = [("", typer.main.get_command(application))]
    while waiting:
        name, command = waiting.pop()
        found[name] = {flag for parameter in command.params for flag in parameter.opts if flag.startswith("-")}
        waiting += [(f"{name} {below}".strip(), one) for below, one in getattr(command, "commands", {}).items()]
    return found


def test_commands_and_options_that_texts_name_are_there() -> None:
    options, unknown = _options(), set[str]()
    every = {flag for flags in options.values() for flag in flags} | OTHERS
    for text in _texts():
        for name, rest in SAID.findall(text):
            command = name if name in options else name.split()[0]
            if command not in options:
                unknown.add(f"headstart {name}")
            unknown |= {f"headstart {command} {flag}" for flag in FLAG.findall(rest) if flag not in options.get(command, every)}
        unknown |= {flag for flag in FLAG.findall(text) if flag not in every}
    assert not unknown


def test_advice_is_a_command_that_works(cli: Cli, run: Path, pictures: Path, photo: Path) -> None:
    spaced, changed = Path("a run"), Path("changed")
    for copy in (spaced, changed):
        shutil.copytree(run, copy)
    with (changed / "report.html").open("a") as page:
        page.write(" ")
    for arguments, advice in {
        ("predict", photo, run): "Type: (headstart predict .*)",
        ("evaluate", pictures, run): "Type: (headstart evaluate .*)",
        ("fit", spaced): "To use it: (headstart predict .*)",
        ("check", pictures, "--fix", "p.json"): "Type: (headstart check .*)",
        ("fit", pictures, "--plan", "gone.json"): "`(headstart check .*)` writes one",
        ("predict", changed, photo): "Write it anew with: (headstart report .*)",
        ("cache", "show", "--cache", "nowhere"): "`(headstart fit)` stores them",
        ("predict", run, photo, "--out", "t.csv"): "add (--batch), or",
        ("predict", run, photo, "--batch"): r"for example (--out predictions\.csv|--out predictions\.parquet)",
        ("fit", pictures, "--head", "kernel-rige"): "Did you mean (kernel_ridge)",
    }.items():
        words = shlex.split(re.search(advice, refused(cli, advice, *arguments).err)[1])  # type: ignore[index]
        if words[0] == "kernel_ridge":
            words = [*map(str, arguments[:-1]), *words]
        elif words[0] != "headstart":
            words = [*map(str, arguments), *words]
        else:
            words = [{"IMAGE": str(photo), "DATA": str(pictures), "FILE": "new.json"}.get(word, word) for word in words[1:]]
            words += [str(pictures), "--head", "centroid", "--out", "R"] if words == ["fit"] else []
        done = cli(*words)
        assert done.code == 0, (words, done.err)
    assert cli("predict", changed, photo).code == 0
