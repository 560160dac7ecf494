"""PatchCore and PaDiM on maps: against brute force and closed forms, in ONNX, and bounded however many images there are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnxruntime
import pytest
from scipy.ndimage import gaussian_filter, uniform_filter
from scipy.spatial.distance import cdist, mahalanobis

from headstart.errors import DataError, RunError
from headstart.heads.coreset import coreset, sampled
from headstart.heads.patch_memory import PatchMemory
from headstart.heads.patches import PatchGrid, averaged, smoothed
from headstart.heads.position_gaussians import RIDGE, PositionGaussians, drawn_channels, moments
from headstart.onnx_graph import OnnxGraph
from headstart.pixels.interpolation import resized
from headstart.progress import Listener

RANDOM = np.random.default_rng(0)
IMAGES = [
    {"coarse": RANDOM.normal(3, 2, (9, 4, 5)).astype(np.float32), "fine": RANDOM.normal(-1, 1, (6, 8, 10)).astype(np.float32)}
    for _ in range(12)
]
DETECTORS: list[Callable[..., Any]] = [PatchMemory.fit, PositionGaussians.fit]


def test_patches_are_averaged_maps_side_by_side() -> None:
    grid = PatchGrid.of(IMAGES[0])
    assert (grid.height, grid.width, grid.dim, grid.patches) == (8, 10, 15, 80)
    assert [shape[0] for shape in grid.shapes] == ["fine", "coarse"]
    patches = grid(IMAGES[0]).reshape(8, 10, 15)
    fine = uniform_filter(IMAGES[0]["fine"], (1, 3, 3), mode="constant")
    assert np.allclose(patches[..., :6], fine.transpose(1, 2, 0), atol=1e-5)
    coarse = averaged(IMAGES[0]["coarse"])
    assert np.allclose(patches[..., 6:], resized(coarse, (8, 10)).transpose(1, 2, 0), atol=1e-5)
    assert np.allclose(patches[0, 0, 6:], coarse[:, 0, 0], atol=1e-5)  # beyond the centres of the outer places they are repeated
    between = 0.75 * coarse[:, 0, 0] + 0.25 * coarse[:, 0, 1]
    assert np.allclose(patches[0, 1, 6:], between, atol=1e-5)


def test_scores_are_smoothed_as_by_a_gaussian() -> None:
    scores = RANDOM.random((7, 9)).astype(np.float32)
    assert np.allclose(smoothed(scores), gaussian_filter(scores, 0.5, mode="nearest", radius=1), atol=1e-6)


def test_other_maps_are_refused() -> None:
    grid = PatchGrid.of(IMAGES[0])
    with pytest.raises(DataError, match=r"takes a map fine of the shape \(6, 8, 10\); there are coarse \(9, 4, 5\), fine \(6, 8, 11\)"):
        grid({"coarse": IMAGES[0]["coarse"], "fine": np.zeros((6, 8, 11))})
    with pytest.raises(RunError, match="Fit again"):
        PatchGrid.from_state([["fine", 6]])
    with pytest.raises(DataError, match="at least one map"):
        PatchGrid.of({})


def test_the_memory_scores_by_the_nearest_patch() -> None:
    grid = PatchGrid.of(IMAGES[0])
    known = np.concatenate([grid(maps) for maps in IMAGES[:10]])
    found = PatchMemory.fit(IMAGES[:10])
    assert len(found.memory) == 800  # all of them, since there are so few
    own = grid(IMAGES[11])
    assert np.allclose(found.distances(own), cdist(own, known).min(axis=1), rtol=1e-4)
    assert np.allclose(found.map(IMAGES[11]), smoothed(cdist(own, known).min(axis=1).astype(np.float32).reshape(8, 10)), rtol=1e-4)
    assert found.map(IMAGES[3]).max() < 0.02  # a patch that is remembered is at no distance but for rounding


def test_the_gaussians_score_by_the_mahalanobis_distance() -> None:
    found = PositionGaussians.fit(IMAGES[:10], dimensions=7, seed=3)
    grid, channels = found.grid, drawn_channels(found.grid, dimensions=7, seed=3)
    assert len(set(channels)) == 7
    patches = np.stack([grid(maps)[:, channels] for maps in IMAGES[:10]])
    covariances = np.stack([np.cov(patches[:, place].T) for place in range(80)])
    ridge = RIDGE * np.trace(covariances, axis1=1, axis2=2).mean() / 7
    own = grid(IMAGES[11])[:, channels]
    expected = [
        mahalanobis(own[place], patches[:, place].mean(axis=0), np.linalg.inv(covariances[place] + ridge * np.eye(7)))
        for place in range(80)
    ]
    assert np.allclose(found.map(IMAGES[11]), smoothed(np.reshape(expected, (8, 10)).astype(np.float32)), rtol=1e-3)


def test_the_moments_of_some_images_can_be_taken_away() -> None:
    grid = PatchGrid.of(IMAGES[0])
    channels = drawn_channels(grid, dimensions=5)
    whole = moments(grid, channels, IMAGES)
    part = moments(grid, channels, IMAGES[:4], origin=whole.origin)
    rest = PositionGaussians.of_moments(grid, channels, whole - part)
    alone = PositionGaussians.fit(IMAGES[4:], dimensions=5)
    assert np.allclose(rest.means, alone.means, atol=1e-4)
    assert np.allclose(rest.map(IMAGES[0]), alone.map(IMAGES[0]), rtol=1e-3)


def test_gaussians_need_two_images_that_differ() -> None:
    with pytest.raises(DataError, match="at least 2 good images, and there is 1"):
        PositionGaussians.fit(IMAGES[:1])
    with pytest.raises(DataError, match="are the same"):
        PositionGaussians.fit([IMAGES[0], IMAGES[0]])


@pytest.mark.parametrize("fit", DETECTORS)
def test_a_graph_computes_the_same(fit: Callable[..., Any]) -> None:
    found = fit(IMAGES[:8])
    graph = OnnxGraph()
    found.write_onnx(graph, {"coarse": "coarse", "fine": "fine"})
    model = graph.model(
        inputs={"coarse": (np.float32, ("N", 9, 4, 5)), "fine": (np.float32, ("N", 6, 8, 10))},
        outputs={"map": (np.float32, ("N", 8, 10)), "score": (np.float32, ("N",))},
    )
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    batch = {name: np.stack([maps[name] for maps in IMAGES[6:]]) for name in ("coarse", "fine")}
    maps, scores = session.run(["map", "score"], batch)
    expected = np.stack([found.map(maps) for maps in IMAGES[6:]])
    assert np.allclose(maps[2:], expected[2:], rtol=1e-4)
    assert np.allclose(maps, expected, rtol=1e-4, atol=0.01)  # at no distance from the memory, roots of rounding errors differ
    assert np.array_equal(scores, maps.max(axis=(1, 2)))


@pytest.mark.parametrize("kind", [PatchMemory, PositionGaussians])
def test_detectors_are_saved_and_read_again(kind: Any) -> None:
    found = kind.fit(IMAGES[:6])
    settings, arrays = found.state()
    again = kind.from_state(settings, {name: array.copy() for name, array in arrays.items()})
    assert np.array_equal(again.map(IMAGES[9]), found.map(IMAGES[9]))


def test_one_image_is_enough_for_a_memory() -> None:
    found = PatchMemory.fit(IMAGES[:1])
    assert found.map(IMAGES[0]).max() < 0.02
    assert found.map(IMAGES[1]).min() > 1


def test_a_defect_is_found_where_it_is() -> None:
    good = [{"fine": RANDOM.normal(0, 1, (6, 8, 10)).astype(np.float32)} for _ in range(30)]
    bad = {"fine": good[0]["fine"].copy()}
    bad["fine"][:, 4:6, 7:9] += 8
    for fit in DETECTORS:
        scores = fit(good[1:]).map(bad)
        y, x = np.unravel_index(scores.argmax(), scores.shape)
        assert 3 <= y <= 6
        assert 6 <= x <= 9
        assert scores.max() > 1.5 * fit(good[1:]).map(good[0]).max()


def test_a_coreset_lies_closer_to_all_than_a_random_choice() -> None:
    points = RANDOM.normal(size=(600, 3)).astype(np.float32)
    rows = coreset(points, most=30)
    assert len(set(rows.tolist())) == 30
    radius = cdist(points, points[rows]).min(axis=1).max()
    chances = [cdist(points, points[RANDOM.permutation(600)[:30]]).min(axis=1).max() for _ in range(20)]
    assert radius < 0.8 * min(chances)
    further = coreset(points, most=31)
    gap = cdist(points[further[30:]], points[rows]).min()
    assert np.isclose(gap, radius, rtol=1e-4)  # the next one is the farthest


def test_a_coreset_in_many_dimensions_covers_every_cluster() -> None:
    centres = RANDOM.normal(0, 10, (40, 300))
    points = (centres[RANDOM.integers(0, 40, 2000)] + RANDOM.normal(0, 0.1, (2000, 300))).astype(np.float32)
    rows = coreset(points, most=40)
    assert len(set(cdist(points[rows], centres).argmin(axis=1).tolist())) == 40


def test_a_coreset_of_copies_ends_early() -> None:
    points = np.repeat(RANDOM.normal(size=(5, 8)).astype(np.float32), 50, axis=0)
    assert len(coreset(points, most=20)) == 5
    assert coreset(points[:3], most=20).tolist() == [0, 1, 2]


class _Told(Listener):
    def __init__(self) -> None:
        self.steps: list[tuple[int, int]] = []

    def progress(self, done: int, total: int) -> None:
        self.steps.append((done, total))


def test_a_coreset_tells_its_progress() -> None:
    listener = _Told()
    coreset(RANDOM.normal(size=(2000, 5)).astype(np.float32), most=1000, listener=listener)
    assert [done for done, _ in listener.steps] == [*range(100, 1000, 100), 1000]
    assert {total for _, total in listener.steps} == {1000}


class _Streamed:
    """Maps of many images, of which one is held at a time."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        return ({"fine": np.full((2, 4, 4), index, np.float32)} for index in range(self.count))


@pytest.mark.parametrize(("images", "each"), [(5, 16), (30, 3), (250, 1)])
def test_the_sample_is_bounded_and_of_all_images_alike(images: int, each: int) -> None:
    found = sampled(PatchGrid.of(next(iter(_Streamed(1)))), _Streamed(images), most=100)
    assert len(found.patches) <= 100
    owners, counts = np.unique(found.images, return_counts=True)
    assert set(counts.tolist()) == {each}
    assert len(owners) == min(images, 100)
    inside = found.patches.max(axis=1) == found.images  # patches away from the edge have the value of their image
    assert inside.sum() >= len(inside) / 8
    assert (found.patches.max(axis=1) <= found.images).all()
    assert not np.isin(found.without(owners[:2]).max(axis=1).round(3), found.images[: 2 * each]).all()


def test_the_same_seed_gives_the_same_memory() -> None:
    one, two, other = (PatchMemory.fit(IMAGES, candidates=200, memory=50, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(one.memory, two.memory)
    assert not np.array_equal(one.memory, other.memory)
    assert len(one.memory) == 50
