"""An export from start to end: made, compared with the run on real images, and written only if the two agree."""

from __future__ import annotations

import datetime
import importlib.util
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import headstart
from headstart.errors import HeadstartError, MissingExtraError, ParameterError, setting
from headstart.export.comparison import TOLERANCE
from headstart.export.formats import ExportedModel, add_entry, engines_for, find_converter, openvino_model, write_litert, write_openvino
from headstart.export.gate import MAX_DROP, Gate
from headstart.export.int8 import write_int8
from headstart.export.onnx_file import onnx_model
from headstart.export.parity import Parity, Reference, rounded_up
from headstart.export.sample import Sample, some_sample_of
from headstart.files import file_digest, folder_beside, move_files
from headstart.modalities import IMAGE
from headstart.progress import Listener
from headstart.run import Run, Use, record_use
from headstart.settings.field import number, require

SUFFIXES: Mapping[str, str] = {"onnx": ".onnx", "openvino": ".xml", "int8": ".xml", "litert": ".tflite"}
IMAGES_ONLY = ("int8", "litert")
"""Formats for images alone."""

_INEXACT = ".max-diff-"  # in the name of a file that differs by more than `TOLERANCE`; the difference follows
IMAGES, GATE_IMAGES = 300, 1000  # compared at most; more for int8, as chance alone moves the accuracy on 300 by half a point


class ExportError(HeadstartError):
    """An export does not agree with its run, or is not accurate enough: it is not written."""


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """What was written.

    `files` are the file and further ones that belong to it (the weights of OpenVINO, the class names of LiteRT), `report` the JSON file
    with the comparison, `parities` a comparison for each engine that is installed, and `gates`, for int8, each attempt; the last one
    passed.
    """

    files: tuple[Path, ...]
    report: Path
    parities: tuple[Parity, ...]
    gates: tuple[Gate, ...]


def check_format(form: str) -> str:
    """Return `form` if it can be written. Raises ParameterError where it is unknown or there is no converter for it."""
    if form == "coreml":
        raise ParameterError(
            "--format coreml: Apple's coremltools no longer reads ONNX, and what it writes can be compared with the run on a Mac only. "
            "Use the ONNX file with ONNX Runtime's Core ML provider."
        )
    if form not in SUFFIXES:
        raise ParameterError(f"--format must be {', '.join(SUFFIXES)}, got {form!r}.")
    return form


def export(
    run: Run, out: Path, *, form: str = "onnx", max_drop: float = MAX_DROP, max_difference: float = TOLERANCE, images: int | None = None,
    data: Path | None = None, listener: Listener | None = None,
) -> ExportResult:  # fmt: skip
    """Export a run.

    Args:
        run: opened with `headstart.load`.
        out: the file to write; ``.onnx``, ``.xml`` for OpenVINO and int8, or ``.tflite``. ``OUT.parity.json`` is written beside it.
        form: ``onnx``, ``openvino``, ``int8`` or ``litert``.
        max_drop: for int8: how much accuracy may be lost, as a share.
        max_difference: for the others: how far a probability may be from the run's. A file that would be refused by default has its largest
            difference in its name: ``photos.max-diff-0.0032.onnx`` for ``photos.onnx``.
        images: on how many of the run's images to compare, at most; by default `IMAGES`, for int8 `GATE_IMAGES`.
        data: the folder of the data, if the images have been moved.
        listener: told of the stages.

    Raises:
        ExportError: the file differs from the run; nothing is written.
        ParameterError: an unknown format, a file name with another suffix, or a `max_difference` out of its bounds, or for int8.
        DataError: none of the run's images are left.
        MissingExtraError: OpenVINO, NNCF or LiteRT is not installed.
        ConverterError: onnx2tf, which makes LiteRT files, failed.
    """
    images = _check(form, out, images, max_difference)
    if not run.task.in_graph:
        raise ParameterError(
            f"{run.path} has no graph to export: runs of the task {run.manifest.task} are run by PyTorch. Its folder has the layout of the "
            "Hugging Face Hub: transformers reads it as it is."
        )
    if form == "litert" and run.task.spatial:
        raise ParameterError(f"litert files are of one size, and {run.path} says something of each pixel. Use onnx or openvino.")
    if form == "litert" and len(run.class_outputs) > 1:
        raise ParameterError(
            f"litert is for runs of one column of labels, and {run.path} has {len(run.class_outputs)}. Use onnx or openvino."
        )
    if form in IMAGES_ONLY and run.modality is not IMAGE:
        raise ParameterError(f"--format {form} is for images, and {run.path} takes {run.modality.noun}s. Use onnx or openvino.")
    listener = listener or Listener()
    sample = some_sample_of(run, images, data=data)
    reference = Reference(run, sample)
    with folder_beside(out) as beside:
        file = beside / out.name
        listener.stage("Writing the graph")
        gates: tuple[Gate, ...] = ()
        if form == "int8":
            outputs, gates = write_int8(reference, file, max_drop=max_drop, data=data, listener=listener)
            _check_gates(run, sample, gates)
            parities: tuple[Parity, ...] = (Parity.of(reference, outputs, engine="openvino"),)
        else:
            file, parities = _write_checked(reference, form, file, max_difference, listener)
        for name, content in run.preprocessing.files().items():
            file.with_name(beside_name(file, name)).write_bytes(content)
        report = file.with_name(f"{file.name}.parity.json")
        report.write_text(json.dumps(_report(reference, form, file, max_difference, parities, gates), indent=1) + "\n", encoding="utf-8")
        written = move_files(beside, out.parent, last=file.name)
    files = sorted((path for path in written if path.name != report.name), key=lambda path: path.name != file.name)
    return ExportResult(files=tuple(files), report=out.with_name(report.name), parities=parities, gates=gates)


def beside_name(file: Path, name: str) -> str:
    """What a file of the preprocessing of a run, such as ``tokenizer.json``, is called beside an exported file."""
    return f"{file.stem}.{name}"


def _check(form: str, out: Path, images: int | None, max_difference: float) -> int:
    """The number of images to compare on, after everything has been checked that can be checked before any work."""
    check_format(form)
    require(number(above=0, most=1), flag="--max-difference", max_difference=max_difference)
    if form == "int8" and max_difference != TOLERANCE:
        raise ParameterError(
            f"{setting('max_difference')} is for formats in float32. int8 rounds, and is held to an accuracy: {setting('max_drop')}."
        )
    if out.suffix != SUFFIXES[form]:
        raise ParameterError(f"--out {out}: the suffix of the format {form} is {SUFFIXES[form]}, as in {out.stem}{SUFFIXES[form]}.")
    images = (GATE_IMAGES if form == "int8" else IMAGES) if images is None else images
    if images < 1:
        raise ParameterError(f"The number of images must be at least 1, got {images}.")
    if form == "int8" and not all(map(importlib.util.find_spec, ("openvino", "nncf"))):
        raise MissingExtraError("int8", extra="int8")
    if form == "litert":
        find_converter()
    return images


def _write_checked(
    reference: Reference, form: str, file: Path, max_difference: float, listener: Listener
) -> tuple[Path, tuple[Parity, ...]]:  # fmt: skip
    """Write a file in float32, compare it, and write the figures into it, and into its name where it is not exact; or an ExportError."""
    run, sample = reference.run, reference.sample
    model: Any = None
    if form == "litert":
        listener.stage("Converting with onnx2tf, which takes a minute or two")
        write_litert(run, file, islice(sample, 20))
    else:
        model = onnx_model(run) if form == "onnx" else openvino_model(onnx_model(run))
        _save(model, file)
    parities = tuple(_compared(reference, file, engine, listener) for engine in engines_for(file))
    _check_parities(parities, max_difference, file)
    if model is not None:
        add_entry(model, "parity", [asdict(parity) for parity in parities])
        _save(model, file)
    if any(parity.faults() for parity in parities):
        for path in list(file.parent.iterdir()):
            path.rename(path.with_name(_inexact_name(path.name, file.stem, parities)))
        file = file.with_name(_inexact_name(file.name, file.stem, parities))
    return file, parities


def _save(model: Any, file: Path) -> None:
    if file.suffix == ".onnx":
        file.write_bytes(model.SerializeToString())
    else:
        write_openvino(model, file)


def _compared(reference: Reference, file: Path, engine: str, listener: Listener) -> Parity:
    sample = reference.sample
    listener.stage(f"Comparing with the run on {len(sample)} {sample.part} images ({engine})")
    exported = ExportedModel(file, engine=engine, preprocessing=reference.run.preprocessing)
    return Parity.of(reference, exported(sample, keep=reference.comparison.keep), engine=engine)


def _check_parities(parities: Sequence[Parity], max_difference: float, file: Path) -> None:
    """Raise ExportError for the first engine in which the file differs by more than is allowed; it says what would have to be allowed."""
    for parity in parities:
        if not (faults := parity.faults(max_difference)):
            continue
        text = f"The exported file differs from the run in {parity.engine} and is not written: {'; '.join(faults)}."
        least = [one.allowing() for one in parities]
        if all(value is not None for value in least):
            allowed = max(value for value in least if value is not None)
            name = _inexact_name(file.name, file.stem, parities)
            text += f" If that is close enough for you, {setting('max_difference', allowed)} writes it, as {name}."
        raise ExportError(text)


def _inexact_name(name: str, stem: str, parities: Sequence[Parity]) -> str:
    """The name of a file that begins with this stem, with the largest difference of a probability in it, once."""
    figure = rounded_up(max(parity.difference for parity in parities))
    return f"{re.sub(re.escape(_INEXACT) + '[^a-z]*$', '', stem)}{_INEXACT}{figure:g}{name.removeprefix(stem)}"


def _check_gates(run: Run, sample: Sample, gates: Sequence[Gate]) -> None:
    """Each look of the gate at the test images is recorded in the run, whether it passed or not."""
    for gate in gates if sample.part == "test" else ():
        if gate.unit == "pixels":
            continue  # which compares with the run, and not with the truth
        use = Use(data="the gate of an int8 export", images=gate.images, tested=gate.images, trained=0, accuracy=gate.after)
        record_use(run.path, use)
    if not gates[-1].passed:
        attempts = " ".join(gate.summary() for gate in gates)
        raise ExportError(
            f"The int8 file is not accurate enough and is not written. {attempts} Allow more with --max-drop, or use openvino."
        )


def _report(
    reference: Reference, form: str, file: Path, max_difference: float, parities: Sequence[Parity], gates: Sequence[Gate]
) -> dict[str, Any]:  # fmt: skip
    """The JSON beside the file."""
    return {
        "format": form,
        "files": {path.name: file_digest(path) for path in sorted(file.parent.iterdir())},
        "run_digest": reference.run.manifest.digest,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "headstart": headstart.__version__,
        "max_difference": None if form == "int8" else max_difference,
        "compared": [asdict(parity) for parity in parities],
        "gate": [{**asdict(gate), "passed": gate.passed} for gate in gates],
    }
