"""Detection measured: accuracy and time against FCOS of torchvision, exported files, and a photograph of a phone.

    python benchmarks/detection.py fit [SET] [options of `headstart fit`]
    python benchmarks/detection.py peer [SET] --seconds 60 [--size 320]
    python benchmarks/detection.py views [SET] [--views 4] [--size 320]
    python benchmarks/detection.py photo RUN [--megapixels 12]

``peer`` is a plain script with FCOS of torchvision (feature pyramid of 256 channels) on the same pre-trained EfficientNet-Lite0: all of
it is trained from pixels with AdamW, one cycle, mirror images and random crops, for so many seconds of all cores: time of the CPU is
what counts, so that other programs change nothing. Both are scored by the same code. ``views`` stores the maps of so many views of each
image, and does the same with a plain script: Pillow and torchvision in a DataLoader, the same network in PyTorch. Without a SET,
det_raccoon of the measurement data is taken.
"""

from __future__ import annotations

import argparse
import math
import resource
import tempfile
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from headstart.backbones import load_backbone, torch_network
from headstart.data import dataset_of, read_annotations
from headstart.data.box_reading import read_boxes
from headstart.engine import available_cores
from headstart.files import cache_folder
from headstart.metrics.boxes import Detections
from headstart.modalities.image.augment import Augmentation
from headstart.modalities.image.preprocessing import Preprocessing
from headstart.modalities.image.warp import one_thread, render
from headstart.pipeline.fitting import extract
from headstart.progress import Listener
from headstart.settings import FineTuning, FitSettings
from headstart.tasks.detection.evaluation import DetectionEvaluation
from headstart.tasks.detection.task import Detection
from headstart.training.box_targets import boxes_in
from measurement_data import DATA
from plain_training import fit, one_cycle

SETS = ("det_raccoon",)


def parts(path: Path) -> tuple[Any, np.ndarray, np.ndarray]:
    """The data with their rows to learn from and to test on."""
    found = read_annotations(path, prefer="boxes")
    data = dataset_of(found, read_boxes(found))
    return data, data.part("train", "val", ""), data.part("test")


def fcos(classes: int, size: int) -> Any:
    """FCOS of torchvision on the stages of EfficientNet-Lite0 at strides 8, 16 and 32."""
    import torch
    from torchvision.models.detection.fcos import FCOS
    from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelP6P7

    class Pyramid(torch.nn.Module):
        out_channels = 256

        def __init__(self) -> None:
            super().__init__()
            self.body = body()
            self.pyramid = FeaturePyramidNetwork(self.body.feature_info.channels(), 256, extra_blocks=LastLevelP6P7(256, 256))

        def forward(self, value: Any) -> Any:
            return self.pyramid(OrderedDict(enumerate(self.body(value))))

    half = [0.5, 0.5, 0.5]
    return FCOS(Pyramid(), classes, min_size=size, max_size=size, image_mean=half, image_std=half)


def peer(path: Path, *, seconds: float, size: int, batch: int = 8, lr: float = 5e-4) -> None:
    import torch

    data, train, test = parts(path)
    torch.manual_seed(0)
    network = fcos(len(data.classes), size)
    larger, plain = Preprocessing(size=round(1.25 * size), fit="squash"), Preprocessing(size=size, fit="squash")
    images = {int(row): larger(data.inputs[row]) for row in train}
    shares = 1 / np.tile(data.targets.sizes[:, ::-1], 2)
    augmentation = Augmentation(flip=0.5, crop=0.3)

    def sample(row: int, epoch: int) -> tuple[Any, dict[str, Any]]:
        view = augmentation.view(key=row, seed=0, view=epoch)
        with one_thread():
            pixels = render(images[row], view, size=size)
        boxes, labels, _ = data.targets.of(row)
        moved, seen = boxes_in(view, (boxes * shares[row]).astype(np.float32))
        sides = moved[:, 2:] - moved[:, :2]
        kept = seen & (sides.min(axis=1) * size > 1)
        truth = {"boxes": torch.from_numpy(moved[kept] * size), "labels": torch.from_numpy(labels[kept])}
        return torch.from_numpy(np.array(pixels)).permute(2, 0, 1).float() / 255, truth

    def loss_of(rows: list[int], epoch: int) -> Any:
        pixels, truth = zip(*(sample(row, epoch) for row in rows), strict=True)
        return sum(network(list(pixels), list(truth)).values())

    spent = one_cycle(network, train, loss_of, seconds=seconds, batch=batch, lr=lr, clip=10.0)
    found = []
    with torch.inference_mode():
        for row in test.tolist():
            given = torch.from_numpy(plain(data.inputs[row])).permute(2, 0, 1).float() / 255
            (said,) = network([given])
            found.append((said["boxes"].numpy() / size / shares[row], said["scores"].numpy(), said["labels"].numpy()))
    result = DetectionEvaluation(Detections.joined(found), data.targets.take(test), 0.3).summary()
    print(f"{path.name}: FCOS for {spent}: {result}")


def body() -> Any:
    """The stages of EfficientNet-Lite0 at strides 8, 16 and 32 in PyTorch, with the weights of the pre-training."""
    import timm

    found = timm.create_model("tf_efficientnet_lite0", features_only=True, out_indices=(2, 3, 4), pretrained=False)
    weights, own = torch_network(load_backbone("lite0", cache=cache_folder(None))).model.state_dict(), found.state_dict()
    assert not set(own) - set(weights)
    found.load_state_dict({name: weights[name] for name in own})
    return found


class PlainViews:
    """Each image as it is and in random crops, decoded anew for each, as a data set for a DataLoader."""

    def __init__(self, images: Sequence[Path], *, views: int, size: int) -> None:
        import torch
        from torchvision.transforms import v2

        half, square = [0.5, 0.5, 0.5], {"size": (size, size), "antialias": True}
        last = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(half, half)]
        crop = v2.RandomResizedCrop(scale=(0.3, 1.0), interpolation=v2.InterpolationMode.BICUBIC, **square)
        self.plain = v2.Compose([v2.Resize(interpolation=v2.InterpolationMode.BICUBIC, **square), *last])
        self.random = v2.Compose([crop, v2.RandomHorizontalFlip(), *last])
        self.images, self.views = images, views

    def __len__(self) -> int:
        return len(self.images) * self.views

    def __getitem__(self, index: int) -> Any:
        with Image.open(self.images[index // self.views]) as image:
            return (self.random if index % self.views else self.plain)(image.convert("RGB"))


def views(path: Path, *, count: int, size: int) -> None:
    """Stored maps of several views, and the same by a plain script."""
    import torch
    from torch.utils.data import DataLoader

    data, train, _ = parts(path)
    data = replace(data, inputs=tuple(data.inputs[row] for row in train), targets=data.targets.take(train), parts=np.full(len(train), ""),
                   groups=None)  # fmt: skip
    task = Detection()
    settings = task.settings(FitSettings(backbone=f"lite0@{size}", fine_tuning=FineTuning(strategy="probe", views=count), cache=None))
    began, cpu = time.perf_counter(), time.process_time()
    _, table = extract(data, settings, Listener(), maps=task.maps(settings, data))
    ours, ours_cpu = time.perf_counter() - began, time.process_time() - cpu
    assert table.maps is not None
    print(f"{path.name}: {len(train)} images in {count} views at {size} px: {ours:.1f} s, {ours_cpu:.0f} s of CPU", flush=True)
    network = body().eval()
    began, cpu = time.perf_counter(), resource_seconds()
    loader = DataLoader(PlainViews(data.inputs, views=count, size=size), batch_size=16, num_workers=available_cores())
    with torch.inference_mode():
        stored = [torch.cat([one.flatten(1) for one in network(batch)], dim=1).half() for batch in loader]
    plain, plain_cpu = time.perf_counter() - began, resource_seconds() - cpu
    assert len(torch.cat(stored)) == len(train) * count
    print(f"plain PyTorch: {plain:.1f} s, {plain_cpu:.0f} s of CPU: {plain / ours:.1f} times as long, {plain_cpu / ours_cpu:.1f} of CPU")


def resource_seconds() -> float:
    """Seconds of processors that this process and its ended children have used."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def photo(run: Path, *, megapixels: float, times: int = 20) -> None:
    """One large photograph, warm: the whole, and decoding alone."""
    import headstart
    from headstart.modalities.image import read_image

    opened = headstart.load(run)
    height = int(math.sqrt(megapixels * 1e6 * 3 / 4))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "photo.jpg"
        small = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
        Image.fromarray(small).resize((height * 4 // 3, height), Image.Resampling.BICUBIC).save(file, quality=90)
        whole, decoding = [], []
        for _ in range(times):
            began = time.perf_counter()
            opened.predict([file])
            whole.append(time.perf_counter() - began)
            began = time.perf_counter()
            read_image(file, at_least=opened.preprocessing.size)
            decoding.append(time.perf_counter() - began)
    print(
        f"a photograph of {megapixels:g} megapixels: {1000 * np.median(whole):.0f} ms, of which decoding at reduced size "
        f"{1000 * np.median(decoding):.0f} ms"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("fit", "peer", "views", "photo"))
    parser.add_argument("paths", nargs="*", type=Path, help="names of sets of the measurement data, folders, or a run")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--megapixels", type=float, default=12.0)
    options, further = parser.parse_known_args()
    sets = [path if path.exists() else DATA / path for path in options.paths] or [DATA / name for name in SETS]
    if options.what == "photo":
        photo(sets[0], megapixels=options.megapixels)
        return
    for path in sets:
        if options.what == "fit":
            fit(path, further)
        elif options.what == "views":
            views(path, count=options.views, size=options.size)
        else:
            peer(path, seconds=options.seconds, size=options.size)


if __name__ == "__main__":
    main()
