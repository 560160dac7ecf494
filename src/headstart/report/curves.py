"""The training of a fine-tuned model: curves and numbers by epoch, for the page, the picture and the model card."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from headstart.errors import ParameterError
from headstart.report.chart import Axis, LineChart, Mark, Series
from headstart.report.chart_picture import line_charts_png
from headstart.report.line_chart import line_chart
from headstart.report.markup import folded, paragraphs, table, text
from headstart.report.record import RunReport
from headstart.report.sections import duration
from headstart.text import enumeration, number, percent, plural
from headstart.training.history import Epoch, History

DOTTED = 40  # with more epochs the dots run into each other
WIDE_RANGE = 100.0  # losses further apart than this are shown on a logarithmic axis


def training(report: RunReport) -> str:
    """How the fine-tuning went: sentences, curves, and all numbers behind a fold."""
    history = report.history
    if history is None or not history.epochs:
        return ""
    charts = "".join(map(line_chart, training_charts(history)))
    measured = (
        "Training values are means over the epoch, while the weights were changing. The other curve shows the test images after each "
        "epoch; nothing was chosen on them."
        if history.watched == "test"
        else "Training values are means over the epoch, while the weights were changing; validation values are from its end, on images "
        "of the training part that were held out. The test images took no part."
        if _validated(history)
        else "Training values are means over the epoch, while the weights were changing. No images were held out to choose an epoch."
    )
    everything = folded("All numbers by epoch", _numbers(history))
    facts = "".join(f"<li>{text(fact)}</li>" for fact in report.training_facts)
    told = f"<ul>{facts}</ul>" if facts else ""
    return f"{paragraphs([summary(history)])}{told}<div class=charts>{charts}</div><p class=quiet>{text(measured)}</p>{everything}"


def summary(history: History) -> str:
    """Return the training in sentences: what was trained and for how long, which weights are kept, why it ended."""
    said = [f"{_stages(history.epochs)} trained for {plural(len(history.epochs), 'epoch')}, in {duration(history.seconds)}."]
    if kept := history.kept:
        scores = [] if kept.val_accuracy is None else [f"validation accuracy {percent(kept.val_accuracy)}"]
        scores += [] if kept.val_loss is None else [f"validation loss {number(kept.val_loss)}"]
        said.append(f"The weights of epoch {kept.number} are kept{': ' if scores else ''}{', '.join(scores)}.")
    return " ".join(filter(None, [*said, history.stopped]))


def _stages(epochs: Sequence[Epoch]) -> str:
    names = list(dict.fromkeys(name for epoch in reversed(epochs) for name in epoch.trained))
    if not names:
        return "The head alone was"
    gradually = "and, stage by stage," if len({epoch.trained for epoch in epochs}) > 1 else "and the stage" + "s" * (len(names) > 1)
    return f"The head {gradually} {enumeration(names)} were"


def training_charts(history: History) -> tuple[LineChart, LineChart]:
    """Return the charts of accuracy and loss by epoch; there must be at least one epoch."""
    epochs = history.epochs
    room = 0.02 * max(1, epochs[-1].number - epochs[0].number)
    x = Axis(label="epoch", low=max(0.5, epochs[0].number - room), high=epochs[-1].number + room, whole=True)
    mark = None if history.best is None else Mark(x=history.best, label=f"epoch {history.best} kept")
    losses = [value for epoch in epochs for value in (epoch.loss, epoch.val_loss) if value is not None and 0 < value < math.inf]
    log = bool(losses) and max(losses) > WIDE_RANGE * min(losses)
    accuracy = _series(epochs, [epoch.accuracy for epoch in epochs], [epoch.val_accuracy for epoch in epochs])
    loss = _series(epochs, [epoch.loss for epoch in epochs], [epoch.val_loss for epoch in epochs])
    return (
        LineChart(
            title="Accuracy", description=_told("accuracy", accuracy, percents=True), series=accuracy, x=x,
            y=Axis(label="higher is better", high=1.0, percent=True), mark=mark,
        ),
        LineChart(
            title="Loss", description=_told("loss", loss, percents=False), series=loss, x=x,
            y=Axis(label="lower is better (logarithmic)" if log else "lower is better", low=None if log else 0.0, log=log), mark=mark,
        ),
    )  # fmt: skip


def _series(epochs: Sequence[Epoch], train: Sequence[float], validation: Sequence[float | None]) -> tuple[Series, ...]:
    numbers = [float(epoch.number) for epoch in epochs]
    dots = len(epochs) <= DOTTED
    validated = any(value is not None for value in validation)
    found = [Series(name="training", x=numbers, y=train, colour=1, dashed=validated, dots=dots)]
    if validated:
        held_out = [math.nan if value is None else value for value in validation]
        found.append(Series(name="validation", x=numbers, y=held_out, colour=0, dots=dots))
    return tuple(found)


def _told(what: str, lines: Sequence[Series], *, percents: bool) -> str:
    say = percent if percents else number
    ends = [f"{line.name} from {say(float(line.y[0]))} to {say(float(line.y[-1]))}" for line in lines]
    return f"The {what} by epoch: {' and '.join(ends)}. The table after the charts has all numbers."


def _numbers(history: History) -> str:
    validated, staged = _validated(history), len({epoch.trained for epoch in history.epochs}) > 1
    head = ["epoch", "accuracy", *(["validation accuracy"] if validated else []), "loss", *(["validation loss"] if validated else [])]
    rows = []
    for epoch in history.epochs:
        checks = ["-" if epoch.val_accuracy is None else text(percent(epoch.val_accuracy))] if validated else []
        losses = ["-" if epoch.val_loss is None else number(epoch.val_loss)] if validated else []
        kept = " <em class=chosen>kept</em>" if epoch.number == history.best else ""
        stages = [text(", ".join(epoch.trained) or "head alone")] if staged else []
        scores = [text(percent(epoch.accuracy)), *checks, number(epoch.loss), *losses]
        rows.append([f"{epoch.number}{kept}", *scores, f"{epoch.lr:.2e}", text(duration(epoch.seconds)), *stages])
    marked = frozenset(index for index, epoch in enumerate(history.epochs) if epoch.number == history.best)
    return table([*head, "learning rate", "time", *(["trained"] if staged else [])], rows, kind="numbers epochs", marked=marked)


def _validated(history: History) -> bool:
    return any(epoch.val_loss is not None or epoch.val_accuracy is not None for epoch in history.epochs)


def training_curves_png(history: History, path: str | Path) -> None:
    """Draw accuracy and loss by epoch into the PNG file `path`.

    Raises ParameterError where there is no epoch, and OSError as the file system does.
    """
    if not history.epochs:
        raise ParameterError("A training without an epoch has no curves; give a history with at least one.")
    kept = "" if history.best is None else f", the weights of epoch {history.best} kept"
    line_charts_png(training_charts(history), path, heading=f"Training: {plural(len(history.epochs), 'epoch')}{kept}")
