"""D-FINE (Peng et al. 2024) and RT-DETR (Zhao et al. 2024) in training: a set of queries on the maps of any backbone (PyTorch).

Encoder, decoder, matching and losses are those of transformers (Apache-2.0). In place of their own backbone stand the maps of one of
Headstart, which theirs can be, too: `headstart.backbones.hub_detectors`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn

from headstart.backbones.hub_detectors import HubDetector, quiet_transformers
from headstart.backbones.stage_maps import MapLayer
from headstart.errors import BackboneError, ParameterError
from headstart.training.own_loss import DetectorNetwork, listed

QUERIES = 300
"""Boxes that an image may have, as in both papers; fewer where the maps have fewer positions."""
RARE = 0.01
"""Probability of every class before the training (Lin et al. 2017)."""
_OF_CLASSES = ("class_embed.", "enc_score_head.")  # parameters with a row for each class
_NOISY = "denoising_class_embed."  # those with a row more, of what is no thing
_NARROW = 8  # channels of the part of the placeholder backbone that no map comes from
_TAKEN = (
    "intermediate_logits", "intermediate_reference_points", "intermediate_predicted_corners", "initial_reference_points",
    "enc_topk_logits", "enc_topk_bboxes", "denoising_meta_values",
)  # fmt: skip


class _PassedMaps(nn.Module):  # type: ignore[misc]
    """In place of a detector's backbone: the maps that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.maps: list[Any] = []

    def forward(self, pixels: Any, mask: Any) -> list[tuple[Any, None]]:
        """The maps, without masks: no image is padded."""
        return [(one, None) for one in self.maps]


class QueryNetwork(DetectorNetwork):
    """See `DetectorNetwork`; the maps are each twice as large as the next, and a proposal is what one of the queries finds.

    Queries begin at the surest positions of the maps. In training further ones begin near the truth (denoising, Zhang et al. 2023), which
    costs nothing later. With a `start`, its encoder, its decoder and what it knows of those of the classes called `names` that it has are
    where the training begins; what is new begins at random.
    """

    guessing = 40.0  # a sum over the layers of the decoder and what they learn

    def __init__(
        self, layers: Sequence[MapLayer], classes: int, *, side: int, seed: int = 0, start: HubDetector | None = None,
        names: Sequence[str] = (),
    ) -> None:  # fmt: skip
        for finer, coarser in pairwise(layers):
            if (finer.height, finer.width) != (2 * coarser.height, 2 * coarser.width):
                raise ParameterError(
                    f"{self.name} needs maps that are each twice as large as the next, and at {side} px they are "
                    f"{', '.join(f'{layer.height} x {layer.width}' for layer in layers)}. Give an image size that is a multiple of 32."
                )
        self._start = start
        super().__init__(layers, classes, side=side, seed=seed)
        if start is not None:
            self._begin_at(start, names)

    @abstractmethod
    def sizes(self) -> dict[str, Any]:
        """What is special in the settings of the smallest published network."""

    def build(self) -> None:
        """See `MapNetwork`."""
        from transformers import AutoModelForObjectDetection, RTDetrResNetConfig

        self.register()
        channels = [layer.channels for layer in self.layers]
        # the detector is made with a backbone of as many channels, which is then replaced
        placeholder = RTDetrResNetConfig(
            embedding_size=_NARROW, hidden_sizes=[_NARROW, *channels], depths=[1] * (len(channels) + 1), layer_type="bottleneck",
            out_indices=list(range(2, len(channels) + 2)),
        )  # fmt: skip
        given = self._usual() if self._start is None else self._settings_of(self._start)
        positions = sum(layer.height * layer.width for layer in self.layers)
        with quiet_transformers():
            self.config = _configuration(self.name)(
                **{
                    **given, "num_labels": self.classes, "backbone_config": placeholder, "encoder_in_channels": channels,
                    "num_queries": min(int(given["num_queries"]), positions), "anchor_image_size": None, "eval_size": None,
                    "initializer_bias_prior_prob": RARE,
                }
            )  # fmt: skip
            self.detector = AutoModelForObjectDetection.from_config(self.config)
        self.detector.model.backbone = _PassedMaps()

    def _usual(self) -> dict[str, Any]:
        count, sizes = len(self.layers), self.sizes()
        return {
            "num_queries": QUERIES, "num_feature_levels": count, "encode_proj_layers": [count - 1],
            "decoder_in_channels": [sizes["d_model"]] * count, "feat_strides": [8 << level for level in range(count)], **sizes,
        }  # fmt: skip

    def _settings_of(self, start: HubDetector) -> dict[str, Any]:
        """The settings of a detector; BackboneError where it is another architecture, or takes other maps."""
        if start.architecture != self.name:
            raise BackboneError(f"{start.name} is a {start.architecture}: give --architecture {start.architecture}.")
        settings = start.settings()
        if len(settings["encoder_in_channels"]) != len(self.layers):
            raise BackboneError(
                f"{start.name} takes {len(settings['encoder_in_channels'])} maps, and its backbone gives {len(self.layers)} at {self.side} "
                "px. Give a larger image size."
            )
        return settings

    def _begin_at(self, start: HubDetector, names: Sequence[str]) -> None:
        known = {name.casefold(): place for place, name in enumerate(start.classes)}
        rows = [known.get(name.casefold()) for name in names]
        theirs = start.model().state_dict()
        with torch.no_grad():
            for name, value in self.detector.state_dict().items():
                found = theirs[name]
                if not any(part in name for part in (*_OF_CLASSES, _NOISY)):
                    value.copy_(found)
                    continue
                for place, row in enumerate(rows):
                    if row is not None:
                        value[place] = found[row]
                if _NOISY in name:
                    value[-1] = found[-1]

    @property
    def shape(self) -> tuple[int, int]:
        """Of the predictions for one input: (A, k + 4)."""
        return self.config.num_queries, self.classes + 4

    def standardise(self, maps: Any) -> None:
        """See `MapNetwork`; a detector that was trained takes maps as they are."""
        if self._start is None:
            super().standardise(maps)

    def raw(self, maps: list[Any]) -> Any:
        """What transformers' model gives, as far as its loss takes it, by name."""
        passed, labels = self.detector.model.backbone, None
        if self.training and self.drawn is not None and self.drawn.targets is not None:
            labels = _labels(listed(self.drawn.targets))
        passed.maps = maps
        try:
            with self._drawing(maps[0].device):
                found = self.detector.model(pixel_values=maps[0], labels=labels)
        finally:
            passed.maps = []
        return {name: value for name in _TAKEN if (value := found.get(name)) is not None}

    @contextmanager
    def _drawing(self, device: Any) -> Iterator[None]:
        """The noise of denoising is that of the step, from PyTorch's own generator, which is as before afterwards."""
        if not self.training or self.drawn is None:
            yield
            return
        drawn = self.drawn
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(int(np.random.SeedSequence([drawn.seed, drawn.step, drawn.first]).generate_state(1, np.uint64)[0]) >> 1)
            yield

    def predicted(self, raw: Any) -> Any:
        """What the last layer of the decoder says, without the queries of denoising."""
        logits, boxes = raw["intermediate_logits"][:, -1], raw["intermediate_reference_points"][:, -1]
        if "denoising_meta_values" in raw:
            split = raw["denoising_meta_values"]["dn_num_split"]
            logits, boxes = logits.split(split, dim=1)[1], boxes.split(split, dim=1)[1]
        centre, half = boxes[..., :2], boxes[..., 2:] / 2
        return torch.cat([logits, centre - half, centre + half], dim=-1)

    def losses(self, raw: Any, targets: list[dict[str, Any]]) -> Any:
        """Transformers' own: of all layers of the decoder, of the encoder's choice of queries, and of denoising."""
        logits, boxes = raw["intermediate_logits"], raw["intermediate_reference_points"]
        loss, *_ = self.detector.loss_function(
            logits[:, -1], _labels(targets), logits.device, boxes[:, -1], self.config, logits, boxes,
            enc_topk_logits=raw["enc_topk_logits"], enc_topk_bboxes=raw["enc_topk_bboxes"],
            denoising_meta_values=raw.get("denoising_meta_values"), predicted_corners=raw.get("intermediate_predicted_corners"),
            initial_reference_points=raw.get("initial_reference_points"),
        )  # fmt: skip
        return loss


def _labels(targets: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Targets as transformers takes them: boxes by centre, width and height."""
    return [
        {
            "class_labels": one["labels"],
            "boxes": torch.cat([(one["boxes"][:, :2] + one["boxes"][:, 2:]) / 2, one["boxes"][:, 2:] - one["boxes"][:, :2]], dim=1),
        }
        for one in targets
    ]


def _configuration(architecture: str) -> Any:
    from transformers import DFineConfig, RTDetrConfig

    return {"d_fine": DFineConfig, "rt_detr": RTDetrConfig}[architecture]


class DFine(QueryNetwork):
    """D-FINE in the size of its smallest published network (N): 128 channels, three layers of the decoder.

    Like that one it takes maps at a sixteenth and a thirty-second of the input: small things need a larger one.
    """

    name = "d_fine"

    def sizes(self) -> dict[str, Any]:
        """See `QueryNetwork`."""
        return {
            "d_model": 128, "encoder_hidden_dim": 128, "encoder_ffn_dim": 512, "decoder_ffn_dim": 512, "decoder_layers": 3,
            "decoder_n_points": [6] * len(self.layers), "hidden_expansion": 0.34, "depth_mult": 0.5,
        }  # fmt: skip


class RTDetr(QueryNetwork):
    """RT-DETR in the size of its smallest published network (R18): 256 channels, three layers of the decoder."""

    name = "rt_detr"

    def sizes(self) -> dict[str, Any]:
        """See `QueryNetwork`."""
        return {"d_model": 256, "encoder_hidden_dim": 256, "decoder_layers": 3, "hidden_expansion": 0.5}
