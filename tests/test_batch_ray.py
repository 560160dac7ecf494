"""The same table from a Ray cluster: two nodes on this machine, in a process of their own."""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from conftest import draw
from headstart.batch import BatchSettings, on_ray, predict_folder
from headstart.errors import MissingExtraError, ParameterError

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install 'headstart[ray]'")

CLUSTER = """
import json, os, sys
from pathlib import Path
from ray.cluster_utils import Cluster
from headstart.batch import BatchSettings, on_ray, predict_folder
from headstart.errors import HeadstartError
from headstart.progress import Listener
run, images, out = sys.argv[1:]
class Said(Listener):
    lines = []
    def say(self, message):
        self.lines.append(message)
small = dict(num_cpus=1, object_store_memory=80 << 20)
cluster = Cluster(initialize_head=True, head_node_args=dict(small, include_dashboard=False))
cluster.add_node(**small)
settings = BatchSettings(part=8, top=2, resume=True)
os.chdir(Path(images).parent)
sources = [Path(images).name]
try:
    result = predict_folder(run, sources, out=out, settings=settings, compute=on_ray(cluster.address, sources, listener=Said()))
    try:
        compute = on_ray(cluster.address, ["gone"])
        predict_folder(run, sources, out=out.replace(".", "-2."), settings=settings, compute=compute)
        unseen = ""
    except HeadstartError as error:
        unseen = str(error)
finally:
    cluster.shutdown()
print(json.dumps({"computed": result.computed, "said": Said.lines, "unseen": unseen}))
"""


@pytest.mark.slow
@needs_ray
def test_two_nodes_make_the_table_that_one_process_makes(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for index in range(29):
        Image.fromarray(draw(index % 3, index)).save(images / f"{index}.png")
    (images / "broken.png").write_bytes(b"no image")
    monkeypatch.chdir(tmp_path)
    with pytest.warns(RuntimeWarning, match="1 of 30 images cannot be read and have a row with the reason:\n  images/broken.png"):
        whole = predict_folder(run, ["images"], out=tmp_path / "whole.parquet", settings=BatchSettings(part=8, top=2))
    done = subprocess.run(
        [sys.executable, "-c", CLUSTER, str(run), str(images), str(tmp_path / "t.parquet")],
        env=os.environ | {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)},
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["computed"] == 30
    assert said["said"] == ["Ray: 2 workers with 1 cores each on 2 nodes."]
    assert "gone is not there. Every node must see the images under the same path" in said["unseen"]
    assert (tmp_path / "t.parquet").read_bytes() == whole.out.read_bytes()


def test_without_ray(run: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'headstart\[ray\]'"):
        predict_folder(run, [pictures], out=tmp_path / "t.csv", compute=on_ray("local", [pictures]))


@pytest.mark.parametrize("address", ["192.0.2.1:6379", "[2001:db8::1]:6379", "0.0.0.0:6379", "no.such.host.invalid:1"])
def test_a_cluster_that_is_open_to_its_network_is_refused(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    with pytest.raises(ParameterError, match=r"is open to its network.*RAY_AUTH_MODE=token"):
        on_ray(address, [])
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    on_ray(address, [])


@pytest.mark.parametrize("address", ["127.0.0.1:6379", "[::1]:6379", "localhost:6379"])
def test_one_on_this_machine_alone_is_not(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    assert callable(on_ray(address, []))
