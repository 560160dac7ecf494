"""Lists as other programs write them: read, or refused by name with advice that can be typed as it stands."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from conftest import draw
from headstart.data import LabelSets, ListOptions, read_dataset
from headstart.errors import DataError, options_typed, setting
from headstart.progress import Warned

Cli = Callable[..., Any]
FILES = [f"photos/{name}/{name}{index}.png" for name in ("bar", "disc") for index in range(6)]


@pytest.fixture
def lists(cli: Cli) -> Cli:
    """The command line, in a folder with a dozen photos of two classes."""
    for kind, name in enumerate(("bar", "disc")):
        Path("photos", name).mkdir(parents=True)
        for index in range(6):
            Image.fromarray(draw(kind, 10 * kind + index)).save(f"photos/{name}/{name}{index}.png")
    return cli


def write(name: str, head: str, row: Callable[[str, str], str]) -> Path:
    """A list with a row for each photo."""
    path = Path(name)
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in [head, *(row(file, Path(file).parent.name) for file in FILES)] if line), "utf-8")
    return path


def advised(message: str) -> list[str]:
    """The first option that a message advises, as words that are typed."""
    found = re.search(r"(--[a-z][a-z-]*)( (?:'[^']*'|[^\s;.]+(?:\.[^\s;]+)*))?", message)
    assert found is not None, message
    return shlex.split(found[1] + ("" if found[1] == "--allow-missing" else found[2] or ""))


READ: dict[str, tuple[str, Callable[[str, str], str]]] = {
    "excel.csv": ("sep=;\npath;label", lambda file, label: f"{file};{label}"),
    "tabs.csv": ("sep=\t\npath\tlabel", lambda file, label: f"{file}\t{label}"),
    "uri.csv": ("path,label", lambda file, label: f"{Path(file).absolute().as_uri()},{label}"),
    "moved_uri.csv": ("path,label", lambda file, label: f"file:///data/{file},{label}"),
    "moved.csv": ("path,label", lambda file, label: f"/home/other/set/{file},{label}"),
    "windows.csv": ("path,label", lambda file, label: "C:\\Users\\me\\" + file.replace("/", "\\") + f",{label}"),
    "spaces.csv": ("path, label", lambda file, label: f" {file} , {label} "),
    "onehot.csv": ("image,bar,disc", lambda file, label: f"{file},{int(label == 'bar')},{int(label == 'disc')}"),
    "floats.csv": ("filename, bar, disc", lambda file, label: f"{file},{float(label == 'bar')},{float(label == 'disc')}"),
    "truth.csv": ("image,bar,disc", lambda file, label: f"{file},{label == 'bar'},{label == 'disc'}"),
    "plain.txt": ("", lambda file, label: f"{file} {label}"),
    "two.csv": ("path,choice", lambda file, label: f"{file},{label}"),
    "quotes.csv": ('path, "label"', lambda file, label: f'"{file}", "{label}"'),
    "ends.csv": ("path,label", lambda file, label: f"{file},{label},"),
    "words.csv": ("image,bar,disc", lambda file, label: f"{file},{'yes' if label == 'bar' else 'no'},{'yes' if label == 'disc' else 'no'}"),
    "marks.csv": ("image,bar,disc", lambda file, label: f"{file},{'x' * (label == 'bar')},{'x' * (label == 'disc')}"),
    "studio.csv": ("image,label", lambda file, label: f"/data/local-files/?d={file},{label}"),
    "min.jsonl": ("", lambda file, label: json.dumps({"image": file, "label": {"choices": [label]}["choices"]})),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_lists_that_are_read(lists: Cli, name: str) -> None:
    data = read_dataset(write(name, *READ[name]))
    assert data.counts() == {"bar": 6, "disc": 6}
    assert [data.labels(i) == (path.parent.name,) for i, path in enumerate(data.inputs)] == [True] * 12
    if "moved" in name or "windows" in name:
        assert any("is not there: 12 of the files are read from" in note for note in data.notes)


@pytest.mark.parametrize("shape", ["map", "columns", "frame"])
def test_tables_that_are_one_object_of_json(lists: Cli, shape: str) -> None:
    labels = [Path(file).parent.name for file in FILES]
    columns = {"path": FILES, "label": labels}
    frame = {name: dict(enumerate(column)) for name, column in columns.items()}
    Path("list.json").write_text(json.dumps({"map": dict(zip(FILES, labels, strict=True)), "columns": columns, "frame": frame}[shape]))
    assert read_dataset("list.json").counts() == {"bar": 6, "disc": 6}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (lambda file, label: f"{Path(file).name},{label}", "There is 'photos/bar/bar0.png': write that in place of 'bar0.png'"),
        (lambda file, label: f"{file[:-3]}PNG,{label}", "There is 'photos/bar/bar0.png': write that in place of 'photos/bar/bar0.PNG'"),
        (lambda file, label: f"photos/{label},{label}", "'photos/bar' is a folder; a list names files"),
    ],
)  # fmt: skip
def test_files_that_are_named_otherwise(lists: Cli, row: Callable[[str, str], str], message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        read_dataset(write("list.csv", "path,label", row))


def test_labels_that_may_be_none_are_warned_of(lists: Cli) -> None:
    data = read_dataset(write("nan.csv", "path,label", lambda file, label: f"{file},{'nan' if '0' in file else label}"))
    assert any(isinstance(note, Warned) and "The label 'nan' of nan.csv is read as a class of that name" in note for note in data.notes)
    data = read_dataset(write("ages.csv", "path,age", lambda file, label: f"{file},{FILES.index(file) / 2}"))
    assert any(isinstance(note, Warned) and "each of the 12 is read as a class" in note for note in data.notes)
    mixed = read_dataset(write("mixed.csv", "path,label", lambda file, label: f"{file},{'1' if '0' in file else '1.0'}"))
    assert any("Classes '1' and '1.0' differ only" in note for note in mixed.notes)


def test_a_home_folder(lists: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(Path.cwd()))
    assert len(read_dataset(write("lists/home.csv", "path,label", lambda file, label: f"~/{file},{label}"))) == 12


def test_columns_of_0_and_1(lists: Cli) -> None:
    several = read_dataset(
        write("several.csv", "image,bar,disc,dark", lambda file, label: f"{file},{+(label == 'bar')},{+(label == 'disc')},1")
    )
    assert isinstance(several.targets, LabelSets)
    assert several.counts() == {"bar": 6, "dark": 12, "disc": 6}
    with pytest.raises(DataError, match="has no column for the label"):
        read_dataset(write("mixed.csv", "image,bar,disc,note", lambda file, label: f"{file},1,0,x"))


# What a list lacks, and what becomes of it when the advice is typed: the number of images that are read.
ADVISED: dict[str, tuple[str, Callable[[str, str], str], int]] = {
    "three.csv": ("path,choice,note", lambda file, label: f"{file},{label},x", 12),
    "spaced.csv": ("path,my choice,note", lambda file, label: f"{file},{label},x", 12),
    "where.csv": ("where,label,note", lambda file, label: f"{file},{label},x", 12),
    "lists/cwd.csv": ("path,label", lambda file, label: f"{file},{label}", 12),
    "lists/a b/deep.csv": ("path,label", lambda file, label: f"{file.removeprefix('photos/')},{label}", 12),
    "missing.csv": ("path,label\nphotos/nope.png,bar", lambda file, label: f"{file},{label}", 12),
    "pathless.csv": ("path,label\n,bar", lambda file, label: f"{file},{label}", 12),
    "ages.csv": ("path,age,choice", lambda file, label: f"{file},{file[-5]},{label}", 12),
    "unlabelled.csv": ("path,label,split", lambda file, label: f"{file},,test" if "0" in file else f"{file},{label},train", 10),
}  # fmt: skip


@pytest.mark.parametrize("name", ADVISED)
def test_advice_is_typed_as_it_stands(lists: Cli, name: str) -> None:
    head, row, images = ADVISED[name]
    Path("lists/a b").mkdir(parents=True)
    path = write(name, head, row)
    if "deep" in name:
        Path("photos").rename("lists/a b/photos")
    refused = lists("check", path)
    assert refused.code == 2, refused.err
    option = advised(refused.err)
    done = lists("check", path, *option)
    assert done.code == 0, (option, done.err)
    assert f"{images} images in {path}" in done.out
    fitted = lists("fit", path, *option, "--out", "run", "--head", "centroid", "--backbone", "lite0@96")
    assert fitted.code == 0, fitted.err
    assert lists("evaluate", "run", path, *option).code == 0


def test_images_alone_are_for_predict(lists: Cli, run: Path) -> None:
    path = write("images_only.csv", "path", lambda file, label: file)
    refused = lists("fit", path)
    assert (refused.code, "has no column for the label" in refused.err) == (2, True)
    assert lists("predict", run, path, "--format", "csv").out.count("photos/") == 12
    plain = write("plain.txt", "", lambda file, label: file)
    assert lists("predict", run, plain, "--format", "csv").out.count("photos/") == 12
    odd = write("odd.csv", "where,note", lambda file, label: f"{file},x")
    refused = lists("predict", run, odd)
    assert refused.code == 2
    assert lists("predict", run, odd, *advised(refused.err), "--format", "csv").out.count("photos/") == 12
    assert lists("predict", run, path, "--batch", "--out", "t.csv").code == 0
    odd.write_text(odd.read_text().replace(FILES[3], ""))
    done = lists("predict", run, odd, "--column", "path=where", "--format", "csv")
    assert (done.out.count("photos/"), "Warning: Passed over 1 row of odd.csv without a path: 4." in done.err) == (11, True)


@pytest.mark.parametrize("column", ["source", "person", "case", "subject", "scene"])
def test_a_column_taken_as_group_is_told(lists: Cli, column: str) -> None:
    path = write("list.csv", f"path,label,{column}", lambda file, label: f"{file},{label},camera-{label}")
    refused = lists("fit", path, "--head", "centroid", "--out", "run")
    assert refused.code == 2
    assert f"Columns of list.csv: '{column}' is taken as the group. --column group= leaves the group out." in refused.err
    assert f"every class has a single group only (the column '{column}' of list.csv says what belongs together)" in refused.err
    assert lists("fit", path, *advised(refused.err), "--head", "centroid", "--out", "run").code == 0
    assert not read_dataset(path, lists=ListOptions(columns={"group": ""})).grouped


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("coco.json", '{"images": [], "annotations": [], "categories": []}', "in COCO's format without a shape or a box of a thing"),
        ("tasks.json", '[{"data": {"image": "x"}, "annotations": []}]', "Label Studio's JSON without a region of an image (export"),
        ("via.json", '{"a.jpg1": {"filename": "a.jpg", "regions": []}}', "holds the project of VGG's Image Annotator"),
        ("labelme.json", '{"shapes": [], "imagePath": "a.jpg"}', "holds the annotations of LabelMe"),
        ("createml.json", '[{"image": "a.jpg", "annotations": [{"label": "a"}]}]', "holds annotations of CreateML"),
        ("split.json", '{"columns": ["path"], "data": [["a.jpg"], ["b.jpg"]]}', "is one object of columns, data; expected one"),
        ("a.xlsx", "PK", "is a spreadsheet, which is not read: save it as CSV"),
        ("a.npy", "x", "is a single array: save images and labels together, as in np.savez"),
        ("title.csv", "My list\npath,label\na.jpg,a\n", "the first line, 'My list', is not one of column names"),
        ("vector.csv", 'path,label\na.jpg,"[1, 0]"\nb.jpg,"[0, 1]"\n', "is a vector of 0 and 1, such as [0, 1], which does not name"),
        ("split.csv", "path,label,split\na.jpg,a,train\nb.jpg,b,no\n", "found 'no'. --column split= leaves"),
        ("cvat.xml", "<annotations/>", "is XML without a box or a shape of CVAT; of Pascal VOC, which has a file for"),
        ("data.yaml", "names: [a]", "is YAML without names of classes, as YOLO has them, or without its text files beside it"),
        ("a.tfrecord", "x", "is a TFRecord, which is not read: write the images into folders of classes"),
    ],
)  # fmt: skip
def test_formats_of_others_are_refused_by_name(cli: Cli, name: str, text: str, words: str) -> None:
    Path(name).write_text(text)
    done = cli("fit", name)
    assert done.code == 2
    assert words in done.err


def test_settings_in_the_words_of_the_entrance() -> None:
    assert setting("image_root", "a b") == "image_root='a b'"
    assert setting("columns", {"label": "x y"}) == "columns={'label': 'x y'}"
    assert setting("allow_missing", True) == "allow_missing=True"
    with options_typed():
        assert setting("image_root", "a b") == "--image-root 'a b'"
        assert setting("columns", {"label": "x y"}) == "--column 'label=x y'"
        assert setting("allow_missing", True) == "--allow-missing"
        assert setting("image_root") == "--image-root"
    assert setting("image_root") == "image_root=..."


def test_an_object_over_several_lines_is_named(lists: Cli) -> None:
    """As LabelMe writes it, which has a file for each image."""
    document = {"shapes": [], "imagePath": "bar0.png", "imageHeight": 48, "imageWidth": 48}
    for indent in (None, 2):
        Path("bar0.json").write_text(json.dumps(document, indent=indent), "utf-8")
        done = lists("check", "bar0.json")
        assert done.code == 2
        assert "annotations of LabelMe for one image (give the folder of all of them)" in re.sub(r"\s+", " ", done.err)
    Path("labels.json").write_text(json.dumps({file: Path(file).parent.name for file in FILES}, indent=2), "utf-8")
    assert lists("check", "labels.json").code == 0


def test_what_is_passed_over_is_named_and_counted() -> None:
    from headstart.data.listing import PassedOver

    passed = PassedOver()
    for index in range(9):
        passed.add("non-image file", f"{index}.json")
    for index in range(8):
        passed.used("non-image file", f"{index}.json")
    passed.used("link", "0.json")
    assert passed.notes() == ["Passed over 1 non-image file: 8.json."]
    passed.used("non-image file", "8.json")
    assert passed.notes() == []
