"""Domain-adversarial training: step by step against PyTorch's gradients, and on two moons of which the second is turned."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.datasets import make_moons

from headstart.adaptation.dann import Adversarial, AdversarialNetwork, trained_adversarially
from headstart.adaptation.joint import Joint

PLAN = Adversarial(hidden=(7, 5), discriminator=(6,))


def rows(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of the source (12, 4) with class numbers, and of the target (9, 4)."""
    generator = np.random.default_rng(seed)
    source, target = (generator.normal(size=(count, 4)).astype(np.float32) for count in (12, 9))
    return source, generator.integers(0, 3, 12), target


def parts(network: AdversarialNetwork) -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
    return {"features": network.features.layers, "labels": network.labels.layers, "discriminator": network.discriminator.layers}


class Reference:
    """The same network as in Ganin's figure, in PyTorch: a layer that is the identity, and on the way back turns the gradient around."""

    def __init__(self, network: AdversarialNetwork) -> None:
        import torch

        self.torch = torch
        self.parts = {
            name: [[torch.tensor(array, dtype=torch.float64, requires_grad=True) for array in layer] for layer in layers]
            for name, layers in parts(network).items()
        }
        every = [array for layers in self.parts.values() for layer in layers for array in layer]
        self.optimiser = torch.optim.SGD(every, lr=1.0, momentum=PLAN.momentum)

        class Reversed(torch.autograd.Function):
            @staticmethod
            def forward(context: Any, value: Any, by: float) -> Any:
                context.by = by
                return value.view_as(value)

            @staticmethod
            def backward(context: Any, gradient: Any) -> Any:
                return -context.by * gradient, None

        self.reversed = Reversed.apply

    def step(self, source: np.ndarray, codes: np.ndarray, target: np.ndarray, *, rate: float, reversal: float) -> tuple[float, float]:
        torch, functional = self.torch, self.torch.nn.functional

        def through(name: str, value: Any, *, relu_after: bool) -> Any:
            for place, (weight, bias) in enumerate(self.parts[name]):
                value = functional.linear(value, weight.T, bias)
                value = value.relu() if relu_after or place + 1 < len(self.parts[name]) else value
            return value

        ours, theirs = (
            through("features", torch.tensor(part, dtype=torch.float64), relu_after=True) for part in (source, target)
        )  # fmt: skip
        label_loss = functional.cross_entropy(through("labels", ours, relu_after=False), torch.tensor(codes))
        world_losses = []
        for world, part in enumerate((ours, theirs)):
            logits = through("discriminator", self.reversed(part, reversal), relu_after=False)[:, 0]
            world_losses.append(functional.binary_cross_entropy_with_logits(logits, torch.full_like(logits, world)))
        world_loss = (world_losses[0] + world_losses[1]) / 2
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.zero_grad()
        (label_loss + world_loss).backward()
        self.optimiser.step()
        return label_loss.item(), world_loss.item()


def test_losses_and_weights_are_those_of_a_reference() -> None:
    pytest.importorskip("torch")
    network = AdversarialNetwork(4, 3, plan=PLAN, seed=1)
    reference = Reference(network)
    for step in range(6):
        how = {"rate": 0.3 / (1 + step), "reversal": 0.2 * step}
        found, expected = network.step(*rows(step), **how), reference.step(*rows(step), **how)
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    for name, layers in parts(network).items():
        for layer, theirs in zip(layers, reference.parts[name], strict=True):
            for array, other in zip(layer, theirs, strict=True):
                np.testing.assert_allclose(array, other.detach().numpy(), rtol=1e-4, atol=1e-6, err_msg=name)


def test_without_reversal_the_discriminator_changes_nothing() -> None:
    one, other = (AdversarialNetwork(4, 3, plan=PLAN, seed=1) for _ in range(2))
    for weight, _ in other.discriminator.layers:
        weight *= -3
    for step in range(4):
        for network in (one, other):
            network.step(*rows(step), rate=0.2, reversal=0.0)
    for name in ("features", "labels"):
        for layer, theirs in zip(parts(one)[name], parts(other)[name], strict=True):
            np.testing.assert_array_equal(layer[0], theirs[0])
    assert not np.allclose(one.discriminator.layers[0][0], other.discriminator.layers[0][0])


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_moons_that_are_turned_are_told_apart(seed: int) -> None:
    """Ganin et al., section 5.1.1: two moons, and two moons turned by 35 degrees, without labels."""
    source, codes = make_moons(300, noise=0.05, random_state=seed)
    target, truth = make_moons(300, noise=0.05, random_state=seed + 50)
    angle, centre = np.deg2rad(35), source.mean(axis=0)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    source, target = (source - centre).astype(np.float32), ((target - centre) @ turn).astype(np.float32)

    def accuracy(reversal: float) -> tuple[float, float]:
        network = AdversarialNetwork(2, 2, plan=Adversarial(steps=3000, reversal=reversal), seed=seed).fit(source, codes, target)
        return tuple(
            float((network.probabilities(part).argmax(axis=1) == known).mean()) for part, known in ((source, codes), (target, truth))
        )

    alone, adversarial = accuracy(0.0), accuracy(1.0)
    assert alone[0] > 0.99
    assert alone[1] < 0.8
    assert adversarial[0] > 0.99
    assert adversarial[1] > 0.9


def test_the_scale_of_the_features_does_not_count() -> None:
    generator = np.random.default_rng(0)
    source, target = (generator.normal(size=(60, 5)).astype(np.float32) for _ in range(2))
    codes = (source[:, 0] > 0).astype(np.int64)
    plan = Adversarial(steps=50)
    found = [trained_adversarially(Joint(source * by, target * by, classes=2), codes, plan=plan) for by in (1, 1024)]
    np.testing.assert_allclose(*found, atol=1e-4)
    assert found[0].shape == (60, 2)
    np.testing.assert_allclose(found[0].sum(axis=1), 1)
