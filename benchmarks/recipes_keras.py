"""How fast is an epoch of a recipe run with `--exact`, against the same in Keras?

    pip install tensorflow pillow scipy        (here, or in another environment: --keras-python PATH)
    python benchmarks/recipes_keras.py [--shrink 8] [--epochs 3] [--keras-python PATH]        (needs headstart[torch])

Both sides build the system as the recipe describes it, on the same images: VGG16 without its top (random weights on both sides: time does
not depend on them), frozen, the dense layers, optimizer, loss and batch size of the recipe. Keras is fed as the tutorials do it, by
``ImageDataGenerator``, with the network called in every epoch. Only every `shrink`-th image of each set is used: Keras takes hours for all.

Headstart's epochs are those of its own history. The first costs more: the frozen network is run once for all images, or, where images are
augmented, once for each epoch; that is told with it.

Goals: from the second epoch on 5 times as fast where nothing is augmented, and not slower where something is.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from measurement_data import DATA

SETS = {"cifar10-vgg16": "cifar10_12k", "cats-dogs-vgg16": "cats_dogs", "chest-xray-vgg16": "chest_xray"}

KERAS = """
import json, sys, time, os
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import tensorflow as tf
from tensorflow.keras.preprocessing.image import ImageDataGenerator
folder, size, layers, optimizer, loss, epochs, augmented = json.loads(sys.argv[1])
more = dict(shear_range=0.2, zoom_range=0.2, horizontal_flip=True) if augmented else {}
mode = "binary" if loss == "binary" else "categorical"
maker = ImageDataGenerator(rescale=1 / 255, **more)
images = maker.flow_from_directory(folder + "/train", target_size=(size, size), batch_size=32, class_mode=mode)
base = tf.keras.applications.VGG16(weights=None, include_top=False, input_shape=(size, size, 3))
base.trainable = False
stack = [base, tf.keras.layers.Flatten(), *[tf.keras.layers.Dense(width, activation="relu") for width in layers]]
outputs, end = (1, "sigmoid") if mode == "binary" else (images.num_classes, "softmax")
stack.append(tf.keras.layers.Dense(outputs, activation=end))
model = tf.keras.Sequential(stack)
kinds = dict(adam=tf.keras.optimizers.Adam(), rmsprop=tf.keras.optimizers.RMSprop(learning_rate=2e-5))
model.compile(optimizer=kinds[optimizer], loss=f"{mode}_crossentropy", metrics=["accuracy"])
seconds = []
for _ in range(epochs):
    begun = time.perf_counter()
    model.fit(images, epochs=1, verbose=0)
    seconds.append(time.perf_counter() - begun)
print(json.dumps(seconds))
"""


def some_of(data: Path, folder: Path, shrink: int) -> Path:
    """Every `shrink`-th image of each class."""
    for part in ("train", "test"):
        for name in sorted(path for path in (data / part).iterdir() if path.is_dir()):
            (folder / part / name.name).mkdir(parents=True)
            for image in sorted(name.iterdir())[::shrink]:
                shutil.copy(image, folder / part / name.name)
    return folder


def keras(python: str, data: Path, plan: Any, epochs: int) -> list[float]:
    settings = json.dumps([str(data), plan.image_size, plan.head_layers, plan.optimizer, plan.loss, epochs, plan.augment != "none"])
    done = subprocess.run([python, "-c", KERAS, settings], check=True, capture_output=True, text=True)
    seconds: list[float] = json.loads(done.stdout.splitlines()[-1])
    return seconds


def ours(recipe: Any, data: Path, epochs: int, cache: Path) -> tuple[list[float], list[float]]:
    """Seconds of each epoch, and of running the frozen network before it."""
    from dataclasses import replace

    from headstart import fit
    from headstart.progress import Listener

    class Clock(Listener):
        def __init__(self) -> None:
            self.frozen: list[float] = []
            self.waiting = 0.0
            self._begun: float | None = None

        def stage(self, name: str) -> None:
            now = time.perf_counter()
            if self._begun is not None:
                self.waiting += now - self._begun
            self._begun = now if name.startswith("Computing the frozen part") else None
            if name.startswith("Epoch"):
                self.frozen.append(self.waiting)
                self.waiting = 0.0

    clock = Clock()
    settings = recipe.settings(True, weights="random", cache=cache)
    settings = replace(settings, fine_tuning=replace(settings.fine_tuning, epochs=epochs))
    result = fit(data, settings=settings, listener=clock)
    tuned = result.classifier.fine_tuned_
    assert tuned is not None
    return [epoch.seconds for epoch in tuned.history.epochs], clock.frozen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shrink", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--keras-python", default=sys.executable)
    parser.add_argument("--recipes", nargs="*", default=list(SETS))
    arguments = parser.parse_args()
    from headstart.pipeline.recipes import read_recipe

    for name in arguments.recipes:
        recipe = read_recipe(name)
        plan = recipe.settings(True).fine_tuning
        with tempfile.TemporaryDirectory() as folder:
            data = some_of(DATA / SETS[name], Path(folder) / "data", arguments.shrink)
            images = sum(1 for _ in (data / "train").glob("*/*"))
            theirs = keras(arguments.keras_python, data, plan, arguments.epochs)
            epochs, frozen = ours(recipe, data, arguments.epochs, Path(folder) / "cache")
            whole = [one + before for one, before in zip(epochs, frozen, strict=True)]
            slow, fast = statistics.median(theirs[1:]), statistics.median(whole[1:])
            goal = "not slower" if plan.augment != "none" else "5"
            print(f"{name}, {images} images")
            print(f"  Keras      {' '.join(f'{value:8.2f}' for value in theirs)} s an epoch")
            print(f"  Headstart  {' '.join(f'{value:8.2f}' for value in whole)} s an epoch, of it in the frozen network "
                  f"{' '.join(f'{value:.2f}' for value in frozen)}")  # fmt: skip
            print(f"  from the second epoch on {slow / fast:.1f} times as fast (goal: {goal}); first epoch {theirs[0] / whole[0]:.1f}")


if __name__ == "__main__":
    main()
