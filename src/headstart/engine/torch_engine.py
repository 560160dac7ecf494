"""PyTorch: for GPUs.

Tested on the CPU; on a GPU it has not been run by its authors. There it computes in float32 without TF32, in the memory format that
convolutions prefer, in batches, while the next images are being decoded in threads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from headstart.engine import Outputs, check_image

BATCH = 64


class TorchEngine:
    """Runs a PyTorch module that takes uint8 images (N, H, W, 3), on a GPU if there is one.

    Args:
        network: in evaluation mode; gives float32 features (N, D).
        device: ``cuda``, ``cpu`` or any device of PyTorch's; the GPU by default, if there is one.
        batch: images computed together. Unlike in the other engines, a result may depend on its neighbours in the last bits.
    """

    name = "torch"

    def __init__(self, network: Any, *, device: str | None = None, batch: int = BATCH) -> None:
        import torch

        self._torch = torch
        self._device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._network = network.eval().to(self._device, memory_format=torch.channels_last)
        self._batch = batch

    def run(self, images: Iterable[npt.NDArray[np.uint8]]) -> Iterator[Outputs]:
        """Yield the features of each image, in order (see `headstart.engine.Engine`)."""
        waiting = iter(images)
        while chunk := [check_image(image) for image in islice(waiting, self._batch)]:
            for row in self._features(np.concatenate(chunk)):
                yield (row,)

    def _features(self, batch: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        torch = self._torch
        pixels = torch.from_numpy(batch)
        if self._device.type == "cuda":
            pixels = pixels.pin_memory()
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            features = self._network(pixels.to(self._device, non_blocking=True))
        found: npt.NDArray[np.float32] = features.float().cpu().numpy()
        return found
