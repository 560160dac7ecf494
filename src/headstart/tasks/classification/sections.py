"""What the report of a classification says: the score, confusions, examples, per-class scores, curves, calibration and class counts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from headstart.errors import ParameterError
from headstart.sections import (
    Bar,
    Block,
    Bullets,
    Card,
    Cell,
    Columns,
    Fold,
    Gallery,
    Group,
    Heading,
    Headline,
    Hub,
    Matrix,
    Neighbour,
    Paragraph,
    Section,
    Span,
    Table,
    TaskReport,
    Text,
    Tiles,
)  # fmt: skip
from headstart.tasks.classification.curves import confidence_section, curves_section
from headstart.tasks.classification.evaluation import ClassEvaluation as Evaluation
from headstart.tasks.classification.scores import CLASS_COLUMNS, SCORE_WORDS
from headstart.text import enumeration, number, percent, plural, shorten

if TYPE_CHECKING:
    from headstart.reliability import PredictionSets, ReliabilityTest

OPEN_ROWS = 20  # a longer table is folded away, with the rows that matter before it
WRONG, RIGHT = 24, 12  # at most so many examples
HUB_METRICS = {"accuracy": "accuracy", "f1_macro": "f1", "precision_macro": "precision", "recall_macro": "recall", "roc_auc": "roc_auc"}
"""Name of a score -> identifier of the metric on the Hub."""

_CONFUSIONS = "confused"  # anchor of the confusion matrix, to which its examples lead back


@dataclass(frozen=True, kw_only=True)
class Example:
    """An image of the test part: its pictures, its label, and the predicted class with its probability (several labels: all of them)."""

    card: Card
    target: str
    predicted: str
    probability: float

    @property
    def right(self) -> bool:
        """Whether the prediction is the label."""
        return self.target == self.predicted


@dataclass(frozen=True, kw_only=True)
class ClassificationTest:
    """What a classification knows of its test part.

    `held_out` is a sentence on how it was chosen; `counts` has the images by part and class, in the order to show; `uncalibrated` the
    scores before the probabilities were calibrated; `reliability` how prediction sets, thresholds and novelty did on these images;
    `set_sizes` the number of images by number of classes in their prediction set. `section` is the anchor of the section that has it, where
    a page has several classifications.
    """

    evaluation: Evaluation
    part: str = "test"
    held_out: str = ""
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    examples: tuple[Example, ...] = ()
    uncalibrated: Evaluation | None = None
    reliability: ReliabilityTest | None = None
    set_sizes: Mapping[int, int] = field(default_factory=dict)
    section: str = ""

    def cell_anchor(self, cell: Cell) -> str:
        """The address of the examples of a cell of the confusion matrix."""
        return f"{self.section}{'-' if self.section else ''}predicted-{cell[0]}-{cell[1]}"

    @property
    def several(self) -> bool:
        """Whether an image can have any number of labels."""
        return self.evaluation.outcome.link.independent


def tested(run: Any, record: Any, *, cards: Callable[..., dict[int, Card]]) -> ClassificationTest:
    """What the report is made of, from what a run stores of its test part; arguments as of `Task.report`."""
    evaluation: Evaluation = run.test_evaluation()
    pictures = cards(example_rows(evaluation), evaluation.outcome.probabilities.argmax(axis=1))
    training = run.reference.get("targets", np.empty(0, np.int64))
    return ClassificationTest(
        evaluation=evaluation,
        held_out=f"Tested on {record.held_out}.",
        counts=run.manifest.provenance["images"],
        examples=examples_of(evaluation, pictures, lambda row: _label_text(evaluation.classes, training[row])),
        uncalibrated=run.test_evaluation(calibrated=False) if "scores" in run.tested else None,
        reliability=record.reliability_test,
        set_sizes=set_sizes(None if run.reliability is None else run.reliability.sets, evaluation),
    )


def set_sizes(sets: PredictionSets | None, evaluation: Evaluation) -> dict[int, int]:
    """The number of images by number of classes in their prediction set; empty where there are no sets."""
    if sets is None:
        return {}
    sizes = np.bincount(sets(evaluation.outcome.probabilities, never_empty=True).sum(axis=1)).tolist()
    return {size: images for size, images in enumerate(sizes) if images}


def task_report(tested: ClassificationTest) -> TaskReport:
    """What the report and the model card say of a classification."""
    found, part = tested.evaluation, tested.part
    classes = plural(len(found.classes), "class")
    names = enumeration([shorten(name, 30) for name in found.classes], most=6)
    sections = (
        result_section(tested), confusion_section(tested), examples_section(tested), classes_section(tested),
        curves_section(found), confidence_section(tested), images_section(tested),
    )  # fmt: skip
    metrics = tuple(
        (metric, round(found.scores[name], 4), f"{part} {SCORE_WORDS.get(name, name.replace('_', ' '))}")
        for name, metric in HUB_METRICS.items()
        if not math.isnan(found.scores.get(name, math.nan))
    )
    always = () if tested.several else ("The model assigns one of its classes to every image, even where none of them is right.",)
    return TaskReport(
        kind="Multi-label image classifier" if tested.several else "Image classifier", description=f"An image classifier for {classes}",
        subject=f"{classes}: {names}", summary=f"{percent(found.accuracy)} on {plural(found.images, part + ' image')}",
        sentence=sentence(tested), sections=sections, limits=always,
        hub=Hub(
            pipeline_tag="image-classification", task_name="Image classification",
            tags=("multi-label",) if tested.several else (), metrics=metrics,
        ),
    )  # fmt: skip


def sentence(tested: ClassificationTest) -> str:
    """The result in sentences."""
    found, (low, high) = tested.evaluation, tested.evaluation.interval
    images = f"{found.correct} of {found.images} {tested.part} image{'' if found.images == 1 else 's'}"
    what = f"assigns exactly the right labels to {images}" if tested.several else f"classifies {images} correctly"
    return (
        f"The model {what} ({percent(found.accuracy)}). "
        f"The 95 % confidence interval of its accuracy on images like these is {percent(low)} to {percent(high)}."
    )


def result_section(tested: ClassificationTest) -> Section:
    """The score in sentences and on a scale, and the other scores."""
    found = tested.evaluation
    guess = found.scores.get("most_frequent_class_accuracy", math.nan)
    known = not math.isnan(guess)
    tiles = []
    for name, word in SCORE_WORDS.items():
        if name in found.scores and name not in ("accuracy", "most_frequent_class_accuracy"):
            low, high = found.bootstrap.intervals.get(name, (math.nan, math.nan))
            tiles.append((word, number(found.scores[name]), "" if math.isnan(low) else f"{number(low)} to {number(high)}"))
    always = f" The mark at {percent(guess)} is the score of always predicting the most frequent class." if known else ""
    headline = Headline(
        value=percent(found.accuracy), sentences=(sentence(tested), tested.held_out), point=found.accuracy, interval=found.interval,
        mark=guess if known else None, legend=f"The band is the 95 % interval (Wilson).{always}",
    )  # fmt: skip
    remarks = tuple(Paragraph(remark, "remark") for remark in found.remarks(tested.part))
    small = (Paragraph(f"Small numbers are intervals: {found.bootstrap.method}.", "quiet"),) if found.bootstrap.intervals else ()
    blocks = (headline, *remarks, Tiles(tuple(tiles)), *small)
    return Section(anchor="result", heading="Result", word="Result", blocks=blocks, card=_score_table(tested))


def _score_table(tested: ClassificationTest) -> tuple[Block, ...]:
    """All scores with their intervals, for the model card."""
    found = tested.evaluation
    bounds = {name: f" (95 % interval {low:.4f} to {high:.4f})" for name, (low, high) in found.bootstrap.intervals.items()}
    low, high = found.interval
    bounds["accuracy"] = f" (95 % interval {low:.4f} to {high:.4f}, Wilson)"
    rows = tuple((word, number(found.scores[name]) + bounds.get(name, "")) for name, word in SCORE_WORDS.items() if name in found.scores)
    method = (Paragraph(f"Intervals of the other scores: {found.bootstrap.method}."),) if len(bounds) > 1 else ()
    return *map(Paragraph, found.remarks(tested.part)), Table(head=("score", "value"), rows=rows, layout="numbers"), *method


def confusion_matrix(evaluation: Evaluation, *, links: Mapping[Cell, str] | None = None) -> Matrix:
    """The confusion matrix; cells in `links` lead to their images. ParameterError where an image may have several labels."""
    if evaluation.confusion is None:
        raise ParameterError(
            "multi-label data have no confusion matrix: an image has no single class. See the scores of each class instead."
        )
    return Matrix(names=evaluation.classes, counts=evaluation.confusion, rows="true class", columns="predicted class", links=links or {})


def confusion_section(tested: ClassificationTest) -> Section:
    """The confusion matrix, and the most frequent confusions."""
    found, blocks, summary = tested.evaluation, tuple[Block, ...](), ""
    if not tested.several:
        place = {name: index for index, name in enumerate(found.classes)}
        cells = {(place.get(example.target, -1), place.get(example.predicted, -1)) for example in tested.examples}
        links = {cell: tested.cell_anchor(cell) for cell in cells if min(cell) >= 0}
        hint = (Paragraph("An underlined number links to examples.", "screen"),) if links else ()
        blocks = (Columns((confusion_matrix(found, links=links), *hint), _confusions(found)),)
        summary = _mistakes(found)
    return Section(
        anchor=_CONFUSIONS, heading="Confusion matrix", word="Confusions", blocks=blocks, summary=summary, picture="confusion_matrix.png",
        caption=found.summary(tested.part),
    )  # fmt: skip


def _confusions(found: Evaluation) -> tuple[Block, ...]:
    listed = tuple(
        (Span(str(c.images), "strong"), f" of {c.of} ", Span(c.target, "quote"), " predicted as ", Span(c.predicted, "quote"),
         f" ({percent(c.images / c.of)})")
        for c in found.confusions(8)
    )  # fmt: skip
    return (Paragraph("Most frequent confusions:"), Bullets(listed)) if listed else (Paragraph("No image was misclassified."),)


def _mistakes(found: Evaluation) -> str:
    wrong = found.images - found.correct
    if not wrong:
        return ""
    worst = found.confusions(1)[0]
    said = f"{plural(wrong, 'image')} misclassified"
    if wrong > 1 == worst.images:
        return f"{said}, no confusion more than once."
    most = ":" if wrong == 1 else ", most often" if worst.images < wrong else ", always"
    return f"{said}{most} {shorten(worst.target, 30)} as {shorten(worst.predicted, 30)} ({worst.images} of {worst.of})."


def classes_section(tested: ClassificationTest) -> Section:
    """Precision, recall and F1 of each class; of many classes, the worst first and all behind a fold."""
    found = tested.evaluation
    shown = [name for name in CLASS_COLUMNS if name in found.by_class]

    def rows(indices: Iterable[int]) -> Table:
        cells = tuple((_short(found.classes[i], 40), *(number(found.by_class[name][i].item()) for name in shown)) for i in indices)
        return Table(head=("class", *(CLASS_COLUMNS[name] for name in shown)), rows=cells, layout="numbers")

    legend = Paragraph(
        "Precision: the share of images predicted as the class that belong to it. Recall: the share of images of the class that are "
        "predicted as such. F1: their harmonic mean. ROC-AUC: the probability that an image of the class ranks above one that is not.",
        "quiet",
    )
    everything = rows(range(len(found.classes)))
    blocks: tuple[Block, ...] = (everything, legend)
    if len(found.classes) > OPEN_ROWS:
        worst = found.worst(10)
        fold = Fold(f"All {len(found.classes)} classes", (everything,))
        blocks = (Paragraph(f"The {len(worst)} with the lowest F1:"), rows(worst), fold, legend)
    return Section(anchor="classes", heading="Scores by class", word="Classes", blocks=blocks, card=(Heading("Classes"), everything))


def _short(name: str, columns: int) -> Text:
    return (Span(shorten(name, columns), title=name),)


def images_section(tested: ClassificationTest) -> Section:
    """How many images of each class are in each part."""
    parts = {part: counts for part, counts in tested.counts.items() if sum(counts.values())}
    classes = tested.evaluation.classes
    totals = {name: sum(counts.get(name, 0) for counts in parts.values()) for name in classes}
    most = max([*totals.values(), 1])
    rows = tuple(
        (_short(name, 32), Bar(tuple((counts.get(name, 0) / most, place) for place, counts in enumerate(parts.values()))),
         *(str(counts.get(name, 0)) for counts in parts.values()))
        for name in classes
    )  # fmt: skip
    keys = ("key0", "key1", "key2", "key3")
    head: tuple[Text, ...] = ("class", "", *((Span(part, keys[place % 4]),) for place, part in enumerate(parts)))  # type: ignore[arg-type]
    table: tuple[Block, ...] = (Table(head=head, rows=rows, layout="numbers bars"),)
    if len(rows) > OPEN_ROWS:
        fewest = min(totals, key=lambda name: totals[name])
        said = (f"From {totals[fewest]} (", Span(shorten(fewest, 40), "quote"), f") to {most} images in a class.")
        table = (Paragraph(said), Fold(f"All {len(rows)} classes", table))
    counted = plural(sum(totals.values()), "label" if tested.several else "image")
    summary = ", ".join(f"{sum(counts.values())} {part}" for part, counts in parts.items())
    return Section(anchor="images", heading="Images", word="Images", blocks=(Paragraph(f"{counted}: {summary}."), *table))


def examples_section(tested: ClassificationTest) -> Section:
    """Misclassified images, the most confident ones first, then correct ones, the least confident ones first."""
    wrong = [example for example in tested.examples if not example.right]
    right = [example for example in tested.examples if example.right]
    blocks: list[Block] = []
    if wrong:
        blocks += [
            Heading("Misclassified, the most confident first"),
            Paragraph("A confident mistake can be a wrong label: check these first.", "quiet"),
            Gallery(_groups(tested, wrong, sign=-1)),
        ]
    elif tested.examples and tested.evaluation.correct == tested.evaluation.images:
        blocks.append(Paragraph("No image was misclassified."))
    if right:
        blocks += [Heading("Correct, the least confident first"), Gallery(_groups(tested, right, sign=1))]
    if any(len(example.card.pictures) > 1 for example in tested.examples):
        explained = "The second picture is a heat map of the evidence for the predicted class: the warmer, the stronger. "
        blocks.append(Paragraph(f"{explained}It shows where the evidence is, not why it is right.", "quiet"))
    return Section(anchor="examples", heading="Examples", word="Examples", blocks=tuple(blocks))


def _groups(tested: ClassificationTest, examples: Iterable[Example], *, sign: int) -> tuple[Group, ...]:
    """Put images of one confusion side by side: the group of the first image first."""
    groups: dict[tuple[str, str], list[Example]] = {}
    for example in sorted(examples, key=lambda example: sign * example.probability):
        groups.setdefault((example.target, example.predicted), []).append(example)
    return tuple(_group(tested, names, group) for names, group in groups.items())


def _group(tested: ClassificationTest, names: tuple[str, str], examples: list[Example]) -> Group:
    (target, predicted), found = names, tested.evaluation
    anchor, note = "", ""
    if not tested.several and target in found.classes and predicted in found.classes and found.confusion is not None:
        cell = (found.classes.index(target), found.classes.index(predicted))
        count = int(found.confusion[cell])
        anchor = tested.cell_anchor(cell)
        note = f"{len(examples)} of {count}" if count > len(examples) else f"{len(examples)}" if count > 1 else ""
    one, other = Span(shorten(target, 24), "strong"), Span(shorten(predicted, 24), "strong")
    title = (one, " correct") if target == predicted else (one, " predicted as ", other)
    return Group(
        title=title, note=note, anchor=anchor, back=(tested.section or _CONFUSIONS) if anchor else "", cards=tuple(map(_card, examples))
    )


def _card(example: Example) -> Card:
    card, predicted = example.card, "" if example.right else f": {shorten(example.predicted, 40)}"
    alts = (f"{card.name}: labelled {example.target}, predicted {example.predicted}", "the same with a heat map")
    return replace(
        card, text=f"{percent(example.probability)} confident{predicted}", share=example.probability, right=example.right,
        pictures=tuple(replace(picture, alt=alt) for picture, alt in zip(card.pictures, alts, strict=False)),
        neighbours=tuple(replace(neighbour, same=neighbour.label == example.target) for neighbour in card.neighbours),
    )  # fmt: skip


def example_rows(evaluation: Evaluation, *, wrong: int = WRONG, right: int = RIGHT) -> NDArray[np.int64]:
    """The rows of test images to show, int64 (m,): at most `wrong` mistakes, then at most `right` others.

    Mistakes: the most confident one of each confusion, then the second of each, and so on. The others: of each class in turn the one that
    was nearest to a mistake, then the most confident, and so on. Several labels an image: the images with the largest error of a single
    label, then those with the largest error that still came out right.
    """
    outcome, correct = evaluation.outcome, evaluation.outcome.correct
    if outcome.link.independent:
        order = np.argsort(-np.abs(outcome.targets - outcome.probabilities).max(axis=1), kind="stable")
        return np.concatenate([order[~correct[order]][:wrong], order[correct[order]][:right]]).astype(np.int64)
    confidence = outcome.probabilities.max(axis=1)
    cells = outcome.targets * len(evaluation.classes) + outcome.predicted
    mistakes = _in_turn(np.flatnonzero(~correct), cells, -confidence)
    ends = _from_both_ends(np.flatnonzero(correct), cells, confidence)
    return np.concatenate([mistakes[:wrong], ends[:right]]).astype(np.int64)


def _in_turn(rows: NDArray[Any], cells: NDArray[Any], key: NDArray[Any]) -> NDArray[Any]:
    """Order `rows` so that the first of each cell come first, then the second of each; inside a turn and a cell by `key`."""
    rows = rows[np.argsort(key[rows], kind="stable")]
    turn, seen = np.empty(len(rows), dtype=np.int64), dict[int, int]()
    for place, cell in enumerate(cells[rows].tolist()):
        turn[place] = seen[cell] = seen.get(cell, -1) + 1
    return rows[np.argsort(turn, kind="stable")]


def _from_both_ends(rows: NDArray[Any], cells: NDArray[Any], key: NDArray[Any]) -> NDArray[Any]:
    """Order `rows` so that each cell gives its lowest by `key`, then its highest, then its second lowest, in turn with the others."""
    place = np.empty(len(cells))
    for cell in np.unique(cells[rows]).tolist():
        inside = rows[cells[rows] == cell]
        inside = inside[np.argsort(key[inside], kind="stable")]
        ranks = np.arange(len(inside))
        place[inside] = np.minimum(2 * ranks, 2 * ranks[::-1] + 1)
    return rows[np.lexsort((key[rows], place[rows]))]


def _label_text(classes: tuple[str, ...], target: NDArray[Any]) -> str:
    if not target.ndim:
        return classes[int(target)]
    return ", ".join(classes[j] for j in np.flatnonzero(target).tolist()) or "(none)"


def examples_of(evaluation: Evaluation, cards: Mapping[int, Card], label_of: Callable[[int], str]) -> tuple[Example, ...]:
    """Join the cards of test images, by row, with what is known of them; `label_of` has the labels of the training images by row."""

    def labelled(neighbour: Neighbour) -> Neighbour:
        return replace(neighbour, label=label_of(neighbour.row))

    outcome = evaluation.outcome
    examples = []
    for row, card in cards.items():
        values = outcome.probabilities[row]
        sure = np.maximum(values, 1 - values).min() if outcome.link.independent else values.max()
        target, predicted = (_label_text(evaluation.classes, labels[row]) for labels in (outcome.targets, outcome.predicted))
        card = replace(card, neighbours=tuple(map(labelled, card.neighbours)))
        examples.append(Example(card=card, target=target, predicted=predicted, probability=float(sure)))
    return tuple(examples)
