"""What the report of several columns of labels says: all beside each other, then each as a classification."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from headstart.sections import (
    Block,
    Card,
    Charts,
    Fold,
    Heading,
    Headline,
    Hub,
    Interval,
    Paragraph,
    Section,
    Span,
    Table,
    TaskReport,
    Text,
    Tiles,
)  # fmt: skip
from headstart.tasks.classification.curves import confidence_section, curves_section
from headstart.tasks.classification.sections import (
    ClassificationTest,
    classes_section,
    confusion_section,
    example_rows,
    examples_of,
    examples_section,
    images_section,
    result_section,
    sentence,
    set_sizes,
)
from headstart.tasks.classification.task import Classification
from headstart.tasks.multitask.evaluation import ColumnsEvaluation
from headstart.text import enumeration, number, percent, plural, shorten

if TYPE_CHECKING:
    from headstart.data import LabelColumns
    from headstart.tasks.classification.evaluation import ClassEvaluation

WRONG, RIGHT = 12, 6  # at most so many examples of each column
SIGNIFICANT = 0.05
_SHIPPED = {"probe": "head on the frozen backbone", "trained": "trained network", "mean": "mean of both"}
ONE = Classification()
Cards = Callable[..., dict[int, Card]]


def task_report(run: Any, record: Any, *, cards: Cards) -> TaskReport:
    """What the report and the model card say of a run; arguments as of `headstart.tasks.Task.report`."""
    whole: ColumnsEvaluation = run.test_evaluation()
    tests = {name: _tested(run, record, name, place, whole, cards) for place, name in enumerate(whole.columns)}
    names = enumeration([shorten(name, 30) for name in whole.columns], most=6)
    subject = "; ".join(f"{shorten(name, 30)}: {_classes(one)}" for name, one in whole.columns.items())
    metrics = tuple(("accuracy", round(one.accuracy, 4), f"test accuracy of {name}") for name, one in whole.columns.items())
    return TaskReport(
        kind="Image classifier of several columns", description=f"An image classifier for {names}", subject=subject,
        summary=f"{percent(whole.mean_accuracy)} mean accuracy on {plural(whole.images, 'test image')}", sentence=_sentence(whole),
        sections=(_result(whole, record), _sharing(record), *(_column(name, tested) for name, tested in tests.items())),
        limits=("The model assigns a class of every column to every image, even where none of them is right.",),
        hub=Hub(pipeline_tag="image-classification", task_name="Image classification", tags=("multi-task",), metrics=metrics),
    )  # fmt: skip


def _classes(one: ClassEvaluation) -> str:
    return f"{plural(len(one.classes), 'class')} ({enumeration([shorten(name, 30) for name in one.classes], most=6)})"


def _tested(run: Any, record: Any, name: str, place: int, whole: ColumnsEvaluation, cards: Cards) -> ClassificationTest:
    """What is known of the test part of one column."""
    evaluation, rows, state = whole.columns[name], whole.rows[name], run.manifest.state
    tested, trained = (run.task.targets(arrays["targets"], state) for arrays in (run.tested, run.reference))
    shown = example_rows(evaluation, wrong=WRONG, right=RIGHT)
    predicted = np.zeros(len(tested), np.int64)
    predicted[rows] = evaluation.outcome.probabilities.argmax(axis=1)
    here = {int(row): index for index, row in enumerate(rows)}
    pictures = {here[row]: card for row, card in cards(rows[shown], predicted, column=name).items()}
    scores = run.tested.get(f"{name}.scores")
    own, part = None if record.reliability_test is None else record.reliability_test.columns.get(name), None
    if run.reliability is not None and name in run.reliability.columns:
        part = run.reliability.columns[name].sets
    return ClassificationTest(
        evaluation=evaluation,
        held_out=f"Tested on {record.held_out}.",
        counts={"train": _counts(trained, name), "test": _counts(tested, name)},
        examples=examples_of(evaluation, pictures, lambda row: _label(trained, name, row)),
        uncalibrated=None if scores is None else ONE.evaluate({"logits": scores[rows]}, tested.columns[name].take(rows)),
        reliability=own, set_sizes=set_sizes(part, evaluation), section=_anchor(place),
    )  # fmt: skip


def _anchor(place: int) -> str:
    return f"column-{place + 1}"


def _counts(targets: LabelColumns, name: str) -> dict[str, int]:
    return targets.columns[name].take(targets.rows(name)).counts()


def _label(targets: LabelColumns, name: str, row: int) -> str:
    """The label of a training image in a column, as text."""
    if not targets.known[row, list(targets.columns).index(name)]:
        return "(no label)"
    return ", ".join(targets.columns[name].names(row)) or "(none)"


def _sentence(whole: ColumnsEvaluation) -> str:
    low, high = whole.interval
    each = enumeration([f"{shorten(name, 30)} {percent(one.accuracy)}" for name, one in whole.columns.items()], most=20)
    return (
        f"The mean of the accuracies of {plural(len(whole.columns), 'column')} of labels is {percent(whole.mean_accuracy)} "
        f"(95 % confidence interval {percent(low)} to {percent(high)}): {each}. All labels are right for {percent(whole.all_right)} of "
        f"{plural(whole.images, 'image')}."
    )


def _result(whole: ColumnsEvaluation, record: Any) -> Section:
    """The mean accuracy, and the columns beside each other."""
    headline = Headline(
        value=percent(whole.mean_accuracy), sentences=(_sentence(whole), f"Tested on {record.held_out}."), point=whole.mean_accuracy,
        interval=whole.interval, legend="The band is the 95 % interval of the mean accuracy (Wilson, effective number of images).",
    )  # fmt: skip
    intervals = [one.interval for one in whole.columns.values()]
    scale = (min(low for low, _ in intervals), max(high for _, high in intervals))
    rows: list[tuple[Text | Interval, ...]] = []
    for name, one in whole.columns.items():
        guess, macro, loss = (one.scores.get(score, math.nan) for score in ("most_frequent_class_accuracy", "f1_macro", "log_loss"))
        low, high = one.interval
        cells: tuple[Text | Interval, ...] = (
            (Span(shorten(name, 32), title=name),), percent(one.accuracy), Interval(one.accuracy, low, high, scale),
            f"{percent(low)} to {percent(high)}", percent(guess), number(macro), number(loss), str(len(one.classes)), str(one.images),
        )  # fmt: skip
        rows.append(cells)
    head = ("column", "accuracy", "", "95 % interval", "most frequent class", "macro F1", "log loss", "classes", "images")
    table = Table(head=head, rows=tuple(rows), layout="numbers intervals")
    legend = Paragraph("Most frequent class: the accuracy of always predicting it. Each column has a section of its own below.", "quiet")
    card_rows = tuple((name, percent(one.accuracy), f"{percent(one.interval[0])} to {percent(one.interval[1])}", str(one.images))
                      for name, one in whole.columns.items())  # fmt: skip
    card = (Table(head=("column", "accuracy", "95 % interval", "images"), rows=card_rows, layout="numbers"),)
    return Section(anchor="result", heading="Result", word="Result", blocks=(headline, table, legend), card=card)


def _sharing(record: Any) -> Section:
    """What the columns share, and whether that helped."""
    count = len(record.columns)
    if record.training is not None:
        return _joint(record)
    said = (
        f"The {count} columns share one frozen backbone: the features of each image were computed once, not {count} times. "
        "Layers and head are chosen for each column from the images that have a label there, so that each has the model, and the scores, "
        "that a fit of that column alone on these images would give it: sharing changes the time and the size, and no prediction."
    )
    rows = tuple((column.name, column.head, str(column.images)) for column in record.columns)
    table = Table(head=("column", "head", "training images"), rows=rows, layout="evidence")
    return Section(anchor="sharing", heading="What the columns share", word="Sharing", blocks=(Paragraph(said), table))


def _joint(record: Any) -> Section:
    """What training one backbone for all columns together brought to each, against its head on the frozen backbone."""
    said = (
        f"One backbone was trained for {len(record.columns)} columns together; the loss of each counts by its uncertainty, which is "
        "learned. Each column has the model that its own validation images prefer: the head on the frozen backbone, the trained network, "
        "or the mean of both. The gain is against that head on the frozen backbone, which is what a fit of the column alone, without a "
        "training, gives."
    )
    rows, helped = [], []
    for column in record.columns:
        probe = column.probe
        if probe is None:
            rows.append((column.name, column.head, "-", "-", "-", str(column.images)))
            continue
        (low, high), kind = probe["gain_interval"], _SHIPPED.get(probe["shipped"], probe["shipped"])
        gain = "0.0" if probe["shipped"] == "probe" else f"{100 * probe['gain']:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
        if probe["p_value"] < SIGNIFICANT:
            helped.append(f"{column.name}: {'better' if probe['gain'] > 0 else 'worse'}")
        p_value = f"{probe['p_value']:.2g}" if probe["shipped"] != "probe" else "-"
        rows.append((column.name, kind, percent(probe["accuracy"]), gain, p_value, str(column.images)))
    table = Table(
        head=("column", "model", "frozen alone", "gain in points (95 % interval)", "p (McNemar)", "training images"), rows=tuple(rows),
        layout="numbers",
    )  # fmt: skip
    verdict = f"Shown by these test images: {enumeration(helped)}." if helped else "On so few test images no difference is shown."
    return Section(anchor="sharing", heading="What the columns share", word="Sharing", blocks=(Paragraph(said), table, Paragraph(verdict)))


def _column(name: str, tested: ClassificationTest) -> Section:
    """Everything about one column, as sections of a classification have it."""
    found = tested.evaluation
    parts = (
        ("Confusion matrix", confusion_section(tested)), ("Examples", examples_section(tested)),
        ("Scores by class", classes_section(tested)), ("ROC and precision-recall curves", curves_section(found)),
        ("Reliability of the confidence", confidence_section(tested)), ("Images", images_section(tested)),
    )  # fmt: skip
    result = result_section(tested)
    scores = [block for block in result.blocks if isinstance(block, Tiles | Paragraph)]
    blocks: list[Block] = [Paragraph(sentence(tested)), *scores]
    for heading, part in parts:
        blocks += [Heading(heading), *_titled(part.blocks, name)] if part.blocks else []
    confusion = parts[0][1]
    return Section(
        anchor=tested.section, heading=name, word=shorten(name, 24), blocks=tuple(blocks),
        summary=" ".join(filter(None, (f"{name}: {percent(found.accuracy)}.", confusion.summary))),
        card=(Heading(name), *result.card, *(block for _, part in parts for block in part.card if not isinstance(block, Heading))),
        picture=f"confusion_matrix_{tested.section.removeprefix('column-')}.png" if confusion.picture and confusion.blocks else "",
        caption=f"{name}: {confusion.caption}",
    )  # fmt: skip


def _titled(blocks: Iterable[Block], name: str) -> Iterator[Block]:
    """The same blocks, in which charts bear the name of the column."""
    for block in blocks:
        if isinstance(block, Charts):
            yield Charts(tuple(replace(chart, title=f"{chart.title}: {shorten(name, 24)}") for chart in block.charts))
        else:
            yield Fold(block.summary, tuple(_titled(block.blocks, name))) if isinstance(block, Fold) else block
