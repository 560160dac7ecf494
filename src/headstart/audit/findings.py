"""`Finding` and `Audit`: what a check says, for people and for programs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypeAlias

from headstart.data.dataset import counts_table, html
from headstart.text import plural

Severity: TypeAlias = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
_CLASSES_SHOWN = 20
_EXAMPLES, _EXAMPLES_SHOWN = 20, 3


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

    @classmethod
    def of(cls, kind: str, severity: Severity, message: str, examples: Sequence[str], count: int) -> list[Finding]:
        """A finding with the first of its examples; none where the count is 0."""
        return [cls(kind, severity, message, tuple(examples[:_EXAMPLES]), count)] if count else []

    def of_column(self, name: str) -> Finding:
        """The finding with a message that names the column of labels; the same where it has no name."""
        return replace(self, message=f"Column {name!r}: {self.message}") if name else self

    def shown(self) -> list[str]:
        """The first few examples, and how many more there are."""
        more = max(self.count, len(self.examples)) - _EXAMPLES_SHOWN
        return [*self.examples[:_EXAMPLES_SHOWN], *([f"... and {more} more"] if len(self.examples) > _EXAMPLES_SHOWN else [])]

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON can hold them."""
        return asdict(self) | {"examples": list(self.examples)}


def gravest_first(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Return findings by severity."""
    return tuple(sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity)))


@dataclass(frozen=True)
class Audit:
    """All findings about a data set, the gravest first, and its counts.

    Attributes:
        source: what was audited.
        counts: number of images by part (``""`` where the data say nothing) and class.
        images: number of images.
        findings: what was found.
        refused: the reason for each image that cannot be read, by name.
        noun: what an input is called.
    """

    source: str
    counts: Mapping[str, Mapping[str, int]]
    images: int
    findings: tuple[Finding, ...]
    refused: Mapping[str, str]
    noun: str = "image"

    @property
    def ok(self) -> bool:
        """Whether there is no error among the findings."""
        return not self.of("error")

    def of(self, severity: Severity) -> tuple[Finding, ...]:
        """Return the findings of one severity."""
        return tuple(finding for finding in self.findings if finding.severity == severity)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON can hold it."""
        counts = {part: dict(classes) for part, classes in self.counts.items()}
        return vars(self) | {"counts": counts, "refused": dict(self.refused), "findings": [finding.to_dict() for finding in self.findings]}

    def lines(self) -> list[str]:
        """Return the audit as lines of plain text: counts, findings, and a last line that sums up."""
        lines = [f"{self.images} {self.noun}s in {self.source}", "", *self._table()]
        for finding in self.findings:
            lines += ["", f"{finding.severity}: {finding.message}"]
            lines += [f"    {example}" for example in finding.shown()]
        tally = [plural(len(self.of(severity)), severity) for severity in SEVERITIES]
        return [*lines, "", "Nothing wrong was found." if not self.findings else f"{tally[0]}, {tally[1]}, {tally[2]}"]

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{finding.severity}</td><td>{'<br>'.join(map(html, (finding.message, *finding.shown())))}</td></tr>"
            for finding in self.findings
        )
        found = (
            f"<table><thead><tr><th>severity</th><th>what was found</th></tr></thead><tbody>{rows}</tbody></table>"
            if self.findings
            else "<p>Nothing wrong was found.</p>"
        )
        return f"<p><strong>{plural(self.images, self.noun)}</strong> in {html(self.source)}</p>{counts_table(self.counts)}{found}"

    def _table(self) -> Iterable[str]:
        classes = list(next(iter(self.counts.values()), {}))
        shown = classes[:_CLASSES_SHOWN]
        width = max(map(len, ("class", *shown)))
        yield "  ".join(["class".ljust(width), *((part or f"{self.noun}s").rjust(8) for part in self.counts)])
        for name in shown:
            yield "  ".join([name.ljust(width), *(str(by_class[name]).rjust(8) for by_class in self.counts.values())])
        if len(classes) > len(shown):
            yield f"... and {len(classes) - len(shown)} more classes"
