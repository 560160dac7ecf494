"""Checkpoints and stored activations on disk: whole or not at all, checked when read, and accidents said in words."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from headstart.errors import DataError, RunError

pytest.importorskip("timm", reason="needs headstart[torch]")

import torch

from headstart.backbones.stages import Layout
from headstart.modalities.image import Preprocessing
from headstart.modalities.image.augment import NONE, Augmentation, Mixing
from headstart.settings import FineTuning
from headstart.training import inputs
from headstart.training.checkpoint import FILE, PLAN, Checkpoint, CheckpointFolder, State, from_checkpoint, to_checkpoint
from headstart.training.history import Epoch, History
from headstart.training.inputs import Pixels, StoredInputs, affordable_views
from headstart.training.job import TrainingJob


def checkpoint(value: float = 1.0) -> Checkpoint:
    tensors = {"weights/a": torch.full((2, 3), value), "kept/half": torch.ones(2, dtype=torch.float16), "n": torch.tensor(7)}
    return Checkpoint(tensors, {"state": {"step": 3, "loss": 0.1, "best_loss": "inf"}, "epoch": 1})


@pytest.fixture
def folder(tmp_path: Path) -> CheckpointFolder:
    begun = CheckpointFolder.beside(tmp_path / "run")
    begun.begin({"seed": 1, "plan": {"lr": 0.1}})
    return begun


def failing(code: int) -> Callable[..., Any]:
    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(code, os.strerror(code))

    return fail


# Checkpoints ----------------------------------------------------------------------------------------------------------------------------


def test_what_was_saved_comes_back(folder: CheckpointFolder) -> None:
    assert folder.path.name == "run.training"
    assert folder.plan() == {"seed": 1, "plan": {"lr": 0.1}}
    assert folder.load() is None
    for value in (1.0, 2.0):
        given = checkpoint(value)
        folder.save(given)
        found = folder.load()
        assert found is not None
        assert found.state == given.state
        assert found.tensors.keys() == given.tensors.keys()
        for name, tensor in given.tensors.items():
            assert torch.equal(found.tensors[name], tensor)
            assert found.tensors[name].dtype == tensor.dtype
    assert sorted(path.name for path in folder.path.iterdir()) == [FILE, PLAN]


def test_beginning_anew_removes_what_an_earlier_training_left(folder: CheckpointFolder) -> None:
    folder.save(checkpoint())
    folder.activations.mkdir()
    (folder.activations / "view0.npy").write_bytes(b"old")
    folder.begin({"seed": 2})
    assert [path.name for path in folder.path.iterdir()] == [PLAN]
    folder.remove()
    assert not folder.path.exists()
    folder.remove()


@pytest.mark.parametrize("where", ["write", "fsync", "replace"])
def test_an_accident_while_writing_leaves_the_earlier_checkpoint(
    folder: CheckpointFolder, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    folder.save(checkpoint(1.0))
    with monkeypatch.context() as patch:
        if where == "write":
            usual = Path.open

            def opened(self: Path, mode: str = "r", **how: Any) -> Any:
                stream = usual(self, mode, **how)
                if "w" not in mode:
                    return stream
                stream.write(b"half")
                stream.close()
                raise OSError(errno.ENOSPC, "No space left on device")

            patch.setattr(Path, "open", opened)
        else:
            patch.setattr(*((os, "fsync") if where == "fsync" else (Path, "replace")), failing(errno.ENOSPC))
        with pytest.raises(RunError, match=r"cannot be saved in .*run\.training: the disk is full\. Free some space.*--resume .*run\.$"):
            folder.save(checkpoint(2.0))
    found = folder.load()
    assert found is not None
    assert float(found.tensors["weights/a"].mean()) == 1.0
    assert sorted(path.name for path in folder.path.iterdir()) == [FILE, PLAN]


def test_other_accidents_name_another_way(folder: CheckpointFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", failing(errno.EROFS))
    with pytest.raises(RunError, match=r"Read-only file system\. Choose another --out"):
        folder.save(checkpoint())
    with pytest.raises(RunError, match=r"Read-only file system\. Choose another --out"):
        folder.begin({})


def test_a_folder_that_was_removed_under_way(folder: CheckpointFolder) -> None:
    folder.remove()
    with pytest.raises(RunError, match=r"cannot be saved in .*No such file"):
        folder.save(checkpoint())


@pytest.mark.parametrize("damage", ["bit", "short", "longer", "empty", "tiny"])
def test_a_damaged_file_is_refused(folder: CheckpointFolder, damage: str) -> None:
    folder.save(checkpoint())
    path = folder.path / FILE
    whole = bytearray(path.read_bytes())
    if damage == "bit":
        whole[len(whole) // 2] ^= 1
    data = {"bit": whole, "short": whole[:-1], "longer": whole + b"0", "empty": b"", "tiny": b"abc"}[damage]
    path.write_bytes(data)
    with pytest.raises(RunError, match=rf"{FILE}: is damaged \(its digest differs\)\. Start again without --resume"):
        folder.load()


def test_a_file_that_cannot_be_read(folder: CheckpointFolder) -> None:
    (folder.path / FILE).mkdir()
    with pytest.raises(RunError, match=f"{FILE}: cannot be read"):
        folder.load()


def test_there_is_nothing_to_resume(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"there is no interrupted training to resume \(no folder .*run\.training\)"):
        CheckpointFolder.beside(tmp_path / "run").plan()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "cannot be read"),
        ("\udcff", "cannot be read"),
        ("[]", "not written by this version"),
        ("{}", "not written by this version"),
        (json.dumps({"format": 0}), "not written by this version"),
    ],
)
def test_a_plan_that_is_none(folder: CheckpointFolder, text: str, words: str) -> None:
    (folder.path / PLAN).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(RunError, match=f"{words}.*Start again without --resume"):
        folder.plan()


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda weights: torch.optim.AdamW(weights),
        lambda weights: torch.optim.SGD(weights, momentum=0.9),
        lambda weights: torch.optim.RMSprop(weights, alpha=0.9),
    ],
)
def test_a_state_and_an_optimizer_come_back_to_the_bit(folder: CheckpointFolder, optimizer: Callable[..., Any]) -> None:
    def begun() -> tuple[Any, Any]:
        weights = [torch.nn.Parameter(torch.arange(6.0).view(2, 3)), torch.nn.Parameter(torch.ones(1)), torch.nn.Parameter(torch.ones(2))]
        return weights, optimizer([{"params": weights, "lr": 0.1}])

    def step(weights: Any, by: Any) -> None:
        by.zero_grad()
        (weights[0].sin().sum() * weights[1]).sum().backward()  # the third is frozen: it never has a gradient
        by.step()

    weights, one = begun()
    for _ in range(3):
        step(weights, one)
    epoch = Epoch(number=1, loss=float("nan"), score=0.5, lr=0.1, seconds=1.5, trained=("last",))
    state = State(step=3, loss=0.1 + 0.2, best_loss=float("inf"), best=0, window=[1 / 3], history=History((epoch,)))
    folder.save(to_checkpoint(state, {"weights": dict(zip("abc", weights, strict=True)), "kept": {}}, one))
    read = folder.load()
    assert read is not None
    others, other = begun()
    found, sets = from_checkpoint(read, other, device="cpu")
    assert sets.keys() == {"weights"}
    with torch.no_grad():
        for weight, name in zip(others, "abc", strict=True):
            weight.copy_(sets["weights"][name])
    assert vars(found) | {"history": None} == vars(state) | {"history": None}
    assert found.history.to_dict() == state.history.to_dict()
    step(weights, one)
    step(others, other)
    assert all(torch.equal(first, second) for first, second in zip(weights, others, strict=True))


# Stored activations ---------------------------------------------------------------------------------------------------------------------


class Means:
    """An engine that gives the mean of each colour, and the top left pixel; as a map or as a row."""

    def __init__(self, *, map_of: int = 0, scale: float = 1.0) -> None:
        self.map_of, self.scale, self.opened, self.ran = map_of, scale, 0, 0

    def __call__(self) -> Any:
        self.opened += 1
        return self

    def run(self, images: Iterator[np.ndarray]) -> Iterator[tuple[np.ndarray]]:
        for image in images:
            self.ran += 1
            row = np.concatenate([image.mean((0, 1)), image[0, 0]]).astype(np.float32) * self.scale
            yield (np.tile(row, (self.map_of, self.map_of, 1)) if self.map_of else row,)


IMAGES = np.random.default_rng(0).integers(0, 256, (7, 32, 32, 3), dtype=np.uint8)


def pixels(augmentation: Augmentation = NONE, memory: int = 1 << 20) -> Pixels:
    return Pixels(IMAGES, preprocessing=Preprocessing(32), augmentation=augmentation, seed=3, memory=memory)


def stored(folder: Path, engine: Means, *, views: int = 0, layout: Layout | None = None) -> StoredInputs:
    rows: Any = {"train": np.array([0, 2, 4, 6]), "validation": np.array([1, 3])}
    job = TrainingJob(plan=FineTuning(), task=None, images=IMAGES, **rows)  # type: ignore[arg-type]
    return StoredInputs(
        engine, pixels(Augmentation(flip=0.5, shift=0.2) if views else NONE), job, train=job.train, views=views, folder=folder,
        device="cpu", layout=layout,
    )  # fmt: skip


def test_activations_are_those_of_the_image_computed_once(tmp_path: Path) -> None:
    engine = Means()
    given = stored(tmp_path / "activations", engine)
    given.prepare(0)
    rows = np.array([4, 0, 1])
    expected = np.stack([next(iter(Means().run(iter([IMAGES[row]]))))[0] for row in rows])
    for found in (given.views(rows, 0), given.plain(rows), given.views(rows, 5)):
        np.testing.assert_allclose(found.numpy(), expected.astype(np.float16).astype(np.float32))
    given.prepare(None)
    assert engine.ran == 6  # the row 5 is nobody's
    again = stored(tmp_path / "activations", engine)
    again.prepare(3)
    assert torch.equal(again.plain(rows), given.plain(rows))
    assert engine.ran == 6
    assert given.plain(rows[:0]).shape == (0, 6)


def test_epochs_take_turns_at_the_views(tmp_path: Path) -> None:
    engine = Means(map_of=2)
    given = stored(tmp_path, engine, views=2)
    rows = np.array([6, 2])
    for epoch in range(4):
        given.prepare(epoch)
        view = pixels(Augmentation(flip=0.5, shift=0.2)).view(6, epoch % 2)
        assert given.views(rows, epoch).shape == (2, 2, 2, 6)
        np.testing.assert_allclose(given.views(rows, epoch)[0, 1, 0, :3].numpy(), view.mean((0, 1)), rtol=1e-3)
    assert engine.ran == 2 + 2 * 4
    assert not torch.equal(given.views(rows, 0), given.views(rows, 1))
    np.testing.assert_allclose(given.plain(np.array([3]))[0, 0, 0, :3].numpy(), IMAGES[3].mean((0, 1)), rtol=1e-3)


def test_what_float16_cannot_hold_is_as_large_as_it_can(tmp_path: Path) -> None:
    given = stored(tmp_path, Means(scale=1e6))
    given.prepare(None)
    assert float(given.plain(np.array([0])).max()) == 65504


def test_an_interrupted_file_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(Means):
        def run(self, images: Iterator[np.ndarray]) -> Iterator[tuple[np.ndarray]]:
            yield from list(super().run(images))[:3]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stored(tmp_path, Broken()).prepare(0)
    assert not list(tmp_path.glob("*.npy"))
    engine = Means()
    stored(tmp_path, engine).prepare(0)
    assert engine.ran == 6
    assert [path.name for path in tmp_path.iterdir()] == ["plain.npy"]


def test_a_disk_that_becomes_full_is_said_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "_write_header", failing(errno.ENOSPC))
    with pytest.raises(RunError, match=r"frozen part cannot be stored in .*: the disk is full\. Free some space, or choose another --out"):
        stored(tmp_path / "there", Means()).prepare(0)
    assert not list((tmp_path / "there").iterdir())
    monkeypatch.undo()
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"Not a directory|File exists"):
        stored(tmp_path / "file", Means()).prepare(0)


@pytest.mark.parametrize("map_of", [0, 4])
def test_boxes_are_cut_out_of_maps_only(tmp_path: Path, map_of: int) -> None:
    given = stored(tmp_path, Means(map_of=map_of))
    given.prepare(0)
    own, partners = given.plain(np.array([0, 1])), given.plain(np.array([2, 3]))
    mixing = Mixing(np.array([1, 0]), 0.75, (0.0, 0.5, 0.5, 1.0))
    found = given.mixed(own, partners, mixing)
    assert found.shape == own.shape
    if not map_of:
        torch.testing.assert_close(found, 0.75 * own + 0.25 * partners)
        return
    expected = own.clone()
    place = (slice(None), slice(0, 2), slice(2, 4))
    expected[place] = partners[place]
    torch.testing.assert_close(found, expected)
    flat = stored(tmp_path, Means(), layout=Layout((4, 4, 6), pooled=(2,)))
    both, others = (torch.cat([value.flatten(1), torch.full((2, 2), part)], dim=1) for value, part in ((own, 1.0), (partners, 5.0)))
    torch.testing.assert_close(flat.mixed(both, others, mixing), torch.cat([expected.flatten(1), torch.full((2, 2), 2.0)], dim=1))


@pytest.mark.parametrize(
    ("wanted", "free", "expected"),
    [
        (8, 1_000_000, (8, 1000 * (10 + 8 * 50))),
        (8, 2 * 1000 * (10 + 3 * 50) + 10, (3, 1000 * (10 + 3 * 50))),
        (8, 2 * 1000 * (10 + 1 * 50), (1, 1000 * 60)),
        (8, 2 * 1000 * (10 + 1 * 50) - 2, (-1, 1000 * 60)),
        (0, 2 * 1000 * 60, (0, 1000 * 60)),
        (0, 2 * 1000 * 60 - 2, (-1, 1000 * 60)),
    ],
)
def test_as_many_views_as_half_of_the_free_disk_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wanted: int, free: int, expected: tuple[int, int]
) -> None:
    def asked() -> tuple[int, int]:
        return affordable_views(wanted, bytes_each=1000, train=50, plain=10, folder=tmp_path / "not" / "yet")

    monkeypatch.setattr(inputs.shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    assert asked() == expected
    for other in (0, 10**12):  # it holds for the whole training, whatever becomes of the disk
        monkeypatch.setattr(inputs.shutil, "disk_usage", lambda path, other=other: SimpleNamespace(free=other))
        assert asked() == expected


# Pixels ---------------------------------------------------------------------------------------------------------------------------------


def test_images_are_decoded_once_as_far_as_memory_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[int] = []
    usual = Pixels._decode

    def counted(self: Pixels, index: int, preprocessing: Preprocessing) -> Any:
        decoded.append(index)
        return usual(self, index, preprocessing)

    monkeypatch.setattr(Pixels, "_decode", counted)
    for augmentation in (NONE, Augmentation(flip=1.0)):
        decoded.clear()
        given = pixels(augmentation, memory=2 * 32 * 32 * 3)
        for _ in range(3):
            for index in (0, 1, 2):
                expected = IMAGES[index] if augmentation is NONE else IMAGES[index][:, ::-1]
                assert np.array_equal(given.view(index, 0), expected)
        assert [decoded.count(index) for index in (0, 1, 2)] == [1, 1, 3]
        assert np.array_equal(given.plain(0), IMAGES[0])


def test_a_random_crop_is_taken_out_of_the_whole_image() -> None:
    preprocessing = Preprocessing(32, crop=0.5)
    image = np.zeros((64, 64, 3), dtype=np.uint8)
    image[16:48, 16:48] = 200  # all that testing sees
    one = Pixels([image], preprocessing=preprocessing, augmentation=Augmentation(crop=0.9), seed=0, memory=1 << 20)
    assert one.plain(0).min() > 150
    assert one.view(0, 0).shape == (32, 32, 3)
    assert one.view(0, 0)[0].max() < 50
    assert one.plain(0).min() > 150


def test_an_image_that_was_changed_during_a_training(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no image")
    given = Pixels([tmp_path / "a.png"], preprocessing=Preprocessing(32), augmentation=NONE, seed=0, memory=0)
    for read in (lambda: given.plain(0), lambda: given.view(0, 0)):
        with pytest.raises(DataError, match=r"can no longer be read.*a\.png.*Do not change the images during a training"):
            read()
