"""The terms that hold a network at its pre-training, against their formulas in NumPy."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("timm", reason="needs headstart[torch]")

import torch
from torch import nn

from headstart.training.preparation import L2SP, distillation


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


def test_distillation_is_half_the_squared_distance() -> None:
    random = np.random.default_rng(0)
    ours, theirs = random.normal(size=(6, 5)), random.normal(size=(6, 5))
    found = distillation(torch.tensor(ours), torch.tensor(theirs), 0.8)
    np.testing.assert_allclose(found.numpy(), 0.8 / 2 * ((ours - theirs) ** 2).sum(axis=1), rtol=1e-12)


def test_distillation_moves_the_student_only() -> None:
    student, teacher = torch.ones(4, 3, requires_grad=True), torch.zeros(4, 3, requires_grad=True)
    distillation(student, teacher, 2.0).mean().backward()
    torch.testing.assert_close(student.grad, torch.full((4, 3), 2.0 / 4))
    assert teacher.grad is None


def test_distillation_computes_in_float32() -> None:
    student = torch.full((2, 1000), 1.0, dtype=torch.bfloat16)
    found = distillation(student, torch.full((2, 1000), 0.25), 1.0)
    torch.testing.assert_close(found, torch.full((2,), 0.5 * 1000 * 0.75**2))
