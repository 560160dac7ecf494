"""The terms that hold a network at its pre-training, against their formulas in NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from headstart.errors import ParameterError

pytest.importorskip("timm", reason="needs headstart[torch]")

import torch
from torch import nn

from headstart.training.preparation import L2SP, Distillation


@pytest.fixture
def backbone() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 5)).double()


@pytest.fixture
def head() -> nn.Module:
    torch.manual_seed(1)
    return nn.Linear(5, 2).double()


def moved(module: nn.Module, *, seed: int = 3) -> None:
    random = np.random.default_rng(seed)
    with torch.no_grad():
        for weights in module.parameters():
            weights += torch.tensor(random.normal(size=tuple(weights.shape)))


def test_l2sp_is_the_formula_of_the_paper(backbone: nn.Module, head: nn.Module) -> None:
    start = {name: value.detach().numpy().copy() for name, value in backbone.named_parameters()}
    held = L2SP(dict(backbone.named_parameters()), 0.3, 0.07)
    moved(backbone)
    term = held.term(backbone.named_parameters(), head.parameters())
    apart = sum(((value.detach().numpy() - start[name]) ** 2).sum() for name, value in backbone.named_parameters())
    new = sum((value.detach().numpy() ** 2).sum() for value in head.parameters())
    assert term.ndim == 0
    assert term.item() == pytest.approx(0.3 / 2 * apart + 0.07 / 2 * new, rel=1e-12)


def test_l2sp_pulls_straight_back(backbone: nn.Module, head: nn.Module) -> None:
    start = {name: value.detach().clone() for name, value in backbone.named_parameters()}
    held = L2SP(backbone.state_dict(), 0.3, 0.07)  # of state_dict, which shares its memory with the network
    moved(backbone)
    held.term(backbone.named_parameters(), head.parameters()).backward()
    for name, weights in backbone.named_parameters():
        torch.testing.assert_close(weights.grad, 0.3 * (weights.detach() - start[name]))
    for weights in head.parameters():
        torch.testing.assert_close(weights.grad, 0.07 * weights.detach())


def test_l2sp_is_nought_at_the_start_but_for_the_head(backbone: nn.Module, head: nn.Module) -> None:
    held = L2SP(backbone.state_dict(), 10.0, 0.0)
    assert held.term(backbone.named_parameters(), head.parameters()).item() == 0
    assert L2SP({}, 1.0, 1.0).term((), ()).item() == 0


def test_l2sp_leaves_frozen_weights_out(backbone: nn.Module, head: nn.Module) -> None:
    held = L2SP({name: value for name, value in backbone.named_parameters() if name.startswith("3.")}, 0.5, 0.0)
    for name, weights in backbone.named_parameters():
        weights.requires_grad_(name.startswith("3."))
    moved(backbone)
    term = held.term(backbone.named_parameters(), head.parameters())
    apart = sum(((value - held._start[name]) ** 2).sum().item() for name, value in backbone.named_parameters() if name.startswith("3."))
    assert term.item() == pytest.approx(0.25 * apart)


def test_l2sp_knows_what_it_holds(backbone: nn.Module) -> None:
    held = L2SP(backbone.state_dict(), 1.0, 1.0)
    with pytest.raises(ValueError, match=r"'module.0.weight' \(4, 3, 3, 3\) cannot be held at its start, which has no such name"):
        held.term((("module." + name, value) for name, value in backbone.named_parameters()), ())
    with pytest.raises(ValueError, match=r"'3.weight' \(7, 16\) cannot be held at its start, which has the shape \(5, 16\)"):
        held.term([("3.weight", nn.Parameter(torch.zeros(7, 16)))], ())


@pytest.mark.parametrize(("shape", "channels"), [((6, 5), 1), ((6, 5, 3, 2), 1), ((6, 3, 2, 5), -1), ((6, 7, 5), -1)])
def test_distillation_is_half_the_squared_distance(shape: tuple[int, ...], channels: int) -> None:
    random = np.random.default_rng(0)
    ours, theirs = random.normal(size=shape), random.normal(size=shape)
    distill = Distillation(0.8, channels=channels)
    squares = ((ours - theirs) ** 2).sum(axis=channels).reshape(6, -1).mean(axis=1)
    found = distill.per_image(torch.tensor(ours), torch.tensor(theirs))
    np.testing.assert_allclose(found.numpy(), 0.8 / 2 * squares, rtol=1e-12)
    assert distill.term(torch.tensor(ours), torch.tensor(theirs)).item() == pytest.approx(0.8 / 2 * squares.mean(), rel=1e-12)


def test_distillation_moves_the_student_only() -> None:
    student, teacher = torch.ones(4, 3, requires_grad=True), torch.zeros(4, 3, requires_grad=True)
    Distillation(2.0).term(student, teacher).backward()
    torch.testing.assert_close(student.grad, torch.full((4, 3), 2.0 / 4))
    assert teacher.grad is None


def test_distillation_computes_in_float32() -> None:
    student = torch.full((2, 1000), 1.0, dtype=torch.bfloat16)
    found = Distillation(1.0).per_image(student, torch.full((2, 1000), 0.25))
    torch.testing.assert_close(found, torch.full((2,), 0.5 * 1000 * 0.75**2))


def test_distillation_never_stretches_shapes() -> None:
    with pytest.raises(ValueError, match=r"features \(4, 3\) and the teacher's \(1, 3\) differ in shape"):
        Distillation(1.0).term(torch.ones(4, 3), torch.ones(1, 3))


@pytest.mark.parametrize("wrong", [-0.1, np.inf, np.nan])
def test_strengths_are_checked(wrong: float) -> None:
    with pytest.raises(ParameterError, match="alpha must be a finite number of at least 0"):
        L2SP({}, wrong, 0.0)
    with pytest.raises(ParameterError, match="beta must be"):
        L2SP({}, 0.0, wrong)
    with pytest.raises(ParameterError, match="strength must be"):
        Distillation(wrong)
