"""How fast are features extracted, against PyTorch, against the processor's limit, and against the engine alone?

    python benchmarks/extraction.py [FOLDER of images] [--backbone NAME]        (needs headstart[torch] for the PyTorch rows)

Prints, from one run on one machine, the rows in turn so that drift hits all alike, each the median of several rounds:
  torch eager NCHW     batches of 32 ready tensors through timm's network, pooled outputs of all stages, as most scripts do it
  engine               ready arrays through Headstart's engine
  limit                floating-point operations of the network over the machine's own float32 matrix-product rate
  end to end           from files to features in the store, cold: decoding, digest, network, SQLite
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from headstart.backbones import Backbone, load_backbone
from headstart.features import BackboneExtractor, FeatureStore
from headstart.files import cache_folder
from headstart.modalities.image import Preprocessing
from measurement_data import DATA


def rate(work: Callable[[], int]) -> float:
    begun = time.perf_counter()
    count = work()
    return count / (time.perf_counter() - begun)


def matrix_product_rate(size: int = 3000) -> float:
    """GFLOP/s of NumPy's float32 matrix product."""
    a = np.random.default_rng(0).random((size, size), dtype=np.float32)
    begun = time.perf_counter()
    a @ a
    return 2 * size**3 / (time.perf_counter() - begun) / 1e9


def torch_network(backbone: Backbone) -> Callable[[np.ndarray], np.ndarray]:
    """timm's own network with the same weights: eager, NCHW, float32; the pooled output of every stage."""
    import timm
    import torch

    from headstart.backbones.weight_files import read_tensors
    from headstart.backbones.weights import embedded_weights

    network = timm.create_model(backbone.name, pretrained=False).eval()
    values = list(read_tensors(embedded_weights(backbone.record)).values())
    names = [name for name in network.state_dict() if not name.endswith("num_batches_tracked")]
    values = [value for value in values if value.ndim or value.dtype.kind == "f"]
    network.load_state_dict({name: torch.from_numpy(value.copy()) for name, value in zip(names, values, strict=True)}, strict=False)
    mean = torch.tensor(backbone.record.mean).reshape(1, 3, 1, 1)
    std = torch.tensor(backbone.record.std).reshape(1, 3, 1, 1)

    def run(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            value = (torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().float() / 255 - mean) / std
            value = network.bn1(network.conv_stem(value))
            pooled = []
            for stage in network.blocks:
                value = stage(value)
                pooled.append(value.mean((2, 3)))
            pooled.append(network.bn2(network.conv_head(value)).mean((2, 3)))
            return torch.cat(pooled, 1).numpy()

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=DATA / "cats_dogs" / "train")
    parser.add_argument("--backbone", default="efficientnet_lite0")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--gflops", type=float, default=0.77, help="of the network for one image, a multiply-add as two")
    options = parser.parse_args()
    files = sorted(path for path in options.folder.rglob("*") if path.is_file())[:600]
    backbone = load_backbone(options.backbone, cache=cache_folder())
    preprocessing: Preprocessing = backbone.preprocessing
    extractor = BackboneExtractor(backbone)
    arrays = [preprocessing(path) for path in files[:256]]
    engine = extractor.engine
    list(engine.run(arrays[:16]))

    def engine_alone() -> int:
        return sum(1 for _ in engine.run(arrays))

    def end_to_end() -> int:
        with tempfile.TemporaryDirectory() as folder, FeatureStore(Path(folder) / "features.sqlite") as store:
            return extractor(files, store=store).computed

    eager = torch_network(backbone) if importlib.util.find_spec("timm") else None

    def torch_eager() -> int:
        assert eager is not None
        batch = np.stack(arrays[:32])
        for _ in range(2):
            eager(batch)
        return 64

    found: dict[str, list[float]] = {"engine": [], "end to end": [], "torch eager NCHW": [], "limit": []}
    for _ in range(options.rounds):
        found["limit"].append(matrix_product_rate() / (backbone.record.gflops or options.gflops))
        found["engine"].append(rate(engine_alone))
        found["end to end"].append(rate(end_to_end))
        if eager is not None:
            found["torch eager NCHW"].append(rate(torch_eager))
    middle = {name: statistics.median(values) for name, values in found.items() if values}
    for name, value in middle.items():
        print(f"{name:<18} {value:8.1f} images/s   ({min(found[name]):.1f} to {max(found[name]):.1f})")
    print(f"engine / limit             {middle['engine'] / middle['limit']:.2f}   (goal: 0.6)")
    print(f"end to end / engine        {middle['end to end'] / middle['engine']:.2f}   (goal: 0.75)")
    if eager is not None:
        print(f"engine / torch eager NCHW  {middle['engine'] / middle['torch eager NCHW']:.1f}   (goal: 8)")
        ours = np.stack([row for (row,) in engine.run(arrays[:32])])
        theirs = eager(np.stack(arrays[:32]))
        print(f"largest difference / largest value  {np.abs(ours - theirs).max() / np.abs(theirs).max():.1e}   (goal: 1e-3)")


if __name__ == "__main__":
    main()
