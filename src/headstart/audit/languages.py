"""Which script and which language texts are in, and those that are in another than the rest.

Scripts are told by code points. Languages of the Latin script are told by their commonest words, which stand in every second sentence; of a
text too short to have any, nothing is said.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import cache

import numpy as np
import numpy.typing as npt

from headstart.audit.findings import Finding
from headstart.data import Dataset
from headstart.text import shorten

_BLOCKS = (  # first code point, and the script from there on; Han, Kana and Hangul are told apart by language below
    (0x0, ""), (0x41, "Latin"), (0x5B, ""), (0x61, "Latin"), (0x7B, ""), (0xC0, "Latin"), (0xD7, ""), (0xD8, "Latin"), (0xF7, ""),
    (0xF8, "Latin"), (0x2B0, ""), (0x370, "Greek"), (0x400, "Cyrillic"), (0x530, "Armenian"), (0x590, "Hebrew"), (0x600, "Arabic"),
    (0x700, ""), (0x750, "Arabic"), (0x780, ""), (0x8A0, "Arabic"), (0x900, "Devanagari"), (0x980, "Bengali"), (0xA00, "Gurmukhi"),
    (0xA80, "Gujarati"), (0xB00, ""), (0xB80, "Tamil"), (0xC00, "Telugu"), (0xC80, "Kannada"), (0xD00, "Malayalam"), (0xD80, ""),
    (0xE00, "Thai"), (0xE80, ""), (0x10A0, "Georgian"), (0x1100, "Hangul"), (0x1200, "Ethiopic"), (0x1380, ""), (0x1E00, "Latin"),
    (0x1F00, "Greek"), (0x2000, ""), (0x3040, "Kana"), (0x3100, ""), (0x3400, "Han"), (0x4DC0, ""), (0x4E00, "Han"), (0xA000, ""),
    (0xAC00, "Hangul"), (0xD7A4, ""), (0xF900, "Han"), (0xFB00, ""), (0xFB50, "Arabic"), (0xFE00, ""), (0xFF66, "Kana"), (0xFF9E, ""),
    (0x20000, "Han"), (0x323B0, ""),
)  # fmt: skip
SCRIPTS = tuple(sorted({name for _, name in _BLOCKS} - {""}))
"""The scripts that are told apart."""

_WORDS = {
    "English": "a an i my the of and to in is that it was for with as on be at by he had not are but from have they which one you were she "
    "this there been their we him has when who will no more if out so what up said its about than into them can",
    "German": "der die und das ist nicht ein eine zu den mit sich des auf für im dem er es sie von ich auch als an wie dass wir aber nach "
    "bei einer noch um am sind haben hat wird war oder so über einem einen nur mehr sehr kann wenn aus durch man ihr mir mich",
    "French": "le la les de des et est un une du en que qui dans pour pas sur il elle ce je ne se au plus par avec sont mais nous vous on "
    "cette ces son sa ses été leur aux être fait très tout comme ils c'est d'un j'ai ont aussi même",
    "Spanish": "el la los las de y que en un una es se por con no para su lo como más pero sus le ya al del está muy este esta son también "
    "fue había todo sin sobre ser era cuando hay nos porque donde mi yo eso",
    "Italian": "il la di che e un una per non sono è in con si da del della i gli le al ha ma anche come più nel questo questa lo alla dei "
    "delle mi ci se era molto tutto essere stato così dal ho",
    "Portuguese": "o a os as de e que em um uma do da dos das não para com por se na no é mais como mas foi ao ele ela muito tem são "
    "também está isso seu sua pelo pela já eu você nos até ser",
    "Dutch": "de het een van en in is dat op te zijn niet met voor die er maar aan als om ook bij nog dan uit naar heeft was wordt hij ze "
    "ik je wij deze door over geen heel kan meer zo",
    "Swedish": "och att det som en är på för av med den till inte har de ett om var jag men sig från så vi kan han när mycket eller nu",
    "Polish": "w i na nie się z do to że jest o jak ale za po co tak od przez ich jego był przy dla są bardzo tym już może tylko czy ma",
    "Turkish": "ve bir bu da de için ile çok ne ama gibi daha en var olan kadar olarak sonra değil o mi ben her şey",
    "Indonesian": "yang dan di untuk dengan ini itu dari tidak dalam pada adalah akan ada ke saya juga sangat karena lebih bisa kami sudah",
    "Vietnamese": "và của là có không một trong cho được những với các này người đã tôi rất khi nhưng để từ thì cũng",
}
LANGUAGES = tuple(_WORDS)
"""The languages of the Latin script that are told apart."""

_LOOKED_AT = 2000  # characters of one text
_MOST = 4000  # texts looked at
_SURE = 3  # different words of a language that are needed
_AHEAD = 2.0  # times as many as of any other
_FEWEST_LETTERS = 4  # to tell a script
_MAIN = 0.5  # share of the texts of the commonest language or script: with a smaller one there is no rest to differ from
_OTHER = 0.2  # share of other texts above which the data are of several languages rather than with strangers among them


def script_shares(texts: Sequence[str]) -> npt.NDArray[np.float64]:
    """The share of each of `SCRIPTS` in the letters of each text, float64 (n, scripts); zeros where there are no letters of any."""
    starts, kinds = _scripts()
    cut = [text[:_LOOKED_AT] for text in texts]
    points = np.frombuffer("".join(cut).encode("utf-32-le", "surrogatepass"), "<u4")
    kind = kinds[np.searchsorted(starts, points, side="right") - 1]
    rows = np.repeat(np.arange(len(cut)), [len(text) for text in cut])
    cells = rows * (len(SCRIPTS) + 1) + kind
    counts = np.bincount(cells, minlength=len(cut) * (len(SCRIPTS) + 1)).reshape(len(cut), -1)[:, 1:]
    total = counts.sum(axis=1, keepdims=True)
    return np.asarray(np.where(total >= _FEWEST_LETTERS, counts / np.maximum(total, 1), 0.0))


@cache
def _scripts() -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
    return (
        np.array([start for start, _ in _BLOCKS], np.uint32),
        np.array([SCRIPTS.index(name) + 1 if name else 0 for _, name in _BLOCKS], np.int64),
    )


def language_counts(text: str) -> npt.NDArray[np.int64]:
    """How many different words of a text are among the commonest of each of `LANGUAGES`, int64 (languages,)."""
    languages = _languages()
    counts = np.zeros(len(LANGUAGES), np.int64)
    for word in {*re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)?", text[:_LOOKED_AT].casefold())}:
        for language in languages.get(word, ()):
            counts[language] += 1
    return counts


@cache
def _languages() -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for language, words in enumerate(_WORDS.values()):
        for word in set(words.split()):
            found[word] = (*found.get(word, ()), language)
    return found


def languages_of(texts: Sequence[str]) -> list[str]:
    """The language of each text as far as it can be told: that of its words, else its script; empty where it has too few letters.

    The Latin script itself is no answer: of a text in it without common words, nothing is known. Japanese is told by its Kana.
    """
    shares = script_shares(texts)
    found = []
    for text, share in zip(texts, shares, strict=True):
        script = SCRIPTS[int(share.argmax())] if share.any() else ""
        if script in ("Han", "Kana"):
            script = "Japanese" if share[SCRIPTS.index("Kana")] > 0.05 else "Chinese"
        found.append(_of_latin(text) if script == "Latin" else script)
    return found


def _of_latin(text: str) -> str:
    counts = language_counts(text)
    best, next_best = np.argsort(-counts, kind="stable")[:2]
    return LANGUAGES[best] if counts[best] >= _SURE and counts[best] >= _AHEAD * counts[next_best] else ""


def find_mixed_languages(dataset: Dataset) -> list[Finding]:
    """Return a note where some texts are in another language or script than the rest."""
    rows = np.arange(len(dataset))
    if len(rows) > _MOST:
        rows = np.sort(np.random.default_rng(0).choice(rows, _MOST, replace=False))
    texts = [str(dataset.inputs[i]) for i in rows.tolist()]
    told = languages_of(texts)
    counts = Counter(filter(None, told))
    known = counts.total()
    if not known or len(counts) == 1:
        return []
    main, most = counts.most_common(1)[0]
    shares = ", ".join(f"{name} {count / known:.1%}" for name, count in counts.most_common(5))
    others = [i for i, name in enumerate(told) if name not in ("", main)]
    names = dataset.names()
    examples = [f"{names[rows[i]]} ({told[i]}): {shorten(' '.join(texts[i][:400].split()), 60)!r}" for i in others]
    where = f"of {known} texts whose language can be told" + ("" if len(rows) == len(dataset) else f", among {len(rows)} drawn at random")
    if most < _MAIN * known or len(others) > _OTHER * known:
        message = f"The texts are in several languages ({shares}; {where}). Choose a backbone that knows all of them; look at each apart."
    else:
        message = (
            f"{len(others)} {'text is' if len(others) == 1 else 'texts are'} not in {main} as the rest are ({shares}; {where}). "
            "Names and quotations mislead this count. If they are wrong texts, replace or drop them."
        )
    return Finding.of("mixed languages", "note", message, examples, len(others))
