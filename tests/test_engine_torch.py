"""The PyTorch engine, on the CPU, against the engine that is used there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from headstart.backbones import Backbone, torch_network
from headstart.features import BackboneExtractor
from headstart.modalities.image import Preprocessing

pytest.importorskip("timm", reason="needs headstart[torch]")


def test_it_computes_what_the_engine_for_cpus_computes(backbone: Backbone, pictures: Path) -> None:
    from headstart.engine import TorchEngine

    paths = sorted(pictures.glob("*/*.png"))[::9]
    expected = BackboneExtractor(backbone)(paths).values
    extractor = BackboneExtractor(backbone, engine="torch")
    assert extractor.id == BackboneExtractor(backbone).id
    found = extractor(paths).values
    for layer in backbone.layers:
        part = slice(layer.start, layer.stop)
        assert np.abs(found[:, part] - expected[:, part]).max() < 1e-4 * np.abs(expected[:, part]).max(), layer
    small = TorchEngine(torch_network(backbone), device="cpu", batch=3)
    given = [Preprocessing(96)(path) for path in paths]
    rows = np.stack([row for (row,) in small.run(given)])
    whole = np.stack([row for (row,) in TorchEngine(torch_network(backbone), device="cpu").run(given)])
    assert rows.shape == (len(paths), backbone.dim)
    np.testing.assert_allclose(rows, whole, rtol=1e-3, atol=1e-4)
