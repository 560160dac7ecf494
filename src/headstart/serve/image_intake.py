"""How requests bring images: as files, as bytes, or as base64 in JSON; as tensors also as pixels."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from headstart.errors import ImageError, UnreadableError
from headstart.modalities import IMAGE, Modality
from headstart.modalities.image import begins_as_image, upright_size
from headstart.serve.refusals import Refusal
from headstart.serve.requests import FIELD, RAW, Asked, Input, Sent, Tensor, decode_base64, display_name, read_form
from headstart.serve.threads import WorkerThreads, large_pixels
from headstart.settings.serving import Limits

if TYPE_CHECKING:
    from starlette.requests import Request

    from headstart.run import Run

_ALLOWED = "Send multipart/form-data with the field 'file', an image itself (image/* or application/octet-stream), or application/json."
_EXAMPLE = 'The body must be a JSON object such as {"images": ["...base64..."]}.'


class ImageIntake:
    """Images of requests; see `headstart.serve.intake.Intake`."""

    modality: ClassVar[Modality] = IMAGE
    heat_maps: ClassVar[bool] = True
    tensors: ClassVar[dict[str, Tensor]] = {
        "images": Tensor("BYTES", (-1,), "[n]: files of images", decode_base64, lambda data: data, "base64 in strings"),
        "pixels": Tensor("UINT8", (-1, -1, -1, 3), "[n, height, width, 3]"),
    }

    def blank(self, preprocessing: Any) -> tuple[Any, tuple[int, int]]:
        """A black image."""
        size = preprocessing.size
        return np.zeros((size, size, 3), np.uint8), (size, size)

    async def read(self, request: Request, limits: Limits, threads: WorkerThreads, asked: Asked) -> list[Input]:
        """415 for another content type, 413 for too many images, 422 for none or a body that cannot be parsed."""
        body = await request.body()
        kind = request.headers.get("content-type", "application/octet-stream").partition(";")[0].strip().lower()
        if kind == "multipart/form-data":
            inputs = await self._read_form(request, body, limits)
        elif kind == "application/json":
            inputs = await threads.run("decode", lambda: self._read_json(body, limits))
        elif kind.startswith("image/") or kind in RAW:
            inputs = [Input("", body)] if body else []
        else:
            raise Refusal(415, "unsupported_type", f"Bodies of the type {kind[:80]!r} are not supported. {_ALLOWED}")
        if not inputs:
            empty = "" if body else " The body is empty."
            raise Refusal(422, "no_image", f"There is no image in the request.{empty} {_ALLOWED}")
        return inputs

    async def _read_form(self, request: Request, body: bytes, limits: Limits) -> list[Input]:
        inputs = []
        for name, value in await read_form(request, body, most=limits.images, too_many=self.too_many(limits)):
            shown = value.name if isinstance(value, Sent) else display_name(value)
            if name == FIELD and isinstance(value, Sent):
                inputs.append(Input(shown, value.data))
            elif name == FIELD:
                inputs.append(Input(shown, ImageError(shown, f"the field {FIELD!r} holds a text, not a file (curl: -F {FIELD}=@NAME)")))
            elif isinstance(value, Sent):
                inputs.append(Input(shown, ImageError(shown, f"a file in the field {display_name(name)!r}, and only {FIELD!r} is read")))
        if inputs and all(isinstance(one.data, ImageError) for one in inputs):
            reasons = "; ".join(f"{one.name}: {one.data.reason}" for one in inputs[:5] if isinstance(one.data, ImageError))
            raise Refusal(422, "no_image", f"There is no image in the request ({reasons}). {_ALLOWED}")
        return inputs

    def _read_json(self, body: bytes, limits: Limits) -> list[Input]:
        """``{"images": [...]}``, each base64, a data URI, or an object with ``data`` and, optionally, ``name``."""
        try:
            content = json.loads(body)
        except (ValueError, RecursionError):
            raise Refusal(422, "bad_json", "The body is not valid JSON.") from None
        images = content.get("images") if isinstance(content, dict) else None
        if not isinstance(images, list):
            raise Refusal(422, "bad_json", _EXAMPLE)
        if len(images) > limits.images:  # before any is decoded: a few megabytes can hold a million
            raise self.too_many(limits)
        return [_read_entry(entry) for entry in images]

    def most(self, limits: Limits) -> int:
        """Images in one request."""
        return limits.images

    def too_many(self, limits: Limits) -> Refusal:
        """For more than one request may have."""
        return Refusal(413, "too_many_images", f"More than {limits.images} images in one request. Send them in several.")

    def weight(self, inputs: Sequence[Input], limits: Limits) -> int:
        """Their number."""
        return len(inputs)

    async def check(self, inputs: Sequence[Input], limits: Limits, threads: WorkerThreads) -> None:
        """Refuse, before any is decoded, several images that together would occupy the thread for large ones for long."""
        files = [one.data for one in inputs if isinstance(one.data, bytes)]
        if len(files) < 2:  # one is within the limits of `headstart.modalities.image`, or refused
            return
        pixels = await threads.run("decode", lambda: sum(map(large_pixels, files)))
        if pixels > limits.large_pixels:
            raise Refusal(
                413, "too_many_pixels",
                f"The large images of this request have {pixels / 1e6:.0f} megapixels together, more than the limit of "
                f"{limits.large_pixels / 1e6:.0f}. Send them in several requests.",
            )  # fmt: skip

    async def prepare(self, run: Run, one: Input, limits: Limits, threads: WorkerThreads) -> tuple[Any, tuple[int, int]]:
        """Pixels, and height and width of the upright image where the task needs them; ImageError."""
        data: Any = one.data
        pixels = await threads.decode(data, lambda: run.preprocessing(data, name=one.name))
        return pixels, await asyncio.to_thread(upright_size, data) if run.task.spatial else (0, 0)

    def echo(self, one: Input) -> dict[str, Any]:
        """Nothing: the client has it."""
        return {}

    def training_name(self, name: str) -> str:
        """The file name without its folder, as clients need not know the folders of the server."""
        return name.replace("\\", "/").rpartition("/")[2]

    def refusal(self, one: Input, reason: str) -> Refusal:
        """Of the only image of a request: 422, or 415 where it does not begin like any."""
        data: Any = one.data
        known = isinstance(data, UnreadableError) or not len(data) or begins_as_image(bytes(data[:16]))
        status, code = (422, "bad_image") if known else (415, "no_image_format")
        return Refusal(status, code, f"The image is refused: {reason}.")


def _read_entry(entry: Any) -> Input:
    name, data = (display_name(str(entry.get("name", ""))), entry.get("data")) if isinstance(entry, dict) else ("", entry)
    if not isinstance(data, str):
        return Input(name, ImageError(name, "not an image: it must be base64 in a string"))
    if data.lstrip().startswith("data:"):
        data = data.partition(",")[2]
    try:
        return Input(name, decode_base64(data))
    except ValueError:
        return Input(name, ImageError(name, "cannot be decoded: not base64"))
