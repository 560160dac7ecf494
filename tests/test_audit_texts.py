"""Known truth about texts: faults that were planted are found, each by its kind, and texts in order are left alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from headstart.audit.findings import Finding
from headstart.audit.garbled import ungarbled
from headstart.audit.languages import languages_of
from headstart.audit.text_shortcuts import find_text_shortcuts, words_of
from headstart.audit.texts import find_long_texts, find_text_faults, gather_texts
from headstart.data import Dataset
from made_texts import SENTENCES, misread, read_rows, texts_of


def one(found: list[Finding], kind: str) -> Finding:
    (finding,) = (finding for finding in found if finding.kind == kind)
    return finding


# --- garbled texts ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252"])
@pytest.mark.parametrize("language", SENTENCES)
def test_a_misread_text_is_told_and_what_it_should_have_been(language: str, encoding: str) -> None:
    text = SENTENCES[language]
    assert ungarbled(misread(text, encoding)) == text
    assert ungarbled(misread(misread(text, encoding), encoding)) == text
    assert ungarbled(f"in order; {misread(text, encoding)}; “in order”") == f"in order; {text}; “in order”"


@pytest.mark.parametrize(
    ("language", "encoding"), [("Russian", "cp1251"), ("Greek", "cp1251"), ("Polish", "gb18030"), ("Chinese", "cp437")]
)
def test_encodings_of_countries_are_tried_on_whole_texts(language: str, encoding: str) -> None:
    text = SENTENCES[language]
    assert ungarbled(text.encode().decode(encoding)) == text


@pytest.mark.parametrize(
    "text",
    [
        *SENTENCES.values(), "plain", "",
        "le café\u00a0» et l’été\u00a0: « déjà\u00a0»", "„Spaß“ und „Größe“, 3×4 cm, ß“", "«ESPAÑA», CAMIÓN”",
        "NÃO É “IRMÔ – à noite", "«Ø» og «ÆRLIGÅ»", "Ä“ Ö” Ü…", "naïve – ‘façade’ … £5 ±3°", "Â", "Ã", "\ufffd lost", "Р°С", "\x80\x99",
    ],
)  # fmt: skip
def test_texts_in_order_are_not_called_garbled(text: str) -> None:
    assert ungarbled(text) is None


# --- faults of single texts -------------------------------------------------------------------------------------------------------

CLEAN = [
    "The film was good & long; 3 < 4 and 5 > 2, AT&T; <3",
    "Line one\nline\ttwo \N{LEFT-TO-RIGHT MARK}",
    "a <b and c> d",
    *SENTENCES.values(),
]
PLANTED = {
    "garbled": misread("Das Buch ist schön.", "cp1252"),
    "lost characters": "Das Buch ist sch\ufffdn.",
    "control characters": "A film\x00 and \x1b[31m more",
    "markup": "A good film.<br />Really",
}


def kinds_of(texts: list[str]) -> dict[str, Finding]:
    return {finding.kind: finding for finding in find_text_faults(texts_of(texts)) if finding.kind != "mixed languages"}


def test_texts_in_order_have_no_faults() -> None:
    assert kinds_of(CLEAN) == {}


@pytest.mark.parametrize("kind", PLANTED)
def test_each_fault_is_found_by_its_kind_and_no_other(kind: str) -> None:
    found = kinds_of([*CLEAN, PLANTED[kind]])
    assert list(found) == [kind]
    assert found[kind].count == 1
    assert found[kind].examples[0].startswith(f"row {len(CLEAN) + 1}: ")


def test_messages_say_what_was_found_and_what_should_stand_there() -> None:
    found = kinds_of([PLANTED["garbled"], PLANTED["control characters"], "Q&amp;A", *(["fine"] * 7)])
    assert found["garbled"].message.startswith("1 of 10 texts is garbled (mojibake): UTF-8 that was read in another encoding.")
    assert found["garbled"].severity == "warning"
    assert found["garbled"].examples == ("row 1: 'Das Buch ist schÃ¶n.' should be 'Das Buch ist schön.'",)
    assert found["control characters"].examples == ("row 2: 1 x U+0000, 1 x U+001B",)
    assert found["markup"].examples == ("row 3: '&amp;' in 'Q&amp;A'",)
    few = kinds_of([PLANTED["markup"], *(["fine"] * 200)])["markup"]
    assert few.severity == "note"


def test_texts_with_nothing_in_them_are_named_and_no_others() -> None:
    texts = ["", "  \n", "\N{NO-BREAK SPACE}", "\u200b\u2060", ".", "好", "\N{GRINNING FACE}", "\ufffd"]
    assert gather_texts(texts_of(texts), deep=False, progress=None).refused() == dict.fromkeys(range(3), "empty")
    assert kinds_of(texts)["empty"].examples == ("row 4: 2 characters, none of which is seen",)


def test_texts_that_are_not_read_to_the_end_are_counted() -> None:
    dataset = texts_of(["short", "long " * 1000, "short"])
    (found,) = find_long_texts(dataset, [False, True, False], limit=256)
    assert found.message.startswith("1 of 3 texts is longer than the 256 pieces that are read of one (33.3%); the rest is left out.")
    assert (found.severity, found.examples) == ("warning", ("row 2: 5000 characters",))
    assert find_long_texts(dataset, [False] * 3, limit=256) == []


# --- languages --------------------------------------------------------------------------------------------------------------------


def test_languages_are_told_by_script_and_by_common_words() -> None:
    texts = {
        "English": "This is what they said about the film, and it was good.",
        "German": "Das ist nicht der Film, den wir sehen wollten, und er war lang.",
        "French": "Ce n'est pas le film que nous avons vu, mais il est très bon.",
        "Spanish": "No es la película que vimos, pero es muy buena.",
        "Italian": "Non è il film che abbiamo visto, ma è molto bello.",
        "Dutch": "Dit is niet de film die we hebben gezien, maar het was goed.",
        "Cyrillic": SENTENCES["Russian"], "Chinese": SENTENCES["Chinese"], "Japanese": SENTENCES["Japanese"], "Greek": SENTENCES["Greek"],
        "Arabic": SENTENCES["Arabic"],
    }  # fmt: skip
    assert languages_of([*texts.values()]) == [*texts]
    assert languages_of(["Lorem ipsum", "", "12", "just a kiss is a just a waste"]) == [""] * 4


def test_strangers_among_texts_of_one_language_are_named() -> None:
    texts = [f"This is number {i} of the films that we have seen." for i in range(40)]
    found = one(
        find_text_faults(texts_of([*texts, "Das ist nicht der Film, den wir sehen wollten.", SENTENCES["Russian"]])), "mixed languages"
    )
    assert found.message.startswith("2 texts are not in English as the rest are (English 95.2%")
    assert [example.split(":")[0] for example in found.examples] == ["row 41 (German)", "row 42 (Cyrillic)"]
    assert find_text_faults(texts_of(texts)) == []
    several = one(find_text_faults(texts_of([*texts, *[SENTENCES["Russian"]] * 40])), "mixed languages")
    assert several.message.startswith("The texts are in several languages (English 50.0%, Cyrillic 50.0%")


# --- shortcuts --------------------------------------------------------------------------------------------------------------------

WORDS = ["plain", "grey", "stone", "river", "window", "table", "bread", "music", "winter", "garden", "silver", "market", "paper", "morning"]


def random_texts(count: int, *, seed: int = 0, words: tuple[int, int] = (5, 15)) -> list[str]:
    random = np.random.default_rng(seed)
    return [" ".join(random.choice(WORDS, random.integers(*words))) for _ in range(count)]


def two_classes(first: list[str], second: list[str]) -> Dataset:
    return texts_of([*first, *second], ["first"] * len(first) + ["second"] * len(second))


def test_texts_that_differ_in_nothing_have_no_shortcut() -> None:
    for seed in range(5):
        assert find_text_shortcuts(two_classes(random_texts(150, seed=seed), random_texts(150, seed=seed + 50))) == []
    assert find_text_shortcuts(two_classes(random_texts(3), random_texts(3))) == []


@pytest.mark.parametrize(
    ("name", "second"),
    [
        ("the length alone", random_texts(150, seed=1, words=(20, 40))),
        ("the language or script alone", ["Очень хороший фильм номер " + chr(1072 + i % 32) for i in range(150)]),
        ("the punctuation, digits and capitals alone", [text.capitalize() for text in random_texts(150, seed=1)]),
    ],
)
def test_a_planted_property_is_found(name: str, second: list[str]) -> None:
    found = [finding for finding in find_text_shortcuts(two_classes(random_texts(150), second)) if name in finding.message]
    assert [finding.severity for finding in found] == ["warning"]
    assert "without reading the text" in found[0].message


@pytest.mark.parametrize(("share", "severity"), [(1.0, "warning"), (0.7, "note")])
def test_a_word_that_marks_a_class_is_named(share: float, severity: str) -> None:
    random = np.random.default_rng(0)
    second = [f"{text} reuters bread" if random.random() < share else text for text in random_texts(150, seed=1)]
    (found,) = (finding for finding in find_text_shortcuts(two_classes(random_texts(150), second)) if "single word" in finding.message)
    assert found.severity == severity
    assert found.examples[0].startswith("second: 'reuters' is in ")
    assert "in 0% of the others" in found.examples[0]


def test_words_are_told_apart_in_scripts_with_spaces_and_without() -> None:
    assert words_of("Don't SHOUT!") == {"don", "'", "t", "shout", "!"}
    assert words_of("非常好") == {"非常", "常好"}
    assert words_of("好") == {"好"}


# --- real texts -------------------------------------------------------------------------------------------------------------------


@pytest.mark.data
@pytest.mark.parametrize(("name", "known"), [("text_sentiment", set()), ("text_chinese", {"markup", "mixed languages"})])
def test_of_real_texts_only_what_is_there_is_said(name: str, known: set[str], shared_data: Path) -> None:
    rows = [row for part in ("train", "test") for row in read_rows(shared_data / name, part)]
    dataset = texts_of([text for text, _ in rows], [label for _, label in rows])
    found = find_text_faults(dataset)
    assert {finding.kind for finding in found} == known  # one review with entities, and one that was garbled on its way
    assert all(finding.count == 1 and finding.severity == "note" for finding in found)
    assert find_text_shortcuts(dataset) == []
    assert gather_texts(dataset, deep=False, progress=None).refused() == {}


@pytest.mark.data
def test_every_misread_german_sentence_is_told(shared_data: Path) -> None:
    lines = (shared_data / "translation" / "test.tsv").read_text(encoding="utf-8").splitlines()[1:]
    german = [line.split("\t")[1] for line in lines]
    beyond = [text for text in german if not text.isascii()]
    assert len(beyond) > 100
    assert all(ungarbled(misread(text, encoding)) == text for text in beyond for encoding in ("latin-1", "cp1252"))
    assert not any(ungarbled(text) for text in german)
