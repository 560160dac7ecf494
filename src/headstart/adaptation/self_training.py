"""Self-training: the target's own labels as a model predicts them, the surest first, take part in the next fit."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from headstart.adaptation.joint import Codes, Floats, Joint

ROUNDS = 6
_FIRST, _STEP = 0.3, 0.1  # share of each class's rows that take part in the first round, and how many more in each round after it
_FADING = 0.2  # by which the weight of the source falls in each round
_LEAST = 0.05
_NEIGHBOURS, _SPREAD, _REACH = 10, 0.1, 0.9


def self_train(joint: Joint, source: Codes, first: Floats, *, prior: Floats, spread: bool) -> Floats:
    """Probabilities of the target (m, k) after some rounds from the `first`; with `spread` they are spread over near rows before each.

    In every round the predictions are brought to the class frequencies `prior` (k,), and of each class the surest take part. Sources: Zou
    et al., Unsupervised domain adaptation for semantic segmentation via class-balanced self-training, ECCV 2018 (the rounds); Zhou et al.,
    Learning with local and global consistency, NIPS 2003 (the spreading).
    """
    near = spreading_over(joint.target) if spread else None
    found = first
    for step in range(ROUNDS):
        likely = brought_to(found if near is None else spread_over(near, found), prior)
        part = surest(likely, _FIRST + _STEP * step)
        weights = np.concatenate([np.full(joint.size, max(_LEAST, 1 - _FADING * step)), part])
        found = joint.fitted(source, likely.argmax(axis=1), weights)[joint.size :]
    return brought_to(found if near is None else spread_over(near, found), prior)


def brought_to(probabilities: Floats, prior: Floats) -> Floats:
    """Probabilities (m, k) whose mean is the prior (k,): columns and rows are scaled in turns (Sinkhorn)."""
    found = probabilities + 1e-9
    for _ in range(30):
        found *= prior / found.mean(axis=0)
        found /= found.sum(axis=1, keepdims=True)
    return found


def class_frequencies(probabilities: Floats, prior: Floats) -> Floats:
    """Class frequencies (k,) that explain rows best, from their probabilities (m, k) where classes have the frequencies `prior` (k,).

    Source: Saerens, Latinne and Decaestecker, Adjusting the outputs of a classifier to new a priori probabilities: a simple procedure,
    Neural Computation 14 (2002) 21.
    """
    prior = np.maximum(prior, 1e-9)
    found = prior.copy()
    for _ in range(100):
        weighted = np.maximum(probabilities, 1e-6) * (found / prior)
        found = (weighted / weighted.sum(axis=1, keepdims=True)).mean(axis=0)
    return np.asarray(found)


def surest(probabilities: Floats, share: float) -> npt.NDArray[np.bool_]:
    """Which rows (m,) are among this share of those of their most probable class, the most probable first; of each class at least one."""
    codes, sure = probabilities.argmax(axis=1), probabilities.max(axis=1)
    chosen = np.zeros(len(codes), dtype=bool)
    for code in np.unique(codes):
        members = np.flatnonzero(codes == code)
        order = members[np.argsort(-sure[members], kind="stable")]
        chosen[order[: max(1, round(min(share, 1.0) * len(members)))]] = True
    return chosen


def spreading_over(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """What spreads probabilities over rows (m, d) for ever, each time a tenth of a row being its own: float32 (m, m).

    A row spreads to the nearest ones by angle.
    """
    unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -1)
    count = min(_NEIGHBOURS, len(rows) - 1)
    nearest = np.argpartition(-cosines, count - 1, axis=1)[:, :count]
    graph = np.zeros_like(cosines)
    np.put_along_axis(graph, nearest, np.exp((np.take_along_axis(cosines, nearest, axis=1) - 1) / _SPREAD), axis=1)
    graph = (graph + graph.T) / 2
    roots = np.sqrt(np.maximum(graph.sum(axis=1), 1e-12))
    return np.asarray(np.linalg.inv(np.eye(len(graph), dtype=np.float32) - np.float32(_REACH) * graph / np.outer(roots, roots)))


def spread_over(spreading: npt.NDArray[np.float32], probabilities: Floats) -> Floats:
    """Probabilities (m, k) after they have spread."""
    found = np.maximum(spreading @ probabilities.astype(np.float32), 1e-12)
    return np.asarray(found / found.sum(axis=1, keepdims=True), dtype=np.float64)
