"""`headstart fit` against the script that transfer-learning tutorials give, in one run, on the same images with the same weights.

    python benchmarks/peer_pytorch.py [DATA with train/ and test/] [--epochs 5]        (needs headstart[torch])

The script: a timm EfficientNet-Lite0 with its ImageNet weights, frozen, a new linear layer, Adam at 1e-3, batches of 32, random
resized crop and flip, a DataLoader with two workers; evaluated once at the end. Headstart: a process of its own, empty feature store,
converted backbone.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from measurement_data import DATA


def tutorial(data: Path, epochs: int) -> tuple[float, float]:
    """(test accuracy, seconds) of the tutorial's script."""
    import timm
    import torch
    from torch import nn
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    from headstart.backbones import find
    from headstart.backbones.weight_files import read_tensors
    from headstart.backbones.weights import embedded_weights

    torch.manual_seed(0)
    begun = time.perf_counter()
    normalise = [transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)]
    cubic = transforms.InterpolationMode.BICUBIC
    training = transforms.Compose([transforms.RandomResizedCrop(224, (0.5, 1)), transforms.RandomHorizontalFlip(), *normalise])
    testing = transforms.Compose([transforms.Resize(256, cubic), transforms.CenterCrop(224), *normalise])
    train = datasets.ImageFolder(str(data / "train"), training)
    test = datasets.ImageFolder(str(data / "test"), testing)

    model: Any = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    values = read_tensors(embedded_weights(find("tf_efficientnet_lite0")))
    names = [name for name in model.state_dict() if not name.endswith("num_batches_tracked")]
    kept = [value for name, value in values.items() if not name.endswith("num_batches_tracked")]
    model.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in zip(names, kept, strict=True)}, strict=False)
    for parameter in model.parameters():
        parameter.requires_grad = False
    model.classifier = nn.Linear(model.num_features, len(train.classes))
    optimiser, loss = torch.optim.Adam(model.classifier.parameters(), lr=1e-3), nn.CrossEntropyLoss()
    model.eval()  # BatchNorm in inference mode: the common mistake is left out
    for _ in range(epochs):
        for images, labels in DataLoader(train, 32, shuffle=True, num_workers=2):
            optimiser.zero_grad()
            loss(model(images), labels).backward()
            optimiser.step()
    right = 0
    with torch.inference_mode():
        for images, labels in DataLoader(test, 32, num_workers=2):
            right += int((model(images).argmax(1) == labels).sum())
    return right / len(test), time.perf_counter() - begun


def headstart(data: Path) -> tuple[float, float]:
    """(test accuracy, seconds) of the whole process."""
    from headstart.backbones import load_backbone

    with tempfile.TemporaryDirectory() as folder:
        cache, out = Path(folder) / "cache", Path(folder) / "run"
        load_backbone(cache=cache, announce=lambda message: None)
        begun = time.perf_counter()
        command = [sys.executable, "-m", "headstart", "fit", str(data), "--out", str(out), "--cache", str(cache), "-q"]
        subprocess.run(command, check=True, capture_output=True)
        taken = time.perf_counter() - begun
        return json.loads((out / "manifest.json").read_text(encoding="utf-8"))["metrics"]["test_accuracy"], taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", type=Path, default=DATA / "cats_dogs")
    parser.add_argument("--epochs", type=int, default=5)
    options = parser.parse_args()
    ours, theirs = headstart(options.data), tutorial(options.data, options.epochs)
    print(f"headstart fit                       accuracy {ours[0]:.4f}   {ours[1]:7.1f} s, start of Python included")
    print(f"PyTorch script, {options.epochs} epochs of the head   accuracy {theirs[0]:.4f}   {theirs[1]:7.1f} s")
    print(f"ratio of times                      {theirs[1] / ours[1]:.0f}")


if __name__ == "__main__":
    main()
