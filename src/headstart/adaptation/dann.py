"""Domain-adversarial training: a network whose features tell the classes and do not tell the two worlds apart.

Layers of features lead to the classes and to a discriminator of the worlds. The discriminator learns to tell them apart; on the way back
to the features its gradient is reversed, so that these learn the opposite. Source: Ganin et al., Domain-adversarial training of neural
networks, Journal of Machine Learning Research 17 (2016) 59. It works on stored features and takes seconds, in NumPy: PyTorch is not needed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from headstart.adaptation.joint import Codes, Floats, Joint
from headstart.metrics.link import SIGMOID, SOFTMAX

Features = npt.NDArray[np.float32]
_LENGTH = 30.0  # mean squared length of the rows, so that the learning rate suits all backbones
Layer = tuple[Features, Features]  # weight (inputs, outputs) and bias (outputs,)


@dataclass(frozen=True, kw_only=True)
class Adversarial:
    """How a network is trained: its layers, and stochastic gradient descent with momentum.

    Of the share p of the steps that is done, the learning rate is ``learning_rate / (1 + 10 p)**0.75``, and the reversed gradient counts
    ``reversal * (2 / (1 + exp(-10 p)) - 1)`` times, as in the paper.
    """

    hidden: tuple[int, ...] = (64, 64)
    discriminator: tuple[int, ...] = (64,)
    steps: int = 1500
    batch: int = 64  # rows of either world in a step
    learning_rate: float = 0.1
    momentum: float = 0.9
    reversal: float = 1.0


@dataclass(eq=False)
class Dense:
    """Dense layers with a ReLU between them, none after the last unless `ends_in_relu`; and the momentum of each."""

    layers: list[Layer]
    ends_in_relu: bool = False
    momenta: list[Layer] = field(default_factory=list)

    @classmethod
    def drawn(cls, sizes: Sequence[int], generator: np.random.Generator, *, ends_in_relu: bool = False) -> Dense:
        """Layers of these sizes from input to output, weights uniform within one over the root of their inputs."""
        layers = []
        for inputs, outputs in pairwise(sizes):
            weight = generator.uniform(-1, 1, (inputs, outputs)) / math.sqrt(inputs)
            layers.append((weight.astype(np.float32), np.zeros(outputs, dtype=np.float32)))
        return cls(layers, ends_in_relu, [(np.zeros_like(weight), np.zeros_like(bias)) for weight, bias in layers])

    def forward(self, rows: Features) -> list[Features]:
        """The rows (n, d) and what each layer makes of them, the output last."""
        found = [rows]
        for place, (weight, bias) in enumerate(self.layers):
            made = found[-1] @ weight + bias
            found.append(np.maximum(made, 0) if self.ends_in_relu or place < len(self.layers) - 1 else made)
        return found

    def backward(self, values: Sequence[Features], gradient: Features) -> tuple[list[Layer], Features]:
        """From the `values` of `forward` and the gradient of the output (n, k): gradients of the layers, and of the rows (n, d)."""
        found: list[Layer] = []
        for place in reversed(range(len(self.layers))):
            if self.ends_in_relu or place < len(self.layers) - 1:
                gradient = gradient * (values[place + 1] > 0)
            found.append((values[place].T @ gradient, gradient.sum(axis=0)))
            gradient = gradient @ self.layers[place][0].T
        return found[::-1], gradient

    def descend(self, gradients: Sequence[Layer], *, rate: float, momentum: float) -> None:
        """A step against the gradients, in place."""
        for layer, momenta, found in zip(self.layers, self.momenta, gradients, strict=True):
            for values, moving, gradient in zip(layer, momenta, found, strict=True):
                moving *= momentum
                moving += gradient
                values -= np.float32(rate) * moving


class AdversarialNetwork:
    """The network: `features` (ReLU), from which `labels` tells the classes and `discriminator` the world."""

    def __init__(self, inputs: int, classes: int, *, plan: Adversarial | None = None, seed: int = 0) -> None:
        self.plan = plan or Adversarial()
        self._generator = np.random.default_rng(seed)
        wide = self.plan.hidden[-1]
        self.features = Dense.drawn((inputs, *self.plan.hidden), self._generator, ends_in_relu=True)
        self.labels = Dense.drawn((wide, classes), self._generator)
        self.discriminator = Dense.drawn((wide, *self.plan.discriminator, 1), self._generator)

    def fit(self, source: Features, codes: Codes, target: Features) -> AdversarialNetwork:
        """Train on rows of the source (n, d) with class numbers (n,), and of the target (m, d)."""
        ours, theirs = (_batches(count, self.plan.batch, self._generator) for count in (len(source), len(target)))
        for step in range(self.plan.steps):
            done = step / self.plan.steps
            mine, others = next(ours), next(theirs)
            rate = self.plan.learning_rate / (1 + 10 * done) ** 0.75
            reversal = self.plan.reversal * (2 / (1 + math.exp(-10 * done)) - 1)
            self.step(source[mine], codes[mine], target[others], rate=rate, reversal=reversal)
        return self

    def step(self, source: Features, codes: Codes, target: Features, *, rate: float, reversal: float) -> tuple[float, float]:
        """One step on rows of both worlds: returns the cross-entropy of the classes, and of the worlds, which count the same."""
        count, others = len(source), len(target)
        values = self.features.forward(np.concatenate([source, target]))
        known, told = self.labels.forward(values[-1][:count]), self.discriminator.forward(values[-1])
        likely = SOFTMAX.probabilities(known[-1].astype(np.float64))
        of_labels = likely.copy()
        of_labels[np.arange(count), codes] -= 1
        foreign, logit = np.arange(count + others) >= count, told[-1][:, 0].astype(np.float64)
        share = np.where(foreign, 0.5 / others, 0.5 / count)
        of_worlds = share * (SIGMOID.probabilities(logit) - foreign)
        losses = (
            -float(np.log(np.maximum(likely[np.arange(count), codes], 1e-30)).mean()),
            float((share * np.logaddexp(0, np.where(foreign, -logit, logit))).sum()),
        )
        label_gradients, through_labels = self.labels.backward(known, (of_labels / count).astype(np.float32))
        world_gradients, through_worlds = self.discriminator.backward(told, of_worlds[:, None].astype(np.float32))
        gradient = np.float32(-reversal) * through_worlds
        gradient[:count] += through_labels
        for part, gradients in (
            (self.features, self.features.backward(values, gradient)[0]), (self.labels, label_gradients),
            (self.discriminator, world_gradients),
        ):  # fmt: skip
            part.descend(gradients, rate=rate, momentum=self.plan.momentum)
        return losses

    def probabilities(self, rows: Features) -> Floats:
        """Of the classes (n, k), for rows (n, d) of either world."""
        return SOFTMAX.probabilities(self.labels.forward(self.features.forward(rows)[-1])[-1].astype(np.float64))


def trained_adversarially(joint: Joint, source: Codes, *, plan: Adversarial | None = None, seed: int = 0) -> Floats:
    """Probabilities of the target (m, k) by a network that was trained on both worlds."""
    rows = joint.rotated * np.float32(math.sqrt(_LENGTH / max(float((joint.rotated**2).sum(axis=1).mean()), 1e-30)))
    network = AdversarialNetwork(rows.shape[1], joint.classes, plan=plan, seed=seed)
    return network.fit(rows[: joint.size], source, rows[joint.size :]).probabilities(rows[joint.size :])


def _batches(count: int, size: int, generator: np.random.Generator) -> Iterator[npt.NDArray[np.int64]]:
    """Row numbers for one step after the other: all rows in a new order, in batches of about `size`, again and again."""
    while True:
        yield from np.array_split(generator.permutation(count), max(1, round(count / size)))
