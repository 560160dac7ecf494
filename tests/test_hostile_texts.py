"""Broken and odd lists of texts: each is read, or refused by a DataError that names the file and says why; nothing else happens."""

from __future__ import annotations

import csv
import json
import random
import time
import warnings
from collections import Counter
from pathlib import Path

import pytest

from headstart.data import read_dataset
from headstart.errors import DataError
from made_texts import SENTENCES

QUOTED = ("it's “fine”, really", 'she said "no"', "a, b; c | d")
ROWS = [(text, ("good", "bad")[index % 2]) for index, text in enumerate((*SENTENCES.values(), *QUOTED) * 3)]
ODD = (
    "\0", "\u202e", "\u200f", "\ufeff", "\u2028", "\x85", "\x0c", "\x1b[31m", "😀", "e\u0301", '"', '""', "'", ",", ";", "\t", "|",
    "\r", "\n", "\r\n", "\\", "\\N", "NaN", "=1+1", "\x1a", "\U0010ffff", "\ufffe", "\\ud800", " ", "\ufdfd" * 50,
)  # fmt: skip
ENCODINGS = ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig", "latin-1", "gb18030", "cp1251")
LINES = (b"", b",,,", b'"', b"[]", b"null", b"{}", b"[1", b'{"text": ["a"], "label": {"b": 1}}')
NAMES = (b"text", b"", b"  ", b"LABEL", b"cat\0", b"l\xff")
SIGNS = ((b'"', b",", b"\n", b"good", b"a"), (b"", b'"', b",", b"\n", b"1", b"\\u0000", b"\\ud83d"))
BYTES = (b"\xff", b"\xfe\xff", b"\xc3", b"\x80", b"\xed\xa0\x80", b"\0", b"\xf4\x90\x80\x80", b"\xef\xbb\xbf")


def csv_bytes(rows: list[tuple[str, str]], *, delimiter: str = ",", end: str = "\n") -> bytes:
    def cell(text: str) -> str:
        return '"' + text.replace('"', '""') + '"' if any(sign in text for sign in (delimiter, '"', "\n", "\r")) else text

    return end.join(delimiter.join(map(cell, row)) for row in [("text", "label"), *rows]).encode() + end.encode()


def json_bytes(rows: list[tuple[str, str]]) -> bytes:
    return "\n".join(json.dumps({"text": text, "label": label}) for text, label in rows).encode()


def mutated(chance: random.Random) -> tuple[str, bytes]:
    """A file name and its content: a list in which up to four things were broken."""
    suffix = chance.choice([".csv", ".csv", ".csv", ".tsv", ".jsonl", ".json", ".txt"])
    delimiter = "\t" if suffix == ".tsv" else chance.choice(",,,;|\t")
    data = json_bytes(ROWS) if "json" in suffix else csv_bytes(ROWS, delimiter=delimiter, end=chance.choice(["\n", "\n", "\r\n", "\r"]))
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(data) + 1)
        other = chance.randrange(len(data) + 1)
        kind = chance.randrange(13)
        if kind <= 2:
            data = data[:place] + chance.choice(ODD).encode("utf-8", "surrogatepass") * chance.choice([1, 1, 3]) + data[place:]
        elif kind <= 4:
            data = data[:place] + chance.choice(BYTES) + data[place:]
        elif kind == 5:
            data = data[:place]
        elif kind == 6:
            data = data[: min(place, other)] + data[max(place, other) :]
        elif kind == 7:
            data = data[: min(place, other)] + data[min(place, other) : max(place, other)] * 2 + data[max(place, other) :]
        elif kind == 8:
            data = data.decode("utf-8", "replace").encode(chance.choice(ENCODINGS), "replace")
        elif kind == 9:
            lines = data.split(b"\n")
            row = chance.randrange(len(lines))
            lines[row] = chance.choice([lines[row] + b",more", lines[row][: len(lines[row]) // 2], lines[row] * 2, *LINES])
            data = b"\n".join(lines)
        elif kind == 10:
            data = data[:place] + chance.choice([b"x", b"ab ", b'"', b"\xc3\xa4"]) * 200_000 + data[place:]
        elif kind == 11:
            data = data.replace(b"label", chance.choice(NAMES), chance.choice([1, -1]))
        else:
            data = data.replace(*map(chance.choice, SIGNS), chance.choice([1, 3, -1]))
    return f"list{suffix}", data


def outcome(path: Path) -> str:
    """What comes of a list: ``rows`` where it is read and all that is in it can be written, or the reason why it is refused."""
    try:
        dataset = read_dataset(path)
    except DataError as error:
        said = str(error)
        assert path.name in said, f"the file is not named: {said[:300]}"
        assert len(said) < 2000, f"a message of {len(said)} characters"
        assert said.isprintable() or "\n" in said, f"does not print: {said[:300]!r}"
        said.encode()
        return said
    assert len(dataset) > 0
    for text, labels in dataset:
        assert isinstance(text, str)
        assert text.strip()
        assert "\0" not in text
        text.encode()
        assert all(isinstance(label, str) for label in labels)
    for name in (*dataset.names(), *dataset.classes, *dataset.notes):
        name.encode()
    return "rows"


def mutations(folder: Path, seeds: range) -> Counter[str]:
    found = Counter[str]()
    for seed in seeds:
        name, data = mutated(random.Random(seed))
        path = folder / name
        path.write_bytes(data)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                found["rows" if outcome(path) == "rows" else "refused"] += 1
        except Exception as error:
            raise AssertionError(f"mutation {seed} ({name}): {type(error).__name__}: {str(error)[:500]}") from error
    return found


@pytest.mark.parametrize("start", range(0, 1000, 250))
def test_lists_broken_at_random_are_read_or_refused(start: int, tmp_path: Path) -> None:
    found = mutations(tmp_path, range(start, start + 250))
    assert found["rows"] >= 25
    assert found["refused"] >= 25


def read(tmp_path: Path, data: bytes | str, name: str = "list.csv") -> list[tuple[str, str]]:
    (tmp_path / name).write_bytes(data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass"))
    return [(str(text), *labels) for text, labels in read_dataset(tmp_path / name)]


def refused(tmp_path: Path, data: bytes | str, name: str = "list.csv") -> str:
    with pytest.raises(DataError) as caught:
        read(tmp_path, data, name)
    return str(caught.value).replace(str(tmp_path), "")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings_that_are_marked_are_read(encoding: str, tmp_path: Path) -> None:
    assert read(tmp_path, csv_bytes(ROWS).decode().encode(encoding)) == ROWS


def test_latin_1_is_read_and_noted(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_bytes("text,label\nschön und gut,a\ntrès bien,b\n".encode("latin-1"))
    dataset = read_dataset(path)
    assert [str(text) for text, _ in dataset] == ["schön und gut", "très bien"]
    assert any("is not UTF-8 and was read as Windows-1252" in note for note in dataset.notes)


def test_a_damaged_byte_does_not_garble_all_other_texts(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_bytes(csv_bytes(ROWS).replace(b"gesperrt", b"ge\xffperrt", 1))
    dataset = read_dataset(path)
    assert [str(text) for text, _ in dataset] == [ROWS[0][0].replace("gesperrt", "ge\ufffdperrt"), *(text for text, _ in ROWS[1:])]
    assert any("list.csv is UTF-8 but for 1 damaged place, the first in line 2" in note for note in dataset.notes)


def test_a_quote_left_open_is_refused_and_swallows_no_rows(tmp_path: Path) -> None:
    said = refused(tmp_path, 'label,text\na,one fine day\nb,"two fine days\na,three fine days\nb,four fine days\n')
    assert said.startswith("/list.csv: a cell in the row that begins in line 3 opens with a double quote that is never closed; close it")
    assert read(tmp_path, 'text,label\na 5" nail,a\n"a, b and c",b\n') == [('a 5" nail', "a"), ("a, b and c", "b")]


def test_zero_bytes_and_ragged_rows_are_refused_by_line(tmp_path: Path) -> None:
    assert "(it holds zero bytes, the first in line 3)" in refused(tmp_path, "text,label\ngood one,a\nb\0ad one,b\n")
    assert "1 rows do not have 2 cells as the first line has; line 3 has 3." in refused(
        tmp_path, "text,label\ngood one,a\nbad, one,b\nfine one,b\n"
    )


def test_escaped_surrogates_and_zero_bytes_of_json_become_text_that_can_be_written(tmp_path: Path) -> None:
    lines = [
        r'{"text": "lone \ud83d here", "label": "a"}', r'{"text": "pair \ud83d\ude00 here", "label": "b"}',
        r'{"text": "zero \u0000 byte", "label": "a"}',
    ]  # fmt: skip
    found = [text for text, _ in read(tmp_path, "\n".join(lines), "list.jsonl")]
    assert found == ["lone \ufffd here", "pair 😀 here", "zero   byte"]


def test_texts_of_ten_million_characters_are_read(tmp_path: Path) -> None:
    began, before = time.perf_counter(), csv.field_size_limit()
    (long, _), (short, _) = read(tmp_path, "text,label\n" + "word " * 2_000_000 + ",a\nshort one,b\n")
    assert (len(long), short) == (10_000_000, "short one")
    assert csv.field_size_limit() == before
    assert time.perf_counter() - began < 10


def test_labels_as_long_as_texts_take_no_time_and_no_memory(tmp_path: Path) -> None:
    began = time.perf_counter()
    read(tmp_path, f"text,label\ngood one,{'x' * 300_000}\n" + "bad one,b\n" * 30)
    assert time.perf_counter() - began < 5


def test_a_label_that_is_no_label_is_refused_by_its_column(tmp_path: Path) -> None:
    said = refused(
        tmp_path, json.dumps({"text": "good one", "label": {"b": 1}}) + "\n" + json.dumps({"text": "bad one", "label": "b"}), "list.jsonl"
    )
    assert said.startswith("the column 'label' of list.jsonl: a label must be a name or a list of names")


@pytest.mark.parametrize("sign", ["\u202e", "\u200f", "\ufeff", "\u2028", "\x85", "\x0c", "😀", "e\u0301"])
def test_signs_of_all_kinds_stay_in_their_cell(sign: str, tmp_path: Path) -> None:
    assert read(tmp_path, f"text,label\nbefore{sign}after it,a\nnext one,b\n") == [(f"before{sign}after it", "a"), ("next one", "b")]
