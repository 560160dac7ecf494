"""Learning curve, training of a fine-tuned model, and search for a learning rate, in charts and sentences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from headstart.sections import Axis, Block, Bullets, Charts, Fold, Heading, LineChart, Mark, Paragraph, Section, Series, Span, Table, Text
from headstart.text import duration, enumeration, number, percent, plural

if TYPE_CHECKING:
    from headstart.selection import LearningCurve
    from headstart.training.history import Epoch, History
    from headstart.training.learning_rates import LearningRates

DOTTED = 40  # with more epochs the dots run into each other
WIDE_RANGE = 100.0  # losses further apart than this are shown on a logarithmic axis


def learning_section(found: Mapping[str, LearningCurve], *, within: str = "") -> Section:
    """The learning curves by the column of labels, and whether more images would help; `within` begins the sentences on that.

    Where there is one column only, it has no name.
    """
    sentences = [f"{name}{': ' if name else ''}{within}{curve.sentence}" for name, curve in found.items()]
    blocks: tuple[Block, ...] = ()
    if found:
        legend = (
            "By cross-validation inside the training part, with the selected head and layers; the strokes are standard errors. "
            "The test images were not used."
        )
        charts = Charts(tuple(learning_chart(curve, name=name) for name, curve in found.items()))
        tables = [block for name, curve in found.items() for block in (*((Heading(name),) if name else ()), _curve_table(curve))]
        blocks = (*map(Paragraph, sentences), charts, Paragraph(legend, "quiet"), Fold("The numbers", tuple(tables)))
    return Section(anchor="learning", heading="Learning curve", word="Learning curve", blocks=blocks, summary=" ".join(sentences))


def _curve_table(found: LearningCurve) -> Table:
    rows = tuple(
        (str(images), percent(accuracy), "-" if math.isnan(error) else f"± {100 * error:.1f}")
        for images, accuracy, error in zip(found.images, found.accuracy, found.error, strict=True)
    )
    return Table(head=("training images", "accuracy", "standard error (points)"), rows=rows, layout="numbers")


def learning_chart(found: LearningCurve, *, name: str = "") -> LineChart:
    """Return accuracy by number of training images, which are on a logarithmic axis; `name` is of the column of labels."""
    x: list[float] = []
    y: list[float] = []
    for images, accuracy, error in zip(found.images, found.accuracy, found.error, strict=True):
        x += [float(images), float(images), math.nan]
        y += [accuracy - error, min(1.0, accuracy + error), math.nan]
    points = ", ".join(f"{percent(accuracy)} from {images}" for images, accuracy in zip(found.images, found.accuracy, strict=True))
    return LineChart(
        title=f"Learning curve: {name}" if name else "Learning curve",
        description=f"Accuracy by number of training images: {points}.",
        series=(Series(name="", x=x, y=y, thin=True), Series(name="out of sample", x=found.images, y=found.accuracy, dots=True)),
        x=Axis(label="training images (logarithmic)", log=True),
        y=Axis(label="accuracy", high=1.0, percent=True),
    )


def training_section(history: History | None, facts: Sequence[str] = ()) -> Section:
    """How the fine-tuning went: sentences, curves, and all numbers behind a fold; nothing where the backbone stayed frozen."""
    section = Section(anchor="training", heading="Training", word="Training", blocks=())
    if history is None or not history.epochs:
        return section
    measured = "Training values are means over the epoch, while the weights were changing"
    if history.watched == "test":
        measured += ". The other curve shows the test images after each epoch; nothing was chosen on them."
    elif _validated(history):
        measured += "; validation values from its end, on images held out of the training part. The test images were not used."
    else:
        measured += ". No images were held out to choose an epoch."
    blocks = (
        Paragraph(summary(history)), *((Bullets(tuple(facts)),) if facts else ()), Charts(training_charts(history)),
        Paragraph(measured, "quiet"), Fold("All numbers by epoch", (_numbers(history),)),
    )  # fmt: skip
    kept = "" if history.best is None else f", the weights of epoch {history.best} kept"
    caption = f"Training: {plural(len(history.epochs), 'epoch')}{kept}"
    return replace(section, blocks=blocks, picture="training_curves.png", caption=caption)


def summary(history: History) -> str:
    """Return the training in sentences: what was trained and for how long, which weights are kept, why it ended."""
    sentences = [f"{_stages(history.epochs)} trained for {plural(len(history.epochs), 'epoch')}, in {duration(history.seconds)}."]
    if kept := history.kept:
        scores = [] if kept.val_score is None else [f"validation {history.score} {percent(kept.val_score)}"]
        scores += [] if kept.val_loss is None else [f"validation loss {number(kept.val_loss)}"]
        sentences.append(f"The weights of epoch {kept.number} are kept{': ' if scores else ''}{', '.join(scores)}.")
    return " ".join(filter(None, [*sentences, history.stopped]))


def _stages(epochs: Sequence[Epoch]) -> str:
    names = list(dict.fromkeys(name for epoch in reversed(epochs) for name in epoch.trained))
    if not names:
        return "The head alone was"
    gradually = "and, stage by stage," if len({epoch.trained for epoch in epochs}) > 1 else "and the stage" + "s" * (len(names) > 1)
    return f"The head {gradually} {enumeration(names)} were"


def training_charts(history: History) -> tuple[LineChart, LineChart]:
    """Return the charts of score and loss by epoch; there must be at least one epoch."""
    epochs = history.epochs
    room = 0.02 * max(1, epochs[-1].number - epochs[0].number)
    x = Axis(label="epoch", low=max(0.5, epochs[0].number - room), high=epochs[-1].number + room, whole=True)
    mark = None if history.best is None else Mark(x=history.best, label=f"epoch {history.best} kept")
    losses = [value for epoch in epochs for value in (epoch.loss, epoch.val_loss) if value is not None and 0 < value < math.inf]
    log = bool(losses) and max(losses) > WIDE_RANGE * min(losses)
    lower = Axis(label="lower is better (logarithmic)" if log else "lower is better", low=None if log else 0.0, log=log)

    def chart(what: str, train: list[float], validation: list[float | None], y: Axis) -> LineChart:
        series, say = _series(epochs, train, validation), percent if y.percent else number
        ends = [f"{line.name} from {say(float(line.y[0]))} to {say(float(line.y[-1]))}" for line in series]
        description = f"The {what} by epoch: {' and '.join(ends)}. The table after the charts has all numbers."
        return LineChart(title=what.capitalize(), description=description, series=series, x=x, y=y, mark=mark)

    return (
        chart(history.score, [epoch.score for epoch in epochs], [epoch.val_score for epoch in epochs],
              Axis(label="higher is better", high=1.0, percent=True)),
        chart("loss", [epoch.loss for epoch in epochs], [epoch.val_loss for epoch in epochs], lower),
    )  # fmt: skip


def _series(epochs: Sequence[Epoch], train: Sequence[float], validation: Sequence[float | None]) -> tuple[Series, ...]:
    numbers = [float(epoch.number) for epoch in epochs]
    dots = len(epochs) <= DOTTED
    validated = any(value is not None for value in validation)
    found = [Series(name="training", x=numbers, y=train, colour=1, dashed=validated, dots=dots)]
    if validated:
        held_out = [math.nan if value is None else value for value in validation]
        found.append(Series(name="validation", x=numbers, y=held_out, dots=dots))
    return tuple(found)


def _numbers(history: History) -> Table:
    epochs = history.epochs
    columns: dict[Text, list[Text]] = {
        "epoch": [(str(one.number), " ", Span("kept", "tag")) if one.number == history.best else str(one.number) for one in epochs],
        history.score: [percent(one.score) for one in epochs],
        f"validation {history.score}": ["-" if one.val_score is None else percent(one.val_score) for one in epochs],
        "loss": [number(one.loss) for one in epochs],
        "validation loss": ["-" if one.val_loss is None else number(one.val_loss) for one in epochs],
        "learning rate": [f"{one.lr:.2e}" for one in epochs],
        "time": [duration(one.seconds) for one in epochs],
        "trained": [", ".join(one.trained) or "head alone" for one in epochs],
    }
    if not _validated(history):
        del columns[f"validation {history.score}"], columns["validation loss"]
    if len({one.trained for one in epochs}) == 1:
        del columns["trained"]
    marked = frozenset(index for index, one in enumerate(epochs) if one.number == history.best)
    return Table(head=tuple(columns), rows=tuple(zip(*columns.values(), strict=True)), layout="numbers epochs", marked=marked)


def _validated(history: History) -> bool:
    return any(epoch.val_loss is not None or epoch.val_score is not None for epoch in history.epochs)


def lr_chart(found: LearningRates) -> LineChart:
    """Return the loss by learning rate: of each batch, and smoothed. What lies far above the smoothed curve is cut off."""
    from headstart.training.learning_rates import lr_text

    lowest, highest = float(found.smoothed.min()), float(found.smoothed.max())
    top = highest + 0.5 * (highest - lowest)
    rates = [float(rate) for rate in found.lrs]
    return LineChart(
        title="Loss by learning rate",
        description=(
            f"The loss while the learning rate rose from {lr_text(rates[0])} to {lr_text(rates[-1])}. "
            f"Smoothed, it is lowest with {lowest:.4g} at {lr_text(rates[int(found.smoothed.argmin())])}. {found.reason}"
        ),
        series=(
            Series(name="each batch", x=rates, y=[min(float(loss), top) for loss in found.losses], colour=4, dashed=True),
            Series(name="smoothed", x=rates, y=found.smoothed.tolist()),
        ),
        x=Axis(label="learning rate of the head (logarithmic)", log=True),
        y=Axis(label="lower is better", low=0.0),
        mark=Mark(x=found.suggested, label=f"{lr_text(found.suggested)} suggested"),
    )
