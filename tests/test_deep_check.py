"""`headstart check --deep`: faults that were planted are found and named, nothing else is, and a fit that follows the plan lacks them."""

from __future__ import annotations

import csv
import json
import shlex
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conftest import draw
from headstart import FitSettings, fit
from headstart.audit import Finding, Plan
from headstart.data import dataset_from_paths
from headstart.errors import DataError
from headstart.pipeline import DeepAudit, deep_check

Cli = Callable[..., Any]
KINDS = ("rings", "stripes", "checks")
BROKEN, WRONG, NEAR, COPY = "train/checks/broken.png", "train/rings/rings wrong.png", "test/checks/near.jpg", "test/stripes/copy.png"
ORIGINAL, COPIED, TWICE = "train/checks/checks d.png", "train/stripes/stripes e.png", "train/stripes/stripes g.png"


def save(pixels: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def textured(kind: int, seed: int) -> Any:
    """A picture of a kind with something of its own, which a copy has as well."""
    spots = Image.fromarray(np.random.default_rng(seed + 9).integers(0, 256, (9, 9, 3), dtype=np.uint8))
    spots = spots.resize((64, 64), Image.Resampling.BICUBIC)
    return np.asarray(Image.blend(Image.fromarray(draw(kind, seed, side=64)), spots, 0.3))


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures in two parts, with a fault of each kind. Names without numbers: nothing in them looks like a group."""
    folder = tmp_path_factory.mktemp("planted") / "my photos"
    for kind, name in enumerate(KINDS):
        for number in range(26):
            part = "train" if number < 20 else "test"
            save(textured(kind, 1000 * kind + number), folder / part / name / f"{name} {chr(97 + number)}.png")
    shutil.copy(folder / TWICE, folder / WRONG)
    (folder / BROKEN).write_bytes(b"\x89PNG\r\n\x1a\n but no more")
    with Image.open(folder / ORIGINAL) as image:
        image.resize((80, 80)).save(folder / NEAR, quality=85)
    shutil.copy(folder / COPIED, folder / COPY)
    return folder


@pytest.fixture(scope="module")
def settings(cache: Path) -> FitSettings:
    return FitSettings(head="kernel_ridge", cache=cache)


@pytest.fixture(scope="module")
def found(planted: Path, settings: FitSettings) -> DeepAudit:
    return deep_check(planted, settings=settings)


@pytest.fixture(scope="module")
def clean(planted: Path, settings: FitSettings, tmp_path_factory: pytest.TempPathFactory) -> DeepAudit:
    """The same pictures without the faults."""
    folder = Path(shutil.copytree(planted, tmp_path_factory.mktemp("clean") / "photos"))
    for name in (BROKEN, WRONG, NEAR, COPY):
        (folder / name).unlink()
    return deep_check(folder, settings=settings)


def of_kind(audit: DeepAudit, kind: str) -> Finding:
    (finding,) = [finding for finding in audit.audit.findings if finding.kind == kind]
    return finding


def state(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {str(file.relative_to(folder)): (file.read_bytes(), file.stat().st_mtime_ns) for file in folder.rglob("*") if file.is_file()}


# what is found


def test_each_planted_fault_is_found_and_named(found: DeepAudit) -> None:
    near = of_kind(found, "near copies across parts")
    assert (near.severity, near.count, near.examples) == ("error", 1, (f"{NEAR} ~ {ORIGINAL}",))
    unreadable, copies = of_kind(found, "unreadable"), of_kind(found, "leak")
    assert (unreadable.count, unreadable.examples[0].split(":")[0]) == (1, BROKEN)
    assert (copies.severity, copies.count) == ("error", 1)
    assert COPY in copies.examples[0]
    assert COPIED in copies.examples[0]
    (labels,) = [finding for finding in found.audit.findings if "another class" in finding.message]
    assert WRONG in str(labels.examples)
    assert TWICE in str(labels.examples)


def test_wrong_labels_of_photographs_are_found(shared_data: Path, settings: FitSettings) -> None:
    """Six of 120, most of them and hardly others. Of drawn pictures all are equally easy, so that a contradiction tells nothing."""
    folder = shared_data / "cats_dogs"
    paths = [path for name in ("cats", "dogs") for path in sorted((folder / "train" / name).iterdir())[:60]]
    labels, other = [path.parent.name for path in paths], {"cats": "dogs", "dogs": "cats"}
    wrong = np.random.default_rng(0).permutation(120)[:6].tolist()
    for row in wrong:
        labels[row] = other[labels[row]]
    data = dataset_from_paths(paths, labels, root=folder)
    found = deep_check(data, settings=settings)
    finding, names = of_kind(found, "label errors"), data.names()
    assert finding.count <= len(found.plan.look_at)
    planted = {names[row]: row for row in wrong}
    looked_at = {entry.path: entry for entry in found.plan.look_at}
    assert len(planted.keys() & looked_at.keys()) >= 4
    assert len(looked_at.keys() - planted.keys()) <= 1
    for name in planted.keys() & looked_at.keys():
        label = labels[planted[name]]
        assert (looked_at[name].label, looked_at[name].suggested) == ((label,), (other[label],))
        assert any(example.startswith(f"{name}: labelled {label}, looks like") for example in finding.examples)


def test_without_the_faults_none_is_found(clean: DeepAudit) -> None:
    assert [finding for finding in clean.audit.findings if finding.severity != "note"] == []
    kinds = {finding.kind for finding in clean.audit.findings}
    assert kinds.isdisjoint({"near copies", "near copies across parts", "label errors", "effect of leaks", "effect of groups"})
    assert (clean.plan.drop, clean.plan.keep_together, clean.plan.look_at, clean.plan.group_from) == ((), (), (), None)


def test_the_gravest_come_first(found: DeepAudit) -> None:
    order = [("error", "warning", "note").index(finding.severity) for finding in found.audit.findings]
    assert order == sorted(order)


def test_the_effect_of_leaks_is_that_of_the_two_images(found: DeepAudit) -> None:
    """26 x 3 images, 20 of each kind for training; of the 20 test images one is a copy and one a near copy."""
    effect = of_kind(found, "effect of leaks")
    assert (effect.severity, effect.count) == ("error", 2)
    for words in (
        "on all test images (20)", "on those that are copies of training images (1)",
        "on those that are near copies of training images (1)", "on those not seen in training in any form (18)",
    ):  # fmt: skip
        assert words in effect.message
    assert "The 2 seen in training, scored instead by a head not trained on them: " in effect.message


def test_the_plan_is_what_to_do_about_it(found: DeepAudit, planted: Path) -> None:
    plan = found.plan
    assert plan.data == str(planted)
    dropped = {entry.path: entry.reason for entry in plan.drop}
    assert dropped.keys() == {BROKEN, NEAR, COPY}
    assert dropped[BROKEN].startswith("cannot be read: ")
    assert dropped[NEAR] == f"near copy of {ORIGINAL} in the training part"
    assert dropped[COPY] == f"exact copy of {COPIED} in the training part"
    doubtful = {entry.path: (entry.label, entry.suggested) for entry in plan.look_at}
    assert doubtful == {WRONG: (("rings",), ("stripes",)), TWICE: (("stripes",), ("rings",))}
    assert plan.keep_together == ((WRONG, TWICE),)
    assert (plan.relabel, plan.group_from) == ((), None)


# groups


def in_groups(folder: Path, *, telling: bool) -> Path:
    """12 persons of two classes in 5 pictures each; the class can be told by the picture, or else only by knowing the person."""
    for person in range(12):
        named = "sick" if person % 2 else "well"
        kind = person % 2 if telling else (person // 2) % 3
        for number in range(5):
            rng = np.random.default_rng(100 * person + number)
            pixels = draw(kind, 50 + person, side=64)
            pixels = np.roll(pixels, rng.integers(-20, 20, 2), (0, 1)).astype(np.int64) + rng.normal(0, 12, (64, 64, 3)).astype(np.int64)
            save(np.clip(pixels, 0, 255).astype(np.uint8), folder / named / f"person{person}_{number}.png")
    return folder


def test_groups_in_the_names_with_an_effect(tmp_path: Path, settings: FitSettings) -> None:
    audit = deep_check(in_groups(tmp_path / "data", telling=False), settings=settings)
    effect = of_kind(audit, "effect of groups")
    assert effect.severity == "warning"
    one_by_one, by_group = (float(words.split(": ")[-1][:6].removeprefix("is ")) for words in _scores(effect.message))
    assert one_by_one > 0.9
    assert by_group < 0.7
    assert f"a drop of {100 * (one_by_one - by_group):.1f} points" in effect.message
    assert "The second is what to expect of new groups." in effect.message
    assert audit.plan.group_from is not None
    changed, _ = Plan.apply(audit.plan, dataset_of(tmp_path / "data"))
    persons = [Path(name).name.split("_")[0] for name in changed.names()]
    assert len(set(zip(changed.groups.tolist(), persons, strict=True))) == len(set(persons)) == 12


def test_groups_in_the_names_without_one(tmp_path: Path, settings: FitSettings) -> None:
    effect = of_kind(deep_check(in_groups(tmp_path / "data", telling=True), settings=settings), "effect of groups")
    assert effect.severity == "note"
    assert "The groups make little difference here." in effect.message


def _scores(message: str) -> list[str]:
    """The two parts of the sentence that each end with an accuracy."""
    first, second = message.split(";", 1)
    return [first.replace("the accuracy is ", ": "), second.split(" kept on one side, ")[1].split(":")[0]]


def dataset_of(folder: Path) -> Any:
    from headstart.data import read_dataset

    return read_dataset(folder)


# what cannot be learned from


def test_too_few_images_are_looked_at_without_learning(tmp_path: Path, settings: FitSettings) -> None:
    for number in range(4):
        save(draw(number % 2, number), tmp_path / KINDS[number % 2] / f"{number}.png")
    (tmp_path / "rings" / "broken.png").write_bytes(b"rubbish")
    found = deep_check(tmp_path, settings=settings)
    assert [entry.path for entry in found.plan.drop] == ["rings/broken.png"]
    assert found.plan.look_at == ()


def test_nothing_can_be_read(tmp_path: Path, settings: FitSettings) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.png").write_bytes(b"rubbish")
    with pytest.raises(DataError, match="None of the 2 images can be read"):
        deep_check(tmp_path, settings=settings)


def test_several_labels(pictures: Path, settings: FitSettings) -> None:
    """A copy stands in the test part."""
    paths = sorted(pictures.glob("*/*.png"))
    labels = [{path.parent.name, "seen"} for path in paths]
    parts = ["test" if index % 5 == 0 else "train" for index in range(60)]
    data = dataset_from_paths([*paths, paths[1]], [*labels, labels[1]], parts=[*parts, "test"], root=pictures)
    effect = of_kind(deep_check(data, settings=settings), "effect of leaks")
    assert effect.count == 1
    assert "on all test images (13)" in effect.message


def test_only_one_class_can_be_read_for_training(pictures: Path, settings: FitSettings, tmp_path: Path) -> None:
    """A leak whose effect cannot be measured, since nothing can be learned from what is left; everything else is told."""
    for kind in ("rings", "stripes"):
        for number in range(20):
            path = tmp_path / ("train" if number < 12 else "test") / kind / f"{kind} {chr(97 + number)}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(pictures / kind / f"{kind} {number:02d}.png", path)
            if number < 12 and kind == "stripes":
                path.write_bytes(b"rubbish")
    shutil.copy(tmp_path / "train/rings/rings a.png", tmp_path / "test/rings/again.png")
    found = deep_check(tmp_path, settings=settings)
    assert of_kind(found, "leak").count == 1
    assert of_kind(found, "unreadable").count == 12
    assert "effect of leaks" not in {finding.kind for finding in found.audit.findings}


# the commands


def test_the_plan_is_written_followed_and_the_data_stay_as_they_were(cli: Cli, planted: Path, cache: Path) -> None:
    """As a person types it, with the command that the check itself advises."""
    before = state(planted)
    done = cli("check", planted, "--deep", "--fix", "my plan.json", "--out", "findings.json", "--cache", cache)
    assert done.code == 0
    assert state(planted) == before
    findings = json.loads(Path("findings.json").read_text("utf-8"))
    assert {"near copies across parts", "unreadable", "effect of leaks"} <= {finding["kind"] for finding in findings["findings"]}
    assert NEAR in done.out
    advice = shlex.split(done.out.splitlines()[-1].split("then: ")[1])
    assert advice == ["headstart", "fit", str(planted), "--plan", "my plan.json"]
    followed = cli(*advice[1:], "--head", "kernel_ridge", "--out", "run", "--cache", cache)
    assert followed.code == 0
    assert "The plan leaves out 3 of 82 images (1 x cannot be read, 1 x near copy, 1 x exact copy)." in followed.err.replace("\n", " ")
    assert "of training images" not in followed.err + followed.out
    with (Path("run") / "split.csv").open(encoding="utf-8", newline="") as file:
        named = {Path(row["path"]).name: row for row in csv.DictReader(file)}
    assert len(named) == 79
    assert named.keys().isdisjoint({Path(name).name for name in (BROKEN, NEAR, COPY)})
    assert named[Path(WRONG).name]["label"] == "rings"  # to be looked at, and not changed by itself
    manifest = json.loads((Path("run") / "manifest.json").read_text("utf-8"))
    assert manifest["story"]["leaks"] == []
    assert manifest["story"]["refused"] == []
    assert manifest["provenance"]["settings"]["plan"] == "my plan.json"
    assert state(planted) == before


def test_a_label_that_a_person_agrees_with(found: DeepAudit, planted: Path, settings: FitSettings, tmp_path: Path) -> None:
    """An entry is moved from `look_at` to `relabel` as it is, and the fit learns the suggested label."""
    found.plan.write(tmp_path / "plan.json")
    assert Plan.read(tmp_path / "plan.json").drop == found.plan.drop
    plan = json.loads((tmp_path / "plan.json").read_text("utf-8"))
    (entry,) = [entry for entry in plan["look_at"] if entry["path"] == WRONG]
    plan["look_at"].remove(entry)
    plan["relabel"].append(entry)
    (tmp_path / "plan.json").write_text(json.dumps(plan), "utf-8")
    result = fit(planted, settings=replace(settings, plan=tmp_path / "plan.json"))
    row = result.dataset.names().index(WRONG)
    assert result.dataset.labels(row) == ("stripes",)
    assert result.leaks == ()
    assert not [finding for finding in result.findings if any(WRONG in example for example in finding.examples)]
    assert "The plan gives 1 images another label." in result.dataset.notes


def test_a_plan_for_other_data_is_refused(cli: Cli, found: DeepAudit, pictures: Path) -> None:
    found.plan.write("plan.json")
    done = cli("fit", pictures, "--plan", "plan.json")
    assert done.code == 2
    assert "the plan names 3 images under 'drop' that the data do not have, for example" in done.err
    assert not Path("runs").exists()


def test_the_advice_takes_over_what_the_data_were_read_with(cli: Cli, planted: Path, cache: Path) -> None:
    """Test images elsewhere are a part of the data, and groups too."""
    done = cli(
        "check", planted / "train", "--test", planted / "test", "--group-from", r" (\w)", "--deep", "--fix", "p.json", "--cache", cache
    )
    assert done.code == 0, done.err
    advice = shlex.split(done.out.splitlines()[-1].split("then: ")[1])
    assert "--test" in advice
    assert cli(*advice[1:], "--head", "centroid", "--out", "run", "-q", "--cache", cache).code == 0


def test_a_plan_needs_what_the_deep_check_finds(cli: Cli, planted: Path) -> None:
    done = cli("check", planted, "--fix", "plan.json")
    assert (done.code, done.err) == (2, "Error: --fix needs what --deep finds. Type: headstart check DATA --deep --fix FILE\n")
    assert not Path("plan.json").exists()
