"""Every kind of block is drawn, whatever the task; and a task that says no more than its headline has a page."""

from __future__ import annotations

import dataclasses
import io
import re
from typing import Any, get_args

import numpy as np
import pytest
from PIL import Image

from headstart import sections
from headstart.report import Report, build_report, model_card, page
from headstart.report.general import joined
from headstart.report.page import environment
from headstart.run.record import FitRecord
from headstart.sections import (
    Bar,
    Block,
    Box,
    Card,
    Charts,
    Columns,
    Fold,
    Gallery,
    Group,
    Heading,
    Interval,
    MarkedText,
    Matrix,
    Notice,
    Paragraph,
    Picture,
    Section,
    Span,
    Table,
)  # fmt: skip
from headstart.tasks.task import plain_report
from reports import Reading

BACKBONE = {"name": "efficientnet_lite0", "licence": "Apache-2.0"}


def png(colour: tuple[int, ...], size: tuple[int, int] = (20, 10)) -> bytes:
    file = io.BytesIO()
    Image.new("RGBA" if len(colour) == 4 else "RGB", size, colour).save(file, format="PNG")
    return file.getvalue()


def drawn(block: Block) -> str:
    return str(environment().get_template("blocks.html").module.draw(block))  # type: ignore[attr-defined]


def regression(*own: Section, **record: Any) -> Report:
    """The report of a run that gives a number for each image."""
    task = plain_report("Number for each image", ("mean absolute error", 2.5, (2.25, 2.75)), images=40, sections=own)
    record = {"title": "ages", "head": "ridge", "features": "", "seconds": {"features": 2.0}, **record}
    return build_report(FitRecord(**record), task, provenance={"seed": 3, "settings": {"seed": 3}}, backbone=BACKBONE)


def test_a_task_that_says_no_more_than_its_headline_has_a_page_and_a_card() -> None:
    errors = Section(anchor="errors", heading="Largest errors", word="Errors", blocks=(Paragraph("Age 70, predicted 52."),))
    report = regression(errors, notes=("1 hidden file",))
    source = page(report)
    text = " ".join(Reading(source).text.split())
    assert "2.5000 Mean absolute error 2.5000 on 40 test images (95 % interval 2.2500 to 2.7500)." in text
    assert re.findall('<section id="(.*?)">', source) == ["result", "errors", "data", "tried", "time", "repeat"]
    assert "Age 70, predicted 52." in text
    assert "class" not in text.replace("class=", "")
    card = model_card(report)
    assert "Mean absolute error 2.5000 on 40 test images" in card
    assert "pipeline_tag" not in card
    assert "- Seed: 3" in card


def test_a_headline_that_is_a_share_has_its_scale() -> None:
    task = plain_report("Scorer", ("R2", 0.5, (0.4, 0.75)), images=10, share=True)
    source = drawn(task.sections[0].blocks[0])
    assert 'class=range style="left:40.00%;width:35.00%"' in source
    assert 'class=point style="left:50.00%"' in source
    assert "class=range" not in drawn(plain_report("Scorer", ("error", 0.3, (0.2, 0.4)), images=10).sections[0].blocks[0])


def test_every_kind_of_block_can_be_drawn() -> None:
    kinds = {kind.__name__ for kind in get_args(Block)}
    named = set(re.findall(r'"(\w+)": \w+,', (environment().loader.get_source(environment(), "blocks.html")[0])))  # type: ignore[union-attr]
    assert kinds == named
    assert {name for name in kinds if not dataclasses.is_dataclass(getattr(sections, name))} == set()


def test_boxes_and_masks_lie_over_their_picture() -> None:
    shown = Picture(data=png((9, 9, 9)), alt="a street", boxes=(Box(0.25, 0.5, 0.1, 0.2, "car <1>", 2),), mask=png((255, 0, 0, 90)))
    source = drawn(Gallery((Group(title="found", cards=(Card(name="a.jpg", pictures=(shown,), text="one car"),)),)))
    assert '<span class="box colour2" style="left:25.00%;top:50.00%;width:10.00%;height:20.00%"><b>car &lt;1&gt;</b></span>' in source
    assert source.count("data:image/png;base64,") == 2
    assert 'class=mask src="data:image/png' in source
    Reading(source)


def test_marks_stand_on_their_stretches_of_text() -> None:
    source = drawn(MarkedText("a good & bad film", ((7, 12, 0.5, "against"), (2, 6, 1.0, "for"))))
    assert source == (
        '<p class=marks>a <mark style="--a:1.00" title="for">good</mark> <mark style="--a:0.50" title="against">&amp; bad</mark> film</p>'
    )


def test_cells_of_a_table_can_be_bars_and_intervals() -> None:
    row = ((Span("a…z", title="a to z"),), Bar(((0.5, 0), (0.25, 3))), Interval(0.5, 0.4, 0.8, (0.2, 1.0)))
    source = drawn(Table(head=("name", "", ""), rows=(row,)))
    assert '<th scope=row><span title="a to z">a…z</span></th>' in source
    assert '<i class="part0" style="width:50.00%"></i><i class="part3" style="width:25.00%"></i>' in source
    assert '<i style="left:25.00%;width:50.00%"></i><b style="left:37.50%"></b>' in source


def test_folds_and_columns_hold_any_blocks() -> None:
    inner = Fold("more", (Columns((Heading("left"),), (Notice("found", examples=("a", "b", "c", "d")),)),))
    source = drawn(inner)
    assert source.index("<h3>left</h3>") < source.index("4 examples")
    Reading(source)


@pytest.mark.parametrize("count", [3, 20, 70])
def test_a_matrix_says_what_its_sides_are(count: int) -> None:
    counts = np.eye(count, dtype=np.int64) * 4
    counts[0, 1] = 1
    names = tuple(f"<{index}>" for index in range(count))
    source = drawn(Matrix(names=names, counts=counts, rows="spoken", columns="heard", links={(0, 1): "there"}))
    assert '<a href="#there">' in source
    assert "spoken" in source
    assert "heard" in source
    assert ("with the numbers of the rows" in source) == (count == 70)
    Reading(source)


def test_a_general_section_continues_that_of_the_task() -> None:
    own = Section(anchor="data", heading="My data", word="Data", blocks=(Paragraph("mine"),))
    general = Section(anchor="data", heading="Findings", word="Data", blocks=(Paragraph("found"),))
    (both,) = joined([own], [general])
    assert (both.heading, both.blocks) == ("My data", (Paragraph("mine"), Paragraph("found")))


def test_what_has_no_place_in_a_card_is_refused() -> None:
    section = Section(anchor="a", heading="A", word="A", blocks=(), card=(Charts(()),))
    with pytest.raises(TypeError, match="A Charts has no place in a model card"):
        model_card(regression(section))
