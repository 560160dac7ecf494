"""The detection head without PyTorch: what remains of its proposals, in NumPy and as a graph; mirror images; confidence."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnxruntime
import pytest

from headstart.backbones.stage_maps import MIRRORED, MapLayer
from headstart.heads.box_graph import write_kept_boxes
from headstart.heads.boxes import BoxDecoder
from headstart.metrics.confidence import BetaCalibration
from headstart.metrics.proposals import BOXES, LEAST, MOST, PROBABILITIES, kept_boxes, proposals_of
from headstart.onnx_graph import OnnxGraph

LAYERS = (MapLayer("fine", 3, 6, 8), MapLayer("coarse", 5, 3, 4))


def proposals(count: int, classes: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (2, count, 4) around a few things, and probabilities (2, count, classes)."""
    rng = np.random.default_rng(seed)
    centres, sides = rng.uniform(0, 300, (2, 9, 2)), rng.uniform(15, 90, (2, 9, 2))
    thing = rng.integers(0, 9, count)
    middle = centres[:, thing] + rng.normal(0, 4, (2, count, 2))
    half = np.maximum(sides[:, thing] + rng.normal(0, 6, (2, count, 2)), 1) / 2
    boxes = np.concatenate([middle - half, middle + half], axis=2)
    return boxes.astype(np.float32), (rng.uniform(0, 1, (2, count, classes)) ** 3).astype(np.float32)


def graph_of(count: int, classes: int) -> onnxruntime.InferenceSession:
    graph = OnnxGraph()
    names = "boxes_out", "scores_out", "classes_out"
    found = write_kept_boxes(
        graph, "boxes", "sure", threshold=graph.default("threshold", 0.1), candidates=count, classes=classes
    )  # fmt: skip
    for value, name in zip(found, names, strict=True):
        graph.node("Identity", value, output=name)
    model = graph.model(
        inputs={"boxes": (np.float32, ("N", count, 4)), "sure": (np.float32, ("N", count, classes))},
        outputs=dict(zip(names, ((np.float32, ("N", "m", 4)), (np.float32, ("N", "m")), (np.int64, ("N", "m"))), strict=True)),
    )
    quiet = onnxruntime.SessionOptions()
    quiet.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), quiet)


@pytest.mark.parametrize(("count", "classes"), [(300, 1), (120, 4), (7, 2)])
@pytest.mark.parametrize("threshold", [None, 0.5])
def test_the_graph_leaves_the_same_boxes(count: int, classes: int, threshold: float | None) -> None:
    boxes, sure = proposals(count, classes)
    given = {} if threshold is None else {"threshold": np.array(threshold, np.float32)}
    found = graph_of(count, classes).run(None, {"boxes": boxes, "sure": sure, **given})
    for row in range(2):
        expected = kept_boxes(boxes[row], sure[row], least=0.1 if threshold is None else threshold)
        there = found[2][row] >= 0
        assert there.sum() == len(expected[1])
        for values, known in zip(found, expected, strict=True):
            np.testing.assert_allclose(values[row][there], known, atol=1e-3)
        assert not found[1][row][~there].any()


def test_proposals_are_the_surest_positions() -> None:
    rng = np.random.default_rng(0)
    predictions = rng.normal(0, 2, (2, 500, 3 + 4)).astype(np.float32)
    boxes, sure = proposals_of(predictions)
    assert (boxes.shape, sure.shape) == ((2, 300, 4), (2, 300, 3))
    assert (boxes >= 0).all()
    assert (boxes <= 1).all()
    for row, (own, chances) in enumerate(zip(boxes, sure, strict=True)):
        order = np.argsort(-predictions[row, :, :3].max(axis=1))[:300]
        np.testing.assert_allclose(np.log(chances / (1 - chances)), predictions[row, order, :3], atol=1e-3)
        np.testing.assert_array_equal(own, predictions[row, order, 3:].clip(0, 1))


def test_nothing_is_found_where_nothing_is_sure() -> None:
    boxes, sure = proposals(20, 2)
    _, scores, labels = graph_of(20, 2).run(None, {"boxes": boxes, "sure": sure * 0.05})
    assert not scores.any()
    assert (labels == -1).all()
    assert [len(one) for one in kept_boxes(boxes[0], sure[0] * 0.01)] == [0, 0, 0]


def test_the_surest_suppresses_and_all_vote() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 12], [0, 0, 10, 5], [100, 100, 110, 110]], np.float32)
    sure = np.array([[0.8], [0.4], [0.3], [0.6]], np.float32)
    kept, scores, labels = kept_boxes(boxes, sure)
    assert scores.tolist() == pytest.approx([0.8, 0.6, 0.3])
    assert labels.tolist() == [0, 0, 0]
    np.testing.assert_allclose(kept[0], [0, 0, 10, (0.8 * 10 + 0.4 * 12) / 1.2], rtol=1e-6)  # IoU 0.83 votes, 0.5 does not
    np.testing.assert_allclose(kept[1], boxes[3], rtol=1e-6)


def test_the_votes_do_not_depend_on_what_is_kept() -> None:
    boxes, sure = proposals(200, 3)
    everything, some = kept_boxes(boxes[0], sure[0]), kept_boxes(boxes[0], sure[0], least=0.4)
    named = everything[1] >= 0.4
    for whole, part in zip(everything, some, strict=True):
        np.testing.assert_array_equal(whole[named], part)


def test_classes_do_not_suppress_each_other_and_boxes_without_area_stay() -> None:
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 10], [4, 4, 4, 4]], np.float32)
    kept, _, labels = kept_boxes(boxes, np.array([[0.9, 0], [0, 0.8], [0.5, 0]], np.float32))
    assert labels.tolist() == [0, 1, 0]
    np.testing.assert_allclose(kept, boxes)
    assert len(kept_boxes(np.tile(boxes, (100, 1)) + 20 * np.arange(300)[:, None], np.full((300, 1), 0.5))[1]) == MOST


def network(layers: Sequence[MapLayer] = LAYERS, *, classes: int = 2, seed: int = 3):  # type: ignore[no-untyped-def]
    torch = pytest.importorskip("torch")
    from headstart.training.detectors import BoxNetwork

    made = BoxNetwork(layers, classes, seed=seed)
    maps = tuple(torch.randn(4, *layer.shape, generator=torch.Generator().manual_seed(1)) for layer in layers)
    made.standardise(maps)
    made.train()(maps)  # statistics of the normalisations
    torch.nn.init.normal_(made.logits.weight, std=0.3, generator=torch.Generator().manual_seed(2))
    return made.eval(), maps


def test_the_decoder_says_what_the_network_says() -> None:
    torch = pytest.importorskip("torch")
    made, maps = network()
    with torch.inference_mode():
        expected = made(maps).numpy()
    decoder = made.decoder()
    assert (decoder.classes, decoder.candidates) == (2, 6 * 8 + 3 * 4)
    ((boxes, sure),) = decoder(iter([dict(zip(("fine", "coarse"), (one.numpy() for one in maps), strict=True))]))
    probabilities = 1 / (1 + np.exp(-expected[..., :2]))
    order = np.argsort(-probabilities.max(axis=2), axis=1, kind="stable")
    np.testing.assert_allclose(sure, np.take_along_axis(probabilities, order[..., None], 1), atol=1e-5)
    np.testing.assert_allclose(boxes, np.take_along_axis(expected[..., 2:].clip(0, 1), order[..., None], 1), atol=1e-4)
    again = BoxDecoder.from_state(*decoder.state())
    assert (again.mirrored, again.calibration, again.threshold) == (decoder.mirrored, decoder.calibration, decoder.threshold)
    assert again.model() == decoder.model()


def test_mirror_images_are_turned_back() -> None:
    """With the mirror image of a symmetric network's input in place of both, nothing changes but for left and right."""
    made, maps = network()
    decoder = made.decoder()
    given = {layer.name: one.numpy() for layer, one in zip(LAYERS, maps, strict=True)}
    turned = {f"{MIRRORED}{name}": np.ascontiguousarray(value[..., ::-1]) for name, value in given.items()}
    both = BoxDecoder(decoder.network, mirrored=True)
    ((boxes, sure),) = both(iter([given | turned]))
    swapped = {f"{MIRRORED}{name}": value for name, value in given.items()}
    ((others, as_sure),) = both(iter([swapped | {name.removeprefix(MIRRORED): value for name, value in turned.items()}]))
    np.testing.assert_allclose(sure, as_sure, atol=1e-5)
    back = others[..., [2, 1, 0, 3]] * [-1, 1, -1, 1] + [1, 0, 1, 0]
    np.testing.assert_allclose(np.sort(boxes, axis=1), np.sort(back, axis=1), atol=1e-4)


def test_confidence_is_calibrated_inside_the_graph() -> None:
    made, maps = network()
    plain, calibration = made.decoder(), BetaCalibration(0.7, 1.4, 0.3)
    given = {layer.name: one.numpy() for layer, one in zip(LAYERS, maps, strict=True)}
    ((_, before),) = plain(iter([given]))
    ((_, after),) = BoxDecoder(plain.network, calibration=calibration)(iter([given]))
    np.testing.assert_allclose(after, calibration(before), atol=1e-5)
    assert LEAST > 0
    assert {BOXES, PROBABILITIES} == {"boxes", "probabilities"}
