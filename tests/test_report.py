"""The pages that people read: complete, true to the numbers, safe against names, and quick to write."""

from __future__ import annotations

import dataclasses
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from headstart.audit import Finding
from headstart.audit.copies import LeakTest
from headstart.report.model_card import markdown
from headstart.sections import Card, Neighbour
from headstart.tasks.classification.evaluation import evaluate
from headstart.training.history import History
from reports import (
    Facts,
    Reading,
    candidate,
    curve,
    example,
    history,
    model_card,
    page,
    rich_report,
    run_report,
    use,
    write_report,
)  # fmt: skip

# report.html


def test_the_page_tells_the_result_in_a_sentence_with_its_interval() -> None:
    text = Reading(page(run_report())).text
    assert "The model classifies 296 of 300 test images correctly (98.7 %)." in text
    assert "The 95 % confidence interval of its accuracy on images like these is 96.6 % to 99.5 %." in text
    assert "The test part came with the data." in text
    assert "The mark at 50.0 % is the score of always predicting the most frequent class." in text


def test_the_page_has_every_part_of_the_report() -> None:
    facts = rich_report(history=history())
    source = page(facts)
    text = Reading(source).text
    anchors = [section.anchor for section in facts.report.sections]
    assert anchors == re.findall(r'<section id="(.*?)">', source)
    assert anchors == ["result", "confused", "examples", "classes", "curves", "confidence", "images", "learning", "data", "uses", "tried",
                       "adaptation", "training", "time", "repeat"]  # fmt: skip
    for section in facts.report.sections:
        assert f'<section id="{section.anchor}"><h2>{section.heading}</h2>' in source
    for said in (
        "900 images: 600 train, 300 test.",
        "1 file could not be used",
        "train/cats/broken.jpg",
        "truncated file",
        "4 leaks.",
        "Take them out.",
        "3 hidden files were passed over",
        "It has the lowest log loss.",
        "gamma 0.0021",
        "0.9850 ± 0.0050",
        "250 ms",
        "9.8 s",
        "61 min 40 s",
        "headstart fit photos --seed 0",
        "efficientnet_lite0",
        "Apache-2.0",
        "https://example.org/weights",
        "9f86d0",
    ):
        assert said in text


def test_the_serious_finding_comes_first_and_the_best_head_first() -> None:
    text = Reading(page(run_report())).text
    assert text.index("4 leaks.") < text.index("One file is large.")
    tried = text[text.index("Model selection") :]
    assert tried.index("kernel ridge") < tried.index("0.9700 ± 0.0070") < tried.index(" ridge last")
    assert tried.index("selected") < tried.index("0.9700")


def test_a_bare_report_has_no_empty_sections() -> None:
    found = run_report(
        ("a", "b"), evidence=(), head="", features="", reason="", times={}, refused=(), findings=(), notes=(), command="", provenance={}
    )
    text = Reading(page(found)).text
    for heading in ("Model selection", "Time", "Findings in the data"):
        assert heading not in text
    assert "backbone" in text


@pytest.mark.parametrize("count", [2, 4, 10, 15, 16, 40, 100])
def test_the_page_loads_nothing_and_runs_nothing(count: int) -> None:
    source = page(rich_report(tuple(f"class {index}" for index in range(count)), history=history(count)))
    found = Reading(source)
    assert {"script", "link", "iframe", "object", "embed"}.isdisjoint(tag for tag, _ in found.tags)
    assert {"srcset", "action", "background", "poster", "xlink:href"}.isdisjoint(
        name for _, attributes in found.tags for name in attributes
    )
    anchors = {attributes["id"] for _, attributes in found.tags if "id" in attributes}
    for tag, attributes in found.tags:
        if "src" in attributes:
            assert tag == "img"
            assert (attributes["src"] or "").startswith("data:image/jpeg;base64,")
        if "href" in attributes:
            assert tag == "a"
            assert (attributes["href"] or "").removeprefix("#") in anchors
    assert not any(name.startswith("on") for _, attributes in found.tags for name in attributes)
    assert "url(" not in source
    assert "@import" not in source
    assert "prefers-color-scheme: dark" in source
    assert "@media print" in source
    assert '<meta name=viewport content="width=device-width' in source


@pytest.mark.parametrize("count", [2, 10, 30])
def test_names_of_any_kind_stay_names(count: int) -> None:
    bad = "<script>alert('1')</script>\"&amp; \x1b\udcff"
    classes = tuple(f"{bad}{index}" for index in range(count))
    report = run_report(
        classes,
        title=bad,
        part=bad,
        held_out=bad,
        backbone=bad,
        backbone_licence=bad,
        backbone_source=bad,
        features=bad,
        head=bad,
        reason=bad,
        command=bad,
        counts={bad: dict.fromkeys(classes, 3)},
        evidence=(candidate(head=bad, view=bad, hyperparameters={bad: bad}, accuracy=1.0),),
        times={bad: 1.0},
        refused=((bad, bad),),
        findings=(Finding("bad", "error", bad, examples=(bad,) * 5),),
        notes=(bad,),
        provenance={bad: bad, "group" + bad: {bad: [bad, bad]}},
        history=dataclasses.replace(history(stages=(bad, bad + "2")), stopped=bad),
        examples=tuple(
            dataclasses.replace(example(target, predicted), card=Card(name=bad, neighbours=(Neighbour(name=bad, label=bad),)))
            for target, predicted in ((classes[0], classes[1]), (bad, classes[0]), (classes[0], classes[0]))
        ),
        learning_curve=curve((10, 20), (0.5, 0.6), (0.1, 0.1), bad),
        uses=(use(bad),),
        leaks=(LeakTest(label=bad, accuracy=0.9, interval=(0.8, 0.95), images=100),),
    )
    source = page(report)
    found = Reading(source)
    assert "script" not in {tag for tag, _ in found.tags}
    assert "<script" not in source
    assert "alert('1')" in found.text.replace("&amp;", "&")
    assert "\x1b" not in source
    source.encode()
    card = model_card(report)
    card.encode()
    assert yaml.safe_load(card.split("---\n")[1])["model-index"][0]["name"].startswith("<script>alert('1')</script>\"&amp; �")
    body, fenced = card.split("\n---\n", 1)[1].split("```")[::2], card.split("```")[-2]
    assert not re.search(r"(?<!\\)<script", "".join(body))
    assert "<script" in fenced


@settings(max_examples=15)
@given(st.lists(st.text(min_size=1), min_size=2, max_size=20, unique=True), st.text(), st.text())
def test_any_text_gives_a_well_formed_page_and_card(names: list[str], title: str, path: str) -> None:
    classes = tuple(names)
    report = run_report(classes, title=title, command=path, refused=((path, title),), backbone_licence=title)
    Reading(page(report))
    front = yaml.safe_load(model_card(report).removeprefix("---\n").split("\n---\n")[0])
    assert front["model-index"][0]["results"][0]["dataset"]["split"] == "test"


def test_of_many_classes_the_worst_come_first_and_all_are_there() -> None:
    classes = tuple(f"class number {index}" for index in range(40))
    report = run_report(classes, counts={"train": {name: 10 + index for index, name in enumerate(classes)}})
    text = Reading(page(report)).text
    assert "The 10 with the lowest F1:" in text
    assert text.count("All 40 classes") == 2
    assert "From 10 ( class number 0 ) to 49 images in a class." in text
    assert "1 of 8 class number 0 predicted as class number 1 (12.5 %)" in " ".join(text.split())


def test_long_lists_of_refused_files_are_cut_with_a_word() -> None:
    text = Reading(page(run_report(refused=tuple((f"{index}.jpg", "empty file") for index in range(654))))).text
    assert "654 files could not be used" in text
    assert "499.jpg" in text
    assert "500.jpg" not in text
    assert "And 154 more; manifest.json lists all." in text


def test_long_evidence_keeps_the_chosen_row_in_sight() -> None:
    rows = tuple(candidate(head=f"head{index}", view="last", accuracy=1 - index / 100, chosen=index == 30) for index in range(40))
    source = page(run_report(evidence=rows))
    before_fold = source[source.index("<h2>Model selection") : source.index("<summary>All 40")]
    assert "head19" in before_fold
    assert "head20" not in before_fold
    assert "head30" in before_fold


def test_a_perfect_result_and_missing_classes_are_put_in_words() -> None:
    classes = ("a", "b", "c")
    perfect = evaluate(np.eye(3)[[0, 1, 0, 1]], np.array([0, 1, 0, 1]), classes)
    text = Reading(page(run_report(classes, evaluation=perfect))).text
    assert "No image was misclassified." in text
    assert "No test image is of c" in text
    assert "(100 %)" in text


def test_multilabel_reports_have_no_confusion_matrix(tmp_path: Path) -> None:
    targets = np.array([[1, 0], [1, 1], [0, 0]], dtype=bool)
    report = run_report(evaluation=evaluate(np.where(targets, 0.9, 0.1), targets, ("cats", "dogs")))
    written = write_report(tmp_path, report)
    assert [path.name for path in written] == ["report.html", "MODEL_CARD.md"]
    text = Reading(written[0].read_text(encoding="utf-8")).text
    assert "The model assigns exactly the right labels to 3 of 3 test images (100 %)." in text
    assert "Confusion matrix" not in text
    assert "900 labels: 600 train, 300 test." in text
    card = written[1].read_text(encoding="utf-8")
    assert "confusion_matrix.png" not in card
    assert "multi-label" in card


# training


def _training(report: Facts) -> tuple[str, str]:
    """The section's HTML and its text."""
    found = re.search(r"<section id=.training.><h2>Training</h2>.*?</section>", page(report), flags=re.DOTALL)
    assert found
    return found[0], " ".join(Reading(found[0]).text.split())


def test_the_training_is_told_in_sentences_curves_and_numbers() -> None:
    source, text = _training(run_report(history=history()))
    assert (
        "The head and the stages stage5 and stage6 were trained for 3 epochs, in 4.5 s. The weights of epoch 2 are kept: "
        "validation accuracy 90.0 %, validation loss 0.2500. The validation loss had not fallen for 1 epoch." in text
    )
    assert source.count('<svg class="chart" role="img"') == 2
    assert text.count("epoch 2 kept") == 2
    assert "The accuracy by epoch: training from 70.0 % to 90.0 % and validation from 80.0 % to 93.3 %." in text
    assert "The loss by epoch: training from 0.6000 to 0.2000 and validation from 0.5000 to 0.1667." in text
    assert "2 kept 85.0 % 90.0 % 0.3000 0.2500 5.00e-04 1.5 s" in text
    assert "The test images were not used." in text


def test_the_score_has_the_name_that_the_task_has_for_it() -> None:
    _, text = _training(run_report(history=dataclasses.replace(history(), score="pixel accuracy")))
    assert "are kept: validation pixel accuracy 90.0 %," in text
    assert "The pixel accuracy by epoch: training from 70.0 % to 90.0 %" in text
    assert "epoch pixel accuracy validation pixel accuracy" in text


def test_an_unvalidated_training_of_the_head_alone_shows_no_column_of_dashes() -> None:
    source, text = _training(run_report(history=history(1, best=None, validated=False, stages=())))
    assert "The head alone was trained for 1 epoch, in 1.5 s. The validation" in text
    assert "No images were held out to choose an epoch." in text
    assert "validation accuracy" not in text
    assert "kept" not in text
    assert "dashed" not in source
    assert "1 70.0 % 0.6000 1.00e-03 1.5 s" in text


def test_stages_that_join_later_are_told_by_epoch() -> None:
    steps = ((), ("stage6",), ("stage5", "stage6"))
    epochs = tuple(dataclasses.replace(epoch, trained=names) for epoch, names in zip(history().epochs, steps, strict=True))
    _, text = _training(run_report(history=History(epochs)))
    assert "The head and, stage by stage, stage5 and stage6 were trained for 3 epochs" in text
    assert "1.5 s head alone 2 " in text
    assert text.endswith("1.5 s stage5, stage6")


def test_a_loss_over_many_powers_of_ten_has_a_logarithmic_axis_and_a_diverged_one_is_still_told() -> None:
    epochs = [dataclasses.replace(epoch, loss=1000.0 ** (1 - epoch.number)) for epoch in history().epochs]
    assert "lower is better (logarithmic)" in _training(run_report(history=History(tuple(epochs))))[1]
    epochs = [dataclasses.replace(epoch, loss=math.nan, val_loss=math.inf, score=math.nan) for epoch in history().epochs]
    source, text = _training(run_report(history=History(tuple(epochs))))
    assert "logarithmic" not in text
    assert "1 - 80.0 % - inf 1.00e-03" in text
    assert "nan" not in re.sub(r"<[^>]*>", "", source)
    assert not re.search(r'(nan|inf)[ "L]', "".join(re.findall(r'd="[^"]*"', source)))


@pytest.mark.parametrize("none", [None, History()])
def test_without_a_training_nothing_is_said_of_one(none: History | None, tmp_path: Path) -> None:
    report = run_report(history=none)
    assert page(report) == page(run_report())
    assert model_card(report) == model_card(run_report())
    assert "<h2>Training" not in page(report)
    assert "Fine-tuning" not in model_card(report)
    assert len(write_report(tmp_path, report)) == 3


def test_the_card_tells_the_training_and_shows_its_picture() -> None:
    card = model_card(run_report(history=history()))
    assert (
        "- Fine-tuning: The head and the stages stage5 and stage6 were trained for 3 epochs, in 4.5 s. The weights of epoch 2 are kept"
        in card
    )
    assert "![Training](training_curves.png)" in card


# MODEL_CARD.md


def test_the_card_carries_the_metadata_of_the_hub() -> None:
    card = model_card(run_report(backbone_hub_id="timm/efficientnet_lite0.ra_in1k"))
    assert card.startswith("---\n")
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["license"] == "apache-2.0"
    assert "license_name" not in front
    assert front["library_name"] == "headstart"
    assert front["pipeline_tag"] == "image-classification"
    assert front["base_model"] == "timm/efficientnet_lite0.ra_in1k"
    assert front["tags"] == ["image-classification", "transfer-learning", "headstart"]
    assert front["metrics"] == ["accuracy", "f1", "precision", "recall", "roc_auc"]
    (entry,) = front["model-index"]
    (result,) = entry["results"]
    assert entry["name"] == "cats_dogs"
    assert result["task"] == {"type": "image-classification", "name": "Image classification"}
    assert result["dataset"] == {"type": "imagefolder", "name": "cats_dogs", "split": "test"}
    assert result["metrics"][0] == {"type": "accuracy", "value": 0.9867, "name": "test accuracy"}


def test_the_card_names_a_licence_that_the_hub_does_not_know() -> None:
    front = yaml.safe_load(model_card(run_report(backbone_licence="NVIDIA Source Code License-NC")).split("---\n")[1])
    assert (front["license"], front["license_name"]) == ("other", "nvidia-source-code-license-nc")
    front = yaml.safe_load(model_card(run_report(backbone_licence="")).split("---\n")[1])
    assert (front["license"], front["license_name"]) == ("other", "unknown")


def test_the_card_tells_the_same_numbers_as_the_page() -> None:
    report = run_report()
    card, text = model_card(report), Reading(page(report)).text
    sentence = "The model classifies 296 of 300 test images correctly (98.7 %)."
    assert sentence in card
    assert sentence in text
    assert "| accuracy | 0.9867 (95 % interval 0.9662 to 0.9948, Wilson) |" in card
    for name in ("log_loss", "brier_score", "roc_auc"):
        value = f"{report.evaluation.scores[name]:.4f}"
        assert value in card
        assert value in text
    assert "- 4 leaks. Take them out." in card
    assert "```\nheadstart fit photos --seed 0\n```" in card
    assert "- Images: 600 train, 300 test." in card
    assert "- Refused: 1 file that could not be read." in card
    assert "- Seed: 0" in card
    assert "```\nheadstart predict . image.jpg\n```" in card
    assert "on images from another camera, place or time it can be lower." in card
    assert "The model assigns one of its classes to every image" in card


def test_undefined_scores_stay_out_of_the_metadata() -> None:
    lonely = evaluate(np.eye(2)[[0, 0]], np.array([0, 0]), ("cats", "dogs"))
    card = model_card(run_report(evaluation=lonely))
    assert "roc_auc" not in yaml.safe_load(card.split("---\n")[1])["metrics"]
    assert "| ROC-AUC | - |" in card
    assert "nan" not in card


def test_markdown_is_not_taken_for_markup() -> None:
    assert markdown("a|b*c_d<e>[f](g)`h`\\") == r"a\|b\*c\_d\<e\>\[f\](g)\`h\`" + "\\\\"


def test_a_command_with_backticks_stays_inside_its_fence() -> None:
    card = model_card(run_report(command="headstart fit 'a```b'"))
    assert "````\nheadstart fit 'a```b'\n````" in card


@pytest.mark.parametrize("word", ["no", "true", "null", "1.0", "a: b", "- x", "#tag", "", "é", "{", "\u2028", "2024-01-01"])
def test_yaml_reads_every_title_back_as_text(word: str) -> None:
    front = yaml.safe_load(model_card(run_report(title=word)).removeprefix("---\n").split("\n---\n")[0])
    assert front["model-index"][0]["name"] == ("\N{REPLACEMENT CHARACTER}" if word == "\u2028" else word)


# writing


def test_files_are_written_and_written_again_byte_for_byte(tmp_path: Path) -> None:
    written = write_report(str(tmp_path), run_report())
    assert [path.name for path in written] == ["report.html", "MODEL_CARD.md", "confusion_matrix.png"]
    first = [path.read_bytes() for path in written]
    assert [path.read_bytes() for path in write_report(tmp_path, run_report())] == first
    assert b"\r" not in first[0] + first[1]


def test_the_picture_of_the_training_is_written_with_the_others(tmp_path: Path) -> None:
    report = run_report(history=history())
    written = write_report(tmp_path, report)
    assert [path.name for path in written] == ["report.html", "MODEL_CARD.md", "confusion_matrix.png", "training_curves.png"]
    first = [path.read_bytes() for path in written]
    assert [path.read_bytes() for path in write_report(tmp_path, report)] == first


def test_a_missing_folder_is_the_file_systems_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_report(tmp_path / "absent", run_report())


def test_nothing_is_imported_for_drawing_before_something_is_drawn() -> None:
    code = "import sys, headstart.report; print(sorted({'PIL', 'jinja2', 'onnx', 'resvg_py', 'scipy', 'sklearn'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
