"""Windows of large images: the grid, the blending against loops, and small things that are found through windows and not without."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from PIL import Image

import headstart
from headstart import TransferSegmenter
from headstart.data import read_annotations
from headstart.data.mask_reading import read_masks
from headstart.errors import DataError, ParameterError
from headstart.export import export
from headstart.features.stage_maps import MapRequest, part_of
from headstart.features.windows import window_view
from headstart.modalities.image import Preprocessing
from headstart.modalities.image.augment import NONE, Augmentation
from headstart.onnx_graph import OnnxGraph
from headstart.pipeline import fit
from headstart.pixels.windows import Windows, through_windows
from headstart.run import Run
from headstart.settings import FineTuning, FitSettings
from headstart.tasks import task_named
from headstart.tasks.segmentation import learning
from headstart.tasks.segmentation.judging import object_side

pytest.importorskip("torch", reason="the decoder is trained with PyTorch")

Array = np.ndarray[Any, Any]
GRIDS = [Windows(2, 64), Windows(3, 96), Windows(4, 128), Windows(2, 160), Windows(8, 256)]


@pytest.mark.parametrize("windows", GRIDS, ids=str)
def test_the_grid_covers_the_square_and_neighbours_share_a_quarter(windows: Windows) -> None:
    seen = np.zeros((windows.square, windows.square), int)
    for top, left in windows.places:
        seen[top : top + windows.side, left : left + windows.side] += 1
    assert seen.min() == 1
    assert seen.max() == 4
    assert windows.side / 4 <= windows.side - windows.stride <= windows.side / 2
    assert windows.stride % 32 == 0


@pytest.mark.parametrize("windows", GRIDS, ids=str)
@pytest.mark.parametrize("pitch", [2, 4, 32])
def test_weights_sum_to_1_and_fall_towards_the_edges(windows: Windows, pitch: int) -> None:
    length = windows.side // pitch
    placing = windows.placing(length)
    assert placing.shape == (windows.square // pitch, windows.count * length)
    assert np.allclose(placing.sum(axis=1), 1, atol=1e-6)
    assert (np.count_nonzero(placing, axis=1) <= 2).all()
    second = placing[:, length : 2 * length].sum(axis=0)  # a window with a neighbour before it
    shared = (windows.side - windows.stride) // pitch
    assert (np.diff(second[:shared]) > 0).all()
    assert second[0] == pytest.approx(0.5 / shared)
    assert (placing[: windows.stride // pitch].max(axis=1) == 1).all()


def test_what_does_not_go_is_said() -> None:
    with pytest.raises(ParameterError, match=r"a multiple of 32 from 64 px on, got 100\. Give image_size=96\."):
        Windows(2, 100)
    with pytest.raises(ParameterError, match=r"got 32\. Give image_size=64\."):
        Windows(2, 32)
    with pytest.raises(ParameterError, match=r"8 x 8 windows of 1024 px are a square of 6400 px, and 4096 is the most. Give fewer windows"):
        Windows(8, 1024)
    with pytest.raises(ParameterError, match="A map of 3 cells"):
        Windows(2, 64).placing(3)


def network(change: Callable[[OnnxGraph, str], str] = lambda graph, value: value) -> OnnxGraph:
    """Features are the mean colour; the map has the colours of every fourth pixel, changed."""
    graph = OnnxGraph()
    pixels = graph.node("Cast", graph.node("Transpose", "images", perm=[0, 3, 1, 2]), to=1)
    graph.node("Flatten", graph.node("GlobalAveragePool", pixels), axis=1, output="features")
    coarse = graph.node("AveragePool", pixels, kernel_shape=[4, 4], strides=[4, 4])
    graph.node("Identity", change(graph, coarse), output="map")
    return graph


def run_through(windows: Windows, squares: Array, one: OnnxGraph) -> dict[str, Array]:
    cells = windows.side // 4
    graph = through_windows(one, windows, {"map": (3, cells, cells)}, features=3)
    side = windows.square
    model = graph.model(
        inputs={"images": (np.uint8, ("N", side, side, 3))},
        outputs={"features": (np.float32, ("N", 3)), "map": (np.float32, ("N", *windows.shape((3, cells, cells))))},
    )
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return dict(zip(("features", "map"), session.run(["features", "map"], {"images": squares}), strict=True))


@pytest.mark.parametrize("windows", [Windows(2, 64), Windows(3, 64), Windows(4, 96)], ids=str)
def test_the_graph_blends_as_loops_do(windows: Windows) -> None:
    """Each window's map has its own mean taken from it, so that windows disagree where they overlap."""

    def less_mean(graph: OnnxGraph, value: str) -> str:
        return graph.node("Sub", value, graph.node("GlobalAveragePool", value))

    squares = np.random.default_rng(0).integers(0, 256, (2, windows.square, windows.square, 3), dtype=np.uint8)
    found = run_through(windows, squares, network(less_mean))
    cells, shared = windows.side // 4, (windows.side - windows.stride) // 4
    for square, blended, features in zip(squares, found["map"], found["features"], strict=True):
        total, weights, means = np.zeros_like(blended), np.zeros_like(blended), []
        for place, window in zip(windows.places, windows.cut(square), strict=True):
            colours = window.astype(np.float64).reshape(cells, 4, cells, 4, 3).mean(axis=(1, 3)).transpose(2, 0, 1)
            means.append(colours.mean(axis=(1, 2)))
            weight = np.ones((cells, cells))
            for axis, start in enumerate(place):
                along = np.ones(cells)
                if start:
                    along[:shared] = (np.arange(shared) + 0.5) / shared
                if start + windows.side < windows.square:
                    along[-shared:] = (np.arange(shared)[::-1] + 0.5) / shared
                weight *= along[:, None] if axis == 0 else along
            top, left = (start // 4 for start in place)
            total[:, top : top + cells, left : left + cells] += weight * (colours - means[-1][:, None, None])
            weights[:, top : top + cells, left : left + cells] += weight
        assert np.allclose(weights, 1, atol=1e-6)
        assert np.allclose(blended, total, atol=2e-3)
        assert np.allclose(features, np.mean(means, axis=0), atol=1e-2)


def test_a_map_that_does_not_depend_on_the_window_has_no_seams() -> None:
    windows = Windows(3, 64)
    square = np.random.default_rng(1).integers(0, 256, (1, windows.square, windows.square, 3), dtype=np.uint8)
    expected = square[0].reshape(windows.square // 4, 4, windows.square // 4, 4, 3).mean(axis=(1, 3)).transpose(2, 0, 1)
    assert np.allclose(run_through(windows, square, network())["map"][0], expected, atol=1e-3)


def test_random_windows_are_cut_alike_from_image_and_mask_and_lie_everywhere() -> None:
    from headstart.training.masks import shrunk

    windows, rng = Windows(3, 64), np.random.default_rng(0)
    mask = np.kron(rng.integers(0, 2, (10, 10)).astype(np.uint8), np.ones((24, 30), np.uint8))  # 240 x 300
    square = Image.fromarray(255 * mask).resize((2 * windows.square, 2 * windows.square), Image.Resampling.BOX)
    pixels = np.repeat(np.asarray(square)[..., None], 3, axis=2)
    centres = []
    for number in range(24):
        view = window_view(Augmentation(flip=0.5, crop=0.4), windows, key=7, seed=1, view=number)
        seen, found = part_of(pixels, view, size=64)[..., 0], shrunk(mask, 64, view)
        sure = (seen < 30) | (seen > 225)
        assert ((seen > 127) == found)[sure].mean() > 0.99
        assert sure.mean() > 0.5
        top, left, bottom, right = view.crop
        assert 0 <= top < bottom <= 1
        assert 0 <= left < right <= 1
        assert 0.4 * windows.share**2 * 0.99 <= (bottom - top) * (right - left) <= windows.share**2 * 1.01
        plain = window_view(NONE, windows, key=7, seed=1, view=number).crop
        assert plain[2] - plain[0] == pytest.approx(windows.share)
        centres.append(((plain[0] + plain[2]) / 2, (plain[1] + plain[3]) / 2))
    reached = np.histogram2d(*np.array(centres).T, bins=3, range=[[windows.share / 2, 1 - windows.share / 2]] * 2)[0]
    assert reached.min() >= 1


def small_discs(folder: Path, *, count: int, tested: int = 6) -> Path:
    """Discs of 4 to 7 pixels' radius in images of 192 x 256: at 64 px three pixels wide, less than a cell of the finest map."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:192, :256]
    for part, number in (("train", count), ("test", tested)):
        for kind in ("images", "masks"):
            (folder / kind / part).mkdir(parents=True)
        for index in range(number):
            mask = np.zeros((192, 256), np.uint8)
            for _ in range(30):
                y, x, radius = rng.uniform(8, 184), rng.uniform(8, 248), rng.uniform(4, 7)
                mask[(rows - y) ** 2 + (columns - x) ** 2 < radius**2] = 1
            pixels = np.where(mask[..., None] == 1, (220, 160, 60), (40, 60, 90)) + rng.integers(-30, 30, (192, 256, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / "images" / part / f"{index}.png")
            Image.fromarray(mask).save(folder / "masks" / part / f"{index}.png")
    (folder / "classes.txt").write_text("ground\ndisc\n")
    return folder


@pytest.fixture(scope="module")
def discs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_discs(tmp_path_factory.mktemp("discs") / "data", count=12)


def test_the_width_of_objects_is_not_that_of_specks(tmp_path: Path) -> None:
    """Of two classes, one of 40 px and many specks, and one of 20 px and of 10 px in fewer pixels: the mean of 40 and 20."""
    mask = np.zeros((200, 200), np.uint8)
    mask[::10, ::10] = 1
    mask[101:141, 101:141] = 1
    mask[12:32, 2:22], mask[42:52, 2:12], mask[62:72, 2:12] = 2, 2, 2
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    for number in range(2):
        Image.fromarray(np.full((200, 200, 3), 90 + number, np.uint8)).save(tmp_path / "images" / f"{number}.png")
        Image.fromarray(mask).save(tmp_path / "masks" / f"{number}.png")
    (tmp_path / "classes.txt").write_text("ground\nlarge\nmiddle\n")
    assert object_side(read_masks(read_annotations(tmp_path))) == pytest.approx(30 / 200, rel=0.05)


def settings(cache: Path, windows: int, **further: Any) -> FitSettings:
    plan = further.pop("plan", FineTuning(strategy="probe", epochs=15, batch_size=3, label_smoothing=0))
    return FitSettings(cache=cache, backbone="lite0@64", windows=windows, fine_tuning=plan, **further)


@pytest.fixture(scope="module")
def seen(discs: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Run]:
    """A fit through 3 x 3 windows, and its run."""
    folder = tmp_path_factory.mktemp("runs") / "discs"
    return fit(discs, out=folder, settings=settings(cache, 3)), headstart.load(folder)


def test_small_things_are_found_through_windows(seen: tuple[Any, Run], discs: Path, cache: Path) -> None:
    result, run = seen
    whole = fit(discs, settings=settings(cache, 1))
    assert result.test.mean_iou > 0.8
    assert result.test.mean_iou > whole.test.mean_iou + 0.15
    hint = [finding for finding in whole.findings if finding.kind == "small objects"]
    assert len(hint) == 1
    assert re.search(r"lie in objects less than [34] px wide as the network sees them, at 64 px: try --windows [345]\.", hint[0].message)
    assert run.manifest.state == {"classes": ["ground", "disc"], "shape": [2, 32, 32], "windows": 3}
    assert run.manifest.preprocessing.size == 128
    assert run.manifest.provenance["settings"]["windows"] == 3
    assert run.record.head.endswith("through 3 x 3 windows")
    assert np.isfinite(run.reference["features"]).all()


def test_the_run_says_what_the_fit_tested(seen: tuple[Any, Run], discs: Path) -> None:
    result, run = seen
    paths = sorted((discs / "images" / "test").iterdir())
    found = run.predict(paths)
    assert found.logits.shape == (6, 2, 32, 32)
    assert np.allclose(found.logits, result.tested["logits"], atol=1e-3)
    assert run.test_evaluation().to_dict() == result.test.to_dict()
    features = run.engine.run([run.preprocessing(str(path)) for path in paths])
    assert np.allclose([outputs[-1] for outputs in features], result.table.features(result.table.test), atol=1e-4)


def test_a_window_alone_says_the_same_away_from_its_neighbours(seen: tuple[Any, Run]) -> None:
    """Windows begin every 8 cells and are 16 cells wide: the first and the last have corners that no other covers."""
    from headstart.tasks.segmentation.learning import of_stored, of_wholes

    result, _ = seen
    extractor, decoder = result.learned.prepared.extractor, replace(result.choice.estimator, mirrored=False)
    square = np.random.default_rng(3).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    whole = of_wholes([decoder], extractor.wholes([square]), np.array([0]))[0][0]
    alone = headstart.BackboneExtractor(extractor.backbone, preprocessing=extractor.preprocessing)
    windows = extractor.windows.cut(square)
    for window, corner in ((windows[0], slice(0, 8)), (windows[-1], slice(-8, None))):
        maps = alone.with_maps([window], lambda layers: MapRequest(result.table.maps.request.layers)).maps
        assert maps is not None
        assert np.allclose(whole[:, corner, corner], of_stored(decoder, maps)[0][:, corner, corner], atol=2e-2)


def test_an_image_that_is_gone_is_named(seen: tuple[Any, Run]) -> None:
    from headstart.tasks.segmentation.learning import of_wholes

    result, _ = seen
    wholes = result.learned.prepared.extractor.wholes(["gone.png"])
    with pytest.raises(DataError, match=r"An image can no longer be read: gone.png.*Do not change the images during a fit"):
        of_wholes([result.choice.estimator], wholes, np.array([0]))


def test_an_image_of_one_colour_has_the_same_class_everywhere(seen: tuple[Any, Run]) -> None:
    found = seen[1].predict([np.full((300, 200, 3), (40, 60, 90), np.uint8)])
    assert len(np.unique(found.mask(0))) == 1


def test_the_exported_file_says_the_same(seen: tuple[Any, Run], discs: Path, tmp_path: Path) -> None:
    done = export(seen[1], tmp_path / "discs.onnx", data=discs)
    assert {parity.engine for parity in done.parities} >= {"onnxruntime"}
    for parity in done.parities:
        assert parity.same >= 0.999
    session = onnxruntime.InferenceSession(tmp_path / "discs.onnx")
    image = np.asarray(Image.open(discs / "images" / "test" / "0.png"))
    classes = session.run(["classes"], {"images": image[None, :150]})[0]
    assert (classes[0] == seen[1].predict([image[:150]]).mask(0)).mean() >= 0.999


def test_a_training_from_pixels_sees_the_windows_that_its_masks_show(discs: Path) -> None:
    from headstart.training.inputs import Pixels
    from headstart.training.masks import ViewedMasks

    targets, windows = read_masks(read_annotations(discs)), Windows(3, 64)
    masks = [targets.read(row) for row in range(3)]
    pictures = [np.repeat(255 * mask[..., None], 3, axis=2) for mask in masks]
    augmentation = Augmentation(flip=0.5, crop=0.5, rotation=10)
    pixels = Pixels(
        pictures, preprocessing=Preprocessing(64, fit="squash"), augmentation=augmentation, seed=2, memory=1 << 24, windows=windows
    )
    shown = ViewedMasks(targets, 64, fine=windows.square, augmentation=augmentation, seed=2, windows=windows)
    assert pixels.augmented
    for view in (None, 0, 5):
        for row in range(3):
            seen = (pixels.plain(row) if view is None else pixels.view(row, view))[..., 0]
            found = shown(np.array([row]), view)[0]
            sure = (found != 255) & ((seen < 40) | (seen > 215))
            assert sure.mean() > 0.6
            assert ((seen > 127) == found)[sure].mean() > 0.98


@pytest.mark.slow
@pytest.mark.parametrize("architecture", [None, "unet", "deeplabv3plus"])
def test_the_backbone_is_trained_through_windows(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, architecture: str | None
) -> None:
    monkeypatch.setattr(learning, "RECIPE", replace(learning.RECIPE, epochs=3, fewest=3, steps=(10, 2800)))
    monkeypatch.setattr("headstart.training.tuning.Trained.learned", True)
    data = small_discs(tmp_path / "data", count=16, tested=3)
    plan = FineTuning(strategy="partial", epochs=1, batch_size=4, lr=1e-3)
    result = fit(data, out=tmp_path / "run", settings=settings(cache, 2, plan=plan, architecture=architecture))
    assert result.learned.is_tuned
    assert result.learned.beside.mirrored is not None
    found = headstart.load(tmp_path / "run").predict(sorted((data / "images" / "test").iterdir()))
    assert np.allclose(found.logits, result.tested["logits"], atol=2e-3)


def test_the_estimator_sees_through_windows(discs: Path, cache: Path) -> None:
    read = [[np.asarray(Image.open(discs / kind / "train" / f"{number}.png")) for number in range(8)] for kind in ("images", "masks")]
    segmenter = TransferSegmenter("lite0@64", windows=2, fine_tuning=FineTuning(strategy="probe", epochs=2, batch_size=4), cache=cache)
    segmenter.fit(*read, classes=["ground", "disc"])
    assert segmenter.decoder_.windows == Windows(2, 64)
    test = sorted((discs / "images" / "test").iterdir())[:2]
    found, chances = segmenter.predict(test), segmenter.predict_proba(test)
    assert found[0].shape == (192, 256)
    assert np.mean([(one.argmax(axis=0) == mask).mean() for one, mask in zip(chances, found, strict=True)]) > 0.999
    again = copy.deepcopy(segmenter).predict_proba(test)
    assert all(np.array_equal(one, other) for one, other in zip(again, chances, strict=True))
    with pytest.raises(DataError, match="have no mask"):
        segmenter.predict([b"no image"])


def test_other_tasks_and_other_sizes_are_refused(discs: Path, cache: Path) -> None:
    with pytest.raises(ParameterError, match="windows=3 is for masks, not for the task classification: leave it out"):
        headstart.fit(headstart.dataset_from_arrays(np.zeros((8, 8, 8, 3), np.uint8), ["a", "b"] * 4), settings=FitSettings(windows=3))
    with pytest.raises(ParameterError, match="a multiple of 32"):
        fit(discs, settings=FitSettings(cache=cache, backbone="lite0@100", windows=2))
    with pytest.raises(ParameterError, match="--windows does not go with the task anomaly: show more of small defects with --backbone"):
        task_named("anomaly").settings(FitSettings(windows=2))
    with pytest.raises(ParameterError, match="windows must be a whole number from 1 to 8"):
        FitSettings(windows=9)
