"""Translates texts by beam search: in batches of similar length, and in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from headstart.backbones.hub_detectors import quiet_transformers
from headstart.backbones.seq2seq import Seq2Seq

BEAMS = 4
_ROUNDED = 16  # lengths are rounded up to such steps, and a batch has texts of one length
_PIECES = 4096  # of a batch, padding and beams included
_MOST = 64  # texts in a batch
_GROWTH, _ROOM = 2, 24
"""A translation has at most so many times the pieces of its text, and some more."""


def translated(
    network: Seq2Seq, texts: Sequence[str], *, beams: int = BEAMS, longest: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[str]:  # fmt: skip
    """The translation of each text, in one line; of a text without characters the empty one.

    The translation of a text does not depend on the others, but for rounding; equal texts are translated once.

    Args:
        network: on the device that is to be used.
        texts: n of them.
        beams: how many beginnings are followed at once; 1 takes the likeliest piece each time.
        longest: pieces of a translation; by default in proportion to the text, and at most what the network can take.
        progress: called with the number of different texts that are done, and of all.
    """
    wanted = sorted({text for text in texts if text.strip()})
    pieces = network.sources(wanted)
    rounded = [-(-len(one) // _ROUNDED) * _ROUNDED for one in pieces]
    found: dict[str, str] = {}
    for length in sorted(set(rounded), reverse=True):
        rows = [row for row, one in enumerate(rounded) if one == length]
        most = min(network.longest - 1, longest or _GROWTH * length + _ROOM)
        step = max(1, min(_MOST, _PIECES // (length * beams)))
        for start in range(0, len(rows), step):
            some = rows[start : start + step]
            lines = _batch(network, [pieces[row] for row in some], length, beams=beams, most=most)
            found.update(zip((wanted[row] for row in some), lines, strict=True))
            progress(len(found), len(wanted))
    return [found.get(text, "") for text in texts]


def _batch(network: Seq2Seq, pieces: Sequence[Sequence[int]], length: int, *, beams: int, most: int) -> list[str]:
    import torch

    model = network.model
    ids = torch.full((len(pieces), length), int(network.tokenizer.pad_token_id), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, one in enumerate(pieces):
        ids[row, : len(one)], mask[row, : len(one)] = torch.tensor(one), 1
    first = network.first_piece
    forced = {} if first is None else {"forced_bos_token_id": first}
    with quiet_transformers(), torch.inference_mode():
        made = model.generate(
            input_ids=ids.to(model.device), attention_mask=mask.to(model.device), num_beams=beams, max_new_tokens=most, do_sample=False,
            early_stopping=beams > 1, **forced,
        )  # fmt: skip
    return network.texts(made.cpu())
