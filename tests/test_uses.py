"""Later uses of the test part: each is written down with what it was, none is invented, and nothing that is damaged stops anybody."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from headstart import evaluate_run, load
from headstart.errors import ParameterError
from headstart.modalities.image import image_digest
from headstart.report import Report, model_card, page, report_of
from headstart.run import Run, Use, check_target, record_use, uses_of
from headstart.run.uses import USES
from headstart.sections import Bullets

Cli = Callable[..., Any]
USE = Use(when="2031-05-06T07:08:09+00:00", data="photos", images=12, tested=10, trained=0, accuracy=0.75)


@pytest.fixture
def folder(run: Path, tmp_path: Path) -> Path:
    """A run that may be looked at."""
    return Path(shutil.copytree(run, tmp_path / "run"))


@pytest.fixture
def far(run: Path, tmp_path: Path) -> Path:
    """One that is far from its pictures, whose report is quick."""
    return Path(shutil.copytree(run, tmp_path / "far" / "away" / "run"))


def parts_of(run: Path) -> tuple[list[Path], list[Path]]:
    opened = load(run)
    return [run / name for name in opened.training_names], [run / name for name in opened.test_names]


def listed(images: list[Path]) -> Path:
    """A list of images, with the labels that their folders say."""
    file = Path("some.csv")
    rows = [f"{image},{image.parent.name}" for image in images]
    file.write_text("\n".join(["path,label", *rows]), encoding="utf-8")
    return file


# the file


def test_what_is_written_down_is_read_again_in_order(tmp_path: Path) -> None:
    assert uses_of(tmp_path) == ()
    uses = tuple(replace(USE, data=f"photos {number}", accuracy=number / 10) for number in range(5))
    assert all(record_use(tmp_path, use) for use in uses)
    assert uses_of(tmp_path) == uses
    assert (tmp_path / USES).read_text("utf-8").count("\n") == 5


def test_the_time_is_now_where_none_is_given(tmp_path: Path) -> None:
    record_use(tmp_path, replace(USE, when=""))
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", uses_of(tmp_path)[0].when)


@pytest.mark.parametrize("name", ["a\nb", "caf\u00e9", "line\u2028end", "next\x85line", 'quoted "x"', "\\udcff", "\t"])
def test_names_of_any_kind(tmp_path: Path, name: str) -> None:
    record_use(tmp_path, replace(USE, data=name))
    record_use(tmp_path, USE)
    assert uses_of(tmp_path) == (replace(USE, data=name), USE)


def test_a_name_that_is_not_utf_8_can_be_printed_and_reported(tmp_path: Path) -> None:
    record_use(tmp_path, replace(USE, data="phot\udcffs"))
    sentence = uses_of(tmp_path)[0].sentence()
    sentence.encode("utf-8")
    assert "phot\\udcffs" in sentence


def test_a_use_in_words() -> None:
    assert USE.sentence() == "2031-05-06: evaluated on 12 images of photos (10 of them from the test part): accuracy 0.7500"
    learned = replace(USE, trained=2).sentence()
    assert "(10 of them from the test part, and 2 that it had learned from)" in learned


GOOD = json.dumps({"when": "2031-05-06", "data": "x", "images": 3, "tested": 2, "trained": 0, "accuracy": 0.5})


@pytest.mark.parametrize(
    "line",
    [
        b"", b"{", b"null", b"5", b"[]", b'"text"', b"\xff\xfe\x00", b"[" * 100_000, b"{}", GOOD[: len(GOOD) // 2].encode(),
        GOOD.replace('"images": 3, ', "").encode(), GOOD.replace('"images"', '"pictures"').encode(),
        GOOD.replace("0.5", '"high"').encode(), GOOD.replace("0.5", "null").encode(), GOOD.replace('"2031-05-06"', "7").encode(),
        GOOD.replace('"x"', "[1]").encode(),
    ],
)  # fmt: skip
def test_damaged_lines_are_passed_over(tmp_path: Path, line: bytes) -> None:
    """And with them nothing else."""
    (tmp_path / USES).write_bytes(GOOD.encode() + b"\n" + line + b"\n" + GOOD.encode() + b"\n")
    good = Use(**json.loads(GOOD))
    assert uses_of(tmp_path) == (good, good)


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    assert not record_use(tmp_path / "absent", USE)
    (tmp_path / USES).mkdir()
    assert not record_use(tmp_path, USE)
    assert uses_of(tmp_path) == ()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="nothing is read-only for root")
def test_a_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        assert not record_use(tmp_path, USE)
    finally:
        tmp_path.chmod(0o700)


def test_a_run_that_was_looked_at_can_be_replaced(folder: Path) -> None:
    """The list of uses is Headstart's own, and no stranger's file."""
    assert record_use(folder, USE)
    check_target(folder)  # which raises where something would be lost
    assert uses_of(load(folder).path) == (USE,)


# what the run has seen


def test_images_are_known_by_their_bytes_and_not_their_names(run: Path, tmp_path: Path) -> None:
    opened = load(run)
    training, test = parts_of(run)
    moved = [Path(shutil.copy(path, tmp_path / f"{number}.bin")) for number, path in enumerate([*training[:3], *test[:2]])]
    assert opened.seen([image_digest(path.read_bytes()) for path in moved]) == (3, 2)
    changed = np.asarray(Image.open(test[0])).copy()
    changed[0, 0, 0] ^= 1
    Image.fromarray(changed).save(tmp_path / test[0].name)
    assert opened.seen([image_digest((tmp_path / test[0].name).read_bytes())]) == (0, 0)
    assert opened.seen([]) == (0, 0)


def test_copies_are_counted_as_images(run: Path) -> None:
    """Three copies of a test image are three of the images that somebody looks at."""
    training, test = (image_digest(paths[0].read_bytes()) for paths in parts_of(run))
    assert load(run).seen([test, test, training, test]) == (1, 3)


# headstart evaluate


def test_a_look_at_the_test_part_is_written_down(cli: Cli, folder: Path) -> None:
    done = cli("evaluate", folder, folder / "split.csv", "--part", "test", "--out", "scores.json")
    assert done.code == 0
    assert "12 of these images are the run's own test images. This use of them was recorded in the run." in done.err
    (use,) = uses_of(folder)
    accuracy = load(folder).metrics["test_accuracy"]
    assert use == Use(when=use.when, data=str(folder / "split.csv"), images=12, tested=12, trained=0, accuracy=accuracy)
    scores = json.loads(Path("scores.json").read_text("utf-8"))
    assert scores["seen"] == {"trained": 0, "tested": 12}
    assert scores["reliability"] == load(folder).manifest.story["reliability_test"]
    assert re.search(r"Prediction sets: mean size .* of the images .*; 95\.0 % was asked for\.", done.out)


def test_python_has_what_the_command_says(folder: Path) -> None:
    found = evaluate_run(folder, folder / "split.csv")
    assert (found.trained, found.tested, found.evaluation.images) == (*map(len, parts_of(folder)), len(found.predictions))
    assert found.to_dict()["reliability"]["images"] == found.evaluation.images
    assert found.sentences[0].startswith("Prediction sets: ")
    assert uses_of(folder)[0].trained == found.trained
    with pytest.raises(ParameterError, match="part='all': must be train, val or test"):
        evaluate_run(load(folder), folder / "split.csv", part="all")


def test_images_that_it_has_learned_from_are_told(cli: Cli, folder: Path) -> None:
    training, test = parts_of(folder)
    done = cli("evaluate", folder, listed([*training[:7], *training[40:44], *test[:1], *test[-1:]]))
    assert "The run has learned from 11 of these 13 images: the score is too high. Test on other images." in done.err
    (use,) = uses_of(folder)
    assert (use.images, use.tested, use.trained) == (13, 2, 11)


def test_other_images_are_nobodys_business(cli: Cli, folder: Path) -> None:
    """Neither new images nor training images alone are a look at the test part."""
    for image in parts_of(folder)[1]:
        new = Path("new", image.parent.name, image.name)
        new.parent.mkdir(parents=True, exist_ok=True)
        Image.open(image).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(new)
    done = cli("evaluate", folder, "new")
    assert done.code == 0
    assert "written down" not in done.err
    assert "learned from" not in done.err
    cli("evaluate", folder, folder / "split.csv", "--part", "train")
    assert not (folder / USES).exists()


def test_a_run_that_cannot_be_written_to_is_evaluated_all_the_same(cli: Cli, folder: Path) -> None:
    (folder / USES).mkdir()
    done = cli("evaluate", folder, folder / "split.csv", "--part", "test")
    assert done.code == 0
    assert "This could not be recorded: the run is read-only." in done.err
    assert done.out.splitlines()[-1].endswith("on 12 images")


def told(report: Report) -> tuple[Any, ...]:
    section = next((section for section in report.sections if section.anchor == "uses"), None)
    return () if section is None else tuple(item for block in section.blocks if isinstance(block, Bullets) for item in block.items)


def test_the_report_and_the_card_say_it(far: Path) -> None:
    before = report_of(load(far))
    assert told(before) == ()
    uses = (USE, replace(USE, when="2032-01-01T00:00:00+00:00", data="<b>phot\udcffs", trained=3))
    for use in uses:
        record_use(far, use)
    with (far / USES).open("a", encoding="utf-8") as file:
        file.write("damaged\n")
    report = report_of(load(far))
    assert told(report) == tuple(use.sentence() for use in uses)
    html = page(report)
    assert USE.sentence() in html
    assert "&lt;b&gt;phot\\udcffs" in html
    assert USE.sentence() not in page(before)
    for text in (html, model_card(report)):
        text.encode("utf-8")


def test_an_opened_run_sees_what_is_written_down_later(far: Path) -> None:
    opened: Run = load(far)
    record_use(far, USE)
    assert told(report_of(opened)) == (USE.sentence(),)
