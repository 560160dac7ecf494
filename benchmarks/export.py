"""Does an exported file say what the run says, and how much faster is int8?

    python benchmarks/export.py RUN [RUN ...] [--images 300] [--data FOLDER]
    python benchmarks/export.py --network resnet50 [--rounds 5]

For each run: ONNX in each engine that is installed, OpenVINO and int8, each against the run on the same decoded test images.
Goals: ONNX and OpenVINO give the same label for all images and probabilities within 1e-3; int8 gives the same label for 98 % and
passes its accuracy gate.
For a network (random weights: for speed they do not matter; needs the extras torch and int8): images a second of the network alone in
float32 and in int8, in turn, one image a request, as a run is computed. Goal: int8 is 2.5 times as fast.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx

from headstart import load
from headstart.backbones import load_backbone
from headstart.engine import open_engine
from headstart.export import ExportError, export
from headstart.export.formats import openvino_model, write_openvino
from headstart.export.int8 import quantised
from headstart.files import cache_folder
from headstart.modalities.image import Preprocessing
from measurement_data import DATA


def compare(path: Path, options: argparse.Namespace) -> None:
    """Export one run in all formats, and say how each differs."""
    run = load(path)
    with tempfile.TemporaryDirectory() as folder:
        for form, suffix in (("onnx", ".onnx"), ("openvino", ".xml"), ("int8", ".xml")):
            begun = time.perf_counter()
            try:
                done = export(run, Path(folder) / f"{form}{suffix}", form=form, images=options.images, data=options.data)
            except ExportError as error:
                print(f"{path} {form}: REFUSED: {error}", flush=True)
                continue
            seconds, size = time.perf_counter() - begun, sum(file.stat().st_size for file in done.files) / 1e6
            for one in done.parities:
                print(
                    f"{path} {form:<8} {one.engine:<11} {one.images} images: same label {one.same:.1%}, probabilities within "
                    f"{one.difference:.1e} (median {one.median:.1e}; {one.against_default:.1e} from the run in {one.default_engine}; "
                    f"{one.from_files:.1e} from the run on the files), novelty score {one.novelty}; {size:.1f} MB, {seconds:.0f} s",
                    flush=True,
                )
            for gate in done.gates:
                print(f"  {gate.summary()}", flush=True)


def speed(name: str, options: argparse.Namespace) -> None:
    """Float32 against int8, the network alone."""
    backbone = load_backbone(name, weights="random", cache=options.cache)
    size = backbone.record.input_size
    paths = sorted((DATA / "cats_dogs" / "train").rglob("*.jpg"))[:: max(1, 600 // options.speed_images)][: options.speed_images]
    images = [Preprocessing(size)(path) for path in paths]
    with tempfile.TemporaryDirectory() as folder:
        model = openvino_model(onnx.load(backbone.network))
        begun = time.perf_counter()
        file = Path(folder) / "int8.xml"
        write_openvino(quantised(model, images[:32]), file)
        print(f"{name} at {size} px: quantised in {time.perf_counter() - begun:.0f} s", flush=True)
        engines = {"float32": backbone.network, "int8": file}
        opened = {kind: open_engine(path, kind="openvino", outputs=("features",), size=size) for kind, path in engines.items()}
        rates: dict[str, list[float]] = {kind: [] for kind in opened}
        for turn in range(options.rounds + 1):
            for kind, engine in opened.items():
                begun = time.perf_counter()
                count = sum(1 for _ in engine.run(iter(images)))
                if turn:
                    rates[kind].append(count / (time.perf_counter() - begun))
        ratios = np.divide(rates["int8"], rates["float32"])
        for kind, values in rates.items():
            print(f"  {kind}: {statistics.median(values):.1f} images/s [{min(values):.1f} to {max(values):.1f}]")
        print(f"  int8 over float32: {np.median(ratios):.2f} [{ratios.min():.2f} to {ratios.max():.2f}] (goal 2.5)", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="*")
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--network")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--speed-images", type=int, default=60)
    parser.add_argument("--cache", type=Path, default=cache_folder(None))
    options = parser.parse_args()
    for path in options.runs:
        compare(path, options)
    if options.network:
        speed(options.network, options)


if __name__ == "__main__":
    main()
