"""Scores of object detection: are they those of pycocotools, and how much faster?

    python benchmarks/detection_scores.py [--cases 1000] [--images 5000]        (needs pycocotools)
    python benchmarks/detection_scores.py --coverage                            how many intervals hold what they should
    python benchmarks/detection_scores.py ANNOTATIONS.json RESULTS.json         the same on files in COCO's form

The cases are random: one to four classes, crowds, equal scores and equal overlaps, images without boxes or without detections, boxes of all
sizes, more than 100 detections of a class. Compared are all scores of a summary, and every average precision and recall by class, overlap,
size and number of detections.

Goals: no difference above 1e-6; 5,000 images with 30 detections each in a few seconds; intervals from 1,000 resamples of 40 images in
1 s, and of 1,000 images of ten classes in 30 s.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headstart.metrics.boxes import Detections, rows_of_images
from headstart.metrics.detection import DetectionScores, detection_intervals, detection_scores, resampled_scores
from headstart.metrics.matching import match


@dataclass(frozen=True)
class Truth:
    boxes: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray
    starts: np.ndarray

    @classmethod
    def joined(cls, parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> Truth:
        boxes, labels, crowd = (np.concatenate(column) for column in zip(*parts, strict=True))
        starts = np.cumsum([0, *(len(part[0]) for part in parts)])
        return cls(boxes.astype(np.float32), labels.astype(np.int64), crowd.astype(bool), starts)


def random_case(seed: int) -> tuple[Detections, Truth, int]:
    """Detections, true boxes and the number of classes. Coordinates are quarters of a pixel, so that many overlaps are equal."""
    generator = np.random.default_rng(seed)
    count, classes, side = int(generator.integers(1, 9)), int(generator.integers(1, 5)), generator.choice([60.0, 300.0, 900.0])
    found, true = [], []
    for _ in range(count):
        own = _scattered(generator, int(generator.integers(0, 7)) if generator.random() > 0.2 else 0, side)
        labels = generator.integers(0, classes, len(own))
        true.append((own, labels, generator.random(len(own)) < 0.15))
        rows = generator.integers(0, len(own), int(generator.integers(0, 12))) if len(own) else np.zeros(0, np.int64)
        near = own[rows] + np.rint(generator.normal(size=(len(rows), 4)) * generator.choice([0.0, 1.0, 4.0, 10.0], (len(rows), 1)))
        names = np.where(generator.random(len(rows)) < 0.8, labels[rows], generator.integers(0, classes, len(rows)))
        far = _scattered(generator, int(generator.integers(0, 5)) if generator.random() > 0.03 else 130 * classes, side)
        boxes = np.concatenate([near, far])
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        scores = np.round(generator.random(len(boxes)), generator.choice([1, 2, 8]))
        kept = slice(0 if generator.random() < 0.15 else None)
        found.append((boxes[kept], scores[kept], np.concatenate([names, generator.integers(0, classes, len(far))])[kept]))
    return Detections.joined(found), Truth.joined(true), classes


def _scattered(generator: np.random.Generator, count: int, side: float) -> np.ndarray:
    centres = generator.uniform(0, side, (count, 2))
    sizes = generator.uniform(1, side / 2, (count, 2)) * generator.choice([0.1, 0.5, 1.0], (count, 1))
    return np.rint(np.concatenate([centres - sizes / 2, centres + sizes / 2], axis=1) * 4) / 4


def large_case(images: int, *, classes: int, objects: int = 7, found: int = 30) -> tuple[Detections, Truth, int]:
    """As many detections of each image, of which the surer ones are closer to a true box."""
    generator = np.random.default_rng(0)
    count = images * objects
    centres, sizes = generator.uniform(0, 640, (count, 2)), np.exp(generator.normal(4, 0.8, (count, 2)))
    boxes = np.concatenate([centres - sizes / 2, centres + sizes / 2], axis=1)
    labels = generator.integers(0, classes, count)
    rows = (np.arange(images)[:, None] * objects + generator.integers(0, objects, (images, found))).ravel()
    scores = generator.random(len(rows))
    moved = generator.normal(size=(len(rows), 4)) * (0.02 + 0.4 * (1 - scores[:, None]) ** 2) * np.tile(sizes[rows], 2)
    named = np.where(generator.random(len(rows)) < 0.9, labels[rows], generator.integers(0, classes, len(rows)))
    truth = Truth(boxes.astype(np.float32), labels, generator.random(count) < 0.01, np.arange(images + 1) * objects)
    return Detections((boxes[rows] + moved).astype(np.float32), scores, named, np.arange(images + 1) * found), truth, classes


def as_coco(detections: Detections, truth: Truth, classes: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Both in COCO's form."""

    def corners(box: list[float]) -> list[float]:
        return [box[0], box[1], box[2] - box[0], box[3] - box[1]]

    images = np.repeat(np.arange(len(detections)), np.diff(truth.starts))
    annotations = []
    for number, (image, box, label, crowd) in enumerate(
        zip(images.tolist(), truth.boxes.tolist(), truth.labels.tolist(), truth.crowd.tolist(), strict=True), start=1
    ):
        own = corners(box)
        annotations.append(
            {"id": number, "image_id": image, "category_id": label, "bbox": own, "area": own[2] * own[3], "iscrowd": int(crowd)}
        )
    data = {
        "images": [{"id": image} for image in range(len(detections))], "annotations": annotations,
        "categories": [{"id": label, "name": str(label)} for label in range(classes)],
    }  # fmt: skip
    columns = (detections.images, detections.boxes, detections.scores, detections.labels)
    results = [
        {"image_id": image, "bbox": corners(box), "score": score, "category_id": label}
        for image, box, score, label in zip(*(column.tolist() for column in columns), strict=True)
    ]
    return data, results


def from_coco(data: dict[str, Any], results: list[dict[str, Any]]) -> tuple[Detections, Truth, int]:
    """From COCO's form; images and categories in the order of their ids, as pycocotools has them."""
    images = {number: place for place, number in enumerate(sorted(image["id"] for image in data["images"]))}
    labels = {number: place for place, number in enumerate(sorted(category["id"] for category in data["categories"]))}

    def arrays(rows: list[dict[str, Any]], last: str) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        of: list[list[tuple[list[float], int, float]]] = [[] for _ in images]
        for row in rows:
            of[images[row["image_id"]]].append((row["bbox"], labels[row["category_id"]], row.get(last, 0)))
        parts = []
        for own in of:
            boxes = np.array([one[0] for one in own], np.float64).reshape(-1, 4)
            boxes[:, 2:] += boxes[:, :2]
            parts.append((boxes, np.array([one[1] for one in own], np.int64), np.array([one[2] for one in own], np.float64)))
        return parts

    found = Detections.joined((boxes, scores, names) for boxes, names, scores in arrays(results, "score"))
    return found, Truth.joined(arrays(data["annotations"], "iscrowd")), len(labels)


def pycocotools_scores(data: dict[str, Any], results: list[dict[str, Any]]) -> tuple[Any, float]:
    """Its evaluation, and the seconds that it took from the results in memory to the summary."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth, found = COCO(), COCO()
        truth.dataset = data
        truth.createIndex()
        began = time.perf_counter()
        if results:
            found = truth.loadRes(results)
        else:  # it has no reader for none
            found.dataset = data | {"annotations": []}
            found.createIndex()
        evaluation = COCOeval(truth, found, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation, time.perf_counter() - began


def largest_difference(scores: DetectionScores, evaluation: Any) -> float:
    """Of all scores; what is undefined is -1 there and nan here."""
    precision, recall = evaluation.eval["precision"], evaluation.eval["recall"]
    pairs = (
        (np.array(list(scores.means.values())), evaluation.stats),
        (scores.precision, np.moveaxis(precision.mean(axis=1)[..., -1], 1, 0)),
        (scores.recall, np.moveaxis(recall, 1, 0)),
    )
    return max(float(np.abs(np.nan_to_num(own, nan=-1) - other).max()) for own, other in pairs)


def ours(case: tuple[Detections, Truth, int]) -> DetectionScores:
    detections, truth, classes = case
    return detection_scores(match(detections, truth, classes=classes))


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    began = time.perf_counter()
    return work(), time.perf_counter() - began


def agreement(cases: int) -> None:
    worst, undefined, seconds = 0.0, 0, [0.0, 0.0]
    for seed in range(cases):
        case = random_case(seed)
        found, own = timed(lambda case=case: ours(case))
        evaluation, other = pycocotools_scores(*as_coco(*case))
        worst = max(worst, largest_difference(found, evaluation))
        undefined += int(np.isnan(found.means["ap"]))
        seconds = [seconds[0] + own, seconds[1] + other]
    print(
        f"{cases} random cases ({undefined} without any box to be found): largest difference {worst:.1e} (goal 1e-6); "
        f"{seconds[0]:.1f} s, pycocotools {seconds[1]:.1f} s, ratio {seconds[1] / seconds[0]:.1f}"
    )


def speed(name: str, case: tuple[Detections, Truth, int], form: tuple[dict[str, Any], list[dict[str, Any]]], repeats: int) -> None:
    times: list[tuple[float, float]] = []
    for _ in range(repeats):
        found, own = timed(lambda: ours(case))
        evaluation, other = pycocotools_scores(*form)
        times.append((own, other))
    ratios = [other / own for own, other in times]
    print(
        f"{name}: {statistics.median(own for own, _ in times):.2f} s, pycocotools {statistics.median(other for _, other in times):.2f} s, "
        f"ratio {statistics.median(ratios):.0f} ({min(ratios):.0f} to {max(ratios):.0f} in {repeats} rounds); "
        f"AP {found.means['ap']:.4f}, largest difference {largest_difference(found, evaluation):.1e}"
    )


def intervals(name: str, case: tuple[Detections, Truth, int], goal: str) -> None:
    detections, truth, classes = case
    matches = match(detections, truth, classes=classes)
    found, seconds = timed(lambda: detection_intervals(matches))
    (low, high), (low50, high50) = found.scores["ap"], found.scores["ap50"]
    print(f"intervals of {name}: {seconds:.2f} s ({goal}); AP [{low:.4f}, {high:.4f}], AP50 [{low50:.4f}, {high50:.4f}]")


def coverage(images: int, classes: int, sets: int = 200, whole: int = 12000) -> None:
    """Of sets drawn from many images: how often the mean AP of such sets, and the AP of all images, are in the interval of 95 %."""
    found, truth, _ = large_case(whole, classes=classes)
    generator, scores, own, plain = np.random.default_rng(0), [], [], []
    for _ in range(sets):
        drawn = generator.integers(0, whole, images)
        rows, starts = rows_of_images(truth.starts, drawn)
        part = Truth(truth.boxes[rows], truth.labels[rows], truth.crowd[rows], starts)
        matches = match(found.take(drawn), part, classes=classes)
        scores.append(detection_scores(matches).means["ap"])
        own.append(detection_intervals(matches, replicates=200).scores["ap"])
        plain.append(np.percentile(resampled_scores(matches, replicates=200)["ap"], [2.5, 97.5]))
    population = ours((found, truth, classes)).means["ap"]
    for name, ends in (("centred on the score", own), ("plain percentiles", plain)):
        low, high = np.array(ends).T
        held = [float(((low <= value) & (value <= high)).mean()) for value in (np.mean(scores), population)]
        print(
            f"{images} images, classes: {classes}, {name}: {held[0]:.2f} hold the mean AP of such sets, {np.mean(scores):.3f}; "
            f"{held[1]:.2f} the AP of all images, {population:.3f} (goal 0.95)"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="annotations and results, in COCO's form")
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--coverage", action="store_true")
    arguments = parser.parse_args()
    if arguments.coverage:
        for images, classes in ((40, 1), (60, 3), (100, 10)):
            coverage(images, classes)
        return
    if arguments.files:
        if len(arguments.files) != 2:
            parser.error("give two files, or none: annotations and results")
        data, results = (json.loads(path.read_text(encoding="utf-8")) for path in arguments.files)
        for annotation in data["annotations"]:  # a box counts by its own area
            annotation["area"] = annotation["bbox"][2] * annotation["bbox"][3]
        case = from_coco(data, results)
        speed(arguments.files[1].name, case, (data, results), arguments.repeats)
        intervals(arguments.files[1].name, case, "no goal")
        return
    agreement(arguments.cases)
    case = large_case(arguments.images, classes=80)
    speed(f"{arguments.images} images x 30 detections of 80 classes", case, as_coco(*case), arguments.repeats)
    intervals(f"{arguments.images} images of 80 classes", case, "no goal")
    intervals("40 images of one class", large_case(40, classes=1), "goal 1 s")
    intervals("1000 images of ten classes", large_case(1000, classes=10), "goal 30 s")


if __name__ == "__main__":
    main()
