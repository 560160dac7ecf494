"""MODEL_CARD.md in the format of the Hugging Face Hub: YAML at the head, Markdown below.

Source of the fields: https://github.com/huggingface/hub-docs/blob/main/modelcard.md
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from headstart.report.page import Report
from headstart.sections import Block, Bullets, Heading, Hub, Paragraph, Span, Table, Text
from headstart.text import visible

HUB_LICENCES = frozenset(
    {"apache-2.0", "mit", "bsd", "bsd-2-clause", "bsd-3-clause", "isc", "unlicense", "openrail", "mpl-2.0"}
    | {"gpl-2.0", "gpl-3.0", "agpl-3.0", "lgpl-3.0", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0"}
    | {"cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0"}
)
"""Identifiers that the Hub knows, of those that backbones have; any other licence is "other" with its name."""


def model_card(report: Report) -> str:
    """Return the text of MODEL_CARD.md for `report`."""
    task, curves = report.task, next((section for section in report.sections if section.anchor == "training"), None)
    blocks = [
        f"# {markdown(report.title)}",
        f"{markdown(task.description)}, made by transfer learning with Headstart on the backbone "
        f"{markdown(report.backbone)} (licence: {markdown(report.licence)}).",
        markdown(task.sentence),
        "## Uses",
        "In the folder of this file:\n\n```\nheadstart predict . image.jpg\n```",
        "## Bias, risks and limitations",
        _list(["The score holds for images like those of the test part; on images from another camera, place or time it can be lower.",
               *report.limits]),
        "## Training details",
        _list(report.training),
        *([f"![{curves.heading}]({curves.picture})"] if curves is not None and curves.picture else []),
        "## Evaluation",
    ]  # fmt: skip
    for section in report.sections:
        if section is not curves:
            blocks += map(_block, section.card)
            blocks += [f"![{markdown(section.heading)}]({section.picture})"] if section.picture and section.blocks else []
    if report.command:
        fence = "`" * max(3, 1 + max(map(len, re.findall("`+", report.command)), default=0))
        blocks += ["## Reproducing", f"{fence}\n{visible(report.command)}\n{fence}"]
    return f"---\n{_yaml(_metadata(report))}---\n\n" + "\n\n".join(filter(None, blocks)) + "\n"


def _block(block: Block) -> str:
    if isinstance(block, Heading):
        return f"### {markdown(block.text)}"
    if isinstance(block, Paragraph):
        return _inline(block.text)
    if isinstance(block, Bullets):
        return "\n".join(f"- {_inline(item)}" for item in block.items)
    if isinstance(block, Table):
        rows = [[_inline(cell) if isinstance(cell, str | tuple) else "" for cell in row] for row in block.rows]
        lines = [list(map(_inline, block.head)), ["---", *["---:"] * (len(block.head) - 1)], *rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)
    raise TypeError(f"A {type(block).__name__} has no place in a model card.")


def _inline(text: Text) -> str:
    if isinstance(text, str):
        return markdown(text)
    return "".join(markdown((run.title or run.text) if isinstance(run, Span) else run) for run in text)


def _list(sentences: Sequence[str]) -> str:
    return "\n".join(f"- {markdown(sentence)}" for sentence in sentences if sentence)


def markdown(value: object) -> str:
    """Return `value` as Markdown text in which nothing is taken for markup or HTML."""
    return re.sub(r"([\\`*_\[\]<>|~&#$])", r"\\\1", visible(str(value)))


def _metadata(report: Report) -> dict[str, Any]:
    licence, title = report.licence.strip().casefold(), visible(report.title)
    hub = report.task.hub or Hub(pipeline_tag="", task_name="")
    metadata: dict[str, Any] = {"license": licence}
    if licence not in HUB_LICENCES:
        metadata = {"license": "other", "license_name": re.sub(r"[^a-z0-9.]+", "-", licence).strip("-") or "unknown"}
    metadata["library_name"] = "headstart"
    if hub.pipeline_tag:
        metadata["pipeline_tag"] = hub.pipeline_tag
    metadata["tags"] = [*filter(None, (hub.pipeline_tag,)), "transfer-learning", "headstart", *hub.tags]
    if report.hub_id:
        metadata["base_model"] = report.hub_id
    if hub.metrics:
        metadata["metrics"] = [kind for kind, _, _ in hub.metrics]
        outcome = {
            "task": {"type": hub.pipeline_tag, "name": hub.task_name},
            "dataset": {"type": hub.dataset_type, "name": title, "split": "test"},
            "metrics": [{"type": kind, "value": value, "name": name} for kind, value, name in hub.metrics],
        }
        metadata["model-index"] = [{"name": title, "results": [outcome]}]
    return metadata


def _yaml(value: Any, indent: str = "") -> str:
    """Write mappings and lists in block style, and everything else as JSON, which is YAML too."""
    lines = []
    if isinstance(value, dict):
        for key, item in value.items():
            nested = f"\n{_yaml(item, indent + '  ' * isinstance(item, dict))}" if isinstance(item, dict | list) else f" {_scalar(item)}\n"
            lines.append(f"{indent}{key}:{nested}")
    else:
        for item in value:
            block = _yaml(item, indent + "  ")[len(indent) + 2 :] if isinstance(item, dict) else f"{_scalar(item)}\n"
            lines.append(f"{indent}- {block}")
    return "".join(lines)


def _scalar(value: Any) -> str:
    simple = isinstance(value, str) and re.fullmatch(r"[a-z][a-z0-9_./-]*", value)
    if simple and value not in ("true", "false", "null", "yes", "no", "on", "off", "y", "n"):
        return str(value)
    return json.dumps(visible(value) if isinstance(value, str) else value, ensure_ascii=False)
