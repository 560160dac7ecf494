"""Learning from windows of images: random ones to learn from, and whole images to test on."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from headstart.backbones import Backbone
from headstart.backbones.stage_maps import WriteOnMaps, graph_on_maps
from headstart.engine import Outputs, available_cores, open_engine
from headstart.errors import UnreadableError
from headstart.features.running import Images, run_images
from headstart.modalities.image import Preprocessing, quiet_decoding
from headstart.modalities.image.augment import Augmentation
from headstart.modalities.image.warp import View
from headstart.pixels.windows import Shape, Windows, through_windows

_R2 = (0.7548776662466927, 0.5698402909980532)


def window_view(augmentation: Augmentation, windows: Windows, *, key: int, seed: int, view: int) -> View:
    """View number `view` of an image through a window: a part of it of the size of one of the `windows`, changed as images would be.

    The places of successive views fill the image evenly (the R2 sequence of Roberts 2018), from a random start.
    """
    drawn, share = augmentation.view(key=key, seed=seed, view=view), windows.share
    start = np.random.default_rng([seed, key & 0xFFFF_FFFF_FFFF_FFFF, windows.count]).random(2)
    top, left = ((start + view * np.array(_R2)) % 1 * (1 - share)).tolist()
    inside = [share * edge for edge in drawn.crop]
    return replace(drawn, crop=(top + inside[0], left + inside[1], top + inside[2], left + inside[3]))


@dataclass(frozen=True, eq=False)
class WholeImages:
    """Images that are seen through windows of their `square`, and whatever is learned on the maps of these."""

    backbone: Backbone
    images: Images
    square: Preprocessing
    windows: Windows
    engine: str

    def __call__(
        self, rows: npt.NDArray[np.int64], layers: tuple[str, ...], write: WriteOnMaps, outputs: Mapping[str, Shape]
    ) -> Iterator[Outputs | UnreadableError]:
        """What is learned says of each image in `rows`: maps of the whole of it, float32 (k, H, W), or why it cannot be read.

        `write` is given `layers`, as of `graph_on_maps`, and names its `outputs`, of the shape (k, h, w) for one window. It is all one
        graph, as that of a run, so that windows are never in memory but a few at a time.
        """
        size = self.windows.square
        graph = through_windows(graph_on_maps(self.backbone, layers, write), self.windows, outputs, features=self.backbone.dim)
        shapes: dict[str, tuple[npt.DTypeLike, tuple[int | str, ...]]] = {
            name: (np.float32, ("N", *self.windows.shape(shape))) for name, shape in outputs.items()
        }
        model = graph.model(inputs={"images": (np.uint8, ("N", size, size, 3))}, outputs=shapes)
        with tempfile.TemporaryDirectory(prefix="headstart-windows-") as folder, quiet_decoding():
            path = Path(folder) / "windows.onnx"
            path.write_bytes(model.SerializeToString())
            engine = open_engine(path, kind=self.engine, outputs=tuple(outputs), size=size)
            with ThreadPoolExecutor(available_cores(), thread_name_prefix="headstart-decode") as pool:
                found = run_images(self.images, rows.tolist(), engine=engine, preprocessing=self.square, pool=pool)
                yield from (result.outputs for result in found)
