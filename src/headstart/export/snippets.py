"""Programs that use an exported file without Headstart: the templates in the folder ``programs``, filled in for a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from headstart.errors import ParameterError, nearest
from headstart.export.comparison import CLASS_MAP, Comparison
from headstart.metrics.link import THRESHOLD
from headstart.modalities import IMAGE, image
from headstart.run import Run

if TYPE_CHECKING:
    from jinja2 import Environment

LANGUAGES = ("python", "javascript", "cpp")
_PROGRAMS = Path(__file__).with_name("programs")
_DECODING = Path(image.__file__).with_name("rgb.py")
_PRINTED: Mapping[str | None, str] = {  # by the link of the classes; without classes, the value itself
    "softmax": "{classes[values.argmax()]}  {values.max():.4f}",
    "sigmoid": f"{{';'.join(classes[i] for i in np.flatnonzero(values >= {THRESHOLD:g}))}}  {{values.max():.4f}}",
    None: "{values}",
}
_PIXELS = "{'; '.join(f'{name} {(values == i).mean():.1%}' for i, name in enumerate(classes))}"
_OF_COLUMNS = ("python", "javascript")  # the languages with a program for several columns of labels


def snippet(language: str, run: Run, *, file: str) -> str:
    """A program that uses `file`, the name of an exported ONNX or ``.tflite`` file; for the latter in ``python`` only.

    Raises ParameterError for another language, and for a run whose outputs have no kind that could be printed.
    """
    if language not in LANGUAGES:
        raise ParameterError(f"--snippet must be {', '.join(LANGUAGES)}, got {language!r}.{nearest(language, LANGUAGES)}")
    litert = Path(file).suffix == ".tflite"
    if litert and language != "python":
        raise ParameterError(f"--snippet {language}: the program for LiteRT is in python only.")
    columns = [one for one in run.class_outputs if one.column]
    if columns and (litert or language not in _OF_COLUMNS):
        what = "the program for LiteRT" if litert else f"the program in {language}"
        raise ParameterError(
            f"--snippet {language}: {what} is for runs of one column of labels, and this one has {len(columns)}. For an ONNX file "
            f"there is one in {' and '.join(_OF_COLUMNS)}."
        )
    if run.modality is not IMAGE:
        return _of_texts(language, run, file)
    comparison = Comparison.of(run)
    if comparison.pixels and language != "python":
        raise ParameterError(f"--snippet {language}: of runs that say something of each pixel, the program is in python only.")
    link = None if run.link is None else run.link.name
    novelty = None if run.reliability is None else run.reliability.novelty
    return _programs().get_template("litert.txt" if litert else f"{language}.txt").render(
        file=file, output=CLASS_MAP if comparison.pixels else comparison.output, classes=run.classes, link=link, columns=columns,
        printed=_PIXELS if comparison.pixels else _PRINTED[link],
        links=_PRINTED,
        threshold=None if novelty is None else novelty.threshold, preprocessing=run.preprocessing, decoding=_DECODING.read_text("utf-8"),
    )  # fmt: skip


def _of_texts(language: str, run: Run, file: str) -> str:
    if language != "python" or not run.class_outputs or run.class_outputs[0].column:
        raise ParameterError(f"--snippet {language}: of runs that take texts, the program is in python, for one column of labels.")
    if "sketch" in run.preprocessing.inputs:
        raise ParameterError(
            f"--snippet {language}: {run.path} was fitted on terms alone, and its file takes the sketch of its terms, which only Headstart "
            "makes. Fit with --backbone minilm: terms are used beside it."
        )
    from headstart.export.job import beside_name

    link, files = None if run.link is None else run.link.name, run.preprocessing.files()
    names = {name.removesuffix(".json"): beside_name(Path(file), name) for name in files}
    return _programs().get_template("python_texts.txt").render(
        file=file, output=Comparison.of(run).output, printed=_PRINTED[link], pieces="tokenizer" in names, tokenizer=names.get("tokenizer"),
        terms=names.get("terms"),
    )  # fmt: skip


def _programs() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    programs = Environment(  # noqa: S701 # no HTML: names are quoted
        loader=FileSystemLoader(_PROGRAMS), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    programs.filters["quoted"] = _quoted
    return programs


def _quoted(text: str) -> str:
    """A string literal that means the same in all three languages: nothing but printable ASCII stands for itself, or UTF-8 does."""
    safe = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(mark if mark.isprintable() else " " for mark in safe) + '"'
