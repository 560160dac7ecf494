"""What a report says, as plain data: a task makes sections of these blocks, and `headstart.report` draws them, whatever the task.

A block is a paragraph, a list, a table, tiles, charts, a matrix, a gallery of pictures or a text with marks. Everywhere a text is a string,
or a tuple of strings and `Span`s where some words stand out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from headstart.errors import ParameterError

Cell: TypeAlias = tuple[int, int]


@dataclass(frozen=True)
class Span:
    """Words that stand out: `kind` says how, and `title` is shown in full where the words are shortened."""

    text: str
    kind: Literal["plain", "strong", "quote", "code", "tag", "key0", "key1", "key2", "key3"] = "plain"
    title: str = ""


Text: TypeAlias = str | tuple[str | Span, ...]


@dataclass(frozen=True)
class Bar:
    """A bar in a table: segments (share of the full width from 0 to 1, number of its colour)."""

    segments: tuple[tuple[float, int], ...]


@dataclass(frozen=True)
class Interval:
    """A value with its interval in a table, on a scale from `scale[0]` to `scale[1]` that its column shares."""

    value: float
    low: float
    high: float
    scale: tuple[float, float]


@dataclass(frozen=True)
class Heading:
    """A heading inside a section."""

    text: str


@dataclass(frozen=True)
class Paragraph:
    """A paragraph; a ``remark`` is set off from the others, and ``quiet`` explains what stands before it."""

    text: Text
    kind: Literal["", "quiet", "remark", "screen"] = ""


@dataclass(frozen=True)
class Bullets:
    """A list of sentences."""

    items: tuple[Text, ...]


@dataclass(frozen=True)
class Code:
    """Text to be typed as it is."""

    text: str


@dataclass(frozen=True)
class Notice:
    """A finding: what it is, what to do about it, and examples; a serious one touches the score."""

    lead: str
    text: str = ""
    examples: tuple[str, ...] = ()
    serious: bool = False


@dataclass(frozen=True, kw_only=True)
class Headline:
    """The result: one figure in large type, sentences on it, and where it lies on a scale from 0 to 1.

    Attributes:
        value: the figure as it is read.
        sentences: what it means.
        point, interval: the figure and its 95 % interval from 0 to 1; None where it has no such scale.
        mark: another position on the scale, which `legend` explains.
        legend: what scale and mark show.
    """

    value: str
    sentences: tuple[str, ...] = ()
    point: float | None = None
    interval: tuple[float, float] | None = None
    mark: float | None = None
    legend: str = ""


@dataclass(frozen=True)
class Tiles:
    """Key figures side by side: (name, value, what is said below it)."""

    items: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table. Its first column names the rows.

    Attributes:
        head: names of the columns.
        rows: as many cells each.
        layout: CSS classes: ``numbers`` aligns to the right; ``bars`` has a wide second column; ``facts``, ``files``, ``evidence``,
            ``epochs`` and ``intervals`` fit their contents.
        marked: numbers of the rows that stand out.
    """

    head: tuple[Text, ...]
    rows: tuple[tuple[Text | Bar | Interval, ...], ...]
    layout: str = ""
    marked: frozenset[int] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line of a chart.

    Attributes:
        name: as the key to the chart says it; one without a name is not in the key.
        x, y: as many numbers each. A point with a number that the axis cannot show (nan, infinite, or 0 and less on a logarithmic
            axis) is a gap.
        colour: a number; 0 is the colour of the page's accents.
        dashed: so that two lines can be told apart without colours too.
        dots: whether each point is marked. A point between two gaps always is.
        thin: for what goes with another line, such as its intervals.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    colour: int = 0
    dashed: bool = False
    dots: bool = False
    thin: bool = False

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y):
            raise ParameterError(f"The series {self.name!r} has {len(self.x)} values of x and {len(self.y)} of y; give as many of each.")


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One of the two axes. It reaches at least from `low` to `high`, and further where values lie outside.

    Attributes:
        label: what it measures, with the unit.
        low, high: None where the values alone decide.
        log: logarithmic.
        percent: its numbers are shares, shown as per cent.
        whole: ticks at whole numbers only.
    """

    label: str
    low: float | None = None
    high: float | None = None
    log: bool = False
    percent: bool = False
    whole: bool = False


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A position on the x axis that stands out, with a word on it."""

    x: float
    label: str


@dataclass(frozen=True, kw_only=True)
class LineChart:
    """A chart of lines.

    Attributes:
        title: a word or two, no other chart's on the same page.
        description: what it shows, in sentences, for those who cannot see it.
        series: the later ones are drawn over the earlier ones.
        x, y: the axes.
        mark: an x position that stands out.
    """

    title: str
    description: str
    series: tuple[Series, ...]
    x: Axis
    y: Axis
    mark: Mark | None = None


@dataclass(frozen=True)
class Charts:
    """Charts side by side."""

    charts: tuple[LineChart, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Matrix:
    """Counts of pairs, each row with its shares.

    Attributes:
        names: of the rows and of the columns.
        counts: int64 (k, k).
        rows, columns: what the two sides are, for example ``true class`` and ``named by the model``.
        total: what the sum of a row counts.
        links: cell -> anchor of what is behind it.
    """

    names: tuple[str, ...]
    counts: NDArray[np.int64]
    rows: str
    columns: str
    total: str = "images"
    links: Mapping[Cell, str] = field(default_factory=dict)


_PICTURES = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG": "image/png", b"RIFF": "image/webp"}


@dataclass(frozen=True)
class Box:
    """A rectangle on a picture, in shares of its width and height, with a label."""

    x: float
    y: float
    width: float
    height: float
    label: str = ""
    colour: int = 0


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture, with what is laid over it.

    Attributes:
        data: JPEG, PNG or WebP.
        alt: what it shows, in words.
        boxes: rectangles on it.
        mask: another picture of the same shape, partly transparent, laid over it.

    Raises:
        ParameterError: bytes of another kind.
    """

    data: bytes
    alt: str
    boxes: tuple[Box, ...] = ()
    mask: bytes | None = None

    def __post_init__(self) -> None:
        for data in (self.data, self.mask):
            if data is not None:
                picture_type(data)


def picture_type(data: bytes) -> str:
    """Return the media type of a picture's bytes. Raises ParameterError for anything but JPEG, PNG and WebP, by their first bytes."""
    for start, kind in _PICTURES.items():
        if data.startswith(start):
            return kind
    raise ParameterError(f"the pictures of a report are JPEG, PNG or WebP as bytes; these start with {data[:8]!r}.")


@dataclass(frozen=True, kw_only=True)
class Neighbour:
    """A training input that is near one of the test part: name, position, label, whether that label is the same, and a picture of it."""

    name: str
    row: int = -1
    label: str = ""
    same: bool = False
    picture: Picture | None = None


@dataclass(frozen=True, kw_only=True)
class Card:
    """One input of the test part in a gallery.

    Attributes:
        name: of the file.
        row: its position in the test part; -1 where that is not known.
        pictures: of it, side by side.
        text: what the model said of it.
        share: a probability, drawn as a bar.
        right: whether the model was right.
        neighbours: the nearest training inputs, the nearest first.
    """

    name: str
    row: int = -1
    pictures: tuple[Picture, ...] = ()
    text: str = ""
    share: float | None = None
    right: bool = False
    neighbours: tuple[Neighbour, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Group:
    """Cards under one title; `anchor` names it for links, and `back` is the anchor of the section that leads here."""

    title: Text
    note: str = ""
    cards: tuple[Card, ...]
    anchor: str = ""
    back: str = ""


@dataclass(frozen=True)
class Gallery:
    """Groups of cards."""

    groups: tuple[Group, ...]


@dataclass(frozen=True)
class MarkedText:
    """A text in which some stretches stand out: (start, stop, strength from 0 to 1, label)."""

    text: str
    marks: tuple[tuple[int, int, float, str], ...] = ()


@dataclass(frozen=True)
class Fold:
    """Blocks behind a line that opens them."""

    summary: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Columns:
    """Two columns of blocks, one below the other where the page is narrow."""

    left: tuple[Block, ...]
    right: tuple[Block, ...]


Block: TypeAlias = (
    Heading | Paragraph | Bullets | Code | Notice | Headline | Tiles | Table | Charts | Matrix | Gallery | MarkedText | Fold | Columns
)


@dataclass(frozen=True, kw_only=True)
class Section:
    """A section of the report.

    Attributes:
        anchor: its address on the page.
        heading: its title; `word` names it in the list of sections.
        blocks: what it says; a section without any is not shown.
        summary: its gist in a sentence, for the list below the result; an `urgent` one comes before the others.
        card: what the model card says of it.
        picture: name of a PNG file, where its charts or its matrix are drawn as one; `caption`: what stands above them there.
    """

    anchor: str
    heading: str
    word: str
    blocks: tuple[Block, ...]
    summary: str = ""
    urgent: bool = False
    card: tuple[Block, ...] = ()
    picture: str = ""
    caption: str = ""


@dataclass(frozen=True, kw_only=True)
class Hub:
    """What the Hugging Face Hub is told of a task in the metadata of a model card.

    Attributes:
        pipeline_tag, task_name: the task as the Hub calls it.
        dataset_type: the type of the data set.
        tags: further tags.
        metrics: (identifier of the metric on the Hub, value, name).
    """

    pipeline_tag: str
    task_name: str
    dataset_type: str = "imagefolder"
    tags: tuple[str, ...] = ()
    metrics: tuple[tuple[str, float, str], ...] = ()


@dataclass(frozen=True, kw_only=True)
class TaskReport:
    """What a task says of a tested run.

    Attributes:
        kind: what the model is, for example ``Image classifier``.
        description: the same in a sentence's beginning: ``An image classifier for 3 classes``.
        subject: what it tells apart or finds.
        summary: the result in a few words, for the title of the page.
        sentence: the result in sentences.
        sections: in order; one with the anchor of a general section (see `headstart.report`) is joined to it.
        limits: what a reader of the score must know.
        hub: for the model card.
    """

    kind: str
    description: str
    subject: str = ""
    summary: str
    sentence: str
    sections: tuple[Section, ...]
    limits: tuple[str, ...] = ()
    hub: Hub | None = None
