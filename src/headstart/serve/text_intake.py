"""How requests bring texts: in JSON, as they are, or as files: one text, a list with a column of texts, or a text in each line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, ClassVar, cast

from headstart.data import ListOptions
from headstart.data.tables import READERS
from headstart.data.text_lists import read_texts
from headstart.errors import DataError, TextError
from headstart.modalities import TEXT, Modality
from headstart.modalities.text import clean, decoded, excerpt, joined_pair
from headstart.serve.refusals import Refusal
from headstart.serve.requests import FIELD, RAW, Asked, Input, Sent, Tensor, display_name, read_form
from headstart.serve.threads import WorkerThreads
from headstart.settings.serving import Limits

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.requests import Request

    from headstart.run import Run

_TYPES = {  # of bodies and of files whose names do not tell
    "text/csv": ".csv", "text/tab-separated-values": ".tsv", "application/jsonl": ".jsonl", "application/x-ndjson": ".jsonl",
    "application/x-jsonlines": ".jsonl",
}  # fmt: skip
_LISTS = frozenset(READERS) - {".txt", ".parquet", ".pq"}
_ALLOWED = (
    'Send application/json such as {"texts": ["..."]} or {"text": "..."}, a text itself (text/plain), a list (text/csv), or '
    "multipart/form-data with the field 'file' (.csv, .tsv, .jsonl, .txt) or 'text'."
)
_TEXTS_OF_AN_IMAGE, _BYTES_OF_AN_IMAGE = 16, 16_000
_ECHO = 2000  # characters of a text that is sent back


class TextIntake:
    """Texts of requests; see `headstart.serve.intake.Intake`."""

    modality: ClassVar[Modality] = TEXT
    heat_maps: ClassVar[bool] = False
    tensors: ClassVar[dict[str, Tensor]] = {
        "text": Tensor("BYTES", (-1,), "[n]: texts in UTF-8", lambda value: _string(value), lambda data: _of_bytes(data), "strings")
    }

    def blank(self, preprocessing: Any) -> tuple[Any, tuple[int, int]]:
        """A text of one letter."""
        return preprocessing("a"), (0, 0)

    async def read(self, request: Request, limits: Limits, threads: WorkerThreads, asked: Asked) -> list[Input]:
        """415 for another content type, 413 for too many texts, 422 for none or a body that cannot be parsed."""
        body = await request.body()
        kind = request.headers.get("content-type", "text/plain").partition(";")[0].strip().lower()
        if kind == "multipart/form-data":
            inputs = await self._read_form(request, body, limits, threads, asked)
        elif kind == "application/json":
            inputs = await threads.run("decode", lambda: self._read_json(body, limits))
        elif kind in _TYPES or kind in (*RAW, "text/plain"):
            inputs = await threads.run("decode", lambda: _of_file("", _TYPES.get(kind, ""), body, asked)) if body else []
        else:
            raise Refusal(415, "unsupported_type", f"Bodies of the type {kind[:80]!r} are not supported. {_ALLOWED}")
        if not inputs:
            empty = "" if body else " The body is empty."
            raise Refusal(422, "no_text", f"There is no text in the request.{empty} {_ALLOWED}")
        return inputs

    async def _read_form(self, request: Request, body: bytes, limits: Limits, threads: WorkerThreads, asked: Asked) -> list[Input]:
        found = list[Input]()
        fields = await read_form(request, body, most=limits.texts, fields=limits.texts, too_many=self.too_many(limits))
        several = sum(isinstance(value, Sent) for _, value in fields) > 1
        for name, value in fields:
            if isinstance(value, str):
                if name in ("text", FIELD):
                    found.append(Input("", value))
                continue
            if name != FIELD:
                reason = f"a file in the field {display_name(name)!r}, and only {FIELD!r} is read"
                found.append(Input(value.name, TextError(value.name, reason)))
                continue
            suffix = PurePosixPath(value.name).suffix.lower() or _TYPES.get(value.type, "")
            some = await threads.run("decode", partial(_of_file, value.name, suffix, value.data, asked))
            found += [Input(f"{value.name}: {one.name}", one.data) if several and len(some) > 1 else one for one in some]
        return found

    def _read_json(self, body: bytes, limits: Limits) -> list[Input]:
        """``{"texts": [...]}``, each a string or an object with ``text`` and, optionally, ``pair`` and ``name``; or one such object."""
        try:
            content = json.loads(body)
        except (ValueError, RecursionError):
            raise Refusal(422, "bad_json", "The body is not valid JSON.") from None
        texts = None
        if isinstance(content, dict):
            texts = content.get("texts", [content] if "text" in content else None)
        if not isinstance(texts, list):
            raise Refusal(422, "bad_json", 'The body must be a JSON object such as {"texts": ["..."]} or {"text": "..."}.')
        if len(texts) > limits.texts:
            raise self.too_many(limits)
        return [_read_entry(entry) for entry in texts]

    def most(self, limits: Limits) -> int:
        """Texts in one request."""
        return limits.texts

    def too_many(self, limits: Limits) -> Refusal:
        """For more than one request may have."""
        return Refusal(413, "too_many_texts", f"More than {limits.texts} texts in one request. Send them in several.")

    def weight(self, inputs: Sequence[Input], limits: Limits) -> int:
        """As many images as are as much work; never more than one client may have queued, so that a request that is alone is admitted."""
        size = sum(min(len(one.data), limits.text_bytes) for one in inputs if isinstance(one.data, str))
        return min(limits.waiting_per_client, -(-len(inputs) // _TEXTS_OF_AN_IMAGE) + size // _BYTES_OF_AN_IMAGE)

    async def check(self, inputs: Sequence[Input], limits: Limits, threads: WorkerThreads) -> None:
        """All that are not too many are accepted."""

    async def prepare(self, run: Run, one: Input, limits: Limits, threads: WorkerThreads) -> tuple[Any, tuple[int, int]]:
        """Pieces or terms of a text; TextError."""

        def encoded() -> Any:
            text = run.preprocessing.read(_checked(one, limits.text_bytes))
            return run.preprocessing(text, name=one.name)

        return await threads.decode(None, encoded), (0, 0)

    def echo(self, one: Input) -> dict[str, Any]:
        """The text, the beginning and the end of a long one."""
        return {"input": clean(excerpt(one.data, _ECHO))} if isinstance(one.data, str) else {}

    def training_name(self, name: str) -> str:
        """The row of a training text: what stands in it is not told to clients."""
        return getattr(name, "name", "")

    def refusal(self, one: Input, reason: str) -> Refusal:
        """Of the only text of a request."""
        return Refusal(422, "bad_text", f"The text is refused: {reason}.")


class _Upload:
    """A file that a client sent, as far as readers of lists need a path: its name, and its content, which is nowhere on the disk."""

    def __init__(self, name: str, suffix: str, content: bytes) -> None:
        self.name, self.suffix, self._content = name or f"list{suffix}", suffix, content

    def __str__(self) -> str:
        return self.name

    def read_bytes(self) -> bytes:
        return self._content


def _of_file(name: str, suffix: str, data: bytes, asked: Asked) -> list[Input]:
    """The texts of a file: those of a list, or its lines, or all of it."""
    if suffix in (".parquet", ".pq"):
        raise Refusal(422, "bad_list", f"{name}: lists are read as .csv, .tsv or .jsonl here. Save it as one of them.")
    if suffix in _LISTS:
        columns = {"text": asked.text_column} if asked.text_column else {}
        try:
            texts = read_texts(cast("Path", _Upload(name, suffix, data)), ListOptions(columns=columns))
        except DataError as error:
            reason, hint, _ = str(error).partition(" To name it:")
            raise Refusal(422, "bad_list", f"{reason}{' To name it: text_column=NAME in the query.' if hint else ''}") from None
        except RecursionError:
            raise Refusal(422, "bad_list", f"{name or 'The list'} is nested too deeply.") from None
        return [Input(one.name, str(one)) for one in texts]
    try:
        text = decoded(data, name)
    except TextError as error:
        return [Input(name, error)]
    if not asked.lines:
        return [Input(name, text)]
    lines = text.removesuffix("\n").split("\n")
    return [Input(f"line {number}", line.removesuffix("\r")) for number, line in enumerate(lines, 1)]


def _read_entry(entry: Any) -> Input:
    name, text, pair = "", entry, None
    if isinstance(entry, dict):
        name, text, pair = display_name(str(entry.get("name", ""))), entry.get("text"), entry.get("pair")
    if not isinstance(text, str) or not isinstance(pair, str | None):
        return Input(name, TextError(name, "not a text: it must be a string"))
    return Input(name, text if pair is None else joined_pair(text, pair))


def _checked(one: Input, most: int) -> str:
    """The text; TextError where it is longer than `most` bytes, or holds what is no character."""
    text = cast(str, one.data)
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise TextError(one.name, "it holds half of a surrogate pair, which is no character; send it as UTF-8") from None
    if size > most:
        raise TextError(one.name, f"it has {size} bytes, more than the limit of {most}; send a part of it")
    if "\0" in text:
        raise TextError(one.name, "it holds a zero byte, which is no character; remove it")
    return text


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("not a string")
    return value


def _of_bytes(data: bytes) -> str | TextError:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        return TextError("", f"its byte {error.start} is not UTF-8")
