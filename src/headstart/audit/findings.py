"""`Finding` and `Audit`: what a check says, for people and for programs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from headstart.data.dataset import counts_table, html

Severity: TypeAlias = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
_CLASSES_SHOWN = 20
_EXAMPLES_SHOWN = 3


@dataclass(frozen=True)
class Finding:
    """One thing found in the data.

    Attributes:
        kind: a fixed word for programs, such as ``"leak"``.
        severity: "error": a score would be wrong or training is impossible; "warning": look at it; "note": good to know.
        message: how many, what it does to the score, what to do.
        examples: names of images, with what is the matter with each.
        count: how many images (or classes) are concerned.
    """

    kind: str
    severity: Severity
    message: str
    examples: tuple[str, ...] = ()
    count: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON can hold them."""
        return {
            "kind": self.kind,
            "severity": self.severity,
            "message": self.message,
            "count": self.count,
            "examples": list(self.examples),
        }


@dataclass(frozen=True)
class Audit:
    """All findings about a data set, the gravest first, and its counts.

    Attributes:
        source: what was audited.
        counts: number of images by part (``""`` where the data say nothing) and class.
        images: number of images.
        findings: what was found.
        refused: the reason for each image that cannot be read, by name.
    """

    source: str
    counts: Mapping[str, Mapping[str, int]]
    images: int
    findings: tuple[Finding, ...]
    refused: Mapping[str, str]

    @property
    def ok(self) -> bool:
        """Whether there is no error among the findings."""
        return not self.of("error")

    def of(self, severity: Severity) -> tuple[Finding, ...]:
        """Return the findings of one severity."""
        return tuple(finding for finding in self.findings if finding.severity == severity)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON can hold it."""
        return {
            "source": self.source,
            "images": self.images,
            "counts": {part: dict(classes) for part, classes in self.counts.items()},
            "refused": dict(self.refused),
            "findings": [finding.to_dict() for finding in self.findings],
        }

    def lines(self) -> list[str]:
        """Return the audit as lines of plain text: counts, findings, and a last line that sums up."""
        lines = [f"{self.images} images in {self.source}", "", *self._table()]
        for finding in self.findings:
            lines += ["", f"{finding.severity}: {finding.message}"]
            lines += [f"    {example}" for example in finding.examples[:_EXAMPLES_SHOWN]]
            if len(finding.examples) > _EXAMPLES_SHOWN:
                more = max(finding.count, len(finding.examples)) - _EXAMPLES_SHOWN
                lines.append(f"    ... and {more} more")
        tally = [_plural(len(self.of(severity)), severity) for severity in SEVERITIES]
        return [*lines, "", "Nothing wrong was found." if not self.findings else f"{tally[0]}, {tally[1]}, {tally[2]}"]

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{finding.severity}</td><td>{html(finding.message)}{_listed(finding)}</td></tr>" for finding in self.findings
        )
        found = (
            f"<table><thead><tr><th>severity</th><th>what was found</th></tr></thead><tbody>{rows}</tbody></table>"
            if self.findings
            else "<p>Nothing wrong was found.</p>"
        )
        return f"<p><strong>{_plural(self.images, 'image')}</strong> in {html(self.source)}</p>{counts_table(self.counts)}{found}"

    def _table(self) -> Iterable[str]:
        classes = list(next(iter(self.counts.values()), {}))
        shown = classes[:_CLASSES_SHOWN]
        heads = [part or "images" for part in self.counts]
        width = max([len("class"), *(len(name) for name in shown)])
        yield "  ".join(["class".ljust(width), *(head.rjust(8) for head in heads)])
        for name in shown:
            yield "  ".join([name.ljust(width), *(str(self.counts[part][name]).rjust(8) for part in self.counts)])
        if len(classes) > len(shown):
            yield f"... and {len(classes) - len(shown)} more classes"


def _listed(finding: Finding) -> str:
    shown = "".join(f"<br><code>{html(example)}</code>" for example in finding.examples[:_EXAMPLES_SHOWN])
    more = max(finding.count, len(finding.examples)) - _EXAMPLES_SHOWN
    return shown + (f"<br>... and {more} more" if len(finding.examples) > _EXAMPLES_SHOWN else "")


def are_copies(count: int, images: str, kind: str) -> str:
    """``1 test image is an exact copy`` or ``5 test images are exact copies``, for the images ``test image`` and the kind ``exact``."""
    if count == 1:
        return f"1 {images} is {'an' if kind[0] in 'aeiou' else 'a'} {kind} copy"
    return f"{count} {images}s are {kind} copies"


def components(pairs: npt.ArrayLike, count: int) -> npt.NDArray[np.int64]:
    """The connected component of each of `count` nodes of a graph, int64 (count,), numbered by their first nodes; pairs (m, 2)."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    edges = np.asarray(pairs, np.int64).reshape(-1, 2)
    graph = coo_array((np.ones(len(edges), np.int8), (edges[:, 0], edges[:, 1])), shape=(count, count))
    return np.asarray(connected_components(graph, directed=False)[1], np.int64)


def _plural(count: int, word: str) -> str:
    return f"{count} {word}{'s' if count != 1 else ''}"
