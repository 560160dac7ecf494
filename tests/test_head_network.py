"""The head in training: its dropout, its beginnings, and that it is the same classifier afterwards."""

from __future__ import annotations

import numpy as np
import pytest

from headstart.errors import ParameterError
from headstart.metrics.link import SIGMOID, SOFTMAX

pytest.importorskip("timm", reason="needs headstart[torch]")

import torch

from headstart.heads import LogisticHead
from headstart.settings import FineTuning
from headstart.training.labels import make_loss
from headstart.training.network import HeadNetwork
from headstart.training.trained_head import TrainedHead


def features(n: int = 12, d: int = 20, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(1, 2, (n, d)).astype(np.float32)


@pytest.mark.parametrize(
    "parts", [(slice(0, 6), slice(6, 12)), (slice(0, 1), slice(1, 9), slice(9, 12)), (slice(0, 12, 2), slice(1, 12, 2))]
)
@pytest.mark.parametrize("layers", [(), (16, 8)])
def test_dropout_does_not_depend_on_how_a_batch_is_divided(layers: tuple[int, ...], parts: tuple[slice, ...]) -> None:
    network = HeadNetwork(20, 3, layers, dropout=0.4, seed=1).double()
    X = torch.tensor(features()).double()
    network.draw(7, 3, slice(0, 12), 12)
    whole = network(X)
    assert not torch.allclose(whole, network.eval()(X))
    network.train()
    for rows in parts:
        torch.manual_seed(99)  # the generator that all share has no part in it
        network.draw(7, 3, rows, 12)
        torch.testing.assert_close(network(X[rows]), whole[rows])


def test_dropout_differs_between_steps_seeds_and_layers() -> None:
    network = HeadNetwork(50, 50, (50,), dropout=0.5)
    masks = []
    for seed, step in ((0, 0), (0, 1), (1, 0), (0, 0)):
        network.draw(seed, step, slice(0, 8), 8)
        assert network._masks is not None
        masks.append(torch.stack(network._masks))
    assert torch.equal(masks[0], masks[3])
    for one, other in ((masks[0], masks[1]), (masks[0], masks[2]), (masks[1], masks[2]), (masks[0][0], masks[0][1])):
        assert 0.3 < (one == other).float().mean() < 0.7, "as of masks that have nothing to do with each other"


def test_dropout_keeps_the_expectation() -> None:
    network = HeadNetwork(40, 2, dropout=0.3)
    X = torch.tensor(features(1, 40)).expand(20_000, -1)
    network.draw(0, 0, slice(0, 20_000), 20_000)
    with torch.no_grad():
        dropped, plain = network(X), network.eval()(X[:1])[0]
    error = dropped.std(dim=0) / 20_000**0.5
    assert ((dropped.mean(dim=0) - plain).abs() < 4 * error).all()
    assert network._masks is not None
    assert network._masks[0].float().mean().item() == pytest.approx(0.7, abs=0.003)


def test_a_dropped_input_counts_nothing_and_the_others_more() -> None:
    network = HeadNetwork(20, 2, dropout=0.25).double()
    network.draw(0, 5, slice(0, 12), 12)
    X = features().astype(np.float64)
    assert network._masks is not None
    kept = network._masks[0].numpy()
    weight, bias = (network.state_dict()[f"dense.0.{part}"].numpy() for part in ("weight", "bias"))
    np.testing.assert_allclose(network(torch.tensor(X)).detach().numpy(), (X * kept / 0.75) @ weight.T + bias, rtol=1e-10)


def test_no_dropout_without_draw_in_eval_mode_or_at_nought() -> None:
    X = torch.tensor(features())
    network = HeadNetwork(20, 3, dropout=0.5, seed=4)
    plain = HeadNetwork(20, 3, seed=4)
    expected = plain(X)
    torch.testing.assert_close(network(X), expected)
    network.draw(0, 0, slice(0, 12), 12)
    plain.draw(0, 0, slice(0, 3), 12)
    torch.testing.assert_close(network.eval()(X), expected)
    torch.testing.assert_close(plain(X), expected)


def test_another_number_of_rows_than_drawn_is_refused() -> None:
    network = HeadNetwork(20, 3, dropout=0.5)
    network.draw(0, 0, slice(0, 4), 12)
    with pytest.raises(ValueError, match=r"Dropout was drawn for 4 images, got 12. Call draw before each batch"):
        network(torch.tensor(features()))


def test_first_weights_are_glorot_uniform() -> None:
    before = torch.get_rng_state()
    network = HeadNetwork(300, 5, (200,), seed=3)
    assert torch.equal(before, torch.get_rng_state())
    weight = network.dense[0].weight.detach()
    limit = np.sqrt(6 / (300 + 200))
    assert 0.99 * limit < weight.abs().max() <= limit
    assert weight.std().item() == pytest.approx(limit / np.sqrt(3), rel=0.02)
    assert not network.dense[0].bias.any()
    again, other = HeadNetwork(300, 5, (200,), seed=torch.Generator().manual_seed(3)), HeadNetwork(300, 5, (200,), seed=4)
    assert torch.equal(weight, again.dense[0].weight)
    assert not torch.equal(weight, other.dense[0].weight)


@pytest.mark.parametrize(("loss", "k"), [("cross_entropy", 3), ("cross_entropy", 2), ("binary", 2)])
def test_it_begins_as_a_fitted_linear_head(loss: str, k: int) -> None:
    X = features(90)
    y = np.arange(90) % k
    X[np.arange(90), y] += 3
    fitted = LogisticHead().fit(X, y)
    goal = make_loss(FineTuning(loss=loss), link=SOFTMAX, classes=k)
    network = HeadNetwork(20, goal.outputs)
    network.start_from(fitted.coef_, fitted.intercept_)
    logits = goal.class_logits(network(torch.tensor(X)).detach().double())
    np.testing.assert_allclose(torch.softmax(logits, dim=1).numpy(), fitted.predict_proba(X), atol=1e-5)


def test_what_cannot_be_begun_with_is_refused() -> None:
    with pytest.raises(ParameterError, match="A head with dense layers cannot start from a linear one"):
        HeadNetwork(20, 3, (8,)).start_from(np.zeros((3, 20)), np.zeros(3))
    for shapes in (((3, 19), (3,)), ((4, 20), (4,)), ((3, 20), (2,)), ((1, 20), (1,))):
        with pytest.raises(ParameterError, match="A head of 20 features and 3 outputs cannot start from coefficients"):
            HeadNetwork(20, 3).start_from(np.zeros(shapes[0]), np.zeros(shapes[1]))


def test_limits() -> None:
    with pytest.raises(ParameterError, match=r"at least 1 wide, got \(20, 0, 3\)"):
        HeadNetwork(20, 3, (0,))
    with pytest.raises(ParameterError, match="dropout must be at least 0 and below 1, got 1"):
        HeadNetwork(20, 3, dropout=1)


@pytest.mark.parametrize("layers", [(), (16, 8)])
@pytest.mark.parametrize(("outputs", "k", "several"), [(4, 4, False), (1, 2, False), (4, 4, True), (1, 1, True)])
def test_the_trained_head_says_what_the_network_said(layers: tuple[int, ...], outputs: int, k: int, several: bool) -> None:
    network = HeadNetwork(20, outputs, layers, dropout=0.5, seed=2)
    with torch.no_grad():
        for layer in network.dense:
            layer.bias += torch.linspace(-1, 1, len(layer.bias))
    head = TrainedHead.of(
        network.arrays(),
        np.arange(k),
        SIGMOID if several else SOFTMAX,
        columns=(5, 25),
        features=30,
    )
    X = features(50, 30)
    with torch.no_grad():
        logits = network.eval()(torch.tensor(X[:, 5:25]))
    expected = torch.cat([1 - torch.sigmoid(logits), torch.sigmoid(logits)], 1) if head.single_sigmoid else None
    if expected is None:
        np.testing.assert_allclose(head.logits(X), logits.numpy(), atol=1e-5)
        expected = torch.sigmoid(logits) if several else torch.softmax(logits, dim=1)
    np.testing.assert_allclose(head.predict_proba(X), expected.numpy(), atol=1e-5)


def test_the_arrays_are_copies() -> None:
    network = HeadNetwork(4, 2)
    arrays = network.arrays()
    with torch.no_grad():
        network.dense[0].weight.zero_()
    assert arrays["dense.0.weight"].any()
    assert sorted(arrays) == ["dense.0.bias", "dense.0.weight"]
