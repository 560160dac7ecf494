"""The application: its routes, the web page, and the middleware that protects them."""

from __future__ import annotations

import asyncio
import mimetypes
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import jinja2
from fastapi import APIRouter, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, PlainTextResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

import headstart
from headstart.records import DEFAULT_KIND, Record
from headstart.serve import open_inference
from headstart.serve.models import CARD, REPORT, Model, Models
from headstart.serve.monitoring import CONTENT_TYPE, Metrics, RequestMonitor
from headstart.serve.refusals import Refusal
from headstart.serve.requests import Asked, BodyLimits
from headstart.serve.schemas import PREDICT_BODY, REFUSALS, Health, ModelList, Predictions
from headstart.serve.security import HEADERS, OPEN, REPORT_POLICY, Guard, SecurityHeaders
from headstart.serve.service import NamedModel, Served, Service
from headstart.settings.serving import Limits

MAX_NEIGHBOURS, MAX_CLASSES = 20, 1000
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
PAGE_FOLDER = Path(__file__).parent / "page"
_ABOUT = "Predictions of saved runs. Images and texts are sent as they are; no addresses and no paths are opened that a client names."
_router = APIRouter(responses=REFUSALS)
mimetypes.add_type("text/javascript", ".js")  # some systems say otherwise, and no browser would run it then


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

    def observe(name: str, count: int) -> None:
        metrics.of(models.modality(name)).batches.labels(name).observe(count)

    models = Models(runs, engine=engine, on_batch=observe)
    service = Service(models, limits=limits, metrics=metrics, watch_seconds=watch_seconds)
    app = FastAPI(
        title="Headstart", version=headstart.__version__, description=_ABOUT,
        docs_url=None, redoc_url=None, openapi_url="/openapi.json", lifespan=service.running, redirect_slashes=False,
    )  # fmt: skip
    app.state.service, app.state.limits = service, limits
    app.include_router(_router)
    app.include_router(open_inference.router)
    app.mount("/static", StaticFiles(directory=PAGE_FOLDER))
    for kind in (Refusal, HTTPException, RequestValidationError, Exception):
        app.add_exception_handler(kind, _refuse)
    # Of the middleware, the last to be added is the outermost.
    open_paths = OPEN | {"/"} | {f"/static/{file.name}" for file in PAGE_FOLDER.iterdir()}
    app.add_middleware(BodyLimits, limits=limits)
    app.add_middleware(Guard, token=token, open_paths=open_paths, origins=origins, hosts=hosts)
    if origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(origins), allow_methods=["GET", "POST"], allow_headers=["Authorization", "Content-Type"]
        )
    app.add_middleware(SecurityHeaders)
    app.add_middleware(RequestMonitor, metrics=metrics)
    return app


@_router.post("/predict", summary="Predict images, or texts.", response_model=Predictions, openapi_extra=PREDICT_BODY)
async def predict_inputs(
    request: Request,
    service: Served,
    model: Annotated[str | None, Query(max_length=300, description="The model to use; the first by default.")] = None,
    top: Annotated[int, Query(ge=1, le=MAX_CLASSES, description="How many classes of each input.")] = 5,
    confidence: Annotated[
        float | None, Query(ge=0, le=1, description="Lowest confidence of what is named; for boxes the threshold of the model by default.")
    ] = None,
    nearest: Annotated[int, Query(ge=0, le=MAX_NEIGHBOURS, description="How many of the nearest training images or texts to name.")] = 3,
    explain: Annotated[bool, Query(description="Whether to add heat maps.")] = False,
    box: Annotated[
        int | None,
        Query(ge=0, lt=MAX_CLASSES, description="Of one image, the box that its heat map explains: its place in `boxes` and `unsure`."),
    ] = None,
    column: Annotated[
        str | None, Query(max_length=300, description="Of a model with several columns of labels, the one that heat maps explain.")
    ] = None,
    text_column: Annotated[
        str | None, Query(max_length=300, description="Of a list of texts, the column that holds them, where it is not recognised.")
    ] = None,
    lines: Annotated[bool, Query(description="Whether each line of a text file is a text of its own.")] = False,
    echo: Annotated[bool, Query(description="Whether to add its text to each prediction, of a long one both ends.")] = False,
) -> Response:
    """One image or many, as multipart/form-data with the field `file`, as the body itself, or as base64 in JSON. Of a model of texts: one
    text or many, as JSON, as the body itself, or as a list or a text file in the field `file`.

    An input that cannot be read has an `error` in its place. If it is the only one, the request is refused with 422, or with 415 where it
    does not begin like any image.
    """
    with service.models.use(model) as chosen:
        least = chosen.least(confidence)
        if explain:
            _check_explainable(chosen, column)
        asked = Asked(text_column=text_column, lines=lines)
        inputs = await chosen.intake.read(request, service.limits, service.threads, asked)
        if explain and len(inputs) > service.limits.explained:
            raise Refusal(413, "too_many_images", f"Heat maps are made for at most {service.limits.explained} images in one request.")
        if box is not None and not (explain and len(inputs) == 1):
            raise Refusal(422, "bad_parameter", "box: Names what explain=1 is to explain, in a request with one image.")
        predictions = await service.predict(request, chosen, inputs, neighbours=nearest)
        names, neighbour = [one.name for one in inputs], chosen.training_image
        # Not on the loop that serves all clients: masks of large images take a while.
        records = await service.threads.run(
            "compute", partial(chosen.run.records, names, predictions, top=top, least=least, nearest=nearest, neighbour=neighbour)
        )
        if len(records) == 1 and records[0].error:
            raise chosen.intake.refusal(inputs[0], records[0].error)
        entries = [_entry(record) | (chosen.intake.echo(one) if echo else {}) for record, one in zip(records, inputs, strict=True)]
        if explain:
            for place, heat_map in (await service.explain(request, chosen, inputs, predictions, column=column, box=box)).items():
                entries[place]["heat"] = heat_map
        drift = {"drift": chosen.watch.to_dict()} if chosen.watch is not None and chosen.watch.drifted else {}
        return JSONResponse({"model": chosen.name, **drift, "predictions": entries})


def _check_explainable(model: Model, column: str | None) -> None:
    """Refuse heat maps where there are none, of a model or of a column of labels."""
    if not model.intake.heat_maps:
        raise Refusal(422, "no_heat_maps", f"Heat maps are laid over images, and this model takes {model.intake.modality.noun}s.")
    if column is not None and column not in [one.column for one in model.run.explainable]:
        raise Refusal(422, "no_heat_maps", f"The model has no column {column[:100]!r} of labels whose evidence could be shown.")
    if not model.run.explainable:
        raise Refusal(422, "no_heat_maps", "Heat maps show the evidence for a class, and this model predicts no classes.")


def _entry(record: Record) -> dict[str, Any]:
    """A record as JSON: see `headstart.serve.schemas.Prediction`."""
    kind = {} if record.kind == DEFAULT_KIND else {"kind": record.kind}
    return {"name": record.name, **({"error": record.error} if record.error else {**kind, **record.values})}


@_router.get("/models", summary="The models of this service.", response_model=ModelList)
async def list_models(service: Served) -> Response:
    """The first is the default of requests that name none."""
    limits = {name: getattr(service.limits, name) for name in ("body", "images", "explained", "texts", "text_bytes")}
    return JSONResponse({"models": service.models.facts(), "limits": limits})


def _text(kind: str) -> dict[int | str, dict[str, Any]]:
    """What OpenAPI says of a route that answers with text, and with JSON where it refuses, as all do."""
    return {200: {"content": {f"text/{kind}": {"schema": {"type": "string"}}}}}


@_router.get("/models/{name}/report", summary="The report of a model.", response_class=Response, responses=_text("html"))
async def report(model: NamedModel) -> Response:
    """The page that was written when it was fitted."""
    return HTMLResponse(_page(model, REPORT), headers={"content-security-policy": REPORT_POLICY})


@_router.get("/models/{name}/card", summary="The model card of a model.", response_class=Response, responses=_text("plain"))
async def card(model: NamedModel) -> Response:
    """Markdown, sent as plain text so that a browser shows it."""
    return PlainTextResponse(_page(model, CARD))


def _page(model: Model, page: str) -> bytes:
    if page not in model.pages:
        raise Refusal(404, "no_page", f"The run {model.name!r} has no {page}.")
    return model.pages[page]


@_router.get("/healthz", summary="Whether the service runs.", response_model=Health)
async def health(service: Served) -> Response:
    """Answered without a token."""
    return JSONResponse({"status": "ok", "models": len(service.models.names)})


@_router.get("/metrics", summary="Counters, in the text format of Prometheus.", response_class=Response, responses=_text("plain"))
async def metrics(service: Served) -> Response:
    """Of all processes of the service together."""
    return Response(await asyncio.to_thread(service.metrics.text), headers={"content-type": CONTENT_TYPE})


@_router.get("/docs", include_in_schema=False)
async def docs(request: Request) -> Response:
    """A plain list of the routes: the usual ones load their scripts from other servers."""
    templates = jinja2.Environment(loader=jinja2.FileSystemLoader(PAGE_FOLDER.parent), autoescape=True)
    return HTMLResponse(templates.get_template("routes.html").render(request.app.openapi()))


@_router.get("/", include_in_schema=False)
async def front_page() -> Response:
    """The web page."""
    return FileResponse(PAGE_FOLDER / "index.html")


async def _refuse(request: Request, error: Exception) -> Response:
    """The response to anything that goes wrong. Of a fault of the service no details leave it, and its response passes no middleware."""
    refusal, more = Refusal(500, "internal", "Something went wrong in the service. Its log says what."), dict(HEADERS)
    if isinstance(error, Refusal):
        refusal = error
    elif isinstance(error, RequestValidationError):
        first = error.errors()[0]
        refusal = Refusal(422, "bad_parameter", f"{first['loc'][-1]}: {first['msg']}.")
    elif isinstance(error, HTTPException):
        reasons = {404: "There is nothing here.", 405: "This route does not support that method."}
        reason = f"{reasons.get(error.status_code, 'The request cannot be served.')} See /docs for the routes."
        refusal, more = Refusal(error.status_code, "http_error", reason), {**HEADERS, **(error.headers or {})}
    return Response(refusal.body, refusal.status, headers={**more, **refusal.headers})
