"""The stages of the catalogue's backbones, as an installation without PyTorch knows them."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from headstart.backbones import BackboneRecord, catalogue, find, timm_models
from headstart.backbones.summary import stage_table
from headstart.errors import MissingExtraError

VGG = {"vgg16.tv_in1k": 14_714_688, "vgg19.tv_in1k": 20_024_384}  # without the fully connected layers, as published by Keras


def on_the_command_line(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "headstart", "backbones", *words], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("record", catalogue(), ids=lambda record: record.name)
def test_the_stages_add_up_to_the_catalogue(record: BackboneRecord) -> None:
    """With the classifier of 1000 classes they are the network whose parameters and operations the catalogue has."""
    table = stage_table(record)
    assert table.dim == record.dim
    left = (record.parameters or 0) - table.parameters
    if record.name in VGG:
        assert table.parameters == VGG[record.name]
        assert table.flops + 2 * (49 * 512 * 4096 + 4096 * 4096 + 4096 * 1000) == pytest.approx(1e9 * (record.gflops or 0), abs=5e5)
    else:
        tops = {count * (table.dim + 1): count for count in (0, 512, 1000)}  # none, CLIP's projection, a classifier
        assert left in tops
        assert table.flops + 2 * tops[left] * table.dim == pytest.approx(1e9 * (record.gflops or 0), abs=5e5)  # three decimals
    stages = [name for name in table.names if name not in ("stem", "last")]
    assert stages == [f"stage{number}" for number in range(1, len(stages) + 1)]
    assert table.names == (*(["stem"] if "stem" in table.names else []), *stages, *(["last"] if "last" in table.names else []))
    assert all(stage.parameters > 0 and stage.flops >= 0 for stage in table.stages)


def test_known_stages_of_resnet() -> None:
    """He et al. 2016, table 1: a bottleneck of width w, on c channels, has c w + 9 w w + 4 w w weights."""

    def weights(blocks: int, width: int, entering: int) -> int:
        def block(channels: int) -> int:
            return channels * width + 9 * width**2 + 4 * width**2 + 2 * (width + width + 4 * width)

        return block(entering) + entering * 4 * width + 2 * 4 * width + (blocks - 1) * block(4 * width)

    table = {stage.name: stage.parameters for stage in stage_table(find("ResNet50")).stages}
    assert table == {
        "stem": 3 * 49 * 64 + 2 * 64, "stage1": weights(3, 64, 64), "stage2": weights(4, 128, 256),
        "stage3": weights(6, 256, 512), "stage4": weights(3, 512, 1024),
    }  # fmt: skip


def test_the_command_shows_them_without_pytorch() -> None:
    code = (
        "import sys; from headstart.cli import main\n"
        "try: main()\nfinally: print(*{'torch', 'timm', 'numpy'} & set(sys.modules), file=sys.stderr)"
    )
    words = ("backbones", "EfficientNetLite0", "--stages")
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    assert done.stderr.split() == []
    lines = done.stdout.splitlines()
    assert lines[0] == "tf_efficientnet_lite0"
    assert re.split(r"  +", lines[1]) == ["stage", "parameters", "share", "GFLOPs", "share"]
    rows = {line.split()[0]: re.split(r"  +", line)[1:] for line in lines[2:13]}
    assert list(rows) == ["stem", *(f"stage{number}" for number in range(1, 8)), "last", "all", "head"]
    assert rows["last"][:2] == ["412,160", "12.2 %"]
    assert rows["all"] == ["3,371,008", "100.0 %", "0.768", "100.0 %"]
    assert rows["head"] == ["1,281", "a class", "0.000", "a class"]
    for column in (1, 3):
        shares = [float(row[column].removesuffix(" %")) for name, row in rows.items() if name not in ("all", "head")]
        assert sum(shares) == pytest.approx(100, abs=0.05 * len(shares))
    assert lines[-1] == "  headstart fit DATA --backbone tf_efficientnet_lite0 --strategy partial --unfreeze stage7,last"


def test_stages_need_a_name() -> None:
    done = on_the_command_line("--stages")
    assert done.returncode == 2
    assert "--stages shows the stages of one backbone: give its NAME" in " ".join(done.stderr.split())


def test_other_networks_need_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm_models, "installed", lambda: False)
    other = BackboneRecord.from_dict(find("ResNet50").to_dict() | {"name": "resnet26.bt_in1k"})
    with pytest.raises(MissingExtraError, match=r"The stages of resnet26\.bt_in1k needs an optional part .* 'headstart\[torch\]'"):
        stage_table(other)
