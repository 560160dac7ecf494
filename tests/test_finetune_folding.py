"""BatchNorm computed inside the convolution before it, against the network as it is, output and gradients."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("timm", reason="needs headstart[torch]")

import timm
import torch
from torch import nn

from headstart.progress import quiet
from headstart.training.convolutions import convolve
from headstart.training.network import fold_batchnorm, unfold


def network(name: str, **changes: Any) -> Any:
    """With statistics, factors and offsets as a trained network has them, and not 0 and 1."""
    torch.manual_seed(0)
    with quiet():
        made = timm.create_model(name, pretrained=False, num_classes=0, **changes).eval()
    generator = torch.Generator().manual_seed(1)
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
            nn.init.uniform_(module.bias, -0.5, 0.5, generator=generator)
            nn.init.uniform_(module.running_mean, -0.5, 0.5, generator=generator)
            nn.init.uniform_(module.running_var, 0.5, 1.5, generator=generator)
    return made.double()


def images(side: int = 32) -> torch.Tensor:
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def learned(model: Any, given: torch.Tensor) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The output, and the gradient of each parameter of a sum in which every output has another weight."""
    model.zero_grad()
    found = model.forward_features(given)
    (found * torch.linspace(-1, 1, found.numel(), dtype=found.dtype).view_as(found)).sum().backward()
    return found.detach().numpy(), {name: value.grad.numpy().copy() for name, value in model.named_parameters() if value.grad is not None}


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("test_efficientnet", {}),
        ("resnet10t", {}),
        ("mobilenetv3_small_050", {}),
        ("mobilenetv2_050", {}),
        pytest.param("test_efficientnet", {"pad_type": "same"}, id="conv2d_same"),
    ],
)
def test_output_and_gradients_are_those_of_the_network_as_it_is(name: str, changes: dict[str, Any]) -> None:
    model, given = network(name, **changes), images()
    same = {type(module).__name__ for module in model.modules()} & {"Conv2dSame"}
    assert same == ({"Conv2dSame"} if changes else set())
    output, gradients = learned(model, given)
    names, before = list(model.state_dict()), {key: value.clone() for key, value in model.state_dict().items()}
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    assert fold_batchnorm(model, lambda: model.forward_features(given)) == norms
    calls = [module.register_forward_hook(lambda *_: called.append(1)) for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    called: list[int] = []
    folded_output, folded = learned(model, given)
    assert len(called) == norms  # they are still passed, and do what else they do
    assert len(calls) == norms
    np.testing.assert_allclose(folded_output, output, rtol=1e-9, atol=1e-9)
    assert folded.keys() == gradients.keys()
    for key, gradient in gradients.items():
        np.testing.assert_allclose(folded[key], gradient, rtol=1e-8, atol=1e-9 * max(1, np.abs(gradient).max()), err_msg=key)
    assert list(model.state_dict()) == names
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_unfolding_gives_the_network_back() -> None:
    model, given = network("resnet10t"), images()
    usual = {name for name, module in model.named_modules() if "forward" in vars(module)}
    output, _ = learned(model, given)
    assert fold_batchnorm(model, lambda: model.forward_features(given))
    unfold(model)
    assert {name for name, module in model.named_modules() if "forward" in vars(module)} == usual
    assert np.array_equal(learned(model, given)[0], output)


def test_a_step_of_learning_counts_at_once() -> None:
    """The product is formed anew in each pass: weights that change are not passed by."""
    model, given = network("resnet10t"), images()
    fold_batchnorm(model, lambda: model.forward_features(given))
    changed = network("resnet10t")
    for one in (model, changed):
        with torch.no_grad():
            for parameter in one.parameters():
                parameter.mul_(1.05)
    np.testing.assert_allclose(learned(model, given)[0], learned(changed, given)[0], rtol=1e-9, atol=1e-9)


def test_nothing_is_folded_that_takes_its_statistics_from_the_batch() -> None:
    model, given = network("resnet10t").train(), images()
    expected = sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    assert fold_batchnorm(model, lambda: model.forward_features(given)) == 0
    model.eval()
    next(module for module in model.modules() if isinstance(module, nn.BatchNorm2d)).train()
    assert fold_batchnorm(model, lambda: model.forward_features(given)) == expected - 1


class Odd(nn.Module):
    """The output of its convolution is used beside BatchNorm: folding would change it."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.usual = nn.Sequential(nn.Conv2d(4, 4, 1, bias=True), nn.BatchNorm2d(4))

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        made = self.convolution(value)
        return self.usual(made + self.norm(made))


def test_all_is_put_back_where_folding_would_change_the_result() -> None:
    torch.manual_seed(0)
    model, given = Odd().eval(), images().float()
    with torch.no_grad():
        model.norm.running_mean.fill_(0.7)
        expected = model(given)
        assert fold_batchnorm(model, lambda: model(given)) == 0
        assert torch.equal(model(given), expected)
    assert not any("forward" in vars(module) for module in model.modules())
    for module in (model.norm, model.convolution):  # the same layers in a row are folded
        module.requires_grad_(False)
    assert fold_batchnorm(model.usual, lambda: model.usual(torch.ones(1, 4, 5, 5))) == 1


def test_layers_that_are_used_twice_stay_as_they_are() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution, self.first, self.second = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

        def forward(self, value: torch.Tensor) -> torch.Tensor:
            return self.second(self.convolution(self.first(self.convolution(value))))

    model, given = Twice().eval(), images().float()
    assert fold_batchnorm(model, lambda: model(given)) == 0


# Convolutions whose gradients are computed in another way


def gradients_of(convolution: Any, value: torch.Tensor, weight: torch.Tensor, offset: torch.Tensor) -> list[torch.Tensor]:
    leaves = [each.clone().requires_grad_() for each in (value, weight, offset)]
    made = convolution(*leaves)
    (made * torch.linspace(-1, 1, made.numel()).view_as(made)).sum().backward()
    return [made.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


@pytest.mark.parametrize("kernel", [(5, 5), (3, 7), (4, 5), (7, 4)])
@pytest.mark.parametrize(("stride", "padding"), [((1, 1), (2, 2)), ((2, 2), (0, 0)), ((1, 2), (1, 3)), ((2, 1), (0, 2))])
def test_wide_depthwise_kernels_have_the_gradients_of_pytorch(
    kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]
) -> None:
    generator = torch.Generator().manual_seed(3)
    value, weight = torch.randn(3, 8, 11, 12, generator=generator), torch.randn(8, 1, *kernel, generator=generator)
    offset = torch.randn(8, generator=generator)
    expected = gradients_of(lambda *given: nn.functional.conv2d(*given, stride, padding, 1, 8), value, weight, offset)
    for given in (value, value.to(memory_format=torch.channels_last)):
        found = gradients_of(lambda *given: convolve(*given, stride, padding, (1, 1), 8), given, weight, offset)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stride", [(1, 1), (2, 2)])
def test_in_bfloat16_the_inputs_of_products_are_rounded_and_no_more(stride: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(4)
    value, weight = torch.randn(2, 16, 8, 8, generator=generator), torch.randn(24, 16, 1, 1, generator=generator)
    offset = torch.randn(24, generator=generator)
    rounded = [each.bfloat16().float() for each in (value, weight)]
    expected = gradients_of(lambda *given: nn.functional.conv2d(*given, stride), *rounded, offset)
    found = gradients_of(lambda *given: convolve(*given, stride, (0, 0), (1, 1), 1, half=True), value, weight, offset)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-2, atol=2e-2 * float(other.abs().max()))
    exact = convolve(value, weight, offset, stride, (0, 0), (1, 1), 1, half=True)  # nothing is learned: float32
    torch.testing.assert_close(exact, nn.functional.conv2d(value, weight, offset, stride))
