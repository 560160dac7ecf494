"""How fast is an epoch of fine-tuning, against the same epoch in a plain PyTorch script?

    python benchmarks/training_speed.py [DATA with train/ and test/] [--images 256] [--epochs 3]        (needs headstart[torch])

Both sides train EfficientNet-Lite0 with its ImageNet weights at 224 pixels on the same images in batches of 32, with AdamW, a random
resized crop and a mirror image, BatchNorm in inference mode. The plain script: eager, NCHW, frozen stages run in the loop with
``requires_grad`` off, a DataLoader with two workers. Headstart's epochs are those of its own history, a look at the validation images
included; computing the frozen part for a view, which happens once for each view, is told separately. The sides take turns.

Goals: `partial` (the last two stages) 5 times as fast, `full` 1.5 times.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from measurement_data import DATA


def some_of(data: Path, folder: Path, count: int) -> Path:
    """A folder with so many of the training images, as many of each class, and a few test images."""
    for part, number in (("train", count), ("test", 20)):
        classes = sorted(path for path in (data / part).iterdir() if path.is_dir())
        for name in classes:
            (folder / part / name.name).mkdir(parents=True)
            for image in sorted(name.iterdir())[: number // len(classes)]:
                shutil.copy(image, folder / part / name.name)
    return folder


def plain(data: Path, epochs: int, trained: tuple[str, ...] | None) -> list[float]:
    """Seconds of each epoch of the plain script; `trained` are prefixes of parameters, None for all."""
    import timm
    import torch
    from torch import nn
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    from headstart.backbones import find
    from headstart.backbones.weight_files import read_tensors
    from headstart.backbones.weights import embedded_weights

    torch.manual_seed(0)
    crop = transforms.RandomResizedCrop(224, (0.7, 1))
    normalise = [transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)]
    train = datasets.ImageFolder(str(data / "train"), transforms.Compose([crop, transforms.RandomHorizontalFlip(), *normalise]))
    model: Any = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    names = [name for name in model.state_dict() if not name.endswith("num_batches_tracked")]
    values = read_tensors(embedded_weights(find("tf_efficientnet_lite0")))
    kept = [value for name, value in values.items() if not name.endswith("num_batches_tracked")]
    model.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in zip(names, kept, strict=True)}, strict=False)
    model.classifier = nn.Linear(model.num_features, len(train.classes))
    for name, parameter in model.named_parameters():
        parameter.requires_grad = trained is None or name.startswith((*trained, "classifier"))
    optimiser = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], lr=1e-4)
    loss = nn.CrossEntropyLoss()
    model.eval()
    seconds = []
    for _ in range(epochs):
        begun = time.perf_counter()
        for images, labels in DataLoader(train, 32, shuffle=True, num_workers=2):
            optimiser.zero_grad()
            loss(model(images), labels).backward()
            optimiser.step()
        seconds.append(time.perf_counter() - begun)
    return seconds


def ours(data: Path, epochs: int, strategy: str, cache: Path) -> tuple[list[float], float, tuple[str, ...]]:
    """Seconds of each epoch, of computing one view of the frozen part, and the stages that were trained."""
    from headstart import FineTuning, FitSettings, fit
    from headstart.progress import Listener

    class Clock(Listener):
        def __init__(self) -> None:
            self.views: list[float] = []
            self._begun: float | None = None

        def stage(self, name: str) -> None:
            now = time.perf_counter()
            if self._begun is not None:
                self.views.append(now - self._begun)
            self._begun = now if ", view " in name else None

    clock = Clock()
    plan = FineTuning(strategy=strategy, epochs=epochs, lr=1e-4)
    result = fit(data, settings=FitSettings(fine_tuning=plan, cache=cache), listener=clock)
    tuned = result.classifier.fine_tuned_
    assert tuned is not None
    return [epoch.seconds for epoch in tuned.history.epochs], statistics.median(clock.views or [0.0]), tuned.trained


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", type=Path, default=DATA / "cats_dogs")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=3)
    arguments = parser.parse_args()
    prefixes = {"stem": ("conv_stem", "bn1"), "last": ("conv_head", "bn2")} | {f"stage{n}": (f"blocks.{n - 1}.",) for n in range(1, 8)}
    with tempfile.TemporaryDirectory() as folder:
        data = some_of(arguments.data, Path(folder) / "data", arguments.images)
        for strategy, goal in (("partial", 5.0), ("full", 1.5)):
            mine, view, trained = ours(data, arguments.epochs, strategy, Path(folder) / "cache")
            named = None if strategy == "full" else tuple(prefix for stage in trained for prefix in prefixes[stage])
            theirs = plain(data, arguments.epochs, named)
            again, _, _ = ours(data, arguments.epochs, strategy, Path(folder) / "cache")
            both = [*mine, *again]
            fast, slow = statistics.median(both), statistics.median(theirs)
            print(f"{strategy} ({', '.join(trained)}), {arguments.images} images")
            print(f"  plain PyTorch  {slow:7.2f} s an epoch   ({min(theirs):.2f} to {max(theirs):.2f})")
            print(f"  Headstart      {fast:7.2f} s an epoch   ({min(both):.2f} to {max(both):.2f})")
            print(f"  ratio          {slow / fast:7.2f}   (goal {goal})")
            if view:
                print(f"  the frozen part takes {view:.2f} s for each view; ratio with that in every epoch {slow / (fast + view):.2f}")


if __name__ == "__main__":
    main()
