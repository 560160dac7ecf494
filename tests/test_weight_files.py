"""The strict weight reader: right on files made byte by byte and by PyTorch, and a refusal on everything else."""

from __future__ import annotations

import math
import os
import pickle
import struct
import time
import tracemalloc
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headstart.backbones.records import catalogue
from headstart.backbones.weight_files import read_tensors
from headstart.backbones.weights import embedded_weights
from headstart.errors import BackboneError

KINDS = {
    "<f4": "FloatStorage",
    "<f8": "DoubleStorage",
    "<f2": "HalfStorage",
    "<i8": "LongStorage",
    "|u1": "ByteStorage",
    "|b1": "BoolStorage",
}
MAGIC = 0x1950A86A20F9469CFC6C
ORDERED_DICT = b"ccollections\nOrderedDict\n)R"


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def integer(value: int) -> bytes:
    return b"J" + struct.pack("<i", value) if -(2**31) <= value < 2**31 else b"\x8a\x09" + value.to_bytes(9, "little", signed=True)


def numbers(values: Any) -> bytes:
    return b"(" + b"".join(integer(value) for value in values) + b"t"


def tensor(key: str, count: int, shape: Any, strides: Any, *, offset: int = 0, kind: str = "FloatStorage", legacy: bool = False) -> bytes:
    storage = (
        b"(" + text("storage") + f"ctorch\n{kind}\n".encode() + text(key) + text("cpu") + integer(count) + (b"N" if legacy else b"") + b"tQ"
    )
    call = b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + integer(offset) + numbers(shape) + numbers(strides)
    return call + b"\x89" + ORDERED_DICT + b"tR"


def program(entries: dict[str, bytes]) -> bytes:
    return b"\x80\x02" + ORDERED_DICT + b"(" + b"".join(text(name) + value for name, value in entries.items()) + b"u."


def zipped(
    path: Path, data: bytes, storages: dict[str, bytes], *, compression: int = zipfile.ZIP_STORED, more: dict[str, bytes] | None = None
) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", data)
        for key, raw in storages.items():
            archive.writestr(f"archive/data/{key}", raw)
        for name, raw in (more or {}).items():
            archive.writestr(name, raw)
    return path


def streamed(path: Path, data: bytes, storages: dict[str, tuple[int, bytes]]) -> Path:
    head = pickle.dumps(MAGIC, 2) + pickle.dumps(1001, 2) + pickle.dumps({"little_endian": True}, 2)
    tail = b"".join(struct.pack("<q", count) + raw for count, raw in storages.values())
    path.write_bytes(head + data + pickle.dumps(list(storages), 2) + tail)
    return path


ROW = np.arange(6, dtype="<f4")
ENTRIES = {
    "a.weight": lambda legacy: tensor("0", 6, (2, 3), (3, 1), legacy=legacy),
    "a.transposed": lambda legacy: tensor("0", 6, (3, 2), (1, 3), legacy=legacy),
    "a.tail": lambda legacy: tensor("0", 6, (2,), (2,), offset=3, legacy=legacy),
    "a.count": lambda legacy: tensor("1", 1, (), (), kind="LongStorage", legacy=legacy),
    "a.empty": lambda legacy: tensor("0", 6, (0, 4), (4, 1), legacy=legacy),
}
EXPECTED = {
    "a.weight": ROW.reshape(2, 3),
    "a.transposed": ROW.reshape(2, 3).T,
    "a.tail": ROW[[3, 5]],
    "a.count": np.array(7, "<i8"),
    "a.empty": np.empty((0, 4), "<f4"),
}


def golden(folder: Path, form: str) -> Path:
    data = program({name: entry(form == "stream") for name, entry in ENTRIES.items()})
    one = np.array([7], "<i8").tobytes()
    if form == "zip":
        return zipped(
            folder / "golden.pth", data, {"0": ROW.tobytes(), "1": one}, more={"archive/byteorder": b"little", "archive/version": b"3\n"}
        )
    return streamed(folder / "golden.pth", data, {"0": (6, ROW.tobytes()), "1": (1, one)})


@pytest.mark.parametrize("form", ["zip", "stream"])
def test_reads_a_file_made_byte_by_byte(tmp_path: Path, form: str) -> None:
    found = read_tensors(golden(tmp_path, form))
    assert list(found) == list(EXPECTED)
    for name, value in EXPECTED.items():
        np.testing.assert_array_equal(found[name], value)
        assert found[name].dtype == value.dtype
        assert found[name].shape == value.shape
        assert found[name].flags.c_contiguous


@pytest.mark.parametrize("dtype", KINDS)
def test_reads_every_kind_of_number(tmp_path: Path, dtype: str) -> None:
    values = np.array([0, 1, 1, 0], dtype)
    found = read_tensors(zipped(tmp_path / "x.pth", program({"x": tensor("0", 4, (4,), (1,), kind=KINDS[dtype])}), {"0": values.tobytes()}))
    assert found["x"].dtype == values.dtype
    np.testing.assert_array_equal(found["x"], values)


def test_nested_dictionaries_give_dotted_names(tmp_path: Path) -> None:
    inner = b"}(" + text("w") + tensor("0", 2, (2,), (1,)) + b"u"
    data = b"\x80\x02}(" + text("epoch") + integer(3) + text("state_dict") + inner + text("notes") + b"](" + text("a") + b"e" + b"u."
    assert list(read_tensors(zipped(tmp_path / "x.pth", data, {"0": bytes(8)}))) == ["state_dict.w"]


def test_safetensors_by_name_or_by_content(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    values = {"b": np.arange(3, dtype=np.float32), "a": np.array([[1, 2]], dtype=np.int64)}
    for name in ("weights.safetensors", "weights.bin"):
        save_file(values, tmp_path / name)
        found = read_tensors(tmp_path / name)
        assert {name: value.tolist() for name, value in found.items()} == {"a": [[1, 2]], "b": [0, 1, 2]}


# What must be refused --------------------------------------------------------------------------------------------------------------


class Runs:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def refusal(path: Path) -> str:
    with pytest.raises(BackboneError) as caught:
        read_tensors(path)
    message = str(caught.value)
    assert str(path) in message
    assert len(message) < 1000
    return message


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize(
    "call",
    [
        Runs(os.system, "touch {marker}"),
        Runs(eval, "open('{marker}', 'w')"),
        Runs(exec, "open('{marker}', 'w')"),
        Runs(open, "{marker}", "w"),
        Runs(getattr, "x", "upper"),
        Runs(Runs, Runs(os.mkdir, "{marker}")),
        {"state_dict": OrderedDict(w=Runs(os.mkdir, "{marker}"))},
    ],
    ids=["system", "eval", "exec", "open", "getattr", "nested", "deep inside"],
)
def test_programs_that_call_something_are_refused_and_not_run(tmp_path: Path, call: Any, protocol: int) -> None:
    marker = tmp_path / "was-here"
    data = pickle.dumps(call, protocol)
    for form in ("zip", "stream"):
        path = tmp_path / f"{form}.pth"
        refusal(zipped(path, data, {}) if form == "zip" else streamed(path, data, {}))
    (tmp_path / "bare.pth").write_bytes(data)
    refusal(tmp_path / "bare.pth")
    assert not marker.exists()


def test_the_refusal_says_what_was_asked_for_and_what_to_do(tmp_path: Path) -> None:
    message = refusal(zipped(tmp_path / "x.pth", pickle.dumps(Runs(os.system, "true"), 2), {}))
    assert f"{os.system.__module__}.system, which is not part of a tensor (at byte" in message
    assert "nothing in it was executed" in message
    assert "safetensors.torch.save_file" in message


STACK_GLOBAL = b"\x80\x04" + text("os") + text("system") + b"\x93" + text("true") + b"\x85R."
HUGE = 1 << 60
BAD_PROGRAMS = {
    "names by way of the stack": (STACK_GLOBAL, "names os.system"),
    "names made of containers": (b"\x80\x04)" + text("system") + b"\x93.", "names something"),
    "an instance": (b"(ios\nsystem\n.", "uses the instruction INST"),
    "an object": (b"(cos\nsystem\no.", "names os.system"),
    "a new object": (b"\x80\x02ccollections\nOrderedDict\n)\x81.", "uses the instruction NEWOBJ"),
    "an extension": (b"\x80\x02\x82\x01.", "uses the instruction EXT1"),
    "a buffer": (b"\x80\x05\x97.", "uses the instruction NEXT_BUFFER"),
    "a text reference": (b"Pabc\n.", "uses the instruction PERSID"),
    "a call of a word": (b"\x80\x02" + text("x") + b")R.", "calls something that is not a name"),
    "a call of a storage": (b"\x80\x02ctorch\nFloatStorage\n)R.", "calls torch.FloatStorage"),
    "a filled dictionary": (b"\x80\x02ccollections\nOrderedDict\n]\x85R.", "fills a dictionary in an unknown way"),
    "no storage": (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(K\x00K\x00))tR.", "not a storage"),
    "a reference to nothing": (b"\x80\x02)Q.", "refers to something"),
    "a reference to a made-up type": (b"\x80\x02(" + text("storage") + ORDERED_DICT + text("0") + text("cpu") + b"K\x01tQ.", "unknown way"),
    "a tuple as a key": (b"\x80\x02}()K\x01u.", "as a key"),
    "items into a number": (b"\x80\x02K\x01(K\x01K\x01u.", "not a dictionary"),
    "items onto a number": (b"\x80\x02K\x01K\x01a.", "not a list"),
    "attributes of a number": (b"\x80\x02K\x01}b.", "not a dictionary"),
    "an endless number": (b"\x80\x02\x8b" + struct.pack("<I", 5000) + b"\x01" * 5000 + b".", "integer beyond all sizes"),
    "nothing": (b"", "cannot be parsed"),
    "an empty stack": (b"\x80\x02.", "ends before it is complete"),
    "two results": (b"\x80\x02K\x01K\x01.", "ends before it is complete"),
    "no tensors": (b"\x80\x02}.", "holds no tensors"),
    "more than it holds": (program({"x": tensor("0", HUGE, (HUGE,), (1,))}), "announces more numbers than it holds"),
    "a shape beyond its storage": (program({"x": tensor("0", 4, (HUGE,), (0,))}), "over and over"),
    "an offset beyond its storage": (program({"x": tensor("0", 4, (2,), (1,), offset=3)}), "reaches outside"),
    "a stride beyond its storage": (program({"x": tensor("0", 4, (2,), (4,))}), "reaches outside"),
    "a repeated number": (program({"x": tensor("0", 4, (5,), (0,))}), "reaches outside"),
    "a negative size": (program({"x": tensor("0", 4, (-2,), (1,))}), "impossible shape"),
    "a negative stride": (program({"x": tensor("0", 4, (2,), (-1,))}), "impossible shape"),
    "more strides than sizes": (program({"x": tensor("0", 4, (2,), (1, 1))}), "impossible shape"),
    "many dimensions": (program({"x": tensor("0", 4, (1,) * 40, (1,) * 40)}), "impossible shape"),
    "a storage of two sizes": (program({"x": tensor("0", 4, (4,), (1,)), "y": tensor("0", 3, (3,), (1,))}), "in two ways"),
    "a missing storage": (program({"x": tensor("9", 4, (4,), (1,))}), "in two ways"),
    "another size than told": (program({"x": tensor("0", 3, (3,), (1,))}), "in two ways"),
}


@pytest.mark.parametrize("name", BAD_PROGRAMS)
def test_bad_programs_are_refused_with_the_reason(tmp_path: Path, name: str) -> None:
    data, reason = BAD_PROGRAMS[name]
    assert reason in refusal(zipped(tmp_path / "x.pth", data, {"0": bytes(16)}))


def test_programs_that_would_grow_without_end_are_refused_at_once(tmp_path: Path) -> None:
    twice = tensor("0", 4, (4,), (1,))
    for memo in range(60):  # {"a": x, "b": x}, where x is the same one level further down
        twice = b"}(" + text("a") + twice + b"q" + bytes([memo]) + text("b") + b"h" + bytes([memo]) + b"u"
    itself = b"\x80\x02}q\x00(" + text("a") + b"h\x00u."
    again = program({str(number): tensor("0", 25_000, (25_000,), (1,)) for number in range(2_000)})
    pairs = b"\x80\x02)" + b"".join(b"q" + bytes([memo]) + b"h" + bytes([memo]) + b"\x86" for memo in range(60))  # ((x, x), (x, x)) ...
    tracemalloc.start()
    started = time.perf_counter()
    assert "without end" in refusal(zipped(tmp_path / "twice.pth", b"\x80\x02" + twice + b".", {"0": bytes(16)}))
    assert "without end" in refusal(zipped(tmp_path / "itself.pth", itself, {}))
    assert "over and over" in refusal(zipped(tmp_path / "again.pth", again, {"0": bytes(100_000)}))
    refusal(zipped(tmp_path / "pairs.pth", pairs + b".", {}))
    refusal(zipped(tmp_path / "key.pth", b"\x80\x02}" + pairs[2:] + b"K\x01s.", {}))
    refusal(zipped(tmp_path / "name.pth", pairs + text("x") + b"\x93.", {}))
    elapsed, peak = time.perf_counter() - started, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert elapsed < 20
    assert peak < 100 << 20


def test_archives_that_pytorch_would_not_write_are_refused(tmp_path: Path) -> None:
    data = program({"x": tensor("0", 4, (4,), (1,))})
    storages = {"0": bytes(16)}
    assert "compressed" in refusal(zipped(tmp_path / "a.pth", data, storages, compression=zipfile.ZIP_DEFLATED))
    assert "big-endian" in refusal(zipped(tmp_path / "b.pth", data, storages, more={"archive/byteorder": b"big"}))
    assert "not one that PyTorch wrote" in refusal(zipped(tmp_path / "c.pth", data, storages, more={"other/data.pkl": data}))
    with zipfile.ZipFile(tmp_path / "d.pth", "w") as archive:
        archive.writestr("readme.txt", "x")
    assert "not one that PyTorch wrote" in refusal(tmp_path / "d.pth")


def test_streams_that_contradict_themselves_are_refused(tmp_path: Path) -> None:
    data = program({"x": tensor("0", 4, (4,), (1,), legacy=True)})
    assert "in two ways" in refusal(streamed(tmp_path / "a.pth", data, {"0": (5, bytes(20))}))
    assert "in two ways" in refusal(streamed(tmp_path / "b.pth", data, {"1": (4, bytes(16))}))
    assert "cut off" in refusal(streamed(tmp_path / "c.pth", data, {"0": (4, bytes(15))}))
    (tmp_path / "d.pth").write_bytes(pickle.dumps(12, 2) + data)
    assert "not a file that PyTorch wrote" in refusal(tmp_path / "d.pth")


def test_files_that_are_not_there_or_are_no_weights(tmp_path: Path) -> None:
    assert "no such weight file. Give a .safetensors, .pth or .h5 file." in refusal(tmp_path / "nowhere.pth")
    assert "is a folder, and weights of a backbone are a file" in refusal(tmp_path).replace("\n", " ")
    for name, content in {
        "empty.pth": b"",
        "empty.safetensors": b"",
        "text.pth": b"hello",
        "page.safetensors": b"<html>not found</html>",
    }.items():
        (tmp_path / name).write_bytes(content)
        refusal(tmp_path / name)
    (tmp_path / "long.safetensors").write_bytes(struct.pack("<Q", HUGE) + b"{}")
    assert "not a readable safetensors file" in refusal(tmp_path / "long.safetensors")
    header = b'{"x":{"dtype":"F32","shape":[1152921504606846976],"data_offsets":[0,4611686018427387904]}}'
    (tmp_path / "claims.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(16))
    assert "not a readable safetensors file" in refusal(tmp_path / "claims.safetensors")


def test_files_beyond_all_sizes_are_not_even_opened(tmp_path: Path) -> None:
    path = tmp_path / "huge.pth"
    with path.open("wb") as stream:
        stream.truncate(9 << 30)  # takes no room on the disk
    assert "9 GiB is larger than any image backbone (limit 8 GiB)" in refusal(path)


@pytest.mark.parametrize("form", ["zip", "stream"])
def test_files_cut_anywhere_are_refused(tmp_path: Path, form: str) -> None:
    whole = golden(tmp_path, form).read_bytes()
    path = tmp_path / "cut.pth"
    for length in range(0, len(whole), 3):
        path.write_bytes(whole[:length])
        refusal(path)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    form=st.sampled_from(["zip", "stream"]), flips=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=6)
)
def test_damaged_files_are_read_or_refused_but_nothing_else(tmp_path: Path, form: str, flips: list[tuple[int, int]]) -> None:
    data = bytearray(golden(tmp_path, form).read_bytes())
    for place, value in flips:
        data[place % len(data)] = value
    path = tmp_path / "damaged.pth"
    path.write_bytes(data)
    try:
        found = read_tensors(path)
    except BackboneError:
        return
    assert all(isinstance(value, np.ndarray) and value.nbytes <= 4 * len(data) for value in found.values())


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=200))
def test_arbitrary_programs_are_refused(tmp_path: Path, data: bytes) -> None:
    path = zipped(tmp_path / "any.pth", b"\x80\x02" + data + b".", {"0": bytes(16)})
    with pytest.raises(BackboneError):
        read_tensors(path)


# Against PyTorch -------------------------------------------------------------------------------------------------------------------


def test_reads_the_embedded_weights() -> None:
    counts = [len(read_tensors(embedded_weights(record))) for record in catalogue() if record.embedded]
    assert counts == [296, 386, 386]  # 247, 322 and 322 without the counters


@pytest.mark.torch
@pytest.mark.parametrize("number", [0, 1, 2])
def test_same_as_pytorch_on_the_embedded_weights(number: int) -> None:
    torch = pytest.importorskip("torch")
    path = embedded_weights(catalogue()[number])
    expected = torch.load(path, weights_only=True)
    found = read_tensors(path)
    assert list(found) == list(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value.numpy())
        assert found[name].shape == tuple(value.shape)


@pytest.mark.torch
@pytest.mark.parametrize("zip_format", [True, False])
def test_same_as_pytorch_on_views_of_every_kind(tmp_path: Path, zip_format: bool) -> None:
    torch = pytest.importorskip("torch")
    base = torch.arange(24, dtype=torch.float32)
    shared = base.view(2, 3, 4)
    checkpoint = {
        "epoch": 3, "best": 0.5, "name": "resnet", "flags": [True, None, (1, 2)],
        "state_dict": OrderedDict(
            whole=shared, transposed=shared.permute(2, 0, 1), part=shared[1, :, 1:3], scalar=torch.tensor(5), half=base.half(),
            double=base.double(), byte=torch.arange(5, dtype=torch.uint8), flag=torch.tensor([True, False]), empty=torch.empty(0, 3),
            parameter=torch.nn.Parameter(base[::2]), channels_last=torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last),
        ),
    }  # fmt: skip
    path = tmp_path / "x.pth"
    torch.save(checkpoint, path, _use_new_zipfile_serialization=zip_format)
    expected = torch.load(path, weights_only=True)["state_dict"]
    found = read_tensors(path)
    assert list(found) == [f"state_dict.{name}" for name in expected]
    for name, value in expected.items():
        np.testing.assert_array_equal(found[f"state_dict.{name}"], value.detach().numpy())
        assert found[f"state_dict.{name}"].shape == tuple(value.shape)


@pytest.mark.torch
def test_whole_pytorch_modules_are_refused(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pth")
    assert "names torch.nn.modules.linear.Linear" in refusal(tmp_path / "module.pth")


def test_sizes_are_multiplied_without_overflow(tmp_path: Path) -> None:
    shape = (1 << 31, 1 << 31, 4)  # 2**64 elements: zero when counted in 64 bits
    assert math.prod(shape) % (1 << 64) == 0
    assert "over and over" in refusal(zipped(tmp_path / "x.pth", program({"x": tensor("0", 4, shape, (0, 0, 0))}), {"0": bytes(16)}))


def test_reading_keeps_no_hold_on_the_file(tmp_path: Path) -> None:
    path = golden(tmp_path, "zip")
    found = read_tensors(path)
    path.unlink()
    np.testing.assert_array_equal(found["a.weight"], ROW.reshape(2, 3))
