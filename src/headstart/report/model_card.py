"""MODEL_CARD.md in the format of the Hugging Face Hub: YAML at the head, Markdown below.

Source of the fields: https://github.com/huggingface/hub-docs/blob/main/modelcard.md
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from headstart.evaluate.wording import CLASS_COLUMNS, SCORE_WORDS
from headstart.report.confidence import abstention_head, abstention_rows, calibrated, trusted
from headstart.report.curves import summary
from headstart.report.record import RunReport
from headstart.report.sections import sentence, times_more
from headstart.text import number, plural, visible

HUB_LICENCES = frozenset(
    {"apache-2.0", "mit", "bsd", "bsd-2-clause", "bsd-3-clause", "isc", "unlicense", "openrail", "mpl-2.0"}
    | {"gpl-2.0", "gpl-3.0", "agpl-3.0", "lgpl-3.0", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0"}
    | {"cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0"}
)
"""Identifiers that the Hub knows, of those that backbones have; any other licence is "other" with its name."""

HUB_METRICS = {"accuracy": "accuracy", "f1_macro": "f1", "precision_macro": "precision", "recall_macro": "recall", "roc_auc": "roc_auc"}
"""Name of a score -> identifier of the metric on the Hub."""


def model_card(report: RunReport) -> str:
    """Return the text of MODEL_CARD.md for `report`."""
    return f"---\n{_yaml(_metadata(report))}---\n\n{_text(report)}"


def _metadata(report: RunReport) -> dict[str, Any]:
    licence = report.backbone_licence.strip()
    known = licence.casefold() in HUB_LICENCES
    metadata: dict[str, Any] = {"license": licence.casefold() if known else "other"}
    if not known:
        metadata["license_name"] = re.sub(r"[^a-z0-9.]+", "-", licence.casefold()).strip("-") or "unknown"
    metadata |= {"library_name": "headstart", "pipeline_tag": "image-classification"}
    metadata["tags"] = [
        "image-classification",
        "transfer-learning",
        "headstart",
        *(["multi-label"] if report.evaluation.multilabel else []),
    ]
    if report.backbone_hub_id:
        metadata["base_model"] = report.backbone_hub_id
    scores = {name: report.evaluation.scores.get(name, math.nan) for name in HUB_METRICS}
    measured = [
        {"type": HUB_METRICS[name], "value": round(value, 4), "name": f"{report.part} {SCORE_WORDS.get(name, name.replace('_', ' '))}"}
        for name, value in scores.items()
        if not math.isnan(value)
    ]
    metadata["metrics"] = [entry["type"] for entry in measured]
    outcome = {
        "task": {"type": "image-classification", "name": "Image classification"},
        "dataset": {"type": "imagefolder", "name": visible(report.title), "split": report.part},
        "metrics": measured,
    }
    metadata["model-index"] = [{"name": visible(report.title), "results": [outcome]}]
    return metadata


def _yaml(value: Any, indent: str = "") -> str:
    """Write mappings and lists in block style, and everything else as JSON, which is YAML too."""
    if isinstance(value, dict):
        lines = []
        for key, item in value.items():
            nested = isinstance(item, dict | list)
            lines.append(
                f"{indent}{key}:\n{_yaml(item, indent + ('  ' if isinstance(item, dict) else ''))}"
                if nested
                else f"{indent}{key}: {_scalar(item)}\n"
            )
        return "".join(lines)
    lines = []
    for item in value:
        if isinstance(item, dict):
            block = _yaml(item, indent + "  ")
            lines.append(f"{indent}- {block[len(indent) + 2 :]}")
        else:
            lines.append(f"{indent}- {_scalar(item)}\n")
    return "".join(lines)


def _scalar(value: Any) -> str:
    if (
        isinstance(value, str)
        and re.fullmatch(r"[a-z][a-z0-9_./-]*", value)
        and value not in ("true", "false", "null", "yes", "no", "on", "off", "y", "n")
    ):
        return value
    return json.dumps(visible(value) if isinstance(value, str) else value, ensure_ascii=False)


def markdown(value: object) -> str:
    """Return `value` as Markdown text in which nothing is taken for markup or HTML."""
    return re.sub(r"([\\`*_\[\]<>|~&#$])", r"\\\1", visible(str(value)))


def _text(report: RunReport) -> str:
    found = report.evaluation
    low, high = found.interval
    bounds = {name: f" (95 % interval {a:.4f} to {b:.4f})" for name, (a, b) in found.bootstrap.intervals.items()}
    scores = [
        [SCORE_WORDS[name], number(found.scores[name]) + bounds.get(name, "")]
        for name in SCORE_WORDS
        if name in found.scores and name != "accuracy"
    ]
    blocks = [
        f"# {markdown(report.title)}",
        f"An image classifier for {len(found.classes)} classes, made by transfer learning with Headstart on the backbone "
        f"{markdown(report.backbone)} (licence: {markdown(report.backbone_licence)}).",
        markdown(f"{sentence(report)} {report.held_out}".strip()),
        "## Uses",
        "In the folder of this file:\n\n```\nheadstart predict . image.jpg\n```",
        "## Bias, risks and limitations",
        _limits(report),
        "## Training details",
        *_training(report),
        "## Evaluation",
        *(markdown(remark) for remark in found.remarks(report.part)),
        _table(["score", "value"], [["accuracy", f"{found.accuracy:.4f} (95 % interval {low:.4f} to {high:.4f}, Wilson)"], *scores]),
    ]
    if bounds:
        blocks.append(f"Intervals of the other scores: {found.bootstrap.method}.")
    if not found.multilabel:
        blocks.append("![Confusion matrix: rows are true classes, columns the classes named](confusion_matrix.png)")
    blocks += ["### Classes", _class_table(report), *_confidence(report), *_leaks(report)]
    if report.command:
        fence = "`" * max(3, 1 + max(map(len, re.findall("`+", report.command)), default=0))
        blocks += ["## To repeat", f"{fence}\n{visible(report.command)}\n{fence}"]
    return "\n\n".join(blocks) + "\n"


def _confidence(report: RunReport) -> list[str]:
    """How far the confidence can be trusted, in the sentences of the page."""
    said = [calibrated(report), *(trusted(report.trust, report.part) if report.trust else ())]
    blocks = ["### Confidence", "\n".join(f"- {markdown(line)}" for line in said)]
    if report.trust and (rows := abstention_rows(report)):
        blocks.append(_table([markdown(cell) for cell in abstention_head(report)], [[markdown(cell) for cell in row] for row in rows]))
    return blocks


def _leaks(report: RunReport) -> list[str]:
    if not report.leaks:
        return []
    rows = [
        [markdown(label), f"{accuracy:.4f} (95 % interval {low:.4f} to {high:.4f})", str(images)]
        for label, accuracy, (low, high), images in report.leaks
    ]
    return ["### With and without leaks", _table(["images", "accuracy", "number"], rows)]


def _limits(report: RunReport) -> str:
    """List what every reader of the score must know, and what was found in these data."""
    limits = [f"The score holds for images like those of the {report.part} part: from another camera, place or time, it can be lower."]
    if not report.evaluation.multilabel:
        limits.append("The model names one of its classes for every image, also where none of them is right.")
    limits += [f"{finding.text} {finding.advice}".strip() for finding in report.findings]
    if report.uses:
        limits.append(f"The {report.part} part was used {times_more(report)} after the score was measured.")
    if report.learning_curve is not None:
        limits.append(report.learning_curve.sentence)
    return "\n".join(f"- {markdown(limit)}" for limit in limits)


def _class_table(report: RunReport) -> str:
    by_class = report.evaluation.by_class
    shown = [name for name in CLASS_COLUMNS if name in by_class]
    rows = [[markdown(name), *(number(by_class[score][i].item()) for score in shown)] for i, name in enumerate(report.classes)]
    return _table(["class", *(CLASS_COLUMNS[name] for name in shown)], rows)


def _training(report: RunReport) -> list[str]:
    trained = report.history is not None and bool(report.history.epochs)
    counts = ", ".join(f"{sum(by_class.values())} {markdown(part)}" for part, by_class in report.counts.items() if sum(by_class.values()))
    facts = [
        f"Images: {counts}." if counts else "",
        f"Refused: {plural(len(report.refused), 'file')} that could not be read." if report.refused else "",
        f"Features: {markdown(report.features)}" if report.features else "",
        f"Head: {markdown(report.head)}" if report.head else "",
        f"Fine-tuning: {markdown(summary(report.history))}" if trained and report.history else "",
        f"Seed: {markdown(report.provenance['seed'])}" if "seed" in report.provenance else "",
    ]
    curves = ["![Accuracy and loss by epoch, of training and of validation](training_curves.png)"] if trained else []
    return ["\n".join(f"- {fact}" for fact in facts if fact), *curves]


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
