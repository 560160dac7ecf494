"""A frozen network and the one that it became by training, as one backbone that gives the features of both.

What the two share, their frozen part, is in the graph once: a model on both costs the frozen part and two tails.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from headstart.backbones import composed
from headstart.backbones.loading import NetworkCache
from headstart.backbones.records import Backbone


def beside(frozen: Backbone, trained: Backbone, *, cache: Path) -> Backbone:
    """The two as one backbone, stored in the folder `cache`; both take the same images, and give no single positions.

    Its layers are those of the frozen network, those of the trained one, and as ``last`` the last of both; see `columns`.
    """
    parts = (frozen, replace(trained, record=replace(trained.record, name="trained")))
    record = replace(frozen.record, dim=sum(part.last.stop - part.last.start for part in parts))
    return replace(NetworkCache(cache).composed(parts, record, composed.joined), tuned=True)


def columns(frozen: Backbone, trained: Backbone) -> tuple[tuple[tuple[int, int], ...], ...]:
    """For each of the networks `beside` each other, the columns (start, stop) that make up its features."""
    return composed.columns((frozen, trained))
