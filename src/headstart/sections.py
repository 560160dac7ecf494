"""What a report says, as plain data: a task makes sections of these blocks, and `headstart.report` draws them, whatever the task.

A block is a paragraph, a list, a table, tiles, charts, a matrix, a gallery of pictures or a text with marks. Everywhere a text is a string,
or a tuple of strings and `Span`s where some words stand out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from headstart.errors import ParameterError

Cell: TypeAlias = tuple[int, int]


@dataclass(frozen=True)
class Span:
    """Words that stand out: `kind` says how, and `title` is shown in full where the words are shortened.

    A ``key`` has a square of its `colour`, ``#rrggbb``, before it; ParameterError for another form.
    """

    text: str
    kind: Literal["plain", "strong", "quote", "code", "tag", "key", "key0", "key1", "key2", "key3"] = "plain"
    title: str = ""
    colour: str = ""

    def __post_init__(self) -> None:
        if (self.kind == "key") != bool(re.fullmatch("#[0-9a-f]{6}", self.colour)):
            raise ParameterError(f"a span of the kind 'key', and no other, has a colour such as #ff8800; got {self.colour!r}.")


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
    """The result: one figure in large type, sentences on it, and where it lies on a scale from 0 to 1."""

    value: str  # the figure as it is read
    sentences: tuple[str, ...] = ()  # what it means
    point: float | None = None  # the figure from 0 to 1; None where it has no such scale
    interval: tuple[float, float] | None = None  # of 95 %
    mark: float | None = None  # another position on the scale, which `legend` explains
    legend: str = ""  # what scale and mark show


@dataclass(frozen=True)
class Tiles:
    """Key figures side by side: (name, value, what is said below it)."""

    items: tuple[tuple[str, str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table. Its first column names the rows; `marked` ones stand out.

    `layout` are CSS classes: ``numbers`` aligns to the right; ``bars`` has a wide second column; ``facts``, ``files``, ``evidence``,
    ``epochs`` and ``intervals`` fit their contents.
    """

    head: tuple[Text, ...]
    rows: tuple[tuple[Text | Bar | Interval, ...], ...]
    layout: str = ""
    marked: frozenset[int] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Series:
    """One line of a chart, through as many numbers `x` as `y`.

    A point with a number that the axis cannot show (nan, infinite, or 0 and less on a logarithmic axis) is a gap.
    """

    name: str  # as the key to the chart says it; one without a name is not in the key
    x: Sequence[float]
    y: Sequence[float]
    colour: int = 0  # a number; 0 is the colour of the page's accents
    dashed: bool = False  # so that two lines can be told apart without colours too
    dots: bool = False  # whether each point is marked; a point between two gaps always is
    thin: bool = False  # for what goes with another line, such as its intervals

    def __post_init__(self) -> None:
        if len(self.x) != len(self.y):
            raise ParameterError(f"The series {self.name!r} has {len(self.x)} values of x and {len(self.y)} of y; give as many of each.")


@dataclass(frozen=True, kw_only=True)
class Axis:
    """One of the two axes. It reaches at least from `low` to `high`, where given, and further where values lie outside."""

    label: str  # what it measures, with the unit
    low: float | None = None
    high: float | None = None
    log: bool = False  # logarithmic
    percent: bool = False  # its numbers are shares, shown as per cent
    whole: bool = False  # ticks at whole numbers only


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A position on the x axis that stands out, with a word on it."""

    x: float
    label: str


@dataclass(frozen=True, kw_only=True)
class LineChart:
    """A chart of lines; the later series are drawn over the earlier ones."""

    title: str  # a word or two, no other chart's on the same page
    description: str  # what it shows, in sentences, for those who cannot see it
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
    """Counts of pairs, each row with its shares."""

    names: tuple[str, ...]  # of the rows and of the columns
    counts: NDArray[np.int64]  # (k, k)
    rows: str  # what the two sides are, for example ``true class``
    columns: str  # and ``named by the model``
    total: str = "images"  # what the sum of a row counts
    links: Mapping[Cell, str] = field(default_factory=dict)  # cell -> anchor of what is behind it


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
    """A picture (JPEG, PNG or WebP; else ParameterError), with what is laid over it."""

    data: bytes
    alt: str  # what it shows, in words
    boxes: tuple[Box, ...] = ()  # rectangles on it
    mask: bytes | None = None  # another picture of the same shape, partly transparent, laid over it

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
    excerpt: str = ""  # of a text


@dataclass(frozen=True, kw_only=True)
class Card:
    """One input of the test part in a gallery."""

    name: str  # of the file
    row: int = -1  # its position in the test part; -1 where that is not known
    pictures: tuple[Picture, ...] = ()  # of it, side by side
    text: str = ""  # what the model said of it
    share: float | None = None  # a probability, drawn as a bar
    right: bool = False  # whether the model was right
    neighbours: tuple[Neighbour, ...] = ()  # the nearest training inputs, the nearest first
    excerpt: MarkedText | None = None  # of a text, with marks where the evidence is


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
    """A section of the report."""

    anchor: str  # its address on the page
    heading: str
    word: str  # names it in the list of sections
    blocks: tuple[Block, ...]  # what it says; a section without any is not shown
    summary: str = ""  # its gist in a sentence, for the list below the result;
    urgent: bool = False  # such a one comes before the others
    card: tuple[Block, ...] = ()  # what the model card says of it
    picture: str = ""  # name of a PNG file, where its charts or its matrix are drawn as one,
    caption: str = ""  # and what stands above them there


@dataclass(frozen=True, kw_only=True)
class Hub:
    """What the Hugging Face Hub is told of a task, named as the Hub does, in the metadata of a model card."""

    pipeline_tag: str
    task_name: str
    dataset_type: str = "imagefolder"
    tags: tuple[str, ...] = ()
    metrics: tuple[tuple[str, float, str], ...] = ()  # (identifier of the metric on the Hub, value, name)


@dataclass(frozen=True, kw_only=True)
class TaskReport:
    """What a task says of a tested run."""

    kind: str  # what the model is, for example ``Image classifier``
    description: str  # the same in a sentence's beginning: ``An image classifier for 3 classes``
    subject: str = ""  # what it tells apart or finds
    summary: str  # the result in a few words, for the title of the page
    sentence: str  # the result in sentences
    sections: tuple[Section, ...]  # in order; one with the anchor of a general section (see `headstart.report`) is joined to it
    limits: tuple[str, ...] = ()  # what a reader of the score must know
    hub: Hub | None = None  # for the model card
