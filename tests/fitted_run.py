"""A run for tests of what comes out of one: fitted on made-up images, with the pictures of the test images in its report."""

from __future__ import annotations

from pathlib import Path

import pytest

from conftest import CARDS_OF
from headstart import FineTuning, FitSettings, fit
from headstart.report import run_report


def fitted(data: Path, folder: Path, *, cache: Path, backbone: str, epochs: int, batch_size: int) -> Path:
    """Fit a head on maps into a folder, and return that."""
    training = FineTuning(strategy="probe", epochs=epochs, batch_size=batch_size, label_smoothing=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_report, "cards_of", CARDS_OF)
        fit(data, out=folder, settings=FitSettings(cache=cache, backbone=backbone, fine_tuning=training))
    return folder
