"""A batch job that is interrupted, killed or damaged can be resumed, and its table is that of an undisturbed one."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from batches import make_many
from headstart.batch import BatchSettings, predict_folder
from headstart.batch.folder import Part
from headstart.batch.job import Tasks, Work
from headstart.data import list_images
from headstart.data.tables import read_table
from headstart.errors import Interrupted, ParameterError
from headstart.progress import Progress
from headstart.reliability import Shift
from headstart.run import Run
from headstart.settings.batch import Shard
from interrupting import interrupted

pytestmark = pytest.mark.filterwarnings("ignore:Passed over", "ignore:.*cannot be read and")

Cli = Callable[..., Any]
SMALL = BatchSettings(part=8, top=2)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `make_many`."""
    return make_many(tmp_path_factory.mktemp("many"))


def stopping_after(parts: int, stop: BaseException) -> Any:
    """A way of making parts that ends after so many, as if the process had been stopped."""

    def compute(work: Work, run: Run, tasks: Tasks, progress: Progress) -> Iterator[Part]:
        for done, (index, names) in enumerate(tasks):
            if done == parts:
                raise stop
            yield work.do(run, index, names, progress=progress)

    return compute


def counting(made: list[int]) -> Any:
    """The usual way of making parts, which also writes down which ones."""

    def compute(work: Work, run: Run, tasks: Tasks, progress: Progress) -> Iterator[Part]:
        for index, names in tasks:
            made.append(index)
            yield work.do(run, index, names, progress=progress)

    return compute


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_an_interrupted_job_is_resumed_and_computes_nothing_twice(run: Path, many: Path, tmp_path: Path, suffix: str) -> None:
    whole = predict_folder(run, [many], out=tmp_path / f"whole.{suffix}", settings=SMALL)
    out, resumed = tmp_path / f"t.{suffix}", BatchSettings(part=8, top=2, resume=True)
    with pytest.raises(Interrupted, match=r"add --resume to continue"):
        predict_folder(run, [many], out=out, settings=resumed, compute=stopping_after(3, KeyboardInterrupt()))
    assert not out.exists()
    with pytest.raises(ParameterError, match=r"begun and not finished. Add --resume"):
        predict_folder(run, [many], out=out, settings=SMALL)
    made: list[int] = []
    result = predict_folder(run, [many], out=out, settings=resumed, compute=counting(made))
    assert made == [3, 4, 5]
    assert (result.images, result.refused, result.computed) == (43, 2, 19)
    assert (whole.images, whole.refused, whole.computed) == (43, 2, 43)
    assert out.read_bytes() == whole.out.read_bytes()
    assert not (tmp_path / f"t.{suffix}.parts").exists()
    again = predict_folder(run, [many], out=out, settings=resumed, compute=counting(made))
    assert (again.images, again.refused, again.computed, len(made)) == (43, 2, 0, 3)
    assert whole.shift.novel is not None
    assert whole.shift.novel.images == 41
    assert result.shift == again.shift == whole.shift


def test_a_job_that_an_earlier_version_began_is_resumed(run: Path, many: Path, tmp_path: Path) -> None:
    """Its parts do not tell how many images are unlike the training images, so that the table does not either."""
    whole = predict_folder(run, [many], out=tmp_path / "whole.csv", settings=SMALL)
    out, resumed = tmp_path / "t.csv", BatchSettings(part=8, top=2, resume=True)
    with pytest.raises(RuntimeError):
        predict_folder(run, [many], out=out, settings=resumed, compute=stopping_after(4, RuntimeError()))
    for part in (tmp_path / "t.csv.parts").glob("*.part"):
        index, rows, refused, _, digest = part.name.split("-")
        part.rename(part.with_name(f"{index}-{rows}-{refused}-{digest}"))
    made: list[int] = []
    result = predict_folder(run, [many], out=out, settings=resumed, compute=counting(made))
    assert made == [4, 5]
    assert out.read_bytes() == whole.out.read_bytes()
    assert result.shift == Shift()
    assert json.loads((tmp_path / "t.csv.job.json").read_text())["unlike"] is None


def test_damaged_parts_are_made_again(run: Path, many: Path, tmp_path: Path) -> None:
    whole = predict_folder(run, [many], out=tmp_path / "whole.csv", settings=SMALL)
    out, resumed = tmp_path / "t.csv", BatchSettings(part=8, top=2, resume=True)
    with pytest.raises(RuntimeError):
        predict_folder(run, [many], out=out, settings=resumed, compute=stopping_after(4, RuntimeError()))
    parts = sorted((tmp_path / "t.csv.parts").glob("*.part"))
    assert len(parts) == 4
    parts[0].write_bytes(parts[0].read_bytes()[:-1])
    parts[1].write_bytes(parts[1].read_bytes().replace(b"0.", b"1.", 1))
    parts[2].with_name(".00000002.partial").write_bytes(b"half a part")
    made: list[int] = []
    predict_folder(run, [many], out=out, settings=resumed, compute=counting(made))
    assert made == [0, 1, 4, 5]
    assert out.read_bytes() == whole.out.read_bytes()


def test_what_is_added_while_a_job_is_stopped_does_not_shift_its_parts(run: Path, many: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    shutil.copytree(many, folder)
    resumed = BatchSettings(part=8, resume=True)
    with pytest.raises(RuntimeError):
        predict_folder(run, [folder], out=tmp_path / "t.csv", settings=resumed, compute=stopping_after(2, RuntimeError()))
    before = list_images([folder])
    shutil.copy(folder / "a" / "0.png", folder / "a" / "00.png")
    (folder / "z" / "3.png").unlink()
    result = predict_folder(run, [folder], out=tmp_path / "t.csv", settings=resumed)
    table = read_table(result.out).columns
    assert table["path"] == list(map(str, before))
    assert table["error"][table["path"].index(str(folder / "z" / "3.png"))].startswith("cannot be read")


@pytest.mark.slow
def test_a_killed_command_is_resumed(run: Path, many: Path, tmp_path: Path) -> None:
    """SIGKILL at random moments, until it comes to its end; the table is that of an undisturbed job."""
    images = tmp_path / "images"
    images.mkdir()
    for index in range(128):
        shutil.copy(many / "a" / f"{index % 10 * 4}.png", images / f"{index:04d}.png")
    whole = predict_folder(run, [images], out=tmp_path / "whole.parquet", settings=BatchSettings(part=8))
    code = (
        "import sys; from headstart.batch import BatchSettings, predict_folder\n"
        "r = predict_folder(sys.argv[1], [sys.argv[2]], out=sys.argv[3], settings=BatchSettings(part=8, resume=True)); print(r.computed)"
    )
    command = [sys.executable, "-c", code, str(run), str(images), str(tmp_path / "t.parquet")]
    chance, kept = random.Random(0), 0

    def finished() -> int:
        return len(list((tmp_path / "t.parquet.parts").glob("*.part")))

    for _ in range(2):
        killed = interrupted(command, when=lambda printed, least=kept + 2: finished() >= least, delay=chance.uniform(0, 0.05))
        assert killed.code == -signal.SIGKILL
        kept = finished()
    assert kept >= 4
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) == 128 - min(8 * kept, 128)
    assert (tmp_path / "t.parquet").read_bytes() == whole.out.read_bytes()


def test_two_processes_do_not_work_on_one_job(run: Path, many: Path, tmp_path: Path) -> None:
    pytest.importorskip("fcntl", reason="this system has no flock")
    resumed = BatchSettings(part=8, resume=True)

    def compute(work: Work, opened: Run, tasks: Tasks, progress: Progress) -> Iterator[Part]:
        with pytest.raises(ParameterError, match="another process is working on this job"):
            predict_folder(run, [many], out=tmp_path / "t.csv", settings=resumed)
        for index, names in tasks:
            yield work.do(opened, index, names, progress=progress)

    assert predict_folder(run, [many], out=tmp_path / "t.csv", settings=resumed, compute=compute).images == 43


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"top": 3}, r"its '--top' is 2, and now 3 is asked for"),
        ({"accuracy": 0.5}, r"its 'least confidence' is null"),
        ({"shard": Shard(1, 2)}, r"its '--shard' is null, and now \"1/2\""),
        ({"part": 16}, r"its 'images in a part' is 8"),
    ],
)
@pytest.mark.parametrize("finished", [False, True])
def test_another_job_is_not_resumed(run: Path, many: Path, tmp_path: Path, change: dict[str, Any], message: str, finished: bool) -> None:
    settings = {"part": 8, "top": 2, "resume": True}
    if finished:
        predict_folder(run, [many / "z"], out=tmp_path / "t.csv", settings=BatchSettings(**settings))
    else:
        stop = stopping_after(1, RuntimeError())
        with pytest.raises(RuntimeError):
            predict_folder(run, [many / "z"], out=tmp_path / "t.csv", settings=BatchSettings(**settings), compute=stop)
    with pytest.raises(ParameterError, match=message):
        predict_folder(run, [many / "z"], out=tmp_path / "t.csv", settings=BatchSettings(**{**settings, **change}))
    with pytest.raises(ParameterError, match="its 'images of' is"):
        predict_folder(run, [many], out=tmp_path / "t.csv", settings=BatchSettings(**settings))
