"""Translation as a task: lists of pairs, fits, runs that translate line by line, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from headstart import fit, load
from headstart.data import read_annotations
from headstart.data.translations import TRANSLATION, Translations, text_rows, texts_in
from headstart.errors import DataError, Interrupted, ParameterError
from headstart.modalities.text import LinePreprocessing, TextPreprocessing
from headstart.progress import Listener
from headstart.settings import FineTuning, FitSettings, ListOptions

for name in ("torch", "transformers", "sentencepiece", "sacrebleu"):
    pytest.importorskip(name, reason="needs the extra transformers")

pytestmark = pytest.mark.torch

Cli = Callable[..., SimpleNamespace]
WORDS = ["blue", "green", "house", "tree", "river", "stone", "cloud", "light", "night", "winter"]


def rows(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """English words, and the same spelled backwards."""
    drawn = np.random.default_rng(seed)
    chosen = [drawn.choice(WORDS, drawn.integers(3, 7)) for _ in range(count)]
    return [(" ".join(words), " ".join(word[::-1] for word in words)) for words in chosen]


def written(path: Path, pairs: list[tuple[str, str]], head: str = "en\tde") -> Path:
    path.write_text("\n".join([head, *("\t".join(pair) for pair in pairs)]) + "\n", encoding="utf-8")
    return path


def settings(**options: Any) -> FitSettings:
    plan = FineTuning(strategy="full", epochs=14, lr=3e-3, batch_size=16)
    return FitSettings(**{"backbone": "marian-tiny", "fine_tuning": plan, **options})


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("pairs") / "pairs.tsv", rows(120))


@pytest.fixture(scope="module")
def run(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "backwards"
    fit(pairs, out=out, settings=settings())
    return out


# --- data -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "head", ["en\tde", "source\ttarget", "src\ttgt", "English\tGerman", "en_XX\tde_DE", "text\ttranslation", "original\ttranslation"]
)
def test_columns_of_pairs_are_recognised(head: str, tmp_path: Path) -> None:
    given = rows(12)
    found = read_annotations(written(tmp_path / "list.tsv", given, head))
    assert [str(text) for text in found.inputs] == [source for source, _ in given]
    assert found.columns[TRANSLATION].values == [target for _, target in given]
    assert found.columns[TRANSLATION].cells[0] == tuple(head.split("\t"))


@pytest.mark.parametrize("head", ["text\tlabel", "sentence1\tsentence2", "id\ttext", "title\tbody"])
def test_other_columns_are_not(head: str, tmp_path: Path) -> None:
    path = written(tmp_path / "list.tsv", [(text, "ab"[row % 2]) for row, (text, _) in enumerate(rows(12))], head)
    try:
        found = read_annotations(path)
    except DataError:
        return
    assert TRANSLATION not in found.columns


def test_columns_can_be_named(tmp_path: Path) -> None:
    path = written(tmp_path / "list.tsv", rows(12), "before\tafter")
    found = read_annotations(path, lists=ListOptions(columns={"translation": "before", "text": "after"}))
    assert str(found.inputs[0]) == rows(12)[0][1]
    with pytest.raises(DataError, match="has no column 'then' for the translation"):
        read_annotations(path, lists=ListOptions(columns={"translation": "then"}))
    with pytest.raises(DataError, match="cannot be both the text and its translation"):
        read_annotations(path, lists=ListOptions(columns={"text": "after", "translation": "after"}))


def test_rows_without_a_text_are_passed_over(tmp_path: Path) -> None:
    found = read_annotations(written(tmp_path / "list.tsv", [*rows(12), ("", "a b c"), ("a b c", " ")]))
    assert len(found.inputs) == 12
    assert any("Passed over 2 rows without a text or a translation: row 13 and row 14" in note for note in found.notes)


def parallel(folder: Path, parts: dict[str, int]) -> Path:
    for place, (stem, count) in enumerate(parts.items()):
        for side, language in enumerate(("en", "de")):
            lines = "".join(f"{pair[side]}\n" for pair in rows(count, seed=place))
            (folder / f"{stem}.{language}").write_text(lines, encoding="utf-8")
    return folder


def test_parallel_files_are_pairs(tmp_path: Path) -> None:
    found = read_annotations(parallel(tmp_path, {"train": 8, "val": 3, "test_2016": 4}))
    assert [found.parts.count(part) for part in ("train", "val", "test")] == [8, 3, 4]
    assert set(found.columns[TRANSLATION].cells) == {("en", "de")}
    pairs = sorted((str(text), translation) for text, translation in zip(found.inputs, found.columns[TRANSLATION].values, strict=True))
    assert pairs == sorted(pair for place, count in enumerate((8, 3, 4)) for pair in rows(count, seed=place))
    turned = read_annotations(tmp_path, lists=ListOptions(columns={"text": "de"}))
    assert turned.columns[TRANSLATION].values == [str(text) for text in found.inputs]
    assert read_annotations(tmp_path, lists=ListOptions(columns={"translation": "en"})).columns[TRANSLATION].cells[0] == ("de", "en")
    with pytest.raises(DataError, match="has no files in 'fr'"):
        read_annotations(tmp_path, lists=ListOptions(columns={"text": "fr"}))


def test_parallel_files_must_fit(tmp_path: Path) -> None:
    folder = parallel(tmp_path, {"train": 8})
    with (folder / "train.de").open("a") as file:
        file.write("one more\n")
    with pytest.raises(DataError, match=r"8 lines in train\.en and 9 in train\.de"):
        read_annotations(folder)
    (folder / "train.fr").write_text("a\n")
    with pytest.raises(DataError, match="the files are in de, en, fr"):
        read_annotations(folder)


def test_texts_are_the_same_after_rows_of_bytes() -> None:
    texts = ["", "ä", "😀 b", "日本語", "x" * 50]
    assert texts_in(text_rows(texts)) == texts
    assert texts_in(text_rows(["a\0b"])) == ["a b"]
    assert text_rows([]).shape == (0, 0)


def test_targets_are_taken_by_rows() -> None:
    targets = Translations(tuple(target for _, target in rows(50)), ("en", "de"))
    taken = targets.take(np.array([3, 1]))
    assert taken.texts == (rows(50)[3][1], rows(50)[1][1])
    assert taken.columns == ("en", "de")
    lengths = np.array(list(map(len, targets.texts)))
    means = [lengths[targets.strata == part].mean() for part in range(4)]
    assert means == sorted(means)


def test_a_huge_text_costs_no_memory() -> None:
    huge = "word " * 2_000_000
    assert text_rows(["a", huge]).nbytes <= 2 * 4000
    assert Translations(("a", huge)).array.shape == (2, 32)


def test_lines_stay_as_they_are() -> None:
    lines = LinePreprocessing()
    assert lines(lines.read("  ")) == "  "
    assert TextPreprocessing.from_run(lines.to_dict(), lambda name: b"") == lines
    assert lines.counted(["a", "b", "c"]).take(np.array([False, True, True])).texts == ("b", "c")


# --- runs -----------------------------------------------------------------------------------------------------------------------


def test_run_is_opened_without_its_data(run: Path) -> None:
    opened = load(run)
    assert opened.manifest.modality == "text"
    assert opened.manifest.task == "translation"
    assert not (run / "model.onnx").exists()
    assert not [path for path in run.iterdir() if path.suffix in (".bin", ".pt", ".pth", ".pkl")]
    predictions = opened.predict(["blue house", "", "green tree"])
    lines = [record.line for record in opened.records(["1", "2", "3"], predictions)]
    assert lines[1] == ""
    assert lines == [str(opened.predict([text]).outputs["translation"][0]) for text in ("blue house", "", "green tree")]


def test_scores_of_a_run_can_be_had_again(run: Path, pairs: Path) -> None:
    opened = load(run)
    found: Any = opened.test_evaluation()
    assert found.scores == pytest.approx({"bleu": opened.metrics["test_bleu"], "chrf": opened.metrics["test"]["chrf"]})
    assert found.images == 24
    assert set(found.baselines) == {"copy"}
    sources = [source for source, _ in rows(120)]
    assert set(found.sources) <= set(sources)
    dataset = opened.read(pairs)
    again: Any = opened.evaluate(dataset.take(np.array([sources.index(text) for text in found.sources])))[0]
    assert again.translations == found.translations
    assert again.scores == pytest.approx(found.scores)


def test_split_of_a_run_is_a_list_of_pairs(run: Path) -> None:
    found = read_annotations(run / "split.csv")
    assert found.columns[TRANSLATION].cells[0] == ("text", "translation")
    assert found.parts.count("test") == 24


def test_a_text_may_have_several_translations(cli: Cli) -> None:
    path = written(Path("pairs.tsv"), [*rows(60), (rows(60)[0][0], "another translation of it"), rows(60)[1]])
    done = cli("check", path)
    assert "another class" not in done.out + done.err
    assert "1 text is an exact copy of another text: " in done.out + done.err


def test_a_line_for_each_line(cli: Cli, run: Path) -> None:
    Path("in.txt").write_text("blue house\n\ngreen tree\nriver", encoding="utf-8")
    done = cli("predict", run, "in.txt")
    assert done.code == 0
    lines = done.out.split("\n")
    assert len(lines) == 5
    assert lines[1] == lines[4] == ""
    table = cli("predict", run, "in.txt", "--format", "csv").out.splitlines()
    assert table[0] == "row,translation,source,error"
    assert [line.split(",")[1] for line in table[1:]] == lines[:4]
    found = json.loads(cli("predict", run, "green tree", "--format", "json").out)
    assert found == [{"row": "1", "translation": lines[2], "source": "green tree"}]


def test_report_shows_scores_and_worst_sentences(run: Path) -> None:
    page = (run / "report.html").read_text(encoding="utf-8")
    found: Any = load(run).test_evaluation()
    for text in ("BLEU", "chrF", "copying the text", "The worst translations", found.sources[int(found.worst(1)[0])]):
        assert text in page
    card = (run / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert "translation" in card
    assert "0 numbers" not in card


def test_a_network_in_a_folder_is_compared_with_itself_before(run: Path, pairs: Path, tmp_path: Path) -> None:
    result = fit(pairs, out=tmp_path / "again", settings=settings(backbone=str(run)))
    found: Any = result.test
    assert set(found.baselines) == {"copy", "before"}
    assert found.before == load(run).test_evaluation().translations  # type: ignore[attr-defined]
    assert "the network before it was trained further" in (tmp_path / "again" / "report.html").read_text(encoding="utf-8")
    assert load(tmp_path / "again").manifest.backbone.weights_digest == load(run).manifest.files["model.safetensors"]


def test_runs_are_compared(cli: Cli, run: Path, pairs: Path, tmp_path: Path) -> None:
    plan = FineTuning(strategy="full", epochs=1)
    fit(pairs, out=tmp_path / "worse", settings=settings(fine_tuning=plan))
    done = cli("compare", run, tmp_path / "worse")
    assert done.code == 0
    assert "BLEU +" in done.out
    assert "chrF +" in done.out


def test_a_run_has_no_graph_to_export(cli: Cli, run: Path) -> None:
    done = cli("export", run, "--out", "file.onnx")
    assert done.code == 2
    assert "has no graph to export" in done.err


class Interrupting(Listener):
    """Presses Ctrl-C in the second epoch."""

    def stage(self, name: str) -> None:
        self.second = name.startswith("Epoch 2")

    def progress(self, done: int, total: int) -> None:
        if getattr(self, "second", False) and done == 1:
            import os
            import signal

            os.kill(os.getpid(), signal.SIGINT)


def test_training_is_resumed(run: Path, pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / "resumed"
    with pytest.raises(Interrupted, match="To resume: headstart fit"):
        fit(pairs, out=out, settings=settings(), listener=Interrupting())
    fit(pairs, out=out, settings=settings(), resume=True)
    first, second = (load(path).manifest.files["model.safetensors"] for path in (run, out))
    assert first == second


# --- what is refused ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backbone": "efficientnet_lite0"}, "needs a network from text to text.*marian-tiny"),
        ({"folds": 3}, "folds=3 is not for the task translation"),
        ({"fine_tuning": FineTuning(optimizer="sgd")}, "--optimizer is not for the task translation, of whose training these can be set"),
        ({"class_weight": "balanced"}, "class_weight=.balanced. is not for the task translation"),
    ],
)
def test_settings_that_do_not_suit_are_refused(pairs: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        fit(pairs, settings=settings(**options))


def test_images_are_not_translated(pictures: Path) -> None:
    with pytest.raises(DataError, match="needs a list with a column of texts and one of their translations"):
        fit(pictures, settings=settings(task="translation"))


def test_damaged_weights_are_refused(run: Path, tmp_path: Path) -> None:
    import shutil

    from headstart.errors import RunError

    broken = tmp_path / "broken"
    shutil.copytree(run, broken)
    (broken / "vocab.json").write_text("{}")
    with pytest.raises(RunError, match=r"vocab\.json: has been changed"):
        load(broken)
