"""Alignments of two worlds against their closed forms, the formulas of their papers, and ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from scipy.linalg import eigh, sqrtm

from headstart.errors import ParameterError
from headstart.maps import ALIGNMENTS, Alignment, Coral, LinearTransport, Standardised, SubspaceAlignment, TransferComponents
from headstart.onnx_graph import OnnxGraph

Worlds = tuple[np.ndarray, np.ndarray]


@pytest.fixture
def worlds() -> Worlds:
    """Rows of two Gaussians with other means and covariances."""
    generator = np.random.default_rng(0)
    source = generator.normal(size=(120, 6)) @ generator.normal(size=(6, 6)) + 3
    target = generator.normal(size=(90, 6)) @ generator.normal(size=(6, 6)) - 1
    return source.astype(np.float32), target.astype(np.float32)


@pytest.mark.parametrize("kind", [Coral, LinearTransport])
def test_the_source_gets_mean_and_covariance_of_the_target(kind: type[Coral | LinearTransport], worlds: Worlds) -> None:
    source, target = worlds
    fitted = kind(shrinkage=0.0).fit(source, target=target)
    moved = fitted.transform(source)
    np.testing.assert_allclose(moved.mean(axis=0), target.mean(axis=0), atol=1e-4)
    np.testing.assert_allclose(np.cov(moved.T), np.cov(target.T), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(fitted.transform_target(target), target, atol=1e-5)


def test_transport_is_the_gradient_of_a_convex_function_and_moves_least(worlds: Worlds) -> None:
    """Among the maps with that covariance the optimal one is symmetric and positive; CORAL's moves farther."""
    source, target = worlds
    transport, coral = (kind(shrinkage=0.0).fit(source, target=target) for kind in (LinearTransport, Coral))
    matrix = transport.source_matrix_
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-8)
    assert np.linalg.eigvalsh(matrix).min() > 0
    moved = [float(((one.transform(source) - source) ** 2).sum(axis=1).mean()) for one in (transport, coral)]
    before, after = np.cov(source.T), np.cov(target.T)
    root = sqrtm(before)
    least = ((source.mean(axis=0) - target.mean(axis=0)) ** 2).sum() + np.trace(before + after - 2 * sqrtm(root @ after @ root).real)
    assert moved[0] == pytest.approx(least, rel=0.02)  # the Wasserstein distance of the Gaussians
    assert moved[1] > moved[0]


def test_both_worlds_are_standardised(worlds: Worlds) -> None:
    source, target = worlds
    fitted = Standardised(floor=0.0).fit(source, target=target)
    for mapped in (fitted.transform(source), fitted.transform_target(target)):
        np.testing.assert_allclose(mapped.mean(axis=0), 0, atol=1e-5)
        np.testing.assert_allclose(mapped.std(axis=0), 1, atol=1e-4)


def test_subspaces_are_aligned_as_in_the_paper(worlds: Worlds) -> None:
    source, target = worlds
    ours, theirs = (np.linalg.svd(world - world.mean(axis=0))[2][:3].T.astype(float) for world in worlds)
    fitted = SubspaceAlignment(components=3).fit(source, target=target)
    expected = (source - source.mean(axis=0)) @ ours @ ours.T @ theirs
    mapped, other = fitted.transform(source), fitted.transform_target(target)
    # axes have no sign of their own: what counts are products of rows
    np.testing.assert_allclose(mapped @ mapped.T, expected @ expected.T, rtol=1e-3, atol=1e-2)
    np.testing.assert_allclose(mapped @ other.T, expected @ ((target - target.mean(axis=0)) @ theirs).T, rtol=1e-3, atol=1e-2)


def papers_transfer_components(gram: np.ndarray, first: int, penalty: float, count: int) -> np.ndarray:
    """Pan et al. 2011, in the dual: the leading eigenvectors of (K L K + mu I)^-1 K H K, applied to K."""
    n, second = len(gram), len(gram) - first
    signs = np.concatenate([np.full(first, 1 / first), np.full(second, -1 / second)])
    centring = np.eye(n) - 1 / n
    left = gram @ np.outer(signs, signs) @ gram + penalty * np.eye(n)
    values, vectors = eigh(gram @ centring @ gram, left)
    return np.asarray(gram @ vectors[:, np.argsort(-values)[:count]])


@pytest.mark.parametrize("kernel", ["linear", "gaussian"])
def test_transfer_components_are_those_of_the_paper(kernel: str, worlds: Worlds) -> None:
    source, target = worlds
    both = np.concatenate(worlds).astype(float)
    both -= both.mean(axis=0)
    both /= np.sqrt((both**2).sum(axis=1).mean())
    gram = both @ both.T if kernel == "linear" else np.exp(-((both[:, None] - both[None]) ** 2).sum(axis=2) / 2)
    expected = papers_transfer_components(gram, len(source), 1.0, 3)
    fitted = TransferComponents(components=3, kernel=kernel).fit(source, target=target)
    found = np.concatenate([fitted.transform(source), fitted.transform_target(target)]).astype(float)
    found, expected = (part / np.sqrt((part**2).sum()) for part in (found, expected))
    np.testing.assert_allclose(found @ found.T, expected @ expected.T, atol=1e-4)


def test_transfer_components_bring_the_means_together(worlds: Worlds) -> None:
    source, target = worlds

    def apart(left: np.ndarray, right: np.ndarray) -> float:
        """The distance of the means, in units of the spread."""
        return float(np.linalg.norm(left.mean(axis=0) - right.mean(axis=0)) / np.concatenate([left, right]).std())

    fitted = TransferComponents(components=3, penalty=1e-3).fit(source, target=target)
    assert apart(fitted.transform(source), fitted.transform_target(target)) < 0.2 * apart(source, target)


@pytest.mark.parametrize("alignment", [*(kind() for kind in ALIGNMENTS.values()), TransferComponents(kernel="gaussian")], ids=repr)
def test_onnx_gives_what_the_map_of_the_target_gives(alignment: Alignment, worlds: Worlds) -> None:
    source, target = worlds
    fitted = alignment.clone().fit(source, target=target)
    graph = OnnxGraph()
    graph.node("Identity", fitted.write_onnx(graph, "features"), output="mapped")
    width = fitted.transform_target(target).shape[1]
    model = graph.model(inputs={"features": (np.float32, ["N", 6])}, outputs={"mapped": (np.float32, ["N", width])})
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(["mapped"], {"features": target})
    np.testing.assert_allclose(found, fitted.transform_target(target), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("alignment", "message"),
    [
        (Coral(shrinkage=-1), "shrinkage must be a number of at least 0"),
        (SubspaceAlignment(components=0), "components must be a whole number of at least 1"),
        (TransferComponents(kernel="cubic"), "kernel must be one of linear, gaussian"),
        (TransferComponents(penalty=0), "penalty must be a number above 0"),
    ],
)
def test_wrong_settings_are_refused(alignment: Alignment, message: str, worlds: Worlds) -> None:
    with pytest.raises(ParameterError, match=message):
        alignment.fit(worlds[0], target=worlds[1])


def test_worlds_of_other_widths_are_refused(worlds: Worlds) -> None:
    with pytest.raises(ValueError, match="features"):
        Coral().fit(worlds[0], target=worlds[1][:, :4])
