"""The report of a task that says no more than its headline."""

from __future__ import annotations

from collections.abc import Sequence

from headstart.sections import Headline, Section, TaskReport
from headstart.text import number, plural


def plain_report(
    name: str,
    headline: tuple[str, float, tuple[float, float]],
    *,
    images: int,
    part: str,
    sections: Sequence[Section] = (),
    share: bool = False,
) -> TaskReport:
    """Return the report of a task that says no more than its headline (name, value, 95 % interval) and some sections.

    A headline that is a `share`, from 0 to 1, is drawn on that scale.
    """
    what, value, (low, high) = headline
    what = what.replace("_", " ")
    summary = f"{what} {number(value)} on {plural(images, part + ' image')}"
    sentence = f"{summary[:1].upper()}{summary[1:]} (95 % interval {number(low)} to {number(high)})."
    first = Headline(
        value=number(value), sentences=(sentence,), point=value if share else None, interval=(low, high) if share else None,
        legend="The band is the 95 % interval." if share else "",
    )  # fmt: skip
    result = Section(anchor="result", heading="Result", word="Result", blocks=(first,))
    own = sections if any(section.anchor == "result" for section in sections) else (result, *sections)
    return TaskReport(kind=name, description=f"{name}", summary=summary, sentence=sentence, sections=tuple(own))
