"""A timm network whose one pass gives the pooled output of every stage, its stages, and the network cut in two between them (PyTorch).

A stage begins at its first module with weights, which is found by watching one forward pass. Cutting there gives a *front*, from images to
the activation that enters the stage, and a *tail*, from the activation to the features. The tail is the network itself with everything that
ran before replaced by nothing; whether that computes the same is checked on noise, so a network that cannot be cut is noticed.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from headstart.backbones.records import Stage

STEM, LAST = "stem", "last"
_TOLERANCE = 1e-4  # of front and tail against the whole network, relative to the largest value


def stage_modules(model: Any) -> Iterator[tuple[Any, int | None]]:
    """The modules at whose output a stage ends, with their channels where known, in the order of the forward pass."""
    blocks = getattr(model, "blocks", None)
    if isinstance(blocks, nn.Sequential) and len(blocks) > 0 and all(isinstance(stage, nn.Sequential) for stage in blocks):
        for stage in blocks:  # EfficientNet and the MobileNets: feature_info names only some of the seven
            yield stage, None
        return
    declared = getattr(model, "feature_info", None) or []
    for entry in getattr(declared, "info", declared):
        try:
            module = model.get_submodule(entry["module"])
        except (AttributeError, KeyError, TypeError):
            continue  # named, but not a module of its own
        yield module[-1] if isinstance(module, nn.ModuleList) and len(module) else module, entry.get("num_chs")  # a list is never called


class PooledStages(nn.Module):  # type: ignore[misc]
    """Images to the pooled outputs of all stages of a timm network side by side, the features before the classifier last."""

    def __init__(self, model: Any, *, mean: tuple[float, ...], std: tuple[float, ...], channels: str = "rgb") -> None:
        super().__init__()
        self.model = model
        self._reversed = channels == "bgr"
        self.register_buffer("scale", 1.0 / (255.0 * torch.tensor(std)).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("shift", (torch.tensor(mean) / torch.tensor(std)).view(1, 3, 1, 1), persistent=False)
        self._skipped = int(getattr(model, "num_prefix_tokens", 0) or 0)
        self._channels_last = getattr(model, "output_fmt", "NCHW") == "NHWC"
        self._caught: dict[int, Any] = {}
        self._catching = False
        stages = list(stage_modules(model))
        self.kept = list(range(len(stages)))  # indices of the stages in the output
        self.sizes: list[int] = []  # after the first call, the length of each part of the output
        self.flat = False  # whether heads take every position of the last feature map, which then follows at the end of the output
        self.every = False  # whether heads take the pooled outputs of all stages, and not the last features alone
        self.maps: tuple[str, ...] = ()  # names of stages whose maps heads take instead, flat, side by side, in the order of the pass
        self._mapping = False
        for index, (module, width) in enumerate(stages):
            module.register_forward_hook(partial(self._catch, index, width))
        self.eval()

    def _catch(self, index: int, channels: int | None, _module: Any, _inputs: Any, output: Any) -> None:
        if self._catching:  # training that runs the network in parts must not keep its outputs alive
            several = output if isinstance(output, tuple | list) else (output,)
            value = next((one for one in several if channels in one.shape[1:]), several[0])
            if not self._mapping:
                self._caught[index] = self._pooled(value, channels)
            elif index in self.kept and f"stage{self.kept.index(index) + 1}" in self.maps:
                self._caught[index] = self._upright(value, channels).flatten(1)

    def _upright(self, value: Any, channels: int | None) -> Any:
        """A map (N, C, h, w), whatever the order of the network."""
        first, last = value.shape[1] == channels, value.shape[-1] == channels
        return value.permute(0, 3, 1, 2) if (self._channels_last if first == last else last) else value

    def _pooled(self, value: Any, channels: int | None) -> Any:
        if value.ndim == 4:
            return nn.functional.adaptive_avg_pool2d(self._upright(value, channels), 1).flatten(1)
        if value.ndim == 3:  # tokens; those in front of the patches (class, registers) are left out
            return value[:, self._skipped :].mean(dim=1)
        return value

    def last(self, value: Any) -> Any:
        """The features before the classifier (N, D), from what the network's ``forward_features`` gives."""
        if type(self.model).__name__ == "VGG":  # its head would add 120 million parameters of fully connected layers
            return self._pooled(value, None)
        return self._pooled(self.model.forward_head(value, pre_logits=True), None)

    def flattened(self, last_map: Any) -> Any:
        """Every position of what ``forward_features`` gives, channels last: (N, h * w * C)."""
        if last_map.ndim == 4 and not self._channels_last:
            last_map = last_map.permute(0, 2, 3, 1)
        return last_map.flatten(1)

    def normalised(self, images: Any) -> Any:
        """Images (uint8, N x H x W x 3) to the network's input (float32, N x 3 x H x W)."""
        value = images.permute(0, 3, 1, 2).float() * self.scale - self.shift
        return value.flip(1) if self._reversed else value

    def parts(self, value: Any) -> tuple[list[Any], Any]:
        """The pooled output of each stage that runs, the features before the classifier last; and the last feature map.

        `value` is the input of the network, or of what is left of it.
        """
        self._caught.clear()
        self._catching = True
        try:
            last_map = self.model.forward_features(value)
            last = self.last(last_map)
        finally:
            self._catching = False
        return [*self.caught(), last], last_map

    def caught(self) -> list[Any]:
        """The pooled output of each stage that has run; they are forgotten."""
        found = [self._caught[index] for index in self.kept if index in self._caught]
        self._caught.clear()
        return found

    def for_head(self, value: Any, before: Sequence[Any] = ()) -> tuple[Any, Any]:
        """What a head takes (N, D), and the last feature map, from the input of the network or of what is left of it.

        These are the features before the classifier; with `flat` every position of the last feature map; with `every` the pooled outputs of
        all stages, with `maps` some of their maps, flat, of which `before` ran elsewhere.
        """
        if self.maps:
            self._caught.clear()
            self._catching = self._mapping = True
            try:
                last_map = self.model.forward_features(value)
            finally:
                self._catching = self._mapping = False
            found = self.caught()
            if LAST in self.maps:
                found.append(self._upright(last_map, None).flatten(1))
            return torch.cat([*before, *found], dim=1), last_map
        if self.every:
            parts, last_map = self.parts(value)
            return torch.cat([*before, *parts], dim=1), last_map
        last_map = self.model.forward_features(value)
        return self.flattened(last_map) if self.flat else self.last(last_map), last_map

    def forward(self, images: Any) -> Any:
        """Images (uint8, N x H x W x 3) to features (float32, N x D)."""
        parts, last_map = self.parts(self.normalised(images))
        if self.flat:
            parts.append(self.flattened(last_map))
        self.sizes = [int(part.shape[1]) for part in parts]
        return torch.cat(parts, dim=1)

    def drop_repeated(self, images: Any) -> None:
        """Leave out the last stage where it is the same as the features before the classifier (ResNet, DenseNet)."""
        with torch.inference_mode():
            features = self(images)
        if len(self.sizes) > 1 and self.sizes[-1] == self.sizes[-2]:
            size = self.sizes[-1]
            if torch.allclose(features[:, -size:], features[:, -2 * size : -size], rtol=1e-4, atol=1e-6):
                self.kept.pop()
                self.sizes.pop(-2)


def named_sizes(network: PooledStages) -> tuple[tuple[str, int], ...]:
    """(name, length) of each part: ``stage1``, ``stage2``, ..., ``last``, and ``map`` where it is asked for."""
    ends = ("last", "map") if network.flat else ("last",)
    stages = range(1, len(network.sizes) - len(ends) + 1)
    return tuple(zip((*(f"stage{number}" for number in stages), *ends), network.sizes, strict=True))


def noise(height: int, width: int, *, seed: int, count: int = 2) -> Any:
    """Random images with coarse and fine structure, a uint8 tensor (N, H, W, 3) on the CPU."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 4, 4, generator=generator, device="cpu")
    smooth = nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")
    fine = torch.rand(count, 3, height, width, generator=generator, device="cpu")
    return ((0.8 * smooth + 0.2 * fine) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


@contextmanager
def watched(model: nn.Module, *, before: Callable[..., None] | None = None, after: Callable[..., None] | None = None) -> Iterator[None]:
    """Each module of the model that runs calls ``before(name, module, inputs)`` and ``after(name, module, inputs, output)``."""
    handles = []
    for name, module in model.named_modules():
        if name and before:
            handles.append(module.register_forward_pre_hook(partial(before, name)))
        if name and after:
            handles.append(module.register_forward_hook(partial(after, name)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Trace:
    """One forward pass: when each module began and ended, and, if `counted`, how much had been computed by then."""

    def __init__(self, model: nn.Module, run: Callable[[], Any], *, counted: bool = True) -> None:
        from torch.utils.flop_counter import FlopCounterMode

        self.began: dict[str, int] = {}
        self.ended: dict[str, int] = {}
        self.flops: dict[str, int] = {}
        clock = count(1)

        def begins(name: str, *_: Any) -> None:
            if name not in self.began:
                self.began[name], self.flops[name] = next(clock), int(counter.get_total_flops()) if counted else 0

        def ends(name: str, *_: Any) -> None:
            self.ended[name] = next(clock)

        learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
        for parameter in learned:
            parameter.requires_grad_(False)  # otherwise the counter follows gradients, and fails on parameters passed to a module
        try:
            counter = FlopCounterMode(display=False)  # takes four times as long as the pass itself
            # attention as matrix products: the counter does not know PyTorch's own kernel for the CPU
            with (
                counter if counted else nullcontext(),
                sdpa_kernel(SDPBackend.MATH),
                torch.no_grad(),
                watched(model, before=begins, after=ends),
            ):
                run()
        finally:
            for parameter in learned:
                parameter.requires_grad_(True)
        self.total = int(counter.get_total_flops())
        owners = {name.rpartition(".")[0] for name in model.state_dict()}
        self.with_weights = [name for name in self.ended if name in owners]

    def owner(self, name: str) -> str:
        """The module itself or the nearest one around it that was called; empty for the network as a whole."""
        while name and name not in self.began:
            name = name.rpartition(".")[0]
        return name


def _noise_for(network: PooledStages, side: int, *, count: int = 1) -> Any:
    return noise(side, side, seed=7, count=count).to(network.scale.device)


def stages_of(network: PooledStages, *, side: int) -> tuple[Stage, ...]:
    """The stages of a network, in the order in which they run; `side` is that of the images at which operations are counted.

    A network on PyTorch's "meta" device, without numbers, will do.
    """
    model = network.model
    trace = _Trace(model, lambda: network(_noise_for(network, side)))
    declared = {id(module) for module, _ in stage_modules(model)}
    modules = [(name, module) for name, module in model.named_modules() if id(module) in declared and name in trace.ended]
    modules.sort(key=lambda named: trace.ended[named[0]])
    ends = [trace.ended[name] for name, _ in modules]
    # The first stage that a network declares is its stem, or follows an undeclared stem, number 0; VGG has none.
    stem = int(not modules or _is_stem(*modules[0])) if type(model).__name__ != "VGG" else -1
    owned: dict[int, list[str]] = {}
    for entry in model.state_dict():
        owner = trace.owner(entry.rpartition(".")[0])
        moment = trace.began.get(owner, 0)
        number = sum(end < moment for end in ends) + 1
        if number == 1 and stem == 0 and moment < trace.began[modules[0][0]]:
            number = 0
        owned.setdefault(number, []).append(entry)

    def name_of(number: int) -> str:
        if number > len(ends):
            return LAST
        return STEM if number == stem else f"stage{number - max(stem, 0)}"

    learned = {name: value.numel() for name, value in model.named_parameters()}
    entered = [(number, _entry(trace, entries), entries) for number, entries in sorted(owned.items())]
    starts = [0, *(trace.flops[entry] for _, entry, _ in entered[1:]), trace.total]
    return tuple(
        Stage(name_of(number), sum(learned.get(name, 0) for name in entries), stop - start, entry, tuple(entries))
        for (number, entry, entries), start, stop in zip(entered, starts[:-1], starts[1:], strict=True)
    )


def _is_stem(name: str, module: nn.Module) -> bool:
    return name.startswith("stem") or not any(True for child in module.children() for _ in child.parameters())


def _entry(trace: _Trace, entries: list[str]) -> str:
    """The module at which the stage of these weights begins: the outermost one that holds nothing that ran before."""
    entry = min((trace.owner(entry.rpartition(".")[0]) for entry in entries), key=lambda owner: trace.began.get(owner, 0))
    if not entry:
        return entry
    before = max((trace.ended[name] for name in trace.with_weights if trace.ended[name] < trace.began[entry]), default=0)
    while (above := trace.owner(entry.rpartition(".")[0])) and trace.began[above] > before:
        entry = above
    return entry


class _Entered(Exception):  # noqa: N818 - it ends a forward pass and is not an error
    """The stage has been reached, with this activation."""

    def __init__(self, activation: Any) -> None:
        super().__init__()
        self.activation = activation


class Front(nn.Module):  # type: ignore[misc]
    """Images (uint8, N x H x W x 3) to the activation that enters a stage, channels last: N x h x w x C, or N x tokens x C.

    Where heads take the pooled outputs of all stages, the activation is flat, and those of the stages before follow it: N x D.
    """

    def __init__(self, network: PooledStages, stage: Stage) -> None:
        super().__init__()
        self.network = network
        network.model.get_submodule(stage.entry).register_forward_pre_hook(self._enter)
        self._channels_first = getattr(network.model, "output_fmt", "NCHW") == "NCHW"
        self.layout: Layout | None = None  # of the output, after the first call
        self.eval()  # all of it: an export puts every module back into the mode of the outermost one

    @staticmethod
    def _enter(_module: Any, inputs: tuple[Any, ...]) -> None:
        raise _Entered(inputs[0])  # nothing behind is computed, and nothing there can change the activation in place

    def forward(self, images: Any) -> Any:
        """Images to activations."""
        try:
            if self.network.maps:
                self.network.for_head(self.network.normalised(images))
            else:
                self.network(images)
        except _Entered as entered:
            activation = entered.activation
        else:
            raise RuntimeError("the stage was never entered")
        pooled = self.network.caught()
        if channels_first := activation.ndim == 4 and self._channels_first:
            activation = activation.permute(0, 2, 3, 1)
        sizes = tuple(int(part.shape[1]) for part in pooled) if self.network.every or self.network.maps else ()
        self.layout = Layout(tuple(int(size) for size in activation.shape[1:]), channels_first, sizes)
        return torch.cat([activation.flatten(1), *pooled], dim=1) if sizes else activation


@dataclass(frozen=True)
class Layout:
    """What the output of a `Front` holds: an activation, channels last, and the pooled outputs of the stages before."""

    shape: tuple[int, ...]  # of the activation of one image
    channels_first: bool = False  # whether the stage takes it as (N, C, h, w)
    pooled: tuple[int, ...] = ()  # sizes of the pooled outputs; where there are any, the activation is flat

    def split(self, value: Any) -> tuple[Any, list[Any]]:
        """The activation, channels last, and the pooled outputs."""
        if not self.pooled:
            return value, []
        flat, *pooled = value.split([math.prod(self.shape), *self.pooled], dim=1)
        return flat.contiguous().unflatten(1, self.shape), pooled

    def joined(self, activation: Any, pooled: Sequence[Any]) -> Any:
        """The inverse of `split`."""
        return torch.cat([activation.flatten(1), *pooled], dim=1) if self.pooled else activation


class _Skipped(nn.Module):  # type: ignore[misc]
    """In the place of a module that ran in the front."""

    def forward(self, value: Any, *_: Any, **__: Any) -> Any:
        return value


class Tail(nn.Module):  # type: ignore[misc]
    """The output of a `Front` of this layout (or normalised images, N x 3 x H x W) to what a head takes, and the last feature map.

    Its parameters are those of the network from that stage on, under their own names; `model` holds them. `network` is changed, unless
    `stage` is None, for the whole of it. Images of `side` pixels, by default those of the network, are used to find out what runs before.
    """

    def __init__(self, network: PooledStages, stage: Stage | None, *, side: int | None = None, layout: Layout | None = None) -> None:
        super().__init__()
        self.network = network
        self.model = network.model
        self.layout = layout
        self._entry = "" if stage is None else stage.entry
        if stage is not None:
            self._skip_before(stage.entry, side or int(self.model.pretrained_cfg["input_size"][-1]))
        self.eval()

    def _skip_before(self, entry: str, side: int) -> None:
        trace = _Trace(self.model, lambda: self.network(_noise_for(self.network, side)), counted=False)
        moment = trace.began[entry]

        def walk(module: nn.Module, prefix: str) -> None:
            for name, child in list(module.named_children()):
                full = f"{prefix}{name}"
                if entry == full:
                    continue
                if entry.startswith(full + ".") or full not in trace.ended:  # the latter: a list of modules, which is not called itself
                    walk(child, full + ".")
                elif trace.ended[full] < moment:
                    setattr(module, name, _Skipped())

        walk(self.model, "")
        if hasattr(self.model, "_pos_embed"):
            vars(self.model)["_pos_embed"] = _Skipped()  # past PyTorch's own register of modules, which a method would hide

    def drop_unused(self, value: Any) -> None:
        """Take out parameters of the modules around the stage that have no part in the features: a class token, embedded positions."""
        names = self._entry.split(".")[:-1]
        around = [self.model.get_submodule(".".join(names[:length])) for length in range(len(names) + 1)]
        own = [(module, name, parameter) for module in around for name, parameter in module.named_parameters(recurse=False)]
        parameters = [parameter.requires_grad_(True) for *_, parameter in own]
        with torch.enable_grad():
            features = self(value)[0]
            if own and features.requires_grad:
                slopes = torch.autograd.grad(features.sum(), parameters, allow_unused=True)
            else:
                slopes = (None,) * len(own)
        for (module, name, _), slope in zip(own, slopes, strict=True):
            if slope is None:
                setattr(module, name, None)

    def forward(self, value: Any) -> tuple[Any, Any]:
        """To what a head takes (N, D), and the output of the network's ``forward_features``."""
        if self.layout is None:
            return self.network.for_head(value)
        activation, before = self.layout.split(value)
        return self.network.for_head(activation.permute(0, 3, 1, 2) if self.layout.channels_first else activation, before)


def cut(network: PooledStages, stage: Stage, *, side: int) -> tuple[Front, Tail] | None:
    """Copies of a network before and from a stage on; None where on images of `side` pixels they do not compute what the whole does."""
    images = _noise_for(network, side, count=2)
    try:
        front = Front(copy.deepcopy(network), stage)
        with torch.no_grad():  # and not inference_mode: drop_unused follows gradients
            expected = network.for_head(network.normalised(images))[0]
            value = front(images)
            tail = Tail(copy.deepcopy(network), stage, side=side, layout=front.layout)
            tail.drop_unused(value)
            found = tail(value)[0]
    except (RuntimeError, TypeError, ValueError, AttributeError, AssertionError, LookupError):  # a network that is not a chain
        return None
    if found.shape != expected.shape or not (found - expected).abs().max() <= _TOLERANCE * expected.abs().max():
        return None
    return front, tail


class End(nn.Module):  # type: ignore[misc]
    """Images (uint8, N x H x W x 3) to what a head takes (N, D), where the whole backbone is frozen."""

    def __init__(self, network: PooledStages) -> None:
        super().__init__()
        self.network = network
        self.eval()

    def forward(self, images: Any) -> Any:
        """Images to features (N, D)."""
        return self.network.for_head(self.network.normalised(images))[0]
