"""The HTTP interface of a served model."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import Future
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, PlainTextResponse, Response

from tl_lightning import __version__
from tl_lightning.inference.serving.answers import Model, Result
from tl_lightning.inference.serving.inputs import (
    Asked,
    Prepared,
    check_number,
    parsed,
    preparations,
    top_of,
    wrong_kind,
)
from tl_lightning.inference.serving.limits import Limits, refused
from tl_lightning.inference.serving.openapi import predict_schema
from tl_lightning.inference.serving.refusal import Refusal
from tl_lightning.inference.serving.settings import ServeSettings
from tl_lightning.inference.serving.worker import Worker

__all__ = ["Service", "create_app"]

Found = TypeVar("Found")

#: Fields of a form besides its files.
FIELDS = 8
#: Status of a request whose client has gone, in the counts; nobody receives it.
GONE = 499


class Service:
    """A model with its worker and settings.

    Args:
        model: The model.
        settings: Those of the server.
    """

    def __init__(self, model: Model, settings: ServeSettings) -> None:
        self.model = model
        self.settings = settings
        self.worker: Worker[Prepared, Result] = Worker(
            model.results,
            max_batch=settings.max_batch,
            max_wait_s=settings.max_wait_ms / 1000,
            max_queue=settings.max_queue,
            threads=settings.threads,
        )
        self.stopping = False

    @property
    def ready(self) -> bool:
        """Whether a request would be answered: the model's thread runs and does not hang."""
        since = self.worker.busy_since
        hangs = since is not None and time.monotonic() - since > self.settings.timeout_s
        return self.worker.thread.is_alive() and not hangs and not self.stopping

    async def asked(self, request: Request) -> Asked:
        """Return what a request asks for: JSON, or files of a form.

        Raises:
            Refusal: If it is not valid.
        """
        kind, settings = self.model.predictor.kind, self.settings
        content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if content_type == "application/json":
            body = await request.body()
            found = await self._in_pool(lambda: parsed(body, kind, settings))
        elif content_type == "multipart/form-data":
            found = await self._form(request)
        else:
            raise Refusal(
                415, "unsupported_type",
                "send application/json, or images as files of multipart/form-data",
            )  # fmt: skip
        query = request.query_params.get("top")
        return found if query is None else found._replace(top=top_of(query))

    async def _form(self, request: Request) -> Asked:
        kind, most = self.model.predictor.kind, self.settings.max_inputs
        if kind != "images":
            raise wrong_kind(kind, "files")
        try:
            form = await request.form(max_files=most, max_fields=FIELDS)
        except StarletteHTTPException as error:
            if "Too many files" in str(error.detail):
                check_number(most + 1, kind, self.settings)
            raise Refusal(400, "invalid_form", f"the form is not valid: {error.detail}") from None
        contents, top = [], None
        try:
            for name, value in form.multi_items():
                if not isinstance(value, str):
                    contents.append(await value.read())
                elif name == "top":
                    top = top_of(value)
                else:
                    raise Refusal(
                        422, "unknown_key",
                        "a form may have files, and the field top; an image is sent as a file with "
                        "a file name, names of files and addresses are not opened",
                    )  # fmt: skip
        finally:
            await form.close()
        check_number(len(contents), kind, self.settings)
        return Asked(list(contents), top)

    async def _in_pool(self, function: Callable[[], Found]) -> Found:
        return await asyncio.wrap_future(self.worker.pool.submit(function))

    async def results(self, asked: Asked) -> list[Result]:
        """Return the results of all inputs of a request.

        Raises:
            Refusal: If one of them is not valid, or too many samples are waiting (503).
        """
        futures = self.worker.submit(preparations(asked, self.model.predictor, self.settings))
        return await together(futures)

    async def answered(self, request: Request, work: Awaitable[Found]) -> Found:
        """Return the result of the work on a request, unless it takes too long or nobody waits.

        Raises:
            Refusal: If it takes too long (504).
            ClientDisconnect: If the client has closed the connection.
        """
        task = asyncio.ensure_future(work)
        gone = asyncio.ensure_future(_disconnected(request))
        try:
            await asyncio.wait(
                (task, gone), timeout=self.settings.timeout_s, return_when=asyncio.FIRST_COMPLETED
            )
            if task.done():
                return task.result()
            if gone.done():
                raise ClientDisconnect
            raise Refusal(504, "too_slow", f"no answer within {self.settings.timeout_s:g} s")
        finally:
            task.cancel()
            gone.cancel()


async def together(futures: list[Future[Found]]) -> list[Found]:
    """Return the results of futures; if one fails or this is cancelled, cancel the others."""
    try:
        return list(await asyncio.gather(*map(asyncio.wrap_future, futures)))
    finally:
        for future in futures:
            future.cancel()


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def create_app(service: Service, hosts: tuple[str, ...] | None = None) -> FastAPI:
    """Return the ASGI application of a service.

    Args:
        service: The model and its settings.
        hosts: Accepted host names, see :class:`.Limits`.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.worker.start()
        yield
        service.stopping = True
        service.worker.stop()

    # The pages of FastAPI's documentation load scripts from another server.
    app = FastAPI(
        title=service.model.name, version=__version__, lifespan=lifespan, docs_url=None,
        redoc_url=None,
    )  # fmt: skip
    _add_errors(app)
    _add_routes(app, service)
    answers = service.worker.counts.answers

    def count(status: int) -> None:
        answers[status] = answers.get(status, 0) + 1

    app.add_middleware(Limits, settings=service.settings, hosts=hosts, on_answer=count)
    return app


def _add_routes(app: FastAPI, service: Service) -> None:
    async def predict(request: Request) -> JSONResponse:
        """Classify the inputs of a request."""
        asked = await service.asked(request)
        results = await service.answered(request, service.results(asked))
        top = asked.top or service.settings.top
        return JSONResponse({"predictions": [service.model.answer(one, top) for one in results]})

    async def health() -> JSONResponse:
        """Say whether the server is ready; 503 if it is not."""
        ready = service.ready
        state = {"status": "ready" if ready else "not ready", "model": service.model.name}
        return JSONResponse(state, 200 if ready else 503)

    described: list[dict[str, Any]] = []

    async def model() -> JSONResponse:
        """Describe the model: its classes, its input and where it is from."""
        if not described:  # the checksum of the file is computed once, beside other requests
            described.append(await asyncio.to_thread(service.model.description))
        settings = service.settings
        names = ("max_inputs", "max_mb", "max_pixels", "max_characters", "timeout_s")
        limits = {name: getattr(settings, name) for name in names}
        return JSONResponse({**described[0], "limits": limits, "top": settings.top})

    async def metrics() -> PlainTextResponse:
        """Return counts in the text format of Prometheus."""
        return PlainTextResponse(metrics_text(service), media_type="text/plain; version=0.0.4")

    schema = predict_schema(service.model.predictor.kind)
    app.add_api_route("/predict", predict, methods=["POST"], openapi_extra=schema)
    for path, route in (("/health", health), ("/model", model), ("/metrics", metrics)):
        app.add_api_route(path, route, methods=["GET"])


def metrics_text(service: Service) -> str:
    """Return counts since the start in the text format of Prometheus."""
    worker = service.worker
    lines = ["# TYPE tl_responses_total counter"]
    lines += [
        f'tl_responses_total{{status="{status}"}} {number}'
        for status, number in sorted(worker.counts.answers.items())
    ]
    for name, kind, value in (
        ("tl_samples_total", "counter", worker.counts.samples),
        ("tl_batches_total", "counter", worker.counts.batches),
        ("tl_model_seconds_total", "counter", round(worker.counts.seconds, 6)),
        ("tl_samples_waiting", "gauge", worker.inside),
    ):
        lines += [f"# TYPE {name} {kind}", f"{name} {value}"]
    return "\n".join(lines) + "\n"


def _add_errors(app: FastAPI) -> None:
    """Let every error end in a JSON body without a traceback."""

    async def refusal(request: Request, error: Refusal) -> Response:
        return refused(error)

    async def http(request: Request, error: StarletteHTTPException) -> Response:
        code = {404: "not_found", 405: "wrong_method"}.get(error.status_code, "invalid_request")
        headers = dict(error.headers or {})
        return refused(Refusal(error.status_code, code, str(error.detail), headers=headers))

    async def disconnected(request: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=GONE)

    async def unexpected(request: Request, error: Exception) -> Response:
        # Starlette raises it again behind this answer, so that the server logs it.
        return refused(Refusal(500, "internal_error", "the server could not answer this request"))

    app.add_exception_handler(Refusal, refusal)
    app.add_exception_handler(StarletteHTTPException, http)
    app.add_exception_handler(ClientDisconnect, disconnected)
    app.add_exception_handler(Exception, unexpected)
