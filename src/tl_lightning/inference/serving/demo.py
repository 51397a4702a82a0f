"""The page of ``tl-demo``, served beside the interface for programs."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import HTMLResponse, JSONResponse

from tl_lightning.errors import ConfigError, DataError
from tl_lightning.inference.serving.answers import Model
from tl_lightning.inference.serving.app import Service, together
from tl_lightning.inference.serving.explain import Maps
from tl_lightning.inference.serving.inputs import Asked, Prepared, preparations
from tl_lightning.inference.serving.neighbours import Neighbours
from tl_lightning.inference.serving.refusal import Refusal
from tl_lightning.reporting.formatting import percent
from tl_lightning.reporting.run.page import fill
from tl_lightning.reporting.schema import read_report

__all__ = ["add_demo"]


def add_demo(app: FastAPI, service: Service) -> None:
    """Add the page ``/`` and ``POST /explain``, which it calls.

    Raises:
        ConfigError: If the model classifies vectors, which nobody types into a page.
    """
    model = service.model
    if model.predictor.kind == "vectors":
        raise ConfigError(
            f"demo.py shows images and texts, but the model {model.name} classifies vectors; use "
            "predict.py or serve.py"
        )
    html, policy = page_of(service)
    maps, near = Maps(model.predictor), Neighbours.of(model)

    def explained(prepared: Prepared) -> dict[str, Any]:
        result = model.results([prepared])[0]
        found: dict[str, Any] = {
            "prediction": model.answer(result, service.settings.top),
            "precision": model.precision,
            "threshold": model.threshold,
            "neighbours": [] if near is None else near.nearest(result.features),
            "neighbours_missing": "" if near is None else near.missing,
        }
        if model.predictor.kind != "images":
            return found
        shown = maps.images(prepared.value)
        return {
            **found, **shown, "map_missing": maps.missing, "size": model.predictor.spec.size
        }  # fmt: skip

    async def explain(request: Request) -> JSONResponse:
        """Classify one input and say what the prediction depends on."""
        asked = await service.asked(request)
        if len(asked.inputs) > 1:
            raise Refusal(413, "too_many_inputs", "the page explains one input at a time")
        return JSONResponse(await service.answered(request, _explained(service, asked, explained)))

    async def page() -> HTMLResponse:
        return HTMLResponse(html, headers={"content-security-policy": policy})

    app.add_api_route("/", page, methods=["GET"], include_in_schema=False)
    app.add_api_route("/explain", explain, methods=["POST"], include_in_schema=False)


async def _explained(
    service: Service, asked: Asked, work: Callable[[Prepared], dict[str, Any]]
) -> dict[str, Any]:
    (prepare,) = preparations(asked, service.model.predictor, service.settings)
    (prepared,) = await together([service.worker.pool.submit(prepare)])
    (found,) = await together([service.worker.call(lambda: work(prepared))])
    return found


def page_of(service: Service) -> tuple[str, str]:
    """Return the page and its Content-Security-Policy, by which only its own script runs."""
    model = service.model
    described = model.description()["provenance"]
    html = fill("demo.html.j2", {
        "name": model.name,
        "kind": model.predictor.kind,
        "backbone": described["backbone"],
        "data": described["data"],
        "classes": len(model.predictor.classes),
        "precision": None if model.precision is None else f"{model.precision:g}",
        "accuracy": accuracy_lines(model),
        "max_characters": service.settings.max_characters,
    })  # fmt: skip
    script = re.search(r"<script>(.*)</script>", html, re.DOTALL)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        "img-src data: blob:; connect-src 'self'; form-action 'none'; base-uri 'none'; "
        "frame-ancestors 'none'"
    )
    return html, policy


def accuracy_lines(model: Model) -> list[str]:
    """Return what accuracy to expect, as far as the checkpoint and its run know it."""
    lines = []
    record = model.predictor.record
    if record is not None and len(record.labels):
        right = (record.logits.argmax(axis=1) == record.labels).mean()
        lines.append(
            f"Accuracy on source validation: {percent(float(right))} of "
            f"{len(record.labels):,} samples"
        )
    if model.run is None:
        return lines
    try:
        report = read_report(model.run)
    except DataError:  # it was not finished, or of an earlier version
        return lines
    estimate = report.get("estimated_accuracy") or {}
    if {"value", "low", "high"} <= estimate.keys():
        value, low, high = (100 * float(estimate[name]) for name in ("value", "low", "high"))
        lines.append(
            f"Expected accuracy on the target of the run: {value:.0f} % ({low:.0f} to {high:.0f} "
            "%), estimated without labels"
        )
    return lines
