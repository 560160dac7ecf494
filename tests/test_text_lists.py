"""Texts as data sets: which column holds them, which the labels, and what is passed over."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from headstart.data import ListOptions, read_dataset
from headstart.errors import DataError
from headstart.modalities import TEXT
from headstart.modalities.text import PAIR

REVIEWS = ["a fine film, warmly told", "dull and far too long", "fine acting throughout", "too long by an hour"]


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def rows(header: str, *lines: str) -> str:
    return "\n".join([header, *lines]) + "\n"


def test_a_list_with_a_text_column_is_read_as_texts_and_said(tmp_path: Path) -> None:
    lines = [f'"{text}",{stars}' for text, stars in zip(REVIEWS, "5151", strict=True)]
    data = read_dataset(write(tmp_path / "reviews.csv", rows("review,stars", *lines)))
    assert data.modality is TEXT
    assert list(data.inputs) == REVIEWS
    assert data.classes == ("1", "5")
    assert data.names() == ("row 1", "row 2", "row 3", "row 4")
    assert any("'review' is taken as the text" in note for note in data.notes)
    assert any("'stars' is taken as the label" in note for note in data.notes)


@pytest.mark.parametrize("header", ["text,label", "label,text", "id,Text,label", "label,id,what people wrote"])
def test_the_text_column_is_found_by_its_name_or_by_what_is_in_it(tmp_path: Path, header: str) -> None:
    names = header.split(",")
    cells = {"id": "17", "label": "good"}
    lines = [",".join(cells.get(name, f'"{text}"') if name != "label" else "ab"[i % 2] for name in names) for i, text in enumerate(REVIEWS)]
    assert list(read_dataset(write(tmp_path / "list.csv", rows(header, *lines))).inputs) == REVIEWS


def test_named_columns_win(tmp_path: Path) -> None:
    lines = [f'"{text}","{text[::-1]}",{i % 2},{i % 2 + 5}' for i, text in enumerate(REVIEWS)]
    path = write(tmp_path / "list.csv", rows("text,backwards,label,other", *lines))
    data = read_dataset(path, lists=ListOptions(columns={"text": "backwards", "label": "other"}))
    assert list(data.inputs) == [text[::-1] for text in REVIEWS]
    assert data.classes == ("5", "6")
    pairs = read_dataset(path, lists=ListOptions(columns={"text": "text", "pair": "backwards"}))
    assert pairs.inputs[0] == f"{REVIEWS[0]}{PAIR}{REVIEWS[0][::-1]}"


def test_two_columns_are_a_pair_by_their_names(tmp_path: Path) -> None:
    lines = [f'"{text}","so it is said",{i % 2}' for i, text in enumerate(REVIEWS)]
    data = read_dataset(write(tmp_path / "nli.csv", rows("premise,hypothesis,label", *lines)))
    assert data.inputs[1] == f"{REVIEWS[1]}{PAIR}so it is said"
    assert any("as pairs" in note for note in data.notes)


def test_lines_of_json_with_parts_groups_and_several_labels(tmp_path: Path) -> None:
    lines = [
        json.dumps({"text": text, "label": ["a"] if i else ["a", "b"], "split": "train" if i < 3 else "test", "group": f"g{i // 2}"})
        for i, text in enumerate(REVIEWS)
    ]
    data = read_dataset(write(tmp_path / "list.jsonl", "\n".join(lines)))
    assert data.labels(0) == ("a", "b")
    assert data.parts.tolist() == ["train"] * 3 + ["test"]
    assert data.groups.tolist() == ["g0", "g0", "g1", "g1"]


def test_paths_of_images_are_still_images(tmp_path: Path) -> None:
    for name in ("1.png", "2.png"):
        write(tmp_path / name, "-")
    path = write(tmp_path / "list.csv", rows("path,text,label", "1.png,a picture of a cat,cat", "2.png,a picture of a dog,dog"))
    assert read_dataset(path).modality.name == "image"
    assert read_dataset(path, lists=ListOptions(columns={"text": "text"})).modality is TEXT


def test_rows_without_a_text_are_passed_over_and_named(tmp_path: Path) -> None:
    path = write(tmp_path / "list.csv", rows("text,label", "good,a", " ,a", "bad,b", ",b"))
    data = read_dataset(path)
    assert list(data.inputs) == ["good", "bad"]
    assert any("2 rows without a text" in note and "row 2" in note and "row 4" in note for note in data.notes)


def test_dead_ends_say_what_to_type(tmp_path: Path) -> None:
    path = write(tmp_path / "list.csv", rows("text,a,b", *(f'"{text}",{i % 2},{i % 3}' for i, text in enumerate(REVIEWS))))
    with pytest.raises(DataError, match=r"no column for the label beside the texts in 'text'.*columns=\{'label': 'a'\}"):
        read_dataset(path)
    with pytest.raises(DataError, match=r"no column 'txt' for the text.*Did you mean text"):
        read_dataset(path, lists=ListOptions(columns={"text": "txt", "label": "a"}))
    without = write(tmp_path / "missing.csv", rows("text,label", "good,a", "fine,", "bad,b"))
    with pytest.raises(DataError, match=r"1 rows of .* have no label in the column 'label', for example 'row 2'"):
        read_dataset(without)
    assert len(read_dataset(without, lists=ListOptions(allow_missing=True))) == 2


def test_a_folder_of_text_files(tmp_path: Path) -> None:
    for label, texts in {"pos": REVIEWS[:2], "neg": REVIEWS[2:]}.items():
        for i, text in enumerate(texts):
            (tmp_path / "data" / label).mkdir(parents=True, exist_ok=True)
            write(tmp_path / "data" / label / f"{i}.txt", text)
    write(tmp_path / "data/pos/empty.txt", "")
    (tmp_path / "data/neg/old.txt").write_bytes("grün".encode("cp1252"))
    data = read_dataset(tmp_path / "data")
    assert data.modality is TEXT
    assert data.counts() == {"neg": 3, "pos": 2}
    assert dict(zip(data.names(), data.inputs, strict=True))["neg/old.txt"] == "grün"
    assert any("1 of 6 texts cannot be read" in note and "empty.txt: empty" in note for note in data.notes)


def test_test_data_must_be_texts_too(tmp_path: Path) -> None:
    path = write(tmp_path / "train.csv", rows("text,label", "good,a", "bad,b"))
    test = write(tmp_path / "test.csv", rows("text,label", "better,a", "worse,b"))
    data = read_dataset(path, test=test)
    assert data.parts.tolist() == ["train"] * 2 + ["test"] * 2
    write(tmp_path / "1.png", "-")
    with pytest.raises(DataError, match=r"holds texts and .* images; the test data must be of the same kind"):
        read_dataset(path, test=write(tmp_path / "images.csv", rows("path,label", "1.png,a")))


def test_a_folder_of_lists_called_like_parts(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", rows("text,label", *(f"{text.replace(',', '')},{i % 2}" for i, text in enumerate(REVIEWS))))
    write(tmp_path / "test.csv", rows("text,label", "good enough,0", "hardly,1"))
    write(tmp_path / "README.md", "of these lists")
    data = read_dataset(tmp_path)
    assert data.parts.tolist() == ["train"] * 4 + ["test"] * 2
    assert data.names()[-1] == "test.csv row 2"
    assert any("Read from train.csv and test.csv" in note for note in data.notes)


def test_texts_of_the_hub(tmp_path: Path) -> None:
    hub = pytest.importorskip("datasets")
    features = hub.Features({"sentence": hub.Value("string"), "label": hub.ClassLabel(names=["dull", "fine"])})
    parts = {
        part: hub.Dataset.from_dict({"sentence": REVIEWS[:n], "label": [1, 0, 1, 0][:n]}, features=features)
        for part, n in {"train": 4, "validation": 2}.items()
    }
    folder = tmp_path / "reviews" / "data"
    folder.mkdir(parents=True)
    for part, rows_of_part in parts.items():
        rows_of_part.to_parquet(str(folder / f"{part}-00000-of-00001.parquet"))
    data = read_dataset(f"hf:{tmp_path / 'reviews'}", cache=tmp_path / "cache", announce=lambda message: None)
    assert data.modality is TEXT
    assert data.counts() == {"dull": 3, "fine": 3}
    assert data.parts.tolist() == ["train"] * 4 + ["val"] * 2
    assert list(data.inputs[:4]) == REVIEWS
