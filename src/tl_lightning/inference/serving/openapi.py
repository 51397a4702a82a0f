"""The part of the OpenAPI schema that FastAPI cannot derive: bodies that are read by hand."""

from __future__ import annotations

from typing import Any

from tl_lightning.inference.predictor import Kind

__all__ = ["predict_schema"]

_ITEMS: dict[str, dict[str, Any]] = {
    "images": {"type": "string", "format": "byte", "description": "base64 of an image file"},
    "texts": {"type": "string"},
    "vectors": {"type": "array", "items": {"type": "number"}},
}
_TOP = {"type": "integer", "minimum": 1, "description": "Classes to return for each input"}
_REFUSALS = {
    "400": "The body is not valid JSON or not a valid form",
    "408": "The body arrived too slowly",
    "413": "Body, image or text is too large, or there are too many inputs",
    "415": "The type of the body is not supported",
    "422": "An input is not valid, or of a kind that the model does not classify",
    "500": "The model failed",
    "503": "Too many requests; try again after Retry-After seconds",
    "504": "The model took too long",
}


def predict_schema(kind: Kind) -> dict[str, Any]:
    """Return body and responses of ``POST /predict`` for a kind of input."""
    body = {
        "application/json": {
            "schema": {
                "type": "object",
                "required": [kind],
                "properties": {kind: {"type": "array", "items": _ITEMS[kind]}, "top": _TOP},
            }
        }
    }
    if kind == "images":
        file = {"type": "array", "items": {"type": "string", "format": "binary"}}
        form = {"type": "object", "properties": {"file": file, "top": _TOP}}
        body["multipart/form-data"] = {"schema": form}
    error = {
        "type": "object",
        "required": ["error", "message"],
        "properties": {
            "error": {"type": "string"},
            "message": {"type": "string"},
            "index": {"type": "integer", "description": "Which input it is about, from 0"},
        },
    }
    content = {"application/json": {"schema": error}}
    return {
        "parameters": [{"name": "top", "in": "query", "schema": _TOP}],
        "requestBody": {"required": True, "content": body},
        "responses": {
            status: {"description": text, "content": content} for status, text in _REFUSALS.items()
        },
    }
