"""Lists as data sets: CSV, TSV, JSON lines and Parquet, and everything that goes wrong with them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from headstart.data import Labels, LabelSets, ListOptions, read_dataset
from headstart.errors import DataError, ParameterError

NAMES = ("1.jpg", "2.jpg", "3.jpg", "4.jpg")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "img").mkdir()
    for name in NAMES:
        (tmp_path / "img" / name).touch()
    return tmp_path


def write(folder: Path, text: str, *, name: str = "list.csv", encoding: str = "utf-8") -> Path:
    path = folder / name
    path.write_bytes(text.encode(encoding))
    return path


def rows(*labels: str, head: str = "path,label") -> str:
    return "\n".join([head, *(f"img/{i + 1}.jpg,{label}" for i, label in enumerate(labels))]) + "\n"


def noted(data, *words):
    return any(all(word in note for word in words) for note in data.notes)


def test_plain_list(folder):
    data = read_dataset(write(folder, rows("dog", "cat", "dog", "cat")))
    assert data.classes == ("cat", "dog")
    assert data.targets.array.tolist() == [1, 0, 1, 0]  # the order of the rows is kept
    assert data.names() == tuple(f"img/{name}" for name in NAMES)
    assert data.inputs[0] == folder / "img/1.jpg"
    assert data.notes == ()


@pytest.mark.parametrize(
    ("path", "label", "split", "group"),
    [
        ("Image", "Class", "Part", "Patient ID"),
        ("file_name", "target", "subset", "subject"),
        ("FilePath", "category", "fold", "source"),
        ("image_id", "breed", "partition", "group"),
    ],
)
def test_synonyms(folder, path, label, split, group):
    text = f"{group},{split},{label},{path}\np1,train,a,img/1.jpg\np1,Training,b,img/2.jpg\np2,valid,a,img/3.jpg\n,test,b,img/4.jpg\n"
    data = read_dataset(write(folder, text))
    assert data.parts.tolist() == ["train", "train", "val", "test"]
    assert data.groups.tolist() == ["p1", "p1", "p2", "img/4.jpg (alone)"]
    assert noted(data, "1 rows have no group")


def test_columns_by_parameter(folder):
    text = "a,b,c,d\nimg/1.jpg,x,train,g\nimg/2.jpg,y,test,h\nimg/3.jpg,y,train,h\nimg/4.jpg,x,train,h\n"
    data = read_dataset(write(folder, text), lists=ListOptions(columns={"path": "a", "label": "b", "split": "c", "group": "d"}))
    assert data.classes == ("x", "y")
    assert data.parts.tolist() == ["train", "test", "train", "train"]
    assert data.groups.tolist() == ["g", "h", "h", "h"]


def test_wrong_columns_name_what_was_found(folder):
    path = write(folder, rows("a", "b", head="path,labell,other").replace(",a", ",a,1").replace(",b", ",b,2"))
    with pytest.raises(DataError) as caught:
        read_dataset(path)
    assert "has no column for the label. Expected one called label, labels, class" in str(caught.value)
    assert "columns found: 'path', 'labell', 'other'. Did you mean labell?" in str(caught.value)
    with pytest.raises(DataError) as caught:
        read_dataset(path, lists=ListOptions(columns={"label": "label"}))
    assert "has no column 'label' for the label. Columns found: 'path', 'labell', 'other'. Did you mean labell?" in str(caught.value)
    with pytest.raises(ParameterError, match=r"one column of .* is given for two purposes"):
        read_dataset(path, lists=ListOptions(columns={"path": "path", "label": "path"}))


def test_two_columns_of_which_one_is_known(folder):
    data = read_dataset(write(folder, rows("a", "b", head="path,dx")))
    assert data.classes == ("a", "b")
    assert noted(data, "'dx'", "is taken as the label")


@pytest.mark.parametrize("order", ["path first", "label first"])
def test_no_line_of_names(folder, order):
    text = "img/1.jpg,cat\nimg/2.jpg,dog\n" if order == "path first" else "cat,img/1.jpg\ndog,img/2.jpg\n"
    data = read_dataset(write(folder, text))
    assert data.classes == ("cat", "dog")
    assert noted(data, "has no line of column names")


def test_no_line_of_names_and_three_columns(folder):
    with pytest.raises(DataError, match="has 3 columns and no line of column names; write a first line"):
        read_dataset(write(folder, "img/1.jpg,cat,train\nimg/2.jpg,dog,test\n"))


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_delimiters_and_encodings(folder, delimiter, encoding):
    text = rows("Käse", "été").replace(",", delimiter).replace("\n", "\r\n")
    assert read_dataset(write(folder, text, encoding=encoding)).classes == ("Käse", "été")


def test_tsv_and_windows_1252(folder):
    assert read_dataset(write(folder, rows("a b", "c, d").replace(",", "\t", 1).replace("jpg,", "jpg\t"), name="x.tsv")).classes == (
        "a b",
        "c, d",
    )
    data = read_dataset(write(folder, rows("Käse", "x"), encoding="cp1252"))
    assert "Käse" in data.classes
    assert noted(data, "not UTF-8")


@pytest.mark.parametrize("cells", [("cat;dog", "cat", "", "dog"), ("cat|dog", "cat", "", "dog"), ('"cat, dog"', "cat", "", "dog")])
def test_several_labels_in_one_cell(folder, cells):
    data = read_dataset(write(folder, rows(*cells)))
    assert isinstance(data.targets, LabelSets)
    assert data.targets.array.dtype == bool
    assert data.targets.array.tolist() == [[True, True], [True, False], [False, False], [False, True]]
    assert data.labels(0) == ("cat", "dog")
    assert data.labels(2) == ()
    assert data.counts() == {"cat": 2, "dog": 2}
    assert noted(data, "Several labels in one cell")
    assert noted(data, "1 images have no label: they count as examples of none")


def test_labels_with_a_comma_stay_whole(folder):
    assert read_dataset(write(folder, rows('"Smith, John"', '"Doe, Jane"'))).classes == ("Doe, Jane", "Smith, John")
    whole = read_dataset(write(folder, rows("a;b", "a")), lists=ListOptions(label_separator=""))
    assert whole.classes == ("a", "a;b")
    assert isinstance(read_dataset(write(folder, rows("a+b", "a")), lists=ListOptions(label_separator="+")).targets, LabelSets)


def test_numbers_as_labels(folder):
    assert read_dataset(write(folder, rows("10", "9", "2", "10"))).classes == ("2", "9", "10")
    assert read_dataset(write(folder, rows("1.0", "2.0", "1.0", "2.0"))).classes == ("1", "2")
    assert read_dataset(write(folder, rows("1.5", "2.0", "1.5", "2.0"))).classes == ("1.5", "2.0")


@pytest.mark.parametrize("name", ["list.jsonl", "list.ndjson", "list.json"])
def test_json_lines(folder, name):
    objects = [
        {"image": "img/1.jpg", "label": ["cat", "dog"]},
        {"image": "img/2.jpg", "label": []},
        {"image": "img/3.jpg", "label": ["dog"]},
    ]
    data = read_dataset(write(folder, "\n".join(map(json.dumps, objects)) + "\n\n", name=name))
    assert data.targets.array.tolist() == [[True, True], [False, False], [False, True]]
    single = [{"path": f"img/{i}.jpg", "label": [i]} for i in (1, 2, 3)]
    assert read_dataset(write(folder, "\n".join(map(json.dumps, single)), name=name)).classes == ("1", "2", "3")


def test_one_json_array(folder):
    assert (
        len(read_dataset(write(folder, json.dumps([{"path": "img/1.jpg", "label": 1}, {"path": "img/2.jpg", "label": 2}]), name="x.json")))
        == 2
    )


def test_old_lists_with_a_space(folder):
    assert read_dataset(write(folder, "img/1.jpg 0\nimg/2.jpg 1\n", name="train.txt")).classes == ("0", "1")


def test_broken_json(folder):
    with pytest.raises(DataError, match=r"list\.jsonl, line 2, is not JSON: .* Expected one object per line"):
        read_dataset(write(folder, '{"path": "img/1.jpg", "label": 1}\n{"path": \n', name="list.jsonl"))
    with pytest.raises(DataError, match=r"row 1 is not an object; expected \{\"path\""):
        read_dataset(write(folder, "3\n", name="list.jsonl"))


def parquet(folder: Path, columns) -> Path:
    core, io = pytest.importorskip("arro3.core"), pytest.importorskip("arro3.io")
    arrays = {name: core.Array(values, type=kind) for name, (values, kind) in columns.items()}
    path = folder / "list.parquet"
    io.write_parquet(core.RecordBatch.from_pydict(arrays), str(path))
    return path


def test_parquet(folder):
    core = pytest.importorskip("arro3.core")
    text, number = core.DataType.string(), core.DataType.float64()
    path = parquet(folder, {"file": (["img/1.jpg", "img/2.jpg"], text), "class": ([10.0, 9.0], number), "split": (["train", "test"], text)})
    with pytest.raises(DataError, match="the test part"):
        read_dataset(path)
    path = parquet(folder, {"file": (["img/1.jpg", "img/2.jpg"], text), "class": ([10.0, 9.0], number), "patient": (["a", None], text)})
    data = read_dataset(path)
    assert data.classes == ("9", "10")
    assert data.groups.tolist() == ["a", "img/2.jpg (alone)"]


def test_parquet_with_lists_of_labels(folder):
    core = pytest.importorskip("arro3.core")
    arrow = pytest.importorskip("pyarrow")
    from arro3.io import write_parquet

    path = folder / "several.parquet"
    table = arrow.table({"path": ["img/1.jpg", "img/2.jpg", "img/3.jpg"], "label": [["a", "b"], [], ["b"]]})
    write_parquet(core.Table.from_arrow(table), str(path))
    assert read_dataset(path).targets.array.tolist() == [[True, True], [False, False], [False, True]]
    table = arrow.table({"image": [{"bytes": b"x", "path": "1"}] * 2, "label": [0, 1]})
    write_parquet(core.Table.from_arrow(table), str(path))
    with pytest.raises(DataError, match="holds images themselves, not paths"):
        read_dataset(path)


def test_broken_parquet(folder, capfd):
    path = folder / "list.parquet"
    path.write_bytes(b"not parquet at all")
    with pytest.raises(DataError, match=r"is not a Parquet file, or it is cut off; write it again, or save the list as CSV"):
        read_dataset(path)
    path.write_bytes(b"PAR1" + b"\0" * 40 + b"PAR1")
    with pytest.raises(DataError, match="is a damaged Parquet file"):
        read_dataset(path)
    capfd.readouterr()  # the reader's own lines on stderr


def test_parquet_without_its_reader(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "arro3.io", None)
    (folder / "list.parquet").touch()
    with pytest.raises(DataError, match=r"install them with: pip install arro3-core arro3-io\. Or save the list as CSV"):
        read_dataset(folder / "list.parquet")


def test_missing_files(folder):
    path = write(folder, rows(*"abababab"))
    with pytest.raises(DataError) as caught:
        read_dataset(path)
    message = str(caught.value)
    assert "4 of 8 files listed in" in message
    assert "'img/5.jpg', 'img/6.jpg', 'img/7.jpg'" in message
    assert f"Paths are relative to {folder}" in message
    assert "allow_missing=True passes over them" in message
    data = read_dataset(path, lists=ListOptions(allow_missing=True))
    assert len(data) == 4
    assert noted(data, "Passed over 4 rows whose file does not exist")


def test_missing_files_that_are_elsewhere(folder):
    path = write(folder, "path,label\n1.jpg,a\n2.jpg,b\n")
    with pytest.raises(DataError, match=r"2 of 2 files .*'1\.jpg' is in .*img; image_root="):
        read_dataset(path)
    assert read_dataset(path, lists=ListOptions(image_root=folder / "img")).names() == ("1.jpg", "2.jpg")
    with pytest.raises(DataError, match="2 of 2 files"):
        read_dataset(path, lists=ListOptions(allow_missing=True))


def test_ids_without_suffix_backslashes_and_whole_paths(folder):
    path = write(folder, f"id,breed\nimg/1,a\nimg\\2.jpg,b\n{folder / 'img' / '3.jpg'},a\n")
    assert [image.name for image in read_dataset(path).inputs] == ["1.jpg", "2.jpg", "3.jpg"]


def test_empty_labels(folder):
    path = write(folder, rows("a", "", "b", " "))
    with pytest.raises(
        DataError, match=r"2 rows of .* have no label in the column 'label', for example 'img/2\.jpg', 'img/4\.jpg'\. Fill them in"
    ):
        read_dataset(path)
    data = read_dataset(path, lists=ListOptions(allow_missing=True))
    assert len(data) == 2
    assert noted(data, "Passed over 2 rows without a label")


def test_a_file_listed_twice(folder):
    same = write(folder, "path,label\nimg/1.jpg,a\nimg/2.jpg,b\n./img/1.jpg,a\n")
    data = read_dataset(same)
    assert len(data) == 2
    assert noted(data, "Passed over 1 row that lists a file again")
    with pytest.raises(DataError, match=r"1 files of .* are listed with different labels: .*1\.jpg \(a, b\)\. .* as in cat;dog"):
        read_dataset(write(folder, "path,label\nimg/1.jpg,a\nimg/2.jpg,b\nimg/1.jpg,b\n"))
    with pytest.raises(DataError, match=r"different parts: .*1\.jpg \(train, test\)\. A file in two parts makes the test score worthless"):
        read_dataset(write(folder, "path,label,split\nimg/1.jpg,a,train\nimg/2.jpg,b,train\nimg/1.jpg,a,test\n"))


def test_parts_that_are_none(folder):
    text = "path,label,fold\nimg/1.jpg,a,0\nimg/2.jpg,b,1\n"
    data = read_dataset(write(folder, text))
    assert data.parts.tolist() == ["", ""]
    assert noted(data, "'fold' does not hold train, val or test but '0', '1': it is not used")
    with pytest.raises(DataError, match=r"the column 'fold' of .* must hold train, val or test; found '0', '1'"):
        read_dataset(write(folder, text), lists=ListOptions(columns={"split": "fold"}))
    data = read_dataset(write(folder, "path,label,split\nimg/1.jpg,a,\nimg/2.jpg,b,train\nimg/3.jpg,b,test\n"))
    assert data.parts.tolist() == ["train", "train", "test"]
    assert noted(data, "1 rows have no part")


def test_rows_of_the_wrong_length(folder):
    with pytest.raises(
        DataError, match=r"1 rows do not have 2 cells as the first line has; line 3 has 3\. A cell that contains the delimiter ','"
    ):
        read_dataset(write(folder, "path,label\nimg/1.jpg,a\nimg/2.jpg,b,c\n"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "has no rows"),
        ("path,label\n", "has no rows"),
        ("path,path,label\nx,y,z\n", "two columns called 'path'"),
        ("path,label\n,a\nimg/1.jpg,b\n", "1 row of .* without a path in the column 'path'"),
        ("path,label\nhttps://x.org/1.jpg,a\nimg/1.jpg,b\n", "lists an address, 'https://x.org/1.jpg'; images are read from files only"),
        ("path,label\nimg/1.jpg,a\0\n", "is not a text file"),
    ],
)
def test_lists_that_are_none(folder, text, words):
    with pytest.raises(DataError, match=words):
        read_dataset(write(folder, text))


def test_a_huge_cell_is_read(folder):
    long = "x" * 200_000
    data = read_dataset(write(folder, f"path,label\nimg/1.jpg,a\nimg/2.jpg,{long}\n"))
    assert set(data.classes) == {"a", long}


def test_folder_for_training_and_list_for_test(folder, tmp_path):
    for name in "ab":
        (tmp_path / "train" / name).mkdir(parents=True)
        (tmp_path / "train" / name / "x.jpg").touch()
    data = read_dataset(tmp_path / "train", test=write(folder, rows("a", "b")))
    assert data.parts.tolist() == ["train", "train", "test", "test"]
    assert isinstance(data.targets, Labels)
    several = read_dataset(write(folder, rows("a;b", "b")), test=write(folder, "path,label\nimg/3.jpg,a\n", name="test.csv"))
    assert several.targets.array.tolist() == [[True, True], [False, True], [True, False]]


def test_groups_from_names_replace_those_of_a_column(folder):
    path = write(folder, "path,label,patient\nimg/1.jpg,a,p\nimg/2.jpg,b,q\n")
    data = read_dataset(path, group_from=r"(\d)\.jpg")
    assert data.groups.tolist() == ["1", "2"]
    assert noted(data, "are replaced by those from group_from")


def test_a_column_for_something_else_is_refused(folder):
    with pytest.raises(
        ParameterError,
        match=r"columns must be a table .* path, text, pair, translation, label, split, group, got \{'lable': 'x'\}\. Did you mean label\?",
    ):
        read_dataset(write(folder, rows("a", "b")), lists=ListOptions(columns={"lable": "x"}))
