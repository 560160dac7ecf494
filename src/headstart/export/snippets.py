"""Programs that use an exported file without Headstart; what they print follows from the kind of the output."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from headstart.errors import ParameterError, nearest
from headstart.export.parity import Comparison
from headstart.metrics.link import THRESHOLD
from headstart.run import Run

# What is printed, by the link of the classes; without classes, the value itself
_PRINTED: Mapping[str | None, str] = {
    "softmax": "{classes[values.argmax()]}  {values.max():.4f}",
    "sigmoid": f"{{';'.join(classes[i] for i in np.flatnonzero(values >= {THRESHOLD:g}))}}  {{values.max():.4f}}",
    None: "{values}",
}

_PYTHON = """\
# pip install onnxruntime pillow numpy
import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession({file}, providers=["CPUExecutionProvider"])
metadata = {{name: json.loads(text) for name, text in session.get_modelmeta().custom_metadata_map.items() if name.startswith("headstart.")}}
names = [output.name for output in session.get_outputs()]
classes, limit = metadata.get("headstart.classes"), metadata["headstart.unlike_threshold"]

for path in sys.argv[1:]:
    with Image.open(path) as image:
        pixels = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    found = dict(zip(names, session.run(names, {{"images": pixels[None]}})))
    values = found[{output}][0]
    unlike = "  unlike anything seen in training" if limit is not None and found["unlikeness"][0] > limit else ""
    print(f"{{path}}  {printed}{{unlike}}")
"""

_JAVASCRIPT = """\
// npm install onnxruntime-web
import * as ort from "onnxruntime-web";

const classes = {classes};
const unlikeThreshold = {threshold};
const session = await ort.InferenceSession.create({file});

// `picture`: an <img>, a <canvas>, or what createImageBitmap gives (browsers turn it upright by its EXIF entry)
export async function predict(picture) {{
  const width = picture.naturalWidth ?? picture.width, height = picture.naturalHeight ?? picture.height;
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d");
  context.fillStyle = "white";  // transparency is laid over white
  context.fillRect(0, 0, width, height);
  context.drawImage(picture, 0, 0);
  const rgba = context.getImageData(0, 0, width, height).data;
  const rgb = new Uint8Array(width * height * 3);
  for (let from = 0, to = 0; from < rgba.length; from += 4) {{
    rgb[to++] = rgba[from];
    rgb[to++] = rgba[from + 1];
    rgb[to++] = rgba[from + 2];
  }}
  const found = await session.run({{ images: new ort.Tensor("uint8", rgb, [1, height, width, 3]) }});
  const values = Array.from(found[{output}].data);
  const unlike = unlikeThreshold !== null && found.unlikeness.data[0] > unlikeThreshold;
  {returned}
}}
"""
_JAVASCRIPT_LABEL = """const best = values.indexOf(Math.max(...values));
  return { label: classes[best], probability: values[best], probabilities: values, unlike };"""
_JAVASCRIPT_VALUE = "return { values, unlike };"

_CPP = """\
// ONNX Runtime's C++ interface: https://onnxruntime.ai  Build with: g++ -std=c++17 predict.cpp -lonnxruntime
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <cstdint>
#include <vector>

struct Prediction {{
{fields}
  bool unlike;  // unlike anything seen in training
}};

static const char* const classes[] = {classes};

// `rgb`: upright pixels, row by row, three bytes each
Prediction predict(Ort::Session& session, std::vector<std::uint8_t>& rgb, std::int64_t height, std::int64_t width) {{
  const std::int64_t shape[] = {{1, height, width, 3}};
  auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  auto images = Ort::Value::CreateTensor<std::uint8_t>(memory, rgb.data(), rgb.size(), shape, 4);
  const char* inputs[] = {{"images"}};
  const char* outputs[] = {{{outputs}}};
  auto found = session.Run(Ort::RunOptions{{nullptr}}, inputs, &images, 1, outputs, {count});
  const float* first = found[0].GetTensorData<float>();
{returned}
}}

// Ort::Env env;  Ort::Session session(env, {file}, Ort::SessionOptions{{}});
"""

_CPP_LABEL = (
    "  std::size_t label;  // position in `classes`\n  float probability;",
    "  const float* best = std::max_element(first, first + {count});\n"
    "  return {{static_cast<std::size_t>(best - first), *best, {unlike}}};",
)
_CPP_VALUE = "  float value;", "  return {{*first, {unlike}}};"

_LITERT = """\
# pip install ai-edge-litert pillow numpy
import sys

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from PIL import Image, ImageOps

classes = {classes}
model = Interpreter({file}).get_signature_runner()

for path in sys.argv[1:]:
    with Image.open(path) as image:
        image = ImageOps.exif_transpose(image).convert("RGB")
    width, height = {cut}
    left, top = (image.width - width) / 2, (image.height - height) / 2
    part = (left, top, left + width, top + height)
    square = image.resize(({size}, {size}), Image.Resampling.{filter}, box=part, reducing_gap=3.0)
    values = model(pixels=np.asarray(square)[None])[{output}][0]
    print(f"{{path}}  {printed}")
"""

_PROGRAMS: Mapping[str, str] = {"python": _PYTHON, "javascript": _JAVASCRIPT, "cpp": _CPP}
LANGUAGES = tuple(_PROGRAMS)


def snippet(language: str, run: Run, *, file: str) -> str:
    """A program that uses an exported file.

    Args:
        language: ``python``, ``javascript`` or ``cpp``; for LiteRT files ``python`` only.
        run: that was exported.
        file: the name of the exported file, ONNX or ``.tflite``.

    Raises:
        ParameterError: another language, or a run whose outputs have no kind that could be printed.
    """
    if language not in _PROGRAMS:
        raise ParameterError(f"--snippet must be {', '.join(LANGUAGES)}, got {language!r}.{nearest(language, LANGUAGES)}")
    litert = Path(file).suffix == ".tflite"
    if litert and language != "python":
        raise ParameterError(f"--snippet {language}: the program for LiteRT is in python only.")
    output, link, preprocessing = Comparison.of(run).output, run.link, run.preprocessing
    threshold = None if run.trust is None or run.trust.novelty is None else run.trust.novelty.threshold
    names = ", ".join(_quoted(name) for name in run.classes)
    texts = {"file": _quoted(file), "output": _quoted(output), "printed": _PRINTED[None if link is None else link.name]}
    if language == "cpp":
        fields, returned = _CPP_VALUE if link is None else _CPP_LABEL
        unlike = "false" if threshold is None else f"found[1].GetTensorData<float>()[0] > {float(threshold):.6g}f"
        outputs = [_quoted(output), *([] if threshold is None else ['"unlikeness"'])]
        returned = returned.format(unlike=unlike, count=len(run.classes))
        return _CPP.format(
            **texts, classes=f"{{{names}}}", outputs=", ".join(outputs), count=len(outputs), fields=fields, returned=returned
        )  # fmt: skip
    return (_LITERT if litert else _PROGRAMS[language]).format(
        **texts, classes=f"[{names}]", threshold="null" if threshold is None else f"{threshold:.6g}",
        returned=_JAVASCRIPT_VALUE if link is None else _JAVASCRIPT_LABEL,
        size=preprocessing.size, filter=preprocessing.interpolation.upper(),
        cut="image.size" if preprocessing.fit == "squash" else f"(min(image.size) * {preprocessing.crop:g},) * 2",
    )  # fmt: skip


def _quoted(text: str) -> str:
    """A string literal that means the same in all three languages: nothing but printable ASCII stands for itself, or UTF-8 does."""
    safe = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(mark if mark.isprintable() else " " for mark in safe) + '"'
