"""The sections of the page: each a function from a RunReport to HTML, empty where there is nothing to tell."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from headstart.evaluate.wording import CLASS_COLUMNS, SCORE_WORDS
from headstart.report.gallery import linked_cells
from headstart.report.in_short import in_short
from headstart.report.markup import bar, folded, paragraphs, table, text, whisker
from headstart.report.matrix import confusion_matrix
from headstart.report.record import EvidenceRow, RunReport
from headstart.text import number, percent, plural, shorten

OPEN_ROWS = 20  # a longer table is folded away, with the rows that matter before it
LISTED_FILES = 500  # refused files on the page; the run folder has all


def sentence(report: RunReport) -> str:
    """Return the result as a person says it."""
    found, (low, high) = report.evaluation, report.evaluation.interval
    what = "finds exactly the right labels of" if found.multilabel else "names the right class for"
    noun = f"{report.part} image{'' if found.images == 1 else 's'}"
    return (
        f"The model {what} {found.correct} of {found.images} {noun} ({percent(found.accuracy)}). "
        f"With 95 % confidence, its accuracy on images like these lies between {percent(low)} and {percent(high)}."
    )


def result(report: RunReport) -> str:
    """The score in a sentence, on a scale, and the other scores."""
    found, (low, high) = report.evaluation, report.evaluation.interval
    guess = found.scores.get("most_frequent_class_accuracy", math.nan)
    mark = "" if math.isnan(guess) else f'<i class=guess style="left:{100 * guess:.2f}%"></i>'
    legend = "" if math.isnan(guess) else f" The mark at {percent(guess)} is what always naming the most frequent class would score."
    method = found.bootstrap.method if found.bootstrap.intervals else ""
    bounds = f"Small numbers are intervals: {method}." if method else ""
    tiles = "".join(
        f"<div><dt>{text(SCORE_WORDS[name])}</dt><dd>{number(found.scores[name])}{_interval(report, name)}</dd></div>"
        for name in SCORE_WORDS
        if name in found.scores and name not in ("accuracy", "most_frequent_class_accuracy")
    )
    again = f"The {report.part} part has been used {times_more(report)} since this score was measured." if report.uses else ""
    return (
        f"<p class=headline>{percent(found.accuracy)}</p><p class=lead>{text(sentence(report))} {text(report.held_out)}</p>"
        f'<div class=scale aria-hidden=true>{mark}<i class=range style="left:{100 * low:.2f}%;width:{100 * (high - low):.2f}%"></i>'
        f'<i class=point style="left:{100 * found.accuracy:.2f}%"></i></div>'
        "<div class=ends aria-hidden=true><span>0 %</span><span>50 %</span><span>100 %</span></div>"
        f"<p class=quiet>The band is the 95&nbsp;% interval (Wilson).{legend}</p>"
        f"{paragraphs([*found.remarks(report.part), again], kind='remark')}{in_short(report)}<dl class=tiles>{tiles}</dl>"
        f"{paragraphs([bounds], kind='quiet')}"
    )


def _interval(report: RunReport, name: str) -> str:
    bounds = report.evaluation.bootstrap.intervals.get(name)
    return "" if bounds is None else f" <small>{number(bounds[0])} to {number(bounds[1])}</small>"


def confusion(report: RunReport) -> str:
    """The confusion matrix and the most frequent confusions."""
    linked = linked_cells(report)
    matrix = confusion_matrix(report.evaluation, linked=linked)
    if not matrix:
        return ""
    matrix += "<p class='quiet screen'>A number with a line under it leads to images behind it.</p>" if linked else ""
    confusions = report.evaluation.confusions(8)
    listed = "".join(
        f"<li><b>{c.images}</b> of {c.of} <q>{text(c.target)}</q> named <q>{text(c.predicted)}</q> ({text(percent(c.images / c.of))})</li>"
        for c in confusions
    )
    after = f"<p>Most often confused:</p><ul>{listed}</ul>" if confusions else "<p>No image was named wrongly.</p>"
    return f"<div class=beside><div>{matrix}</div><div>{after}</div></div>"


def classes(report: RunReport) -> str:
    """Precision, recall and F1 of each class; of many classes, the worst first and all behind a fold."""
    found = report.evaluation
    shown = [name for name in CLASS_COLUMNS if name in found.by_class]

    def rows(indices: list[int]) -> str:
        cells = [
            [f"<span title='{text(found.classes[i])}'>{text(shorten(found.classes[i], 40))}</span>"]
            + [number(found.by_class[name][i].item()) for name in shown]
            for i in indices
        ]
        return table(["class", *(CLASS_COLUMNS[name] for name in shown)], cells, kind="numbers")

    legend = (
        "<p class=quiet>Precision: of the images named so, the share that are. Recall: of the images that are, the share named so. "
        "F1: their harmonic mean. ROC-AUC: the chance that an image of the class is put before one that is not.</p>"
    )
    everything = rows(list(range(len(found.classes))))
    if len(found.classes) <= OPEN_ROWS:
        return everything + legend
    worst = found.worst(10)
    return f"<p>The {len(worst)} with the lowest F1:</p>{rows(worst)}{folded(f'All {len(found.classes)} classes', everything)}{legend}"


def images(report: RunReport) -> str:
    """How many images of each class stand in each part, and which were refused."""
    parts = {part: counts for part, counts in report.counts.items() if sum(counts.values())}
    totals = {name: sum(counts.get(name, 0) for counts in parts.values()) for name in report.classes}
    most = max([*totals.values(), 1])
    rows = [
        [
            f"<span title='{text(name)}'>{text(shorten(name, 32))}</span>",
            bar([(counts.get(name, 0) / most, f"part{place}") for place, counts in enumerate(parts.values())]),
            *(str(counts.get(name, 0)) for counts in parts.values()),
        ]
        for name in report.classes
    ]
    head = ["class", "", *(f"<span class=key><i class=part{place}></i>{text(part)}</span>" for place, part in enumerate(parts))]
    summary = ", ".join(f"{sum(counts.values())} {part}" for part, counts in parts.items())
    per_class = table(head, rows, kind="numbers bars")
    if len(rows) > OPEN_ROWS:
        fewest = min(totals, key=lambda name: totals[name])
        per_class = f"<p>From {totals[fewest]} (<q>{text(shorten(fewest, 40))}</q>) to {most} images in a class.</p>" + folded(
            f"All {len(rows)} classes", per_class
        )
    counted = plural(sum(totals.values()), "label" if report.evaluation.multilabel else "image")
    return f"<p>{counted}: {text(summary)}.</p>{per_class}{_refused(report)}"


def _refused(report: RunReport) -> str:
    if not report.refused:
        return ""
    rows = [[f"<code>{text(path)}</code>", text(reason)] for path, reason in report.refused[:LISTED_FILES]]
    left = len(report.refused) - len(rows)
    more = f"<p>And {left} more; manifest.json lists all.</p>" if left else ""
    listing = table(["file", "reason"], rows, kind="files") + more
    title = f"{plural(len(report.refused), 'file')} could not be used"
    return f"<p class=remark>{title}.</p>{listing}" if len(rows) <= 5 else folded(title, listing)


def findings(report: RunReport) -> str:
    """What the audit found, and what was passed over."""
    found = []
    for finding in sorted(report.findings, key=lambda finding: not finding.serious):
        examples = "".join(f"<li><code>{text(example)}</code></li>" for example in finding.examples)
        shown = (
            f"<ul>{examples}</ul>"
            if len(finding.examples) <= 3
            else folded(plural(len(finding.examples), "example"), f"<ul>{examples}</ul>")
        )
        kind = "serious" if finding.serious else "remark"
        found.append(f"<div class={kind}><p><b>{text(finding.text)}</b> {text(finding.advice)}</p>{shown if examples else ''}</div>")
    notes = "".join(f"<li>{text(note)}</li>" for note in report.notes)
    after = folded(f"{plural(len(report.notes), 'note')} from reading the data", f"<ul>{notes}</ul>") if notes else ""
    return f"{''.join(found)}{_leaks(report)}{after}"


def _leaks(report: RunReport) -> str:
    if not report.leaks:
        return ""
    start = min([interval[0] for _, _, interval, _ in report.leaks])
    span = max(max(interval[1] for _, _, interval, _ in report.leaks) - start, 1e-9)
    rows = [
        [text(label), text(percent(accuracy)), whisker(accuracy, interval, (start, span)), text(_between(interval)), str(images)]
        for label, accuracy, interval, images in report.leaks
    ]
    told = table(["accuracy on", "", "", "95 % interval", "images"], rows, kind="numbers leaks")
    return f"<h3>Accuracy with and without leaks</h3>{told}"


def _between(interval: tuple[float, float]) -> str:
    return f"{percent(interval[0])} to {percent(interval[1])}"


def times_more(report: RunReport) -> str:
    """Return ``once more`` or ``3 times more``: the later uses of the test part."""
    return "once more" if len(report.uses) == 1 else f"{len(report.uses)} times more"


def uses(report: RunReport) -> str:
    """Later uses of the test part: a score that was looked at while choosing is too good."""
    if not report.uses:
        return ""
    listed = "".join(f"<li>{text(use)}</li>" for use in report.uses)
    return (
        f"<p>The score above is from the first use of the {text(report.part)} part. It was used "
        f"{times_more(report)} after that. Whoever chooses between models by these scores makes them look better than they are.</p>"
        f"<ul>{listed}</ul>"
    )


def evidence(report: RunReport) -> str:
    """The heads and layers that were tried, the best first, and why one was chosen."""
    if not (report.evidence or report.head or report.features):
        return ""
    lead = paragraphs((f"Chosen: {report.head}." if report.head else "", report.features, report.reason))
    rows = sorted(report.evidence, key=lambda row: (math.isnan(row.accuracy), -row.accuracy if not math.isnan(row.accuracy) else 0.0))
    if not rows:
        return lead
    told = (
        "All scores from cross-validation inside the training part; the test images took no part in the choice."
        if not (report.history and report.history.epochs)
        else "Scores of the trained head from the validation images, all others from cross-validation inside the training part."
    )
    legend = f"<p class=quiet>{told}</p>"
    shown = rows[:OPEN_ROWS] + [row for row in rows[OPEN_ROWS:] if row.chosen]
    whole = folded(f"All {len(rows)}", _tried(rows)) if len(shown) < len(rows) else ""
    return f"{lead}{_tried(shown)}{whole}{legend}"


def _tried(rows: list[EvidenceRow]) -> str:
    margins = [0.0 if math.isnan(row.error) else row.error for row in rows]
    lows = [row.accuracy - margin for row, margin in zip(rows, margins, strict=True) if not math.isnan(row.accuracy)]
    highs = [row.accuracy + margin for row, margin in zip(rows, margins, strict=True) if not math.isnan(row.accuracy)]
    start, span = (min(lows), max(max(highs) - min(lows), 1e-9)) if lows else (0.0, 1.0)
    cells = []
    for row, margin in zip(rows, margins, strict=True):
        settings = ", ".join(f"{key} {_short(value)}" for key, value in row.settings.items())
        graph = ""
        if not math.isnan(row.accuracy):
            graph = whisker(row.accuracy, (row.accuracy - margin, row.accuracy + margin), (start, span))
        error = "" if math.isnan(row.error) else f" ± {row.error:.4f}"
        chosen = " <em class=chosen>chosen</em>" if row.chosen else ""
        cells.append(
            [
                f"{text(row.head)}{chosen}",
                text(row.layers),
                f"{number(float(row.accuracy))}{error}",
                graph,
                number(float(row.log_loss)),
                text(settings),
                duration(row.seconds),
            ]
        )
    marked = frozenset(index for index, row in enumerate(rows) if row.chosen)
    return table(["head", "layers", "accuracy", "", "log loss", "settings", "time"], cells, kind="tried", marked=marked)


def times(report: RunReport) -> str:
    """Seconds by stage."""
    if not report.times:
        return ""
    total, most = sum(report.times.values()), max([*report.times.values(), 1e-9])
    rows = [[text(stage), bar([(seconds / most, "part0")]), duration(seconds)] for stage, seconds in report.times.items()]
    rows.append(["<b>together</b>", "", f"<b>{duration(total)}</b>"])
    return table(["stage", "", "time"], rows, kind="numbers bars")


def repeat(report: RunReport) -> str:
    """The command, the backbone, and whatever else fixes the outcome."""
    command = f"<pre><code>{text(report.command)}</code></pre>" if report.command else ""
    facts: dict[str, Any] = {"backbone": report.backbone, "licence of the backbone": report.backbone_licence}
    if report.backbone_source:
        facts["source of the backbone"] = report.backbone_source
    return command + _facts({**facts, **report.provenance})


def _facts(facts: Mapping[str, Any]) -> str:
    plain = [[text(label), f"<code>{text(_short(value))}</code>"] for label, value in facts.items() if not isinstance(value, Mapping)]
    groups = "".join(f"<h3>{text(label)}</h3>{_facts(value)}" for label, value in facts.items() if isinstance(value, Mapping))
    return (table(["", ""], plain, kind="facts") if plain else "") + groups


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return ", ".join(map(_short, value)) if isinstance(value, list | tuple) else str(value)


def duration(seconds: float) -> str:
    """Return ``250 ms``, ``9.8 s``, ``61 min 40 s``, and ``-`` for nan."""
    if math.isnan(seconds):
        return "-"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 100 else f"{int(seconds) // 60} min {int(seconds) % 60} s"
