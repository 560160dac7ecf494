"""Segmentation measured: accuracy and time against a U-Net, an epoch on stored maps, exported files, and a very large image.

    python benchmarks/segmentation.py fit [SET] [options of `headstart fit`]
    python benchmarks/segmentation.py peer [SET] --seconds 90 [--size 256]
    python benchmarks/segmentation.py epoch [SET]
    python benchmarks/segmentation.py export RUN IMAGES
    python benchmarks/segmentation.py large RUN [--megapixels 98]

``peer`` is a plain script with a U-Net of segmentation-models-pytorch (pip install segmentation-models-pytorch) on the same pre-trained
EfficientNet-Lite0: all of it is trained from pixels with AdamW, one cycle, flips and random crops, for so many seconds of all cores: time
of the CPU is what counts, so that other programs change nothing. Both are scored by the same code, at the size of each mask. Without a
SET, seg_human and seg_camvid_small of the measurement data are taken.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from headstart.backbones import load_backbone, torch_network
from headstart.data import dataset_of, read_annotations
from headstart.data.mask_reading import read_masks
from headstart.features import BackboneExtractor
from headstart.features.stage_maps import MapRequest
from headstart.files import cache_folder
from headstart.heads.decoder import one_of_each_size
from headstart.modalities.image.augment import Augmentation
from headstart.modalities.image.preprocessing import Preprocessing
from headstart.modalities.image.warp import View, one_thread, render
from headstart.tasks.segmentation.evaluation import evaluate
from headstart.training.masks import MapInputs, SmallMasks, make_pixel_loss, shrunk
from headstart.training.memory import reuse_memory
from measurement_data import DATA
from plain_training import fit, one_cycle

SETS = ("seg_human", "seg_camvid_small")
MEAN, STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


def parts(path: Path) -> tuple[Any, np.ndarray, np.ndarray]:
    """The data with their rows to learn from and to test on."""
    found = read_annotations(path)
    data = dataset_of(found, read_masks(found))
    return data, data.part("train", "val", ""), data.part("test")


def peer(path: Path, *, seconds: float, size: int, batch: int = 8, lr: float = 1e-3) -> None:
    import segmentation_models_pytorch as smp
    import torch

    data, train, test = parts(path)
    classes = len(data.classes)
    torch.manual_seed(0)
    network = smp.Unet("tu-tf_efficientnet_lite0", encoder_weights=None, classes=classes)
    weights = torch_network(load_backbone("lite0", cache=cache_folder(None))).model.state_dict()
    missing = network.encoder.model.load_state_dict({name: weights[name] for name in network.encoder.model.state_dict()}, strict=True)
    assert not missing.missing_keys
    plain, larger = Preprocessing(size=size, fit="squash"), Preprocessing(size=round(1.25 * size), fit="squash")
    images = {int(row): larger(data.inputs[row]) for row in train}
    masks = {int(row): data.targets.read(row) for row in train}
    augmentation = Augmentation(flip=0.5, crop=0.4)

    def normalised(pixels: list[np.ndarray]) -> torch.Tensor:
        stacked = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float() / 255
        return (stacked - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)

    def loss_of(rows: list[int], epoch: int) -> torch.Tensor:
        views = [augmentation.view(key=row, seed=0, view=epoch) for row in rows]
        with one_thread():
            pixels = [render(images[row], view, size=size) for row, view in zip(rows, views, strict=True)]
        truth = torch.from_numpy(np.stack([shrunk(masks[row], size, view) for row, view in zip(rows, views, strict=True)])).long()
        return torch.nn.functional.cross_entropy(network(normalised(pixels)), truth, ignore_index=255)

    spent = one_cycle(network, train, loss_of, seconds=seconds, batch=batch, lr=lr, clip=math.inf)
    with torch.inference_mode():
        logits = [network(normalised([plain(data.inputs[row])]))[0].numpy() for row in test.tolist()]
    found = evaluate(logits, data.targets.take(test)).summary()
    print(f"{path.name}: U-Net for {spent}: {found}")


def epoch(path: Path, *, size: int = 256, batch: int = 16) -> None:
    """The same decoder for an epoch: from stored maps, and through the frozen backbone in PyTorch, each on all cores."""
    import torch

    from headstart.training.decoders import Light

    data, train, _ = parts(path)
    part = data.take(train)
    backbone = load_backbone(f"lite0@{size}", cache=cache_folder(None))
    preprocessing = Preprocessing(size=size, fit="squash")
    extractor = BackboneExtractor(backbone, preprocessing=preprocessing)
    names = ()

    def choose(layers: Any) -> MapRequest:
        nonlocal names
        names = one_of_each_size(layers, finest=4, side=size)
        return MapRequest(names, 2, lambda index, number: View(mirrored=number == 1))

    maps = extractor.with_maps(part.inputs, choose).maps
    decoder = Light(maps.layers, len(data.classes)).train().to(memory_format=torch.channels_last)
    masks, loss, inputs = SmallMasks(part.targets, 2 * maps.layers[0].height, maps), make_pixel_loss("auto"), MapInputs(maps, device="cpu")
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=1e-3)
    whole = torch_network(backbone)
    whole.maps = names
    pixels = np.stack([preprocessing(image) for image in part.inputs])
    reuse_memory()

    def learn(taken: Any, rows: np.ndarray, number: int) -> None:
        decoder.draw(0, number, slice(0, len(rows)), len(rows))
        found = loss(decoder(taken), torch.from_numpy(masks(rows, number))).mean()
        optimizer.zero_grad()
        found.backward()
        optimizer.step()

    def through_backbone(rows: np.ndarray) -> Any:
        with torch.inference_mode():
            flat = whole.for_head(whole.normalised(torch.from_numpy(pixels[rows])))[0]
        split = flat.clone().split([layer.size for layer in maps.layers], dim=1)
        return tuple(one.unflatten(1, layer.shape) for one, layer in zip(split, maps.layers, strict=True))

    rows, seconds = np.arange(len(part)), {"stored": [], "backbone": [], "backbone alone": []}
    for number in range(4):
        for kind in seconds:
            began = time.perf_counter()
            for start in range(0, len(rows), batch):
                some = rows[start : start + batch]
                if kind == "backbone alone":
                    through_backbone(some)
                else:
                    learn(inputs.views(some, number) if kind == "stored" else through_backbone(some), some, number)
            if number:
                seconds[kind].append(time.perf_counter() - began)
    stored, backbone_, alone = (float(np.median(one)) for one in seconds.values())
    print(
        f"{path.name}: an epoch of {len(part)} images from stored maps {stored:.2f} s, through the frozen backbone {backbone_:.2f} s "
        f"(the backbone alone {alone:.2f} s): ratio {backbone_ / stored:.1f}"
    )


def export(run: Path, images: Path, *, count: int = 50) -> None:
    """The exported file against the run, pixel by pixel, on images of differing sizes."""
    import onnxruntime

    import headstart

    opened, paths = headstart.load(run), sorted(images.iterdir())[:count]
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "headstart", "export", str(run), "--out", f"{folder}/model.onnx"], check=True)
        session = onnxruntime.InferenceSession(f"{folder}/model.onnx")
        outputs = [one.name for one in session.get_outputs()]
        agreed, pixels = 0, 0
        for path in paths:
            image = Image.open(path).convert("RGB")
            image = image.resize(tuple(int(side * rng.uniform(0.5, 2.5)) for side in image.size))
            array = np.asarray(image)
            expected = opened.predict([array]).mask(0)
            found = dict(zip(outputs, session.run(None, {session.get_inputs()[0].name: array[None]}), strict=True))
            classes = next(value for value in found.values() if value.dtype == np.uint8 and value.ndim == 3)[0]
            agreed, pixels = agreed + int((classes == expected).sum()), pixels + expected.size
    print(f"{len(paths)} images of differing sizes: the same class on {agreed / pixels:.4%} of {pixels} pixels")


LARGE = """
import resource, sys, time
import headstart
run = headstart.load(sys.argv[1])
began = time.perf_counter()
found = run.predict([sys.argv[2]])
mask = found.mask(0)
print(mask.shape, f"{time.perf_counter() - began:.1f} s, peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GB")
"""


def large(run: Path, *, megapixels: float) -> None:
    side = int(math.sqrt(megapixels * 1e6))
    with tempfile.TemporaryDirectory() as folder:
        small = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC).save(f"{folder}/large.jpg", quality=85)
        done = subprocess.run([sys.executable, "-c", LARGE, str(run), f"{folder}/large.jpg"], check=True, capture_output=True, text=True)
    print(f"an image of {side * side / 1e6:.0f} megapixels: {done.stdout.strip()}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("fit", "peer", "epoch", "export", "large"))
    parser.add_argument("paths", nargs="*", type=Path, help="names of sets of the measurement data, folders, or a run")
    parser.add_argument("--seconds", type=float, default=90.0)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--megapixels", type=float, default=98.0)
    options, further = parser.parse_known_args()
    sets = [path if path.exists() else DATA / path for path in options.paths] or [DATA / name for name in SETS]
    if options.what == "export":
        export(*sets)
    elif options.what == "large":
        large(sets[0], megapixels=options.megapixels)
    for path in sets if options.what in ("fit", "peer", "epoch") else ():
        if options.what == "fit":
            fit(path, further)
        elif options.what == "peer":
            peer(path, seconds=options.seconds, size=options.size)
        else:
            epoch(path, size=options.size)


if __name__ == "__main__":
    main()
