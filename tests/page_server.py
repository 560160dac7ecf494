"""A server of canned answers behind the real web page, so that the page is tested without a model and without FastAPI."""

from __future__ import annotations

import base64
import io
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
from PIL import Image

import headstart
from conftest import draw

PAGE = Path(headstart.__file__).parent / "serve" / "page"
TYPES = {".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; form-action 'none'; "
    "base-uri 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
MODELS: list[dict[str, Any]] = [
    {
        "name": "animals", "title": "animals", "classes": ["cat", "dog", "horse", "deer", "bird", "frog", "ship"], "multilabel": False,
        "accuracy": 0.9433, "test_images": 300, "coverage": 0.95, "created": "2026-11-22T12:40:05+00:00", "report": True, "card": True,
    },
    {
        "name": "tags <i>", "title": "tags <i>", "classes": ["indoors", "night"], "multilabel": True, "accuracy": None, "test_images": None,
        "coverage": None, "created": "2026-11-20T08:00:00+00:00", "report": True, "card": False,
    },
]  # fmt: skip


def heat_png() -> str:
    """A data URI of a picture unlike any that is sent."""
    y, x = np.mgrid[:64, :64]
    glow = np.exp(-((x - 24) ** 2 + (y - 30) ** 2) / 300)
    pixels = np.stack([60 + 190 * glow, 20 + 180 * glow, 70 - 30 * glow], axis=2).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def animal(name: str, shares: list[float], *, members: list[str], unlike: bool = False) -> dict[str, Any]:
    """An answer of the first model; the classes come in its order, the most probable first."""
    classes = MODELS[0]["classes"]
    return {
        "name": name, "label": classes[0], "probability": shares[0],
        "top": [{"label": label, "probability": share} for label, share in zip(classes, shares, strict=False)],
        "set": members, "unlike": unlike, "unlikeness": 9.5 if unlike else 0.25,
        "nearest": [{"name": f"{label}.{index}.jpg", "label": label} for index, label in enumerate(("cat", "cat", "dog"))],
    }  # fmt: skip


@dataclass
class Behaviour:
    """What the server does beside answering, and what it has been asked."""

    token: str = ""
    most_bytes: int = 1 << 30
    busy: int = 0
    asked: list[dict[str, Any]] = field(default_factory=list)
    hold: threading.Event = field(default_factory=threading.Event)  # answers wait while it is clear

    def __post_init__(self) -> None:
        self.hold.set()


class Handler(BaseHTTPRequestHandler):
    """Answers by the name of the file."""

    behaviour: ClassVar[Behaviour]
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Be silent."""

    def give(self, status: int, content: bytes | Any, *, kind: str = "application/json", **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        sent = {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "Content-Security-Policy": POLICY,
            "X-Content-Type-Options": "nosniff",
        }
        for name, value in {**sent, **{name.replace("_", "-"): value for name, value in headers.items()}}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def refused(self) -> bool:
        if self.behaviour.token and self.headers.get("Authorization") != f"Bearer {self.behaviour.token}":
            self.give(401, {"error": "A token is needed.", "code": "token"}, WWW_Authenticate="Bearer")
            return True
        return False

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if path == "/" or path.startswith("/static/"):
            file = PAGE / ("index.html" if path == "/" else path.removeprefix("/static/"))
            self.give(200, file.read_bytes(), kind=TYPES[file.suffix]) if file.is_file() else self.give(404, {"error": "Not here."})
        elif path == "/healthz":
            self.give(200, {"status": "ok"})
        elif self.refused():
            return
        elif path == "/models":
            self.give(200, {"models": MODELS})
        elif re.fullmatch(r"/models/.+/(report|card)", path):
            self.give(200, f"The page {path}".encode(), kind="text/plain; charset=utf-8")
        else:
            self.give(404, {"error": "Not here."})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.refused():
            return
        asked = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        head, _, content = body.partition(b"\r\n\r\n")
        name = re.search(r'filename="(.*?)"', head.decode())[1].replace("%22", '"')  # type: ignore[index]
        self.behaviour.asked.append(
            {**asked, "name": name, "bytes": len(content), "type": re.search(rb"Content-Type: (\S+)", head)[1].decode()}
        )  # type: ignore[index]
        self.behaviour.hold.wait(5)
        if self.behaviour.busy:
            self.behaviour.busy -= 1
            self.give(503, {"error": "Busy.", "code": "busy"}, Retry_After="0.05")
        elif len(content) > self.behaviour.most_bytes:
            self.give(413, {"error": "The body is larger than the limit.", "code": "body_too_large"})
        elif "broken" in name:
            self.give(422, {"error": "truncated: the file ends before the picture does", "code": "image"})
        else:
            drift = {"drift": {"images": 200, "unlike": 190, "expected": 0.03, "drifted": True}} if "drifted" in name else {}
            self.give(200, {**drift, "predictions": [answer(name, **asked)]})


def answer(name: str, *, model: str, explain: str = "", nearest: str = "0") -> dict[str, Any]:
    """The entry for one picture."""
    if model != "animals":
        top = [{"label": "indoors", "probability": 0.91}, {"label": "night", "probability": 0.72}]
        found = {"name": name, "label": ["indoors", "night"], "probability": 0.72, "top": top, "set": None, "unlike": None}
        found |= {"unlikeness": None, "nearest": [{"name": "a.jpg", "label": "night;outdoors"}]}
    elif "ripe" in name:
        found = {"name": name, "kind": "number", "value": 4.25}
    elif "odd" in name:
        found = {"name": name, "kind": "of_tomorrow", "text": "<b>hello</b>", "angles": [1, 2], "unlike": True, "nothing": None}
    elif "truck" in name:
        found = animal(name, [0.6, 0.2, 0.1, 0.05, 0.03], members=["cat", "dog", "horse"], unlike=True)
    elif "doubt" in name:
        found = animal(name, [0.52, 0.40, 0.05, 0.02, 0.005], members=["cat", "dog"])
    else:
        found = animal(name, [0.982, 0.01, 0.004, 0.002, 0.001], members=["cat"])
    assert nearest == "3"
    return {**found, "heat": heat_png()} if explain == "1" else found


class PageServer:
    """The server, in a thread; `behaviour` may be changed while it runs."""

    def __init__(self) -> None:
        self.behaviour = Behaviour()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Own", (Handler,), {"behaviour": self.behaviour}))
        self._server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self._server.server_port}/"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        """Stop it."""
        self._server.shutdown()
        self._server.server_close()


def picture(name: str, *, side: int = 48, kind: str = "JPEG") -> dict[str, Any]:
    """A file as a browser is given one."""
    file = io.BytesIO()
    Image.fromarray(draw(0, 1)).resize((side, side)).save(file, kind, quality=90)
    return {"name": name, "mimeType": f"image/{kind.lower()}", "buffer": file.getvalue()}


def give(page: Any, *files: dict[str, Any]) -> None:
    """Choose files on the page, as with its button."""
    page.set_input_files("#files", list(files))


def rows(page: Any) -> list[list[str]]:
    """The words in the cells of the table of results."""
    return [row.locator(":scope > *").all_inner_texts() for row in page.locator("tr.row").all()]
