"""Programs that use an exported file without Headstart."""

from __future__ import annotations

from collections.abc import Mapping

from headstart.errors import ParameterError, nearest
from headstart.modalities.image import Preprocessing

_PYTHON = """\
# pip install onnxruntime pillow numpy
import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession({file}, providers=["CPUExecutionProvider"])
told = {{name: json.loads(text) for name, text in session.get_modelmeta().custom_metadata_map.items() if name.startswith("headstart.")}}
names = [output.name for output in session.get_outputs()]

for path in sys.argv[1:]:
    with Image.open(path) as image:
        pixels = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    found = dict(zip(names, session.run(names, {{"images": pixels[None]}})))
    probabilities = found["probabilities"][0]
    if told["headstart.multilabel"]:
        label = ";".join(told["headstart.classes"][i] for i in np.flatnonzero(probabilities >= 0.5))
    else:
        label = told["headstart.classes"][int(probabilities.argmax())]
    limit = told["headstart.unlike_threshold"]
    unlike = "  unlike anything seen in training" if limit is not None and found["unlikeness"][0] > limit else ""
    print(f"{{path}}  {{label}}  {{probabilities.max():.4f}}{{unlike}}")
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
  const probabilities = Array.from(found.probabilities.data);
  const best = probabilities.indexOf(Math.max(...probabilities));
  const unlike = unlikeThreshold !== null && found.unlikeness.data[0] > unlikeThreshold;
  return {{ label: classes[best], probability: probabilities[best], probabilities, unlike }};
}}
"""

_CPP = """\
// ONNX Runtime's C++ interface: https://onnxruntime.ai  Build with: g++ -std=c++17 predict.cpp -lonnxruntime
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <cstdint>
#include <vector>

struct Prediction {{
  std::size_t label;  // position in `classes`
  float probability;
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
  const float* best = std::max_element(first, first + {classes_count});
  return {{static_cast<std::size_t>(best - first), *best, {unlike}}};
}}

// Ort::Env env;  Ort::Session session(env, {file}, Ort::SessionOptions{{}});
"""

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
    probabilities = model(pixels=np.asarray(square)[None])["probabilities"][0]
    print(f"{{path}}  {{{label}}}  {{probabilities.max():.4f}}")
"""

_PROGRAMS: Mapping[str, str] = {"python": _PYTHON, "javascript": _JAVASCRIPT, "cpp": _CPP}
LANGUAGES = tuple(_PROGRAMS)


def snippet(language: str, *, file: str, classes: tuple[str, ...], threshold: float | None) -> str:
    """A program that uses an exported ONNX file.

    Args:
        language: ``python``, ``javascript`` or ``cpp``.
        file: the name of the exported file.
        classes: of the run.
        threshold: from which score on an image is unlike the training images; None where the run cannot tell.

    Raises:
        ParameterError: another language.
    """
    if language not in _PROGRAMS:
        raise ParameterError(f"--snippet must be {', '.join(LANGUAGES)}, got {language!r}.{nearest(language, LANGUAGES)}")
    if language == "cpp":
        known = threshold is not None
        return _CPP.format(
            file=_quoted(file), classes="{" + ", ".join(_quoted(name) for name in classes) + "}", classes_count=len(classes),
            outputs='"probabilities", "unlikeness"' if known else '"probabilities"', count=2 if known else 1,
            unlike=f"found[1].GetTensorData<float>()[0] > {float(threshold):.6g}f" if threshold is not None else "false",
        )  # fmt: skip
    names = "[" + ", ".join(_quoted(name) for name in classes) + "]"
    return _PROGRAMS[language].format(file=_quoted(file), classes=names, threshold="null" if threshold is None else f"{threshold:.6g}")


def litert_snippet(*, file: str, classes: tuple[str, ...], preprocessing: Preprocessing, multilabel: bool) -> str:
    """A program in Python that uses an exported LiteRT file, and prepares each image as the run does."""
    return _LITERT.format(
        file=_quoted(file), classes="[" + ", ".join(_quoted(name) for name in classes) + "]", size=preprocessing.size,
        cut="image.size" if preprocessing.fit == "squash" else f"(min(image.size) * {preprocessing.crop:g},) * 2",
        filter=preprocessing.interpolation.upper(),
        label="';'.join(classes[i] for i in np.flatnonzero(probabilities >= 0.5))" if multilabel else "classes[probabilities.argmax()]",
    )  # fmt: skip


def _quoted(text: str) -> str:
    """A string literal that means the same in all three languages: nothing but printable ASCII stands for itself, or UTF-8 does."""
    safe = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(mark if mark.isprintable() else " " for mark in safe) + '"'
