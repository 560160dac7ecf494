"""The whole of an export: made, compared with the run on real images, and written only if it agrees."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import headstart
from headstart.errors import DataError, HeadstartError, ParameterError
from headstart.export.exported import Exported, engines_for
from headstart.export.gate import MAX_DROP, Gate
from headstart.export.litert_file import find_converter, write_litert
from headstart.export.onnx_file import metadata, onnx_model
from headstart.export.openvino_files import openvino_model, write_openvino
from headstart.export.parity import Parity, answers, parity, told_by_run
from headstart.export.quantised import CALIBRATION, FLOAT_SHARES, by_damage, check_nncf, layers_of, quantised
from headstart.export.real_images import RealImages, real_images, some_real_images
from headstart.files import file_digest, folder_beside, move_files
from headstart.progress import Listener
from headstart.run import Run, Use, record_use

SUFFIXES: Mapping[str, str] = {"onnx": ".onnx", "openvino": ".xml", "int8": ".xml", "litert": ".tflite"}
IMAGES, GATE_IMAGES = 300, 1000
"""With how many images a file is compared at most; for int8 with more: chance alone moves the accuracy on 300 by half a point."""

WITHOUT_CONVERTER: Mapping[str, str] = {
    "coreml": "Core ML: Apple's coremltools reads no ONNX any more, and what it writes can be compared with the run on a Mac only. "
    "Use the ONNX file with ONNX Runtime's Core ML provider",
}
"""Formats that are asked for and cannot be written, with the reason and what to do instead."""


class ExportError(HeadstartError):
    """An export does not agree with its run, or is not accurate enough: it is not written."""


@dataclass(frozen=True, kw_only=True)
class ExportResult:
    """What was written.

    Attributes:
        files: the file, and for OpenVINO the one of its numbers.
        report: the JSON file of differences beside it.
        parities: a comparison for each engine that is installed.
        gates: for int8, each attempt; the last one passed.
    """

    files: tuple[Path, ...]
    report: Path
    parities: tuple[Parity, ...]
    gates: tuple[Gate, ...]


def check_format(form: str) -> str:
    """Return `form` if it can be written.

    Raises:
        ParameterError: it is unknown, or there is no converter for it.
    """
    if form in WITHOUT_CONVERTER:
        raise ParameterError(f"--format {form}: {WITHOUT_CONVERTER[form]}.")
    if form not in SUFFIXES:
        raise ParameterError(f"--format must be {', '.join(SUFFIXES)}, got {form!r}.")
    return form


def export(
    run: Run,
    out: Path,
    *,
    form: str = "onnx",
    max_drop: float = MAX_DROP,
    images: int | None = None,
    data: Path | None = None,
    listener: Listener | None = None,
) -> ExportResult:
    """Export a run.

    Args:
        run: opened with `headstart.load`.
        out: the file to write; ``.onnx``, ``.xml`` for OpenVINO and int8, or ``.tflite``. ``OUT.parity.json`` is written beside it.
        form: ``onnx``, ``openvino``, ``int8`` or ``litert``.
        max_drop: of int8: how much accuracy may be lost, as a share.
        images: how many of the run's images to compare with, at most; by default `IMAGES`, for int8 `GATE_IMAGES`.
        data: the folder of the data, where the images have been moved.
        listener: told of the stages.

    Raises:
        ExportError: the file differs from the run; nothing is written.
        ParameterError: an unknown format, or a name with another suffix.
        DataError: none of the run's images are there.
        MissingExtraError: OpenVINO, NNCF or LiteRT is not installed.
        ConverterError: onnx2tf, which makes LiteRT files, failed.
    """
    check_format(form)
    if out.suffix != SUFFIXES[form]:
        raise ParameterError(f"--out {out}: a file of the format {form} is named {out.stem}{SUFFIXES[form]}.")
    images = (GATE_IMAGES if form == "int8" else IMAGES) if images is None else images
    if images < 1:
        raise ParameterError(f"The number of images must be at least 1, got {images}.")
    if form == "int8":
        check_nncf()
    if form == "litert":
        find_converter()
    listener = listener or Listener()
    sample = some_real_images(run, images, data=data)
    with folder_beside(out) as beside:
        file = beside / out.name
        listener.stage("Writing the graph")
        gates: tuple[Gate, ...] = ()
        if form == "int8":
            parities, gates = _int8(run, file, sample, max_drop=max_drop, data=data, listener=listener)
        else:
            if form == "onnx":
                file.write_bytes(onnx_model(run).SerializeToString())
            elif form == "openvino":
                write_openvino(_for_openvino(run), file)
            else:
                listener.stage("Converting with onnx2tf, which takes a minute or two")
                write_litert(run, file, list(sample.images[:20]))
            parities = _compared(run, file, sample, listener)
        report = file.with_name(f"{out.name}.parity.json")
        report.write_text(json.dumps(_report(run, form, file, parities, gates), indent=1) + "\n", encoding="utf-8")
        written = move_files(beside, out.parent, last=out.name)
    kept = sorted((path for path in written if path.suffix != ".json"), key=lambda path: path.name != out.name)
    return ExportResult(files=tuple(kept), report=out.with_name(report.name), parities=parities, gates=gates)


def _for_openvino(run: Run) -> Any:
    return openvino_model(onnx_model(run).SerializeToString(), metadata(run))


def _compared(run: Run, file: Path, sample: RealImages, listener: Listener) -> tuple[Parity, ...]:
    found: list[Parity] = []
    for engine in engines_for(file):
        listener.stage(f"Comparing with the run on {len(sample)} {sample.part} images ({engine})")
        one = parity(run, sample, answers(Exported(file, engine=engine, preprocessing=run.preprocessing), sample), engine=engine)
        if faults := one.faults():
            raise ExportError(f"The exported file differs from the run in {engine}, and is not written: {'; '.join(faults)}.")
        found.append(one)
    return tuple(found)


def _int8(
    run: Run, file: Path, sample: RealImages, *, max_drop: float, data: Path | None, listener: Listener
) -> tuple[tuple[Parity, ...], tuple[Gate, ...]]:
    training = real_images(run, "train", CALIBRATION, data=data)
    if not len(training):
        raise DataError("int8 needs training images, and none are where they were. Give their folder with --data.")
    model = _for_openvino(run)
    layers, gates = layers_of(model), []
    own = told_by_run(run, sample).probabilities
    order: Sequence[str] = ()
    made: Any = None
    for share in FLOAT_SHARES:
        if share and not order:
            listener.stage(f"Looking for the layers that do most harm, of {len(layers)}")
            order = by_damage(model, made, training.images, progress=listener.progress)
        leave = order[: round(share * len(layers))]
        listener.stage(f"Quantising with {len(training)} training images, {len(leave)} of {len(layers)} layers left in float32")
        made = quantised(model, training.images, leave=leave, progress=listener.progress)
        write_openvino(made, file)
        given = answers(Exported(file, engine="openvino"), sample)
        gate = Gate.of(
            own, given.probabilities, sample.targets, part=sample.part, max_drop=max_drop, in_float=len(leave), layers=len(layers)
        )
        gates.append(gate)
        listener.say(gate.sentence())
        if gate.passed:
            break
    _write_down(run, sample, gates)
    if not gates[-1].passed:
        told = " ".join(gate.sentence() for gate in gates)
        raise ExportError(f"The int8 file is not accurate enough, and is not written. {told} Allow more with --max-drop, or use openvino.")
    return (parity(run, sample, given, engine="openvino"),), tuple(gates)


def _write_down(run: Run, sample: RealImages, gates: Sequence[Gate]) -> None:
    """The gate looks at the test images, and each look at them is written down in the run."""
    if sample.part == "test":
        for gate in gates:
            record_use(
                run.path, Use(data="the gate of an int8 export", images=gate.images, tested=gate.images, trained=0, accuracy=gate.after)
            )


def _report(run: Run, form: str, file: Path, parities: Sequence[Parity], gates: Sequence[Gate]) -> dict[str, Any]:
    """What stands beside the file."""
    parts = sorted(path for path in file.parent.iterdir())
    return {
        "format": form,
        "files": {path.name: file_digest(path) for path in parts},
        "run_digest": run.manifest["digest"],
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "headstart": headstart.__version__,
        "compared": [one.to_dict() for one in parities],
        "gate": [gate.to_dict() for gate in gates],
    }
