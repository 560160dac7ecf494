"""What a notebook shows of data sets and audits: the counts and the findings, short, and names stay names."""

from __future__ import annotations

import numpy as np

from headstart.audit import Audit, Finding
from headstart.data import Dataset, class_targets
from headstart.data.dataset import SHOWN, counts_table
from reports import Reading

BAD = "<script>alert(1)</script>\x1b"


def words(html: str) -> str:
    """The text of well-formed HTML."""
    return " ".join(Reading(html).text.split())


def dataset(classes: tuple[str, ...], targets: np.ndarray, parts: list[str], **further: object) -> Dataset:
    images = np.zeros((len(targets), 2, 2, 3), np.uint8)
    return Dataset(images, class_targets(targets, classes), np.array(parts), **further)  # type: ignore[arg-type]


def test_a_dataset_shows_its_counts_by_class_and_part() -> None:
    groups = np.array(["p1", "p1", "p2", "p2", "p3"])
    shown = dataset(
        ("cats", "dogs"), np.array([0, 0, 1, 0, 1]), ["train", "train", "train", "test", "test"], groups=groups, source="photos",
        notes=("odd",),
    )  # fmt: skip
    text = words(shown._repr_html_())
    assert text.startswith("5 images , 2 classes, one label an image, 3 groups in photos class train test")
    assert "cats 2 1 dogs 1 1 together 3 2 odd" in text


def test_parts_without_a_name_are_called_images() -> None:
    assert "class images cats 1 dogs 1 together 2" in words(dataset(("cats", "dogs"), np.array([0, 1]), ["", ""])._repr_html_())


def test_labels_are_counted_where_there_are_several() -> None:
    text = words(dataset(("a", "b"), np.array([[True, True], [True, False]]), ["train", "train"])._repr_html_())
    assert "several labels an image" in text
    assert "a 2 b 1 together 3" in text


def test_of_many_classes_the_rest_is_summed() -> None:
    counts = {"train": {f"c{index}": index for index in range(SHOWN + 3)}}
    text = words(counts_table(counts))
    assert f"c{SHOWN - 1} {SHOWN - 1} and 3 more {3 * SHOWN + 3} together {sum(range(SHOWN + 3))}" in text
    assert f"c{SHOWN} " not in text


def test_an_audit_shows_its_findings_with_examples() -> None:
    findings = (
        Finding("leak", "error", "4 images leak.", tuple(f"{index}.jpg" for index in range(4)), 9),
        Finding("imbalance", "note", "Few dogs."),
    )
    text = words(Audit("photos", {"train": {"cats": 3}, "test": {"cats": 1}}, 4, findings, {})._repr_html_())
    assert text.startswith("4 images in photos class train test cats 3 1")
    assert "error 4 images leak. 0.jpg 1.jpg 2.jpg ... and 6 more note Few dogs." in text


def test_an_audit_without_findings_says_so() -> None:
    assert words(Audit("photos", {"": {"cats": 1}}, 1, (), {})._repr_html_()).endswith("Nothing wrong was found.")


def test_names_of_any_kind_stay_names() -> None:
    audit = Audit(BAD, {BAD: {BAD: 1}}, 1, (Finding(BAD, "error", BAD, (BAD,)),), {})
    shown = dataset((BAD,), np.array([0]), ["train"], source=BAD, notes=(BAD,))
    for html, times in ((audit._repr_html_(), 5), (shown._repr_html_(), 3)):
        assert "<script" not in html
        assert "\x1b" not in html
        assert words(html).count("<script>alert(1)</script>") == times
