"""BatchNorm while fine-tuning: the statistics of the pre-training, or those of the batch?

    python benchmarks/batchnorm.py [--images 2000]        (needs headstart[torch])

The first images of each class of cifar10_12k, EfficientNet-Lite0 at 96 pixels, the last five stages, 3 epochs in batches of 32; tested on
the set's own 2,000 test images. Everything else is the same on both sides.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path

from measurement_data import DATA


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2000)
    arguments = parser.parse_args()
    from headstart import FineTuning, FitSettings, fit

    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        source = DATA / "cifar10_12k"
        shutil.copytree(source / "test", data / "test")
        for name in sorted((source / "train").iterdir()):
            (data / "train" / name.name).mkdir(parents=True)
            for image in sorted(name.iterdir())[: arguments.images // 10]:
                shutil.copy(image, data / "train" / name.name)
        for kind in ("inference", "train"):
            plan = FineTuning(strategy="partial", unfreeze=5, image_size=96, epochs=3, keep="last", batchnorm=kind)
            result = fit(data, settings=FitSettings(fine_tuning=plan, cache=Path(folder) / "cache"))
            print(f"batchnorm={kind:<9}  {result.test.summary()}")


if __name__ == "__main__":
    main()
