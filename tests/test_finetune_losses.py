"""The losses of a training against PyTorch's, and against the formulas of the papers in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.special import expit, log_softmax

from headstart.errors import ParameterError
from headstart.metrics.link import SIGMOID, SOFTMAX
from headstart.settings import FineTuning

pytest.importorskip("timm", reason="needs headstart[torch]")

import torch

from headstart.training.labels import make_loss

WEIGHTS = np.array([0.5, 1.0, 2.5, 0.25], dtype=np.float32)


def batch(k: int = 4, *, outputs: int | None = None, n: int = 12, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits float64 (n, outputs) and class numbers (n,)."""
    random = np.random.default_rng(seed)
    return torch.tensor(random.normal(0, 2, (n, outputs or k))), torch.tensor(random.integers(0, k, n))


def one_hot(labels: torch.Tensor, k: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(labels, k).double()


def shares(k: int = 4, *, n: int = 12, seed: int = 1) -> torch.Tensor:
    """What MixUp makes of one-hot targets."""
    random = np.random.default_rng(seed)
    share = random.uniform(size=(n, 1))
    return torch.tensor(share * np.eye(k)[random.integers(0, k, n)] + (1 - share) * np.eye(k)[random.integers(0, k, n)])


def tags(k: int = 4, *, n: int = 12, mixed: bool = False, seed: int = 2) -> torch.Tensor:
    random = np.random.default_rng(seed)
    found = (random.uniform(size=(n, k)) < 0.4).astype(float)
    found[0] = 0
    found[1] = 1
    return torch.tensor(0.3 * found + 0.7 * found[::-1] if mixed else found)


def close(found: torch.Tensor, expected: Any) -> None:
    np.testing.assert_allclose(found.detach().numpy(), np.asarray(expected), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_cross_entropy_is_that_of_torch(smoothing: float, weights: np.ndarray | None) -> None:
    logits, labels = batch()
    loss = make_loss(FineTuning(label_smoothing=smoothing), link=SOFTMAX, classes=4, class_weights=weights)
    theirs = {"label_smoothing": smoothing, "weight": None if weights is None else torch.tensor(weights).double()}
    targets = one_hot(labels, 4)
    close(loss(logits, targets), torch.nn.CrossEntropyLoss(**theirs, reduction="none")(logits, labels))
    mean = loss(logits, targets).sum() / loss.weights(targets).sum()
    close(mean, torch.nn.CrossEntropyLoss(**theirs)(logits, labels))
    close(loss(logits, shares()), torch.nn.CrossEntropyLoss(**theirs, reduction="none")(logits, shares()))


def test_weights_of_mixed_images_are_mixed() -> None:
    loss = make_loss(FineTuning(label_smoothing=0), link=SOFTMAX, classes=4, class_weights=WEIGHTS)
    close(loss.weights(shares()), shares().numpy() @ WEIGHTS)
    close(make_loss(FineTuning(label_smoothing=0), link=SOFTMAX, classes=4).weights(shares()), np.ones(12))


def test_several_labels_are_binary_cross_entropies_of_torch() -> None:
    logits, _ = batch()
    for targets in (tags(), tags(mixed=True)):
        expected = torch.nn.BCEWithLogitsLoss(reduction="none")(logits, targets).mean(dim=1)
        close(make_loss(FineTuning(label_smoothing=0), link=SIGMOID, classes=4)(logits, targets), expected)
        smoothed = torch.nn.BCEWithLogitsLoss(reduction="none")(logits, targets * 0.8 + 0.1).mean(dim=1)
        close(make_loss(FineTuning(label_smoothing=0.2, loss="binary"), link=SIGMOID, classes=4)(logits, targets), smoothed)


def test_an_image_of_several_labels_weighs_as_their_mean() -> None:
    from headstart.heads.labels import encode, image_weights

    loss = make_loss(FineTuning(label_smoothing=0), link=SIGMOID, classes=4, class_weights=WEIGHTS)
    by_number = dict(enumerate(WEIGHTS.tolist()))
    expected = image_weights(encode(tags().numpy().astype(int)), by_number)
    close(loss.weights(tags()), expected)
    logits, _ = batch()
    assert expected is not None
    close(loss(logits, tags()), expected * make_loss(FineTuning(label_smoothing=0), link=SIGMOID, classes=4)(logits, tags()).numpy())


@pytest.mark.parametrize("weights", [None, np.array([0.5, 2.0], dtype=np.float32)])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_one_sigmoid_is_the_softmax_of_two(weights: np.ndarray | None, smoothing: float) -> None:
    logits, labels = batch(2, outputs=1)
    one = make_loss(FineTuning(loss="binary", label_smoothing=smoothing), link=SOFTMAX, classes=2, class_weights=weights)
    two = make_loss(FineTuning(label_smoothing=smoothing), link=SOFTMAX, classes=2, class_weights=weights)
    assert (one.outputs, two.outputs) == (1, 2)
    for targets in (one_hot(labels, 2), shares(2)):
        close(one(logits, targets), two(torch.cat([-logits / 2, logits / 2], dim=1), targets))
        smoothed = targets[:, 1:] * (1 - smoothing) + smoothing / 2
        lower, upper = (1.0, 1.0) if weights is None else map(float, weights)
        theirs = torch.nn.BCEWithLogitsLoss(reduction="none", pos_weight=torch.tensor([upper / lower], dtype=torch.float64))
        close(one(logits, targets), lower * theirs(logits, smoothed)[:, 0])


def test_class_logits_give_the_probability_of_the_sigmoid() -> None:
    loss = make_loss(FineTuning(loss="binary", label_smoothing=0), link=SOFTMAX, classes=2)
    z = torch.tensor([[-3.0], [0.0], [8.0]], dtype=torch.float64)
    both = loss.class_logits(z).numpy()
    np.testing.assert_allclose(np.exp(log_softmax(both, axis=1))[:, 1], expit(z.numpy()[:, 0]), rtol=1e-12)
    several = torch.zeros(3, 4)
    assert make_loss(FineTuning(label_smoothing=0), link=SOFTMAX, classes=4).class_logits(several) is several


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 5.0])
def test_focal_loss_of_exclusive_classes_is_that_of_the_paper(gamma: float) -> None:
    logits, labels = batch()
    loss = make_loss(FineTuning(loss="focal", focal_gamma=gamma, label_smoothing=0), link=SOFTMAX, classes=4, class_weights=WEIGHTS)
    p = np.exp(log_softmax(logits.numpy(), axis=1))
    of_target = p[np.arange(12), labels.numpy()]
    close(loss(logits, one_hot(labels, 4)), -WEIGHTS[labels.numpy()] * (1 - of_target) ** gamma * np.log(of_target))
    close(loss(logits, shares()), -(shares().numpy() * WEIGHTS * (1 - p) ** gamma * np.log(p)).sum(axis=1))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 5.0])
def test_focal_loss_of_several_labels_is_that_of_the_paper(gamma: float) -> None:
    logits, _ = batch()
    loss = make_loss(FineTuning(loss="focal", focal_gamma=gamma, label_smoothing=0), link=SIGMOID, classes=4)
    p, y = expit(logits.numpy()), tags().numpy()
    p_t = np.where(y == 1, p, 1 - p)
    close(loss(logits, tags()), (-((1 - p_t) ** gamma) * np.log(p_t)).mean(axis=1))
    mixed = tags(mixed=True).numpy()
    expected = mixed * (1 - p) ** gamma * np.log(p) + (1 - mixed) * p**gamma * np.log(1 - p)
    close(loss(logits, tags(mixed=True)), -expected.mean(axis=1))


def test_focal_loss_without_gamma_is_cross_entropy() -> None:
    logits, _ = batch()
    focal, plain = FineTuning(loss="focal", focal_gamma=0.0, label_smoothing=0.1), FineTuning(label_smoothing=0.1)
    for several, targets in ((False, shares()), (True, tags())):
        expected = make_loss(plain, link=SIGMOID if several else SOFTMAX, classes=4)(logits, targets)
        close(make_loss(focal, link=SIGMOID if several else SOFTMAX, classes=4)(logits, targets), expected)


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("gamma", [0.3, 2.0])
def test_gradients_are_finite_where_the_network_is_certain(several: bool, gamma: float) -> None:
    logits = torch.tensor([[90.0, -90.0], [-90.0, 90.0], [1e4, -1e4]], requires_grad=True)
    targets = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.5, 0.5]])
    loss = make_loss(FineTuning(loss="focal", focal_gamma=gamma, label_smoothing=0), link=SIGMOID if several else SOFTMAX, classes=2)
    loss(logits, targets).sum().backward()
    assert torch.isfinite(logits.grad).all()
    assert logits.grad[1, 0] < -0.4, "the one that is certain and wrong is pulled"


@pytest.mark.parametrize("plan", [FineTuning(label_smoothing=0.1), FineTuning(loss="focal"), FineTuning(loss="binary")])
@pytest.mark.parametrize("several", [False, True])
def test_a_batch_may_be_divided(plan: FineTuning, several: bool) -> None:
    """Three unequal parts, each with its gradient, add up to the mean over the whole batch."""
    loss = make_loss(plan, link=SIGMOID if several else SOFTMAX, classes=2, class_weights=WEIGHTS[1:3])
    whole, _ = batch(2, outputs=loss.outputs)
    divided = whole.clone().requires_grad_()
    whole.requires_grad_()
    targets = tags(2) if several else shares(2)
    (loss(whole, targets).sum() / loss.weights(targets).sum()).backward()
    total = sum(loss.weights(targets[rows]).sum() for rows in (slice(0, 2), slice(2, 3), slice(3, 12)))
    for rows in (slice(0, 2), slice(2, 3), slice(3, 12)):
        (loss(divided[rows], targets[rows]).sum() / total).backward()
    close(divided.grad, whole.grad)


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("name", ["auto", "focal"])
def test_gradients_are_those_of_differences(several: bool, name: str) -> None:
    loss = make_loss(FineTuning(loss=name, label_smoothing=0.1), link=SIGMOID if several else SOFTMAX, classes=4, class_weights=WEIGHTS)
    logits, _ = batch(n=5)
    targets = tags(n=5) if several else shares(n=5)
    assert torch.autograd.gradcheck(lambda z: loss(z, targets), (logits.requires_grad_(),))


def test_half_precision_logits_get_a_loss_in_float32() -> None:
    logits, labels = batch()
    low = logits.to(torch.bfloat16)
    loss = make_loss(FineTuning(label_smoothing=0), link=SOFTMAX, classes=4)
    found = loss(low, one_hot(labels, 4).float())
    assert found.dtype == torch.float32
    close(found, torch.nn.functional.cross_entropy(low.float(), labels, reduction="none"))


def test_binary_needs_two_classes() -> None:
    with pytest.raises(ParameterError, match=r"each image has one of 5 classes. Use 'cross_entropy', 'focal' or 'auto'"):
        make_loss(FineTuning(loss="binary"), link=SOFTMAX, classes=5)


def test_cross_entropy_needs_one_class_an_image() -> None:
    with pytest.raises(ParameterError, match=r"an image may have several labels. Use 'binary', 'focal' or 'auto'"):
        make_loss(FineTuning(loss="cross_entropy"), link=SIGMOID, classes=5)


@pytest.mark.parametrize(("several", "classes", "said"), [(False, 1, "at least 2 classes, got 1"), (True, 0, "at least 1 label, got 0")])
def test_there_must_be_something_to_learn(several: bool, classes: int, said: str) -> None:
    with pytest.raises(ParameterError, match=said):
        make_loss(FineTuning(label_smoothing=0), link=SIGMOID if several else SOFTMAX, classes=classes)


@pytest.mark.parametrize("wrong", [[1, 1], [1, 1, -1], [1, np.nan, 1], [0, 0, 0]])
def test_class_weights_are_checked(wrong: list[float]) -> None:
    with pytest.raises(ParameterError, match="class_weights must be 3 numbers, none below 0 and not all 0"):
        make_loss(FineTuning(label_smoothing=0), link=SOFTMAX, classes=3, class_weights=wrong)


def test_shapes_are_never_stretched() -> None:
    loss = make_loss(FineTuning(label_smoothing=0), link=SOFTMAX, classes=4)
    with pytest.raises(ValueError, match=r"logits must have the shape \(12, 4\), got \(12, 1\)"):
        loss(torch.zeros(12, 1), shares())
    with pytest.raises(ValueError, match="with 4 columns; got the shape"):
        loss(torch.zeros(12, 4), torch.zeros(12, 1))
    with pytest.raises(ValueError, match="with 4 columns; got the shape"):
        loss.weights(torch.zeros(12))
