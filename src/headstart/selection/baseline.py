"""`Baseline`: how far a pre-trained backbone is ahead of handcrafted features, on the same training images out of sample."""

from __future__ import annotations

from dataclasses import dataclass

from headstart.text import percent, plural


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """Two systems with the best head on the features of each; scores are those of training images, each by a fit that did not see it."""

    handcrafted: str  # names as `headstart fit --backbone` takes them
    pretrained: str
    images: int
    handcrafted_accuracy: float  # share of correct decisions
    pretrained_accuracy: float
    difference: float  # what the pre-trained one has over the other, and its standard error, image by image
    difference_error: float
    together: float | None = None  # accuracy of the model on both, where that is what was fitted
    used: bool = True  # whether the model takes the handcrafted features

    def sentence(self) -> str:
        """The comparison in words."""
        points, error = 100 * self.difference, 100 * self.difference_error
        ahead = "ahead of" if points > 0 else "behind"
        gap = f"{abs(points):.1f} points (± {error:.1f}) {ahead}" if abs(points) > 2 * error else "as good, as far as these images tell, as"
        both = "" if self.together is None else f"; both together: {percent(self.together)}"
        if not self.used:
            both = "; beside the network they bring nothing, and the model does without them"
        return (
            f"{self.pretrained} (pre-trained, {percent(self.pretrained_accuracy)}) is {gap} {self.handcrafted} (handcrafted, "
            f"{percent(self.handcrafted_accuracy)}), out of sample on {plural(self.images, 'training image')}{both}"
        )
