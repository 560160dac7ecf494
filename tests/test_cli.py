"""The command line as a person meets it: what is printed where, exit codes, and a sentence for everything a hurried person gets wrong."""

from __future__ import annotations

import csv
import importlib
import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer

from headstart.run import load

app = importlib.import_module("headstart.cli.application")  # the package has the Typer object under this name

RESULT = re.compile(r"test accuracy (\d\.\d{4}) \[(\d\.\d{4}), (\d\.\d{4})\] on (\d+) images?")
Cli = Callable[..., Any]


# fit


def test_fit_ends_with_the_result_and_nothing_else_is_asked(cli: Cli, pictures: Path) -> None:
    done = cli("fit", pictures)
    assert done.code == 0
    last = done.out.splitlines()[-1]
    match = RESULT.fullmatch(last)
    assert match, last
    run = Path("runs") / pictures.name
    metrics = json.loads((run / "manifest.json").read_text("utf-8"))["metrics"]
    told = [
        f"{metrics['test_accuracy']:.4f}",
        *(f"{bound:.4f}" for bound in metrics["test_accuracy_interval"]),
        str(metrics["test_images"]),
    ]
    assert list(match.groups()) == told
    assert "\x1b" not in done.out + done.err
    assert done.err.startswith("Reading the data\n")
    assert "head      " in done.out
    assert f"next      headstart predict {run} IMAGE" in done.out
    assert cli("fit", pictures, "-q").out == last + "\n"
    assert (Path("runs") / f"{pictures.name}-2" / "manifest.json").exists()  # nothing was replaced unasked
    assert json.loads((run / "manifest.json").read_text("utf-8"))["provenance"]["command"] == f"headstart fit {pictures}"


def test_quiet_and_verbose(cli: Cli, pictures: Path) -> None:
    quiet = cli("fit", pictures, "--head", "centroid", "--out", "a", "-q")
    assert RESULT.fullmatch(quiet.out.strip())
    assert quiet.err == ""
    verbose = cli("fit", pictures, "--head", "centroid", "--out", "a", "-v")
    assert re.search(r"Choosing the head: \d+\.\d\d s", verbose.err)


def test_fit_takes_heads_as_people_write_them(cli: Cli, pictures: Path) -> None:
    assert cli("fit", pictures, "--head", "kernel-ridge", "-q", "--out", "a").code == 0
    assert "kernel_ridge" in (Path("a") / "manifest.json").read_text("utf-8")


def test_folds_groups_and_columns(cli: Cli, pictures: Path) -> None:
    rows = [f"{path},{path.parent.name},{path.stem[-1]}" for path in sorted(pictures.glob("*/*.png"))]
    Path("list.csv").write_text("\n".join(["where,what,who", *rows]), encoding="utf-8")
    done = cli(
        "fit", "list.csv", "--head", "centroid", "--folds", "3", "--column", "path=where", "--column", "label=what", "--column", "group=who"
    )
    assert done.code == 0, done.err
    assert re.search(r"folds     cross-validated accuracy \d\.\d{4} \[", done.out)
    assert "held out by group" in done.out
    assert Path("runs/list/manifest.json").exists()
    wrong = cli("fit", "list.csv", "--column", "label:what")
    assert (wrong.code, wrong.err) == (
        2,
        "Error: --column takes path=NAME, text=NAME, pair=NAME, translation=NAME, label=NAME, split=NAME or group=NAME (pair=, "
        "split=, group= for none); got 'label:what'.\n",
    )


def test_refused_images_are_told(cli: Cli, pictures: Path) -> None:
    shutil.copytree(pictures, "data")
    Path("data/rings/broken.jpg").write_bytes(b"\xff\xd8\xff rubbish")
    done = cli("fit", "data", "--head", "centroid")
    assert done.code == 0
    assert "Warning: 1 of 61 images cannot be read and are left out:\n  " in done.err
    assert "left out  1 unreadable image, listed in the run's manifest.json" in done.out


def test_a_leak_is_told_before_the_score(cli: Cli, pictures: Path) -> None:
    shutil.copytree(pictures, "data/train")
    shutil.copytree(pictures, "data/test")
    done = cli("fit", "data", "--head", "centroid")
    assert "Warning: 60 test images are exact copies of training images" in done.err
    assert "beware    do not trust the score until this is resolved: 60 test images" in done.out


def test_a_fit_inside_the_data_folder(cli: Cli, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(pictures, "data")
    monkeypatch.chdir("data")
    for name in ("data", "data-2"):
        done = cli("fit", ".", "--head", "centroid", "-q")
        assert RESULT.fullmatch(done.out.strip())
        assert load(Path("runs") / name).classes == ("checks", "rings", "stripes")


@pytest.mark.slow
def test_shards(cli: Cli, pictures: Path) -> None:
    for index in (1, 2):
        done = cli("fit", pictures, "--shard", f"{index}/2", "--cache", f"c{index}", "-q")
        assert done.code == 0
        assert done.out.startswith(f"shard {index}/2: 30 images, 30 computed now, stored in ")
        assert done.out.count("\n") == 1
    merged = cli("cache", "merge", "c1", "c2/features.sqlite", "--cache", "both")
    assert [line.split(": ")[1] for line in merged.out.splitlines()] == ["30 added, 0 already there"] * 2
    shown = cli("cache", "show", "--cache", "both")
    assert "60 images" in shown.out
    assert cli("fit", pictures, "--cache", "both", "--head", "centroid", "-q").code == 0
    assert cli("cache", "verify", "--cache", "both").out.startswith("60 vectors are intact, 0 are damaged\n")
    pruned = cli("cache", "prune", "--older-than", "0", "--cache", "both")
    assert pruned.code == 0
    assert cli("cache", "show", "--cache", "nothing").err.startswith("Error: ")


def test_damage_that_is_not_repaired_is_a_failure(cli: Cli, pictures: Path) -> None:
    import sqlite3

    cli("fit", pictures, "--shard", "1/6", "--cache", "c", "-q")
    with sqlite3.connect("c/features.sqlite") as store:
        table = next(name for (name,) in store.execute("SELECT name FROM sqlite_master WHERE type='table' AND sql LIKE '%vector%'"))
        store.execute(f"UPDATE {table} SET vector = zeroblob(length(vector)) WHERE rowid IN (SELECT rowid FROM {table} LIMIT 1)")
    store.close()
    done = cli("cache", "verify", "--cache", "c")
    assert (done.code, "9 vectors are intact, 1 are damaged" in done.out) == (1, True)
    assert cli("cache", "verify", "--repair", "--cache", "c").code == 0
    assert cli("cache", "verify", "--cache", "c").code == 0


# predict


def test_predict_as_a_table(cli: Cli, run: Path, photo: Path) -> None:
    done = cli("predict", run, photo)
    assert done.code == 0
    assert re.fullmatch(re.escape(str(photo)) + r" +rings \d\.\d{4}\n", done.out)
    assert done.err == ""
    top = cli("predict", run, photo, "--top", "9").out
    assert len(re.findall(r"\d\.\d{4}", top)) == 3


def test_a_run_that_was_replaced_is_not_mixed_up_with_the_old_one(cli: Cli, pictures: Path, photo: Path) -> None:
    """The engine keeps what it compiled, and must know one model from the other though their path is the same."""
    shutil.copytree(pictures, "data")
    for name in ("rings", "stripes"):
        assert cli("fit", "data", "--head", "centroid", "--out", "run", "-q").code == 0
        assert f" {name} " in cli("predict", "run", photo).out
        for old, new in (("rings", "x"), ("stripes", "rings"), ("x", "stripes")):
            Path("data", old).rename(Path("data", new))


def test_predict_as_csv(cli: Cli, run: Path, pictures: Path) -> None:
    Path('odd,name "x".png').write_bytes((pictures / "checks" / "checks 00.png").read_bytes())
    Path("broken.png").write_bytes(b"no image")
    done = cli("predict", run, pictures / "rings", 'odd,name "x".png', "broken.png", "--format", "csv", "--top", "2")
    assert done.code == 0
    assert done.out.startswith("path,label,probability,")
    rows = list(csv.DictReader(io.StringIO(done.out)))
    assert len(rows) == 22
    assert rows[20]["path"] == 'odd,name "x".png'
    assert rows[20]["label"] == "checks"
    assert float(rows[0]["probability"]) >= float(rows[0]["probability_2"]) > 0
    assert (rows[21]["label"], rows[21]["probability"]) == ("", "")
    assert rows[21]["error"].startswith("not an image of a known format")
    assert "Warning: 1 of 22 images cannot be read and have no prediction:\n  broken.png: not an image" in done.err


def test_predict_as_json(cli: Cli, run: Path, photo: Path) -> None:
    Path("broken.png").write_bytes(b"no image")
    done = cli("predict", run, "broken.png", photo, "--format", "json", "--top", "2")
    found = json.loads(done.out)
    assert found[0]["path"] == "broken.png"
    assert "label" not in found[0]
    assert found[1]["label"] == "rings"
    assert found[1]["top"][0]["label"] == "rings"


def test_nothing_that_can_be_read_is_bad_input(cli: Cli, run: Path) -> None:
    Path("notes.png").write_text("dear diary")
    done = cli("predict", run, "notes.png")
    assert done.code == 2
    assert "notes.png  refused: not an image of a known format" in done.out
    assert "bug" not in done.err


def test_names_that_would_move_the_cursor(cli: Cli, run: Path, photo: Path) -> None:
    name = "a\x1b[2J\n.png"
    shutil.copy(photo, name)
    assert "\x1b" not in cli("predict", run, name).out
    for kind in ("one\x1b[2J", "two"):
        (Path("data") / kind).mkdir(parents=True)
        for index in range(3):
            shutil.copy(photo, Path("data") / kind / f"{index}\x1b.png")
            (Path("data") / kind / f"{index}\x1b.heic").touch()
    for words in (
        ("check", "data"),
        ("fit", "data", "--head", "centroid"),
        ("fit", "data\x1b"),
        ("fit", "data/two"),
        ("predict", run, "data"),
    ):
        assert "\x1b" not in cli(*words).err


def test_several_labels(cli: Cli, pictures: Path, photo: Path) -> None:
    rows = [f"{path},{path.parent.name};seen" for path in sorted(pictures.glob("*/*.png"))]
    rows += [f"{Path(shutil.copy(photo, f'copy {index}.png'))}," for index in range(1)]
    Path("list.csv").write_text("\n".join(["path,label", *rows]), encoding="utf-8")
    assert cli("fit", "list.csv", "--head", "ridge", "--out", "many", "-q").code == 0
    assert "rings" in next(csv.DictReader(io.StringIO(cli("predict", "many", photo, "--format", "csv").out)))["label"].split(";")
    assert "rings" in json.loads(cli("predict", "many", photo, "--format", "json").out)[0]["label"]


# evaluate, check, backbones, demo


def test_evaluate(cli: Cli, run: Path, pictures: Path) -> None:
    done = cli("evaluate", run, run / "split.csv", "--part", "test", "--out", "scores.json", "--picture", "matrix.png")
    assert done.code == 0
    metrics = load(run).metrics
    assert done.out.splitlines()[-1] == f"test accuracy {metrics['test_accuracy']:.4f} " + (
        "[{:.4f}, {:.4f}] on 12 images".format(*metrics["test_accuracy_interval"])
    )
    assert json.loads(Path("scores.json").read_text("utf-8"))["accuracy"] == metrics["test_accuracy"]
    assert Path("matrix.png").read_bytes().startswith(b"\x89PNG")
    quiet = cli("evaluate", run, pictures, "-q")
    assert RESULT.fullmatch(quiet.out.strip())


def test_evaluate_on_strange_classes(cli: Cli, run: Path, pictures: Path) -> None:
    shutil.copytree(pictures / "rings", "data/rings")
    shutil.copytree(pictures / "checks", "data/cheks")
    done = cli("evaluate", run, "data")
    assert done.code == 2
    assert "cheks" in done.err
    assert "Did you mean checks?" in done.err


def test_check(cli: Cli, pictures: Path) -> None:
    shutil.copytree(pictures, "data")
    shutil.copy("data/rings/rings 00.png", "data/checks/same.png")
    done = cli("check", "data", "--out", "findings.json")
    assert done.code == 0
    assert "exact copies of files in another class" in done.out
    assert json.loads(Path("findings.json").read_text("utf-8"))["images"] == 61
    assert cli("check", "data", "-q").out == done.out.splitlines()[-1] + "\n"


def test_backbones(cli: Cli) -> None:
    table = cli("backbones", "--sort", "top1").out
    assert "tf_efficientnet_lite0 *" in table
    shown = cli("backbones", "VGG16")
    assert shown.code == 0
    assert "138.36 million" in shown.out
    assert cli("backbones", "VGG17").err.startswith("Error: There is no backbone 'VGG17'")
    assert cli("backbones", "--sort", "beauty").err.startswith("Error: Backbones cannot be sorted by 'beauty'. Allowed: ")


def test_demo(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    import headstart.cli.recipe_command as demo

    monkeypatch.setattr(demo, "_EACH", 6)
    done = cli("demo")
    assert done.code == 0, done.err
    assert "Wrote 60 scanned digits" in done.out
    assert "headstart fit YOUR_FOLDER" in done.out
    assert RESULT.fullmatch(done.out.splitlines()[-1])
    quiet = cli("demo", "-q")
    assert RESULT.fullmatch(quiet.out.strip())
    Path("file").write_text("")
    assert cli("demo", "--out", "file/x").code == 2
    Path("mine/run").mkdir(parents=True)
    Path("mine/run/thesis.txt").write_text("")
    assert "left as it is" in cli("demo", "--out", "mine").err


# Help, errors, completion


@pytest.mark.parametrize("command", [*app.COMMANDS, "cache show", "cache verify", "cache prune", "cache merge"])
def test_help_of_every_command_has_an_example(cli: Cli, command: str) -> None:
    for option in ("--help", "-h"):
        done = cli(*command.split(), option)
        assert done.code == 0
        assert re.search(rf"Examples?:\s+headstart {command}", done.out), done.out


def test_help_of_the_whole(cli: Cli) -> None:
    done = cli("--help")
    assert done.code == 0
    assert all(re.search(rf"^  {name} .*[^.]\.$", done.out, re.MULTILINE) for name in app.COMMANDS), done.out
    assert "headstart demo" in done.out
    assert re.fullmatch(r"headstart \d+\.\d+\.\d+\n", cli("--version").out)
    nothing = cli()
    assert "Usage:" in nothing.out + nothing.err
    assert cli("fit").code == 2
    assert cli("fti", "x").code == 2


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "Interrupted. Finished work is kept; run the same command again to resume."),
        (MemoryError(), 1, "Error: Out of memory."),
        (OSError(28, "No space left on device", "/x"), 1, "Error: /x: No space left on device"),
        (OSError("odd"), 1, "Error: odd"),
        (BrokenPipeError(), 0, ""),
        (ZeroDivisionError("division"), 1, "Error: ZeroDivisionError: division\nThis is a bug in Headstart. Run again with -v"),
        (typer.Exit(3), 3, ""),
    ],
)
def test_what_goes_wrong_is_one_sentence_and_a_code(
    error: BaseException, code: int, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(terminal: object) -> None:
        raise error

    monkeypatch.setattr("os.dup2", lambda *_: None)
    monkeypatch.setattr("sys.stdout", SimpleNamespace(fileno=lambda: 1, write=print, flush=lambda: None))
    with pytest.raises(typer.Exit) as caught:
        app.guarded(fail)()
    assert caught.value.exit_code == code
    assert capsys.readouterr().err.startswith(said)
    if isinstance(error, ZeroDivisionError):
        with pytest.raises(ZeroDivisionError):
            app.guarded(fail)(verbose=True)


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["."], "headstart fit ."),
        ([".", "--seed", "1"], "headstart fit . --seed 1"),
        (["fit"], ""),
        (["--help"], ""),
        (["nothing"], ""),
        ([], ""),
    ],
)
def test_a_folder_in_place_of_a_command(arguments: list[str], hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert app._hint_for_a_path(arguments).partition("Did you mean: ")[2] == hint


def test_a_run_in_place_of_a_command(run: Path) -> None:
    assert app._hint_for_a_path([str(run)]).endswith(f"headstart predict {run} IMAGE")
    assert app._hint_for_a_path([str(run), "x.jpg"]).endswith(f"headstart predict {run} x.jpg")
