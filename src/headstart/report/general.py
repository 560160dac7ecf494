"""The sections that every run has, whatever its task: data, later uses, model selection, times, and how to repeat it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from headstart.reliability.shift import WITHIN
from headstart.report.adaptation import adaptation_section
from headstart.report.training import learning_section, training_section
from headstart.sections import Bar, Block, Bullets, Code, Fold, Heading, Interval, Notice, Paragraph, Section, Span, Table, Text
from headstart.text import duration, number, percent, plural

if TYPE_CHECKING:
    from headstart.audit.copies import LeakTest
    from headstart.run import Use
    from headstart.run.record import FitRecord
    from headstart.selection import Candidate, LearningCurve, Tried

OPEN_ROWS = 20  # a longer table is folded away, with the rows that matter before it
LISTED_FILES = 500  # refused files on the page; the run folder has all


def joined(own: Sequence[Section], general: Sequence[Section]) -> tuple[Section, ...]:
    """Return a task's sections and the general ones after them; a general section continues the task's one of the same anchor."""
    more = {section.anchor: section for section in general}
    found = []
    for section in own:
        rest = more.pop(section.anchor, None)
        found.append(section if rest is None else replace(section, blocks=(*section.blocks, *rest.blocks)))
    return (*found, *more.values())


def general_sections(record: FitRecord, *, uses: Sequence[Use], repeat: Section) -> tuple[Section, ...]:
    """Return the sections that need nothing but the record of the fit, in the order of the page; `repeat` is the last one."""
    history = None if record.training is None else record.training.history
    return (
        images_section(record.refused), learning_section(curves(record), within=within(record)), data_section(record),
        uses_section(uses),
        evidence_section(record, trained=history is not None and bool(history.epochs)), adaptation_section(record.adaptation),
        training_section(history, record.training_facts), times_section(record.seconds), repeat,
    )  # fmt: skip


def curves(record: FitRecord) -> dict[str, LearningCurve]:
    """The learning curves by the column of labels; where there is one column, without a name."""
    found = {"": record.learning_curve, **{one.name: one.learning_curve for one in record.columns}}
    return {name: curve for name, curve in found.items() if curve is not None and curve.images}


def within(record: FitRecord) -> str:
    """How sentences begin that hold for images like the training images, where the test images are others."""
    return WITHIN if record.reliability_test is not None and record.reliability_test.shift.found else ""


def images_section(refused: Sequence[tuple[str, str]]) -> Section:
    """Which files could not be used."""
    blocks: tuple[Block, ...] = ()
    if refused:
        rows = tuple(((Span(path, "code"),), reason) for path, reason in refused[:LISTED_FILES])
        left = len(refused) - len(rows)
        more = (Paragraph(f"And {left} more; manifest.json lists all."),) if left else ()
        listing: tuple[Block, ...] = (Table(head=("file", "reason"), rows=rows, layout="files"), *more)
        title = f"{plural(len(refused), 'file')} could not be used"
        blocks = (Paragraph(f"{title}.", "remark"), *listing) if len(rows) <= 5 else (Fold(title, listing),)
    return Section(anchor="images", heading="Images", word="Images", blocks=blocks)


def data_section(record: FitRecord) -> Section:
    """What the audit found, the score with and without leaks, and what was passed over while reading."""
    findings = sorted(record.findings, key=lambda finding: finding.severity != "error")
    serious = [finding.message for finding in findings if finding.severity == "error"]
    blocks: list[Block] = [
        Notice(finding.message, examples=finding.examples, serious=finding.severity == "error") for finding in findings
    ]  # fmt: skip
    card: tuple[Block, ...] = ()
    if leaks := record.leaks:
        blocks += [Heading("Accuracy with and without leaks"), leaks_table(leaks)]
        rows = tuple(
            (row.label, f"{row.accuracy:.4f} (95 % interval {row.interval[0]:.4f} to {row.interval[1]:.4f})", str(row.images))
            for row in leaks
        )
        card = (Heading("With and without leaks"), Table(head=("images", "accuracy", "number"), rows=rows, layout="numbers"))
    if record.notes:
        blocks.append(Fold(f"{plural(len(record.notes), 'note')} from reading the data", (Bullets(record.notes),)))
    more = f"{len(serious)} findings in the data affect the score. The first: " if len(serious) > 1 else ""
    summary = more + serious[0] if serious else ""
    heading = "Findings in the data"
    return Section(anchor="data", heading=heading, word="Data", blocks=tuple(blocks), summary=summary, urgent=True, card=card)


def leaks_table(leaks: Sequence[LeakTest]) -> Table:
    """Return the accuracy on all test images, and on those that training has not seen in some form."""
    scale = (min(row.interval[0] for row in leaks), max(row.interval[1] for row in leaks))
    rows = tuple(
        (row.label, percent(row.accuracy), Interval(row.accuracy, *row.interval, scale),
         f"{percent(row.interval[0])} to {percent(row.interval[1])}", str(row.images))
        for row in leaks
    )  # fmt: skip
    return Table(head=("accuracy on", "", "", "95 % interval", "images"), rows=rows, layout="numbers intervals")


def times_more(uses: Sequence[Use]) -> str:
    """Return ``once more`` or ``3 more times``: the later uses of the test part."""
    return "once more" if len(uses) == 1 else f"{len(uses)} more times"


def uses_section(uses: Sequence[Use]) -> Section:
    """Later uses of the test part: a score on which choices were based is too good."""
    blocks: tuple[Block, ...] = ()
    if uses:
        explanation = (
            f"The score above is from the first use of the test part, which was used {times_more(uses)} after that. "
            "Choosing between models by these scores makes them look better than they are."
        )
        blocks = (Paragraph(explanation), Bullets(tuple(use.sentence() for use in uses)))
    summary = f"The test part has been used {times_more(uses)} since this score was measured." if uses else ""
    return Section(anchor="uses", heading="Later uses of the test part", word="Uses", blocks=blocks, summary=summary, urgent=True)


def evidence_section(record: FitRecord, *, trained: bool) -> Section:
    """The heads, layers and maps that were tried, the best first, and why one was selected."""
    baseline = "" if record.baseline is None else f"{record.baseline.sentence()}."
    said = (f"Selected: {record.head}." if record.head else "", record.features, record.reason, baseline)
    lead = tuple(Paragraph(text) for text in said if text)
    rows = sorted(record.evidence, key=lambda row: math.inf if math.isnan(row.accuracy) else -row.accuracy)
    blocks: tuple[Block, ...] = lead
    if rows:
        legend = (
            "Scores of models on a trained backbone from the validation images, all others from cross-validation inside the training part."
            if trained
            else "All scores from cross-validation inside the training part; the test images were not used for the selection."
        )
        tables = [block for column in dict.fromkeys(row.column for row in record.evidence) for block in _candidates(rows, column)]
        blocks = (*lead, *_tried(record), *tables, Paragraph(legend, "quiet"))
    return Section(anchor="tried", heading="Model selection", word="Selection", blocks=blocks)


def _candidates(rows: Sequence[Candidate], column: str) -> tuple[Block, ...]:
    """What was tried for one column of labels, under its name where it has one."""
    own = [row for row in rows if row.column == column]
    open_rows = own[:OPEN_ROWS] + [row for row in own[OPEN_ROWS:] if row.chosen]
    whole = (Fold(f"All {len(own)}", (_candidate_table(own),)),) if len(open_rows) < len(own) else ()
    return (*((Heading(column),) if column else ()), _candidate_table(open_rows), *whole)


def _tried(record: FitRecord) -> tuple[Block, ...]:
    """The backbones that a search within a budget considered, in the order in which it did."""
    if not record.tried:
        return ()
    cells: list[tuple[Text | Interval, ...]] = []
    for row, (accuracy, graph) in zip(record.tried, _accuracies(record.tried), strict=True):
        chosen = row.outcome == "chosen"
        name = (row.title, " ", Span("selected", "tag")) if chosen else row.title
        note = f"{row.outcome}: {row.reason}" if row.reason else f"on {plural(row.images, 'training image')}"
        speed = duration(row.milliseconds / 1000)
        cells.append((name, note, accuracy, graph, number(float(row.log_loss)), speed, duration(row.seconds)))
    marked = frozenset(index for index, row in enumerate(record.tried) if row.outcome == "chosen")
    text = (
        "Backbones within the budget, each with the best head on its features; the scores are from training images, out of sample. "
        "What was trained further is scored on images that the training held out."
    )
    head = ("backbone", "", "accuracy", "", "log loss", "an image", "time")
    return Paragraph(text), Table(head=head, rows=tuple(cells), layout="evidence", marked=marked)


def _accuracies(rows: Sequence[Candidate | Tried]) -> Iterator[tuple[str, Interval | str]]:
    """The accuracy of each row with its standard error, as text and as an interval on a common scale."""
    margins = [0.0 if math.isnan(row.accuracy_error) else row.accuracy_error for row in rows]
    known = [(row.accuracy, margin) for row, margin in zip(rows, margins, strict=True) if not math.isnan(row.accuracy)]
    scale = (min(a - b for a, b in known), max(a + b for a, b in known)) if known else (0.0, 1.0)
    for row, margin in zip(rows, margins, strict=True):
        error = "" if math.isnan(row.accuracy_error) else f" ± {row.accuracy_error:.4f}"
        graph = "" if math.isnan(row.accuracy) else Interval(row.accuracy, row.accuracy - margin, row.accuracy + margin, scale)
        yield f"{number(float(row.accuracy))}{error}", graph


def _candidate_table(rows: Sequence[Candidate]) -> Table:
    cells: list[tuple[Text | Interval, ...]] = []
    for row, (accuracy, graph) in zip(rows, _accuracies(rows), strict=True):
        head = row.head.replace("_", " ")
        settings = ", ".join(f"{key} {_formatted(value)}" for key, value in row.settings.items())
        cells.append(
            ((head, " ", Span("selected", "tag")) if row.chosen else head, row.features, accuracy, graph, number(float(row.log_loss)),
             settings, duration(row.seconds))
        )  # fmt: skip
    marked = frozenset(index for index, row in enumerate(rows) if row.chosen)
    head_row = ("head", "layers", "accuracy", "", "log loss", "settings", "time")
    return Table(head=head_row, rows=tuple(cells), layout="evidence", marked=marked)


def times_section(times: Mapping[str, float]) -> Section:
    """Seconds by stage."""
    total, most = sum(times.values()), max([*times.values(), 1e-9])
    rows: list[tuple[Text | Bar, ...]] = [(stage, Bar(((seconds / most, 0),)), duration(seconds)) for stage, seconds in times.items()]
    rows.append(((Span("total", "strong"),), "", (Span(duration(total), "strong"),)))
    blocks = (Table(head=("stage", "", "time"), rows=tuple(rows), layout="numbers bars"),) if times else ()
    return Section(anchor="time", heading="Time", word="Time", blocks=blocks)


def repeat_section(command: str, facts: Mapping[str, Any]) -> Section:
    """The command, the backbone, and whatever else determines the outcome; a mapping among the facts has its own heading."""
    blocks = (*((Code(command),) if command else ()), *_facts(facts))
    return Section(anchor="repeat", heading="Reproducing this run", word="Repeat", blocks=blocks)


def _facts(facts: Mapping[str, Any]) -> tuple[Block, ...]:
    plain = tuple((label, (Span(_formatted(value), "code"),)) for label, value in facts.items() if not isinstance(value, Mapping))
    groups = [block for label, value in facts.items() if isinstance(value, Mapping) for block in (Heading(label), *_facts(value))]
    return (*((Table(head=("", ""), rows=plain, layout="facts"),) if plain else ()), *groups)


def _formatted(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return ", ".join(map(_formatted, value)) if isinstance(value, list | tuple) else str(value)
