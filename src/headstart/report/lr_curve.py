"""The curve of a search for a learning rate, as a picture."""

from __future__ import annotations

from pathlib import Path

from headstart.report.chart import Axis, LineChart, Mark, Series
from headstart.report.chart_picture import line_charts_png
from headstart.training.learning_rates import LearningRates, lr_text


def lr_chart(found: LearningRates) -> LineChart:
    """Return the loss by learning rate: of each batch, and smoothed. What lies far above the smoothed curve is cut off."""
    lowest, highest = float(found.smoothed.min()), float(found.smoothed.max())
    top = highest + 0.5 * (highest - lowest)
    rates = [float(rate) for rate in found.lrs]
    batches = [min(float(loss), top) for loss in found.losses]
    return LineChart(
        title="Loss by learning rate",
        description=(
            f"The loss while the learning rate rose from {lr_text(rates[0])} to {lr_text(rates[-1])}. "
            f"Smoothed, it is lowest with {lowest:.4g} at {lr_text(rates[int(found.smoothed.argmin())])}. {found.reason}"
        ),
        series=(
            Series(name="each batch", x=rates, y=batches, colour=4, dashed=True),
            Series(name="smoothed", x=rates, y=[float(loss) for loss in found.smoothed], colour=0),
        ),
        x=Axis(label="learning rate of the head (logarithmic)", log=True),
        y=Axis(label="lower is better", low=0.0),
        mark=Mark(x=found.suggested, label=f"{lr_text(found.suggested)} suggested"),
    )


def lr_curve_png(found: LearningRates, path: str | Path) -> None:
    """Draw the curve into the PNG file `path`. Raises OSError as the file system does."""
    line_charts_png([lr_chart(found)], path)
