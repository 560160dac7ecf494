"""The application: its routes, the web page, and the middleware that protects them."""

from __future__ import annotations

import asyncio
import html
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

import headstart
from headstart.errors import ImageError
from headstart.records import DEFAULT_KIND, Record
from headstart.serve import open_inference
from headstart.serve.limits import Limits, Refusal
from headstart.serve.models import CARD, REPORT, Models
from headstart.serve.monitoring import CONTENT_TYPE, Metrics, RequestMonitor
from headstart.serve.requests import BodyLimits, read_inputs
from headstart.serve.schemas import PREDICT_BODY, REFUSALS, Health, ModelList, Predictions
from headstart.serve.security import HEADERS, OPEN, REPORT_POLICY, Guard, SecurityHeaders
from headstart.serve.service import Service
from headstart.serve.threads import has_image_signature

MAX_NEIGHBOURS, MAX_CLASSES = 20, 1000
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
_PAGE_FOLDER = Path(__file__).parent / "page"
_PAGE_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".webmanifest": "application/manifest+json",
}
_ABOUT = "Predictions of a saved run. Images are sent as they are; the service opens no addresses and no paths that a client names."
_router = APIRouter(responses=REFUSALS)


def _text(kind: str) -> dict[int | str, dict[str, Any]]:
    """For the OpenAPI document: a route that responds with text of this kind, and refuses with JSON as the others do."""
    return {200: {"content": {kind: {"schema": {"type": "string"}}}}}


def create_app(
    runs: Sequence[Path],
    *,
    limits: Limits | None = None,
    token: str | None = None,
    origins: Sequence[str] = (),
    hosts: Sequence[str] = LOOPBACK_NAMES,
    engine: str = "auto",
    watch_seconds: float = 1.0,
) -> FastAPI:
    """Make the application that serves runs. It needs a server that enforces `Limits` on connections: see `headstart.serve.server`.

    Args:
        runs: their folders; each is known by the name of its folder, and the first is the default.
        limits: of the service.
        token: required from every client, except for the page and the health of the service; None for no authentication.
        origins: of web pages, beside the service's own, that may send requests (CORS).
        hosts: by which names the service may be called while it has no token.
        engine: ``auto``, ``openvino`` or ``onnxruntime``.
        watch_seconds: how often to look whether a run has changed; 0 for never.

    Raises:
        ParameterError: no runs, or two of the same name.
        RunError: one that cannot be opened.
    """
    limits = limits or Limits()
    metrics = Metrics()
    service = Service(Models(runs, engine=engine, on_batch=metrics.batch), limits=limits, metrics=metrics, watch_seconds=watch_seconds)
    app = FastAPI(
        title="Headstart", version=headstart.__version__, description=_ABOUT,
        docs_url=None, redoc_url=None, openapi_url="/openapi.json", lifespan=service.running, redirect_slashes=False,
    )  # fmt: skip
    app.state.service, app.state.limits, app.state.page = service, limits, page_files()
    app.include_router(_router)
    app.include_router(open_inference.router)
    for kind, handler in (
        (Refusal, _refused),
        (HTTPException, _http_error),
        (RequestValidationError, _bad_parameter),
        (Exception, _failed),
    ):
        app.add_exception_handler(kind, handler)
    _protect(app, limits=limits, token=token, origins=origins, hosts=hosts, metrics=metrics)
    return app


def _protect(app: FastAPI, *, limits: Limits, token: str | None, origins: Sequence[str], hosts: Sequence[str], metrics: Metrics) -> None:
    """Add the middleware around the routes; the last to be added is the outermost."""
    open_paths = OPEN | {"/"} | {f"/static/{name}" for name in app.state.page}
    app.add_middleware(BodyLimits, limits=limits)
    app.add_middleware(Guard, token=token, open_paths=open_paths, origins=origins, hosts=hosts)
    if origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(origins), allow_methods=["GET", "POST"], allow_headers=["Authorization", "Content-Type"]
        )
    app.add_middleware(SecurityHeaders)
    app.add_middleware(RequestMonitor, metrics=metrics)


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


@_router.post("/predict", summary="Predict images.", response_model=Predictions, openapi_extra=PREDICT_BODY)
async def predict_images(
    request: Request,
    model: Annotated[str | None, Query(max_length=300, description="The model to use; the first by default.")] = None,
    top: Annotated[int, Query(ge=1, le=MAX_CLASSES, description="How many classes of each image.")] = 5,
    nearest: Annotated[int, Query(ge=0, le=MAX_NEIGHBOURS, description="How many of the nearest training images to name.")] = 3,
    explain: Annotated[bool, Query(description="Whether to add heat maps.")] = False,
) -> Response:
    """One image or many, as multipart/form-data with the field `file`, as the body itself, or as base64 in JSON.

    An image that cannot be read has an `error` in its place. If it is the only one, the request is refused with 422, or with 415 where it
    does not begin like any image.
    """
    service = _service(request)
    with service.models.use(model) as chosen:
        inputs = await read_inputs(request, limits=service.limits, threads=service.threads)
        if explain and len(inputs) > service.limits.explained:
            raise Refusal(413, "too_many_images", f"Heat maps are made for at most {service.limits.explained} images in one request.")
        predicted = await service.predict(request, chosen, inputs, neighbours=nearest)
        records = predicted.records(chosen, top=top, nearest=nearest)
        if len(records) == 1 and records[0].error:
            data = inputs[0].data
            known = isinstance(data, ImageError) or has_image_signature(bytes(data[:16]))
            status, code = (422, "bad_image") if known else (415, "no_image_format")
            raise Refusal(status, code, f"The image is refused: {records[0].error}.")
        entries = [_entry(record) for record in records]
        if explain:
            for place, heat_map in (await service.explain(request, chosen, predicted)).items():
                entries[place]["heat"] = heat_map
        return JSONResponse({"model": chosen.name, "predictions": entries})


def _entry(record: Record) -> dict[str, Any]:
    """A record as JSON: see `headstart.serve.schemas.Prediction`."""
    kind = {} if record.kind == DEFAULT_KIND else {"kind": record.kind}
    return {"name": record.name, **({"error": record.error} if record.error else {**kind, **record.values})}


@_router.get("/models", summary="The models of this service.", response_model=ModelList)
async def list_models(request: Request) -> Response:
    """The first is the default of requests that name none."""
    service = _service(request)
    limits = {name: getattr(service.limits, name) for name in ("body", "images", "explained")}
    return JSONResponse({"models": service.models.facts(), "limits": limits})


@_router.get("/models/{name}/report", summary="The report of a model.", response_class=Response, responses=_text("text/html"))
async def report(request: Request, name: str) -> Response:
    """The page that was written when it was fitted."""
    return HTMLResponse(_page(request, name, REPORT), headers={"content-security-policy": REPORT_POLICY})


@_router.get("/models/{name}/card", summary="The model card of a model.", response_class=Response, responses=_text("text/plain"))
async def card(request: Request, name: str) -> Response:
    """Markdown, sent as plain text so that a browser shows it."""
    return PlainTextResponse(_page(request, name, CARD))


def _page(request: Request, name: str, page: str) -> bytes:
    with _service(request).models.use(name) as model:
        if page not in model.pages:
            raise Refusal(404, "no_page", f"The run {model.name!r} has no {page}.")
        return model.pages[page]


@_router.get("/healthz", summary="Whether the service runs.", response_model=Health)
async def health(request: Request) -> Response:
    """Answered without a token."""
    return JSONResponse({"status": "ok", "models": len(_service(request).models.names)})


@_router.get("/metrics", summary="Counters, in the text format of Prometheus.", response_class=Response, responses=_text("text/plain"))
async def metrics(request: Request) -> Response:
    """Of all processes of the service together."""
    text = await asyncio.to_thread(_service(request).metrics.text)
    return Response(text, headers={"content-type": CONTENT_TYPE})


@_router.get("/docs", include_in_schema=False)
async def docs(request: Request) -> Response:
    """A plain list of the routes."""
    return HTMLResponse(routes_page(request.app.openapi()))


@_router.get("/", include_in_schema=False)
async def front_page(request: Request) -> Response:
    """The web page; the list of routes where it is not installed."""
    found = request.app.state.page.get("index.html")
    return await docs(request) if found is None else _file(*found)


@_router.get("/static/{name}", include_in_schema=False)
async def page_file(request: Request, name: str) -> Response:
    """A file of the web page."""
    found = request.app.state.page.get(name)
    if found is None:
        raise Refusal(404, "no_file", "There is no such file.")
    return _file(*found)


def _file(data: bytes, kind: str) -> Response:
    return Response(data, headers={"content-type": kind, "cache-control": "no-cache"})


async def _refused(request: Request, error: Any) -> Response:
    return Response(error.body, error.status, headers=error.headers)


async def _http_error(request: Request, error: Any) -> Response:
    messages = {
        404: "There is nothing here. See /docs for the routes.",
        405: "This route does not support that method. See /docs for the routes.",
    }
    refusal = Refusal(error.status_code, "http_error", messages.get(error.status_code, "The request cannot be served."))
    return Response(refusal.body, refusal.status, headers={**refusal.headers, **(error.headers or {})})


async def _bad_parameter(request: Request, error: Any) -> Response:
    first = error.errors()[0]
    refusal = Refusal(422, "bad_parameter", f"{first['loc'][-1]}: {first['msg']}.")
    return Response(refusal.body, refusal.status, headers=refusal.headers)


async def _failed(request: Request, error: Exception) -> Response:
    """No details leave the service; the server logs them. This one response passes no middleware."""
    refusal = Refusal(500, "internal", "Something went wrong in the service. Its log says what.")
    return Response(refusal.body, 500, headers={**HEADERS, **refusal.headers})


def page_files(folder: Path = _PAGE_FOLDER) -> dict[str, tuple[bytes, str]]:
    """The files of the web page by name, with their content types; empty where it is not installed. No path of a client is ever opened."""
    if not folder.is_dir():
        return {}
    return {
        file.name: (file.read_bytes(), _PAGE_TYPES[file.suffix])
        for file in sorted(folder.iterdir())
        if file.suffix in _PAGE_TYPES and file.is_file()
    }


def routes_page(document: dict[str, Any]) -> str:
    """The routes of an OpenAPI document as a plain page: the usual ones load their scripts from other servers."""
    rows = []
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            parts = [operation.get("summary", ""), operation.get("description", "")]
            query = [parameter["name"] for parameter in operation.get("parameters", []) if parameter["in"] == "query"]
            if query:
                parts.append("Query: " + ", ".join(query) + ".")
            text = " ".join(html.escape(part) for part in parts if part)
            rows.append(f"<dt><code>{html.escape(method.upper())} {html.escape(path)}</code></dt>\n<dd>{text}</dd>")
    title = html.escape(f"{document['info']['title']} {document['info']['version']}")
    return (
        f'<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark"></head>\n'
        f'<body>\n<h1>{title}</h1>\n<p>The same for programs: <a href="openapi.json">openapi.json</a>. '
        '<a href=".">The web page</a>.</p>\n<dl>\n' + "\n".join(rows) + "\n</dl>\n</body>\n</html>\n"
    )
