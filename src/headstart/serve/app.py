"""The application: routes, and around them what protects them."""

from __future__ import annotations

import asyncio
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
from headstart.serve import open_inference
from headstart.serve.answers import PREDICT_BODY, REFUSALS, Health, ModelList, Predicted
from headstart.serve.bodies import BodyLimits
from headstart.serve.inputs import images_of
from headstart.serve.limits import Limits
from headstart.serve.metrics_text import CONTENT_TYPE, Metrics
from headstart.serve.models import CARD, REPORT, Models
from headstart.serve.observed import Observed
from headstart.serve.pages import page_files, routes_page
from headstart.serve.pictures import looks_like_an_image
from headstart.serve.predicting import entries_of
from headstart.serve.refusals import Refusal
from headstart.serve.security import HEADERS, OPEN, REPORT_POLICY, Guard, SecurityHeaders
from headstart.serve.service import Service

MOST_NEIGHBOURS, MOST_CLASSES = 20, 1000
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
_ABOUT = "Predictions of a saved run. Images are sent as they are; the service opens no addresses and no paths that a client names."
_router = APIRouter(responses=REFUSALS)


def _told(kind: str) -> dict[int | str, dict[str, Any]]:
    """For the OpenAPI document: a route that answers with text of this kind, and refuses with JSON as the others do."""
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
    """Make the application that serves runs. It needs a server that holds `Limits` on connections: see `headstart.serve.run_server`.

    Args:
        runs: their folders; each is known by the name of its folder, and the first is asked where a request names none.
        limits: what is accepted.
        token: wanted of every client, except for the page and for the health of the service; anyone may ask without one.
        origins: web pages of which addresses, beside the service's own, may ask (CORS).
        hosts: by which names the service may be called while it has no token.
        engine: ``auto``, ``openvino`` or ``onnxruntime``.
        watch_seconds: how often to look whether a run has changed; 0 for never.

    Raises:
        ParameterError: no runs, or two of the same name.
        RunError: one that cannot be opened.
    """
    limits = limits or Limits()
    metrics = Metrics()
    service = Service(Models(runs, engine=engine, on_burst=metrics.burst), limits=limits, metrics=metrics, watch_seconds=watch_seconds)
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
    """Put the middleware around the routes; what is added last is the outermost."""
    open_paths = OPEN | {"/"} | {f"/static/{name}" for name in app.state.page}
    app.add_middleware(BodyLimits, limits=limits)
    app.add_middleware(Guard, token=token, open_paths=open_paths, origins=origins, hosts=hosts)
    if origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(origins), allow_methods=["GET", "POST"], allow_headers=["Authorization", "Content-Type"]
        )
    app.add_middleware(SecurityHeaders)
    app.add_middleware(Observed, metrics=metrics)


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


@_router.post("/predict", summary="Predict images.", response_model=Predicted, openapi_extra=PREDICT_BODY)
async def predict_images(
    request: Request,
    model: Annotated[str | None, Query(max_length=300, description="The model to ask; the first by default.")] = None,
    top: Annotated[int, Query(ge=1, le=MOST_CLASSES, description="How many classes of each image.")] = 5,
    nearest: Annotated[int, Query(ge=0, le=MOST_NEIGHBOURS, description="How many of the nearest training images to name.")] = 3,
    explain: Annotated[bool, Query(description="Whether to add heat maps.")] = False,
) -> Response:
    """One image or many, as multipart/form-data with the field `file`, as the body itself, or as base64 in JSON.

    An image that cannot be read has an `error` in its place. Is it the only one, the request is refused with 422, or with 415 where it
    does not begin like any image.
    """
    service = _service(request)
    with service.models.use(model) as chosen:
        given = await images_of(request, limits=service.limits, lanes=service.lanes)
        if explain and len(given) > service.limits.explained:
            raise Refusal(413, "too_many_images", f"Heat maps are made for at most {service.limits.explained} images in one request.")
        predicted = await service.predict(request, chosen, given, neighbours=nearest)
        entries = entries_of(chosen, given, predicted, top=top, nearest=nearest)
        if len(entries) == 1 and "error" in entries[0]:
            data = given[0].data
            known = isinstance(data, ImageError) or looks_like_an_image(bytes(data[:16]))
            raise Refusal(
                422 if known else 415, "bad_image" if known else "no_image_format", f"The image is refused: {entries[0]['error']}."
            )
        if explain:
            await service.explain(request, chosen, given, entries, predicted)
        return JSONResponse({"model": chosen.name, "predictions": entries})


@_router.get("/models", summary="The models of this service.", response_model=ModelList)
async def list_models(request: Request) -> Response:
    """The first is asked where a request names none."""
    service = _service(request)
    limits = {name: getattr(service.limits, name) for name in ("body", "images", "explained")}
    return JSONResponse({"models": service.models.facts(), "limits": limits})


@_router.get("/models/{name}/report", summary="The report of a model.", response_class=Response, responses=_told("text/html"))
async def report(request: Request, name: str) -> Response:
    """The page that was written when it was fitted."""
    return HTMLResponse(_page(request, name, REPORT), headers={"content-security-policy": REPORT_POLICY})


@_router.get("/models/{name}/card", summary="The model card of a model.", response_class=Response, responses=_told("text/plain"))
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


@_router.get("/metrics", summary="Counters, in the text format of Prometheus.", response_class=Response, responses=_told("text/plain"))
async def metrics(request: Request) -> Response:
    """Of all processes of the service together."""
    text = await asyncio.to_thread(_service(request).metrics.text)
    return Response(text, headers={"content-type": CONTENT_TYPE})


@_router.get("/docs", include_in_schema=False)
async def docs(request: Request) -> Response:
    """The routes in words."""
    return HTMLResponse(routes_page(request.app.openapi()))


@_router.get("/", include_in_schema=False)
async def front_page(request: Request) -> Response:
    """The web page; the routes in words where it is not installed."""
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
    words = {
        404: "There is nothing here. See /docs for the routes.",
        405: "This route does not take that method. See /docs for the routes.",
    }
    refusal = Refusal(error.status_code, "http_error", words.get(error.status_code, "The request cannot be served."))
    return Response(refusal.body, refusal.status, headers={**refusal.headers, **(error.headers or {})})


async def _bad_parameter(request: Request, error: Any) -> Response:
    first = error.errors()[0]
    refusal = Refusal(422, "bad_parameter", f"{first['loc'][-1]}: {first['msg']}.")
    return Response(refusal.body, refusal.status, headers=refusal.headers)


async def _failed(request: Request, error: Exception) -> Response:
    """Nothing of what went wrong leaves the service; the server writes it into the log. This one answer passes no middleware."""
    refusal = Refusal(500, "internal", "Something went wrong in the service. Its log says what.")
    return Response(refusal.body, 500, headers={**HEADERS, **refusal.headers})
