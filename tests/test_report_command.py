"""``headstart report``: from the run alone it writes what `fit` wrote, with what has happened since; and it mends a damaged page."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from headstart import FitSettings, fit, load
from headstart.errors import RunError
from headstart.files import file_digest
from headstart.report import report_of, run_report
from headstart.run import PAGES, Use, record_use, replace_pages
from headstart.run.manifest import digest_of as manifest_digest
from headstart.run.record import FitRecord
from headstart.sections import Card, Gallery
from headstart.tasks.classification import sections
from headstart.tasks.classification.sections import RIGHT, ClassificationTest

pytestmark = pytest.mark.cards
Cli = Callable[..., Any]
USE = Use(when="2031-05-06T07:08:09+00:00", data="photos", images=12, tested=10, trained=0, accuracy=0.75)


@pytest.fixture
def folder(run: Path, tmp_path: Path) -> Path:
    """A run beside whose place the pictures still are: a folder deep, as the first one is."""
    return Path(shutil.copytree(run, run.parent / f"{tmp_path.name}"))


@pytest.fixture
def far(run: Path, tmp_path: Path) -> Path:
    """A run that was taken away from its pictures."""
    return Path(shutil.copytree(run, tmp_path / "far" / "away" / "run"))


def state(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def text(folder: Path, name: str = "report.html") -> str:
    return (folder / name).read_text("utf-8")


def without_digests(folder: Path) -> dict[str, Any]:
    """The manifest without what must change with the pages."""
    manifest = json.loads(text(folder, "manifest.json"))
    files = {name: digest for name, digest in manifest["files"].items() if name not in PAGES}
    assert set(manifest["files"]) - set(files) == set(PAGES)
    return {**manifest, "files": files, "digest": ""}


def facts_of(folder: Path) -> ClassificationTest:
    """What the report of a run is made of."""
    run = load(folder)
    return sections.tested(run, run.record, cards=partial(run_report.cards_of, run, sources=run_report._from_lists(run)))


def record_of(folder: Path) -> FitRecord:
    return load(folder).record


def cards(folder: Path) -> list[Card]:
    blocks = [block for section in report_of(load(folder)).sections for block in section.blocks if isinstance(block, Gallery)]
    return [card for block in blocks for group in block.groups for card in group.cards]


# anew


def test_written_anew_it_is_what_fit_wrote(cli: Cli, folder: Path) -> None:
    """To the byte, pictures and heat maps too; the manifest as well."""
    before = state(folder)
    assert text(folder).count("data:image/jpeg") > 12
    done = cli("report", folder)
    assert (done.code, done.out) == (0, f"{folder / 'report.html'}\n")
    assert done.err.splitlines() == ["Writing the report"]
    after = state(folder)
    assert after.keys() == before.keys()
    assert [name for name in before if after[name] != before[name]] in ([], ["manifest.json"])
    assert without_digests(folder) == {**json.loads(before["manifest.json"]), "files": without_digests(folder)["files"], "digest": ""}
    load(folder)


@pytest.mark.filterwarnings("ignore:.*cannot be read and")
def test_what_it_tells_is_what_fit_measured(pictures: Path, cache: Path, tmp_path: Path) -> None:
    """Of a fit on groups and copies, where everything has something to tell."""
    data = tmp_path / "data"
    for part, numbers in (("train", range(15)), ("test", range(12, 20))):
        for kind in ("rings", "checks"):
            (data / part / kind).mkdir(parents=True)
            for number in numbers:
                shutil.copy(pictures / kind / f"{kind} {number:02d}.png", data / part / kind)
    (data / "train" / "rings" / "broken.png").write_bytes(b"rubbish")
    result = fit(data, out=tmp_path / "run", settings=FitSettings(head="centroid", cache=cache))
    report, record = facts_of(tmp_path / "run"), record_of(tmp_path / "run")
    assert report.evaluation.accuracy == result.test.accuracy
    assert report.evaluation.interval == result.test.interval
    assert (report.evaluation.outcome.targets == result.test.outcome.targets).all()
    assert report.evaluation.outcome.probabilities == pytest.approx(result.test.outcome.probabilities, abs=1e-5)
    assert report.counts == {part: result.dataset.counts(part) for part in ("train", "test")}
    assert record.leaks == tuple(result.leaks)
    assert [row.images for row in record.leaks] == [16, 6, 10]
    assert record.findings == tuple(result.findings)
    assert [path for path, _ in record.refused] == [error.path for error in result.refused]
    assert report.reliability == result.judged.reliability_test
    assert sum(report.set_sizes.values()) == 16
    mean = sum(size * images for size, images in report.set_sizes.items()) / 16
    assert mean == pytest.approx(result.judged.reliability_test.size)
    rows = [example.card.row for example in report.examples]
    assert len(set(rows)) == len(rows) == RIGHT  # none is wrong
    names = [path.relative_to(data).as_posix() for path in result.dataset.take(result.dataset.part("test")).inputs]
    for example in report.examples:
        card = example.card
        assert card.name == names[card.row]
        assert example.target == Path(card.name).parent.name
        nearest = card.neighbours[0]
        assert nearest.name.startswith("train/")
        assert nearest.label == Path(nearest.name).parent.name
        assert nearest.picture is not None
        if int(Path(card.name).stem[-2:]) < 15:  # it has a copy among the training images, which is the nearest of all
            assert Path(nearest.name).name == Path(card.name).name


def test_later_uses_are_told_and_nothing_else_is_changed(cli: Cli, far: Path) -> None:
    cli("report", far)
    before, told, files = text(far), without_digests(far), state(far)
    record_use(far, USE)
    assert cli("report", far).code == 0
    assert USE.sentence() in text(far)
    assert USE.sentence() not in before
    assert without_digests(far) == told
    changed = {name for name, content in state(far).items() if files.get(name) != content}
    assert changed <= {*PAGES, "manifest.json", "uses.jsonl"}
    assert {"report.html", "manifest.json"} <= changed
    load(far)  # the digests are those of the new pages
    assert sorted(entry.name for entry in far.iterdir()) == sorted([*told["files"], *PAGES, "manifest.json", "uses.jsonl"])


def test_the_page_alone(cli: Cli, far: Path) -> None:
    record_use(far, USE)
    before = state(far)
    done = cli("report", far, "--out", "page.html")
    assert (done.code, done.out) == (0, "page.html\n")
    assert state(far) == before
    page = Path("page.html").read_bytes()
    assert USE.sentence().encode() in page
    cli("report", far)
    assert (far / "report.html").read_bytes() == page


def test_pages_that_cannot_be_written(cli: Cli, far: Path) -> None:
    Path("folder").mkdir()
    before = state(far)
    for out, message in (("folder", "folder cannot be written: it is a folder"), ("absent/page.html", "there is no folder")):
        done = cli("report", far, "--out", out)
        assert done.code == 2
        assert message in done.err
    assert state(far) == before


# pictures


def test_pictures_that_are_gone(cli: Cli, run: Path, far: Path) -> None:
    done = cli("report", far)
    assert done.code == 0
    assert "None of the test images is where the run recorded it, so the report shows no pictures." in done.err
    assert "data:image/jpeg" not in text(far)
    assert text(far, "MODEL_CARD.md") == text(run, "MODEL_CARD.md")


def test_some_pictures_are_gone_and_some_are_others_now(run: Path, far: Path) -> None:
    """They are left out; what is there is shown under its own name, with its own label and answer, though of neighbours only the label."""
    opened = load(far)
    for number, name in enumerate(opened.test_names[:9]):
        (far / name).parent.mkdir(parents=True, exist_ok=True)
        if number in (2, 7):
            shutil.copy(run / name, far / name)
        else:  # a picture, but not the one that was tested
            Image.new("RGB", (40, 40), (200, 10 * number, 0)).save(far / name)
    found, whole = cards(far), {card.row: card for card in cards(run)}
    assert sorted(card.row for card in found) == [2, 7]
    for card in found:
        full = whole[card.row]
        assert card == replace(
            full, pictures=(full.pictures[0], *card.pictures[1:]), neighbours=tuple(replace(one, picture=None) for one in full.neighbours)
        )


# damage


def test_a_damaged_page_is_named_and_mended(cli: Cli, far: Path, photo: Path) -> None:
    cli("report", far)
    folder, whole = far, state(far)
    for name in PAGES:
        (folder / name).write_bytes(whole[name].replace(b"Image", b"Fake!"))
        done = cli("predict", folder, photo)
        assert done.code != 0
        assert f"{name}: has been changed since the run was written" in done.err
        assert done.err.rstrip().endswith(f"Write it anew with: headstart report {folder}")
        with pytest.raises(RunError, match="Write it anew with"):
            load(folder)
        assert cli("report", folder).code == 0
        assert (folder / name).read_bytes() == whole[name]
        assert cli("predict", folder, photo).code == 0


def test_the_advice_can_be_typed_as_it_is(cli: Cli, run: Path, tmp_path: Path) -> None:
    import shlex

    spaced = Path(shutil.copytree(run, tmp_path / "far" / "my run's copy"))
    (spaced / "report.html").write_text("mine now")
    with pytest.raises(RunError) as told:
        load(spaced)
    words = shlex.split(str(told.value).split("Write it anew with: ")[1])
    assert words == ["headstart", "report", str(spaced)]
    assert cli(*words[1:]).code == 0
    load(spaced)


def test_a_page_that_is_missing(cli: Cli, far: Path) -> None:
    (far / "report.html").unlink()
    with pytest.raises(RunError, match=r"report.html: is missing"):
        load(far)
    assert cli("report", far).code == 0
    load(far)


@pytest.mark.parametrize("name", ["model.onnx", "split.csv", "evaluation.safetensors", "reference.safetensors"])
def test_what_no_report_can_mend(cli: Cli, far: Path, name: str) -> None:
    (far / name).write_bytes(b"rubbish")
    before = state(far)
    done = cli("report", far)
    assert done.code != 0
    assert f"{name}: has been changed since the run was written (its SHA-256 differs). Copy the run again, or fit again." in done.err
    assert state(far) == before


def test_a_run_of_an_earlier_version(cli: Cli, far: Path) -> None:
    """It did not keep what a report tells; that is said, and the pages stay as they are."""
    manifest = json.loads(text(far, "manifest.json"))
    for entry in ("reliability_test", "learning_curve", "leaks", "title", "features", "head", "training_facts"):
        del manifest["story"][entry]
    del manifest["reliability"], manifest["digest"]
    del manifest["files"]["evaluation.safetensors"]
    (far / "evaluation.safetensors").unlink()
    kept = {name: array for name, array in load_file(far / "reference.safetensors").items() if not name.startswith(("trust.", "digests"))}
    save_file(kept, far / "reference.safetensors")
    manifest["files"]["reference.safetensors"] = file_digest(far / "reference.safetensors")
    (far / "manifest.json").write_text(json.dumps({**manifest, "digest": manifest_digest(manifest)}), "utf-8")
    before = state(far)
    done = cli("report", far)
    assert done.code != 0
    assert "was written by an earlier version of Headstart, which did not record what the report tells." in done.err
    assert state(far) == before


@pytest.mark.parametrize("failing", [0, 1])
def test_a_disk_that_is_full(far: Path, monkeypatch: pytest.MonkeyPatch, failing: int) -> None:
    """Nothing is left behind; a page that was replaced before is named by `load`, and can be mended."""
    before, put = state(far), Path.replace
    replaced: list[Path] = []

    def full(self: Path, target: Path) -> Path:
        if len(replaced) == failing:
            raise OSError(28, "No space left on device")
        replaced.append(target)
        return put(self, target)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(RunError, match=r"The pages of the run .* cannot be written: No space left on device"):
        replace_pages(far, {"report.html": "new", "MODEL_CARD.md": "new"})
    monkeypatch.setattr(Path, "replace", put)
    assert {name for name, content in state(far).items() if before[name] != content} == ({"MODEL_CARD.md"} if failing else set())
    assert sorted(state(far)) == sorted(before)
    if failing:
        with pytest.raises(RunError, match=r"MODEL_CARD.md: has been changed .* headstart report"):
            load(far)
        replace_pages(far, {name: before[name].decode() for name in PAGES})
    load(far)
    assert state(far)["report.html"] == before["report.html"]


def test_names_that_are_not_utf_8(far: Path) -> None:
    replace_pages(far, {"report.html": "phot\udcffs"})
    assert text(far) == "phot?s"
    load(far)
