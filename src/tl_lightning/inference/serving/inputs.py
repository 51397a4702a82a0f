"""From the body of a request to the inputs of the network.

The content of a request is never a path or an address that is opened: images are bytes.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor

from tl_lightning.data.io.images import FORMATS, UNREADABLE
from tl_lightning.errors import DataError
from tl_lightning.inference.predictor import Kind, Predictor
from tl_lightning.inference.serving.refusal import Refusal
from tl_lightning.inference.serving.settings import ServeSettings

__all__ = ["Asked", "Prepared", "parsed", "preparations", "top_of"]

#: What one input is called, and the key of a list of them.
ONE = {"images": "image", "texts": "text", "vectors": "vector"}
#: Values of a JSON body besides the inputs.
OTHERS = 16
_ADDRESS = re.compile(r" ?<_io\.BytesIO object at 0x[0-9a-f]+>")


class Asked(NamedTuple):
    """A request.

    Attributes:
        inputs: Content of image files, texts, or lists of numbers.
        top: Number of classes to return for each; None: the server's default.
    """

    inputs: list[Any]
    top: int | None


class Prepared(NamedTuple):
    """An input of the network.

    Attributes:
        value: Of one sample, with a first dimension of 1.
        truncated: Whether it is a text that the network sees only the beginning of.
    """

    value: Tensor
    truncated: bool = False


def top_of(value: Any) -> int:
    """Return the wished number of classes.

    Raises:
        Refusal: If it is not a positive whole number (422).
    """
    text = str(value)
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not (whole or isinstance(value, str)) or not re.fullmatch(r"[1-9][0-9]{0,5}", text):
        raise Refusal(422, "invalid_top", "top must be a whole number of at least 1")
    return int(text)


def parsed(body: bytes, kind: Kind, settings: ServeSettings) -> Asked:
    """Return what a JSON body asks for.

    Raises:
        Refusal: If it is not valid JSON (400), has too many values (413), or is of another form
            (422).
    """
    _check_structure(body, kind, settings)
    try:
        found = json.loads(body, parse_constant=_no_constant)
    except RecursionError:
        raise Refusal(400, "invalid_json", "the body is nested too deeply") from None
    except ValueError as error:  # also bytes that are not UTF-8, and numbers of too many digits
        reason = str(error) if isinstance(error, (json.JSONDecodeError, _NotANumber)) else (
            "it is not valid UTF-8 or has a number with too many digits"
        )  # fmt: skip
        raise Refusal(400, "invalid_json", f"the body is not valid JSON: {reason}") from None
    shape = f'send {{"{kind}": [{_example(kind)}], "top": 5}}'
    if not isinstance(found, dict):
        raise Refusal(422, "invalid_body", f"the body must be a JSON object; {shape}")
    for key in found:
        if key in ONE and key != kind:
            raise wrong_kind(kind, key)
        if key not in (kind, "top"):
            name = key if len(key) < 40 else f"{key[:40]}..."
            raise Refusal(422, "unknown_key", f"{name!r} is not a key of the body; {shape}")
    inputs = found.get(kind)
    if not isinstance(inputs, list):
        raise Refusal(422, "invalid_body", f"{kind!r} must be a list; {shape}")
    check_number(len(inputs), kind, settings)
    if kind == "images":
        inputs = [_decoded(value, index) for index, value in enumerate(inputs)]
    return Asked(inputs, top_of(found["top"]) if "top" in found else None)


def wrong_kind(kind: Kind, got: str) -> Refusal:
    """Return the refusal of inputs that the model does not classify."""
    return Refusal(422, "wrong_kind", f"this model classifies {kind}, not {got}")


def check_number(number: int, kind: Kind, settings: ServeSettings) -> None:
    """Raise a Refusal for a request without inputs (422) or with too many (413)."""
    if not number:
        raise Refusal(422, "no_inputs", f"the request contains no {kind}")
    if number > settings.max_inputs:
        raise Refusal(
            413, "too_many_inputs",
            f"the request contains more than {settings.max_inputs} {kind}; send several requests",
        )  # fmt: skip


def preparations(
    asked: Asked, predictor: Predictor, settings: ServeSettings
) -> list[Callable[[], Prepared]]:
    """Return a function for each input that makes the network's input of it, or refuses it."""
    make = {"images": _image, "texts": _text, "vectors": _vector}[predictor.kind]

    def prepare(index: int) -> Prepared:
        try:
            return make(asked.inputs[index], predictor, settings)
        except Refusal as refusal:
            raise refusal.at(index) from None

    return [lambda index=index: prepare(index) for index in range(len(asked.inputs))]  # type: ignore[misc]


# -- JSON --------------------------------------------------------------------------------
class _NotANumber(ValueError):
    pass


def _no_constant(name: str) -> float:
    raise _NotANumber(f"{name} is not a number of JSON")


def _check_structure(body: bytes, kind: Kind, settings: ServeSettings) -> None:
    """Refuse a body whose values would take many times its size in memory.

    Texts may contain any character; their body has a limit of its own.
    """
    if kind == "texts":
        most = settings.max_inputs * (6 * settings.max_characters + 16) + 1024
        if len(body) > most:
            raise Refusal(413, "body_too_large", f"texts of more than {most:,} bytes together")
        return
    values = sum(body.count(mark) for mark in (b",", b"[", b"{"))
    most = settings.max_inputs + OTHERS
    if kind == "vectors":
        most += settings.max_inputs * (MOST_WIDTH + 1)
    if values > most:
        raise Refusal(413, "too_many_inputs", f"the body has more than {most:,} values")


#: Largest finite number of 32 bits.
LARGEST = float(np.finfo(np.float32).max)
#: Largest width of a vector in a request.
MOST_WIDTH = 20_000


def _example(kind: Kind) -> str:
    return {"images": '"<base64>"', "texts": '"<text>"', "vectors": "[0.5, 1.5]"}[kind]


def _decoded(value: Any, index: int) -> bytes:
    if isinstance(value, str):
        try:
            return base64.b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            pass
    raise Refusal(
        422, "invalid_base64",
        "an image must be the base64 text of the content of an image file; names of files and "
        "addresses are not opened", index,
    )  # fmt: skip


# -- inputs ------------------------------------------------------------------------------
def _image(content: bytes, predictor: Predictor, settings: ServeSettings) -> Prepared:
    width, height = _size(content)
    if width * height > settings.max_pixels:
        raise Refusal(
            413, "image_too_large",
            f"the image has {width:,} x {height:,} pixels; this server accepts "
            f"{settings.max_pixels:,} pixels",
        )  # fmt: skip
    try:
        return Prepared(predictor.image(content)[None])
    except DataError as error:
        reason = _ADDRESS.sub("", str(error.__cause__) or type(error.__cause__).__name__)
        raise Refusal(422, "unreadable_image", f"the image cannot be decoded: {reason}") from None


def _size(content: bytes) -> tuple[int, int]:
    """Return width and height from the header of an image file; nothing is decoded."""
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            return image.size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise Refusal(
            413, "image_too_large", "the image has far more pixels than this server accepts"
        ) from None
    except UNREADABLE:
        raise Refusal(
            422, "unreadable_image",
            f"this is not an image file of a known format ({', '.join(FORMATS)})",
        ) from None  # fmt: skip


def _text(text: Any, predictor: Predictor, settings: ServeSettings) -> Prepared:
    if not isinstance(text, str) or not text.strip():
        raise Refusal(422, "invalid_text", "a text must be a JSON string that is not empty")
    if len(text) > settings.max_characters:
        raise Refusal(
            413, "text_too_long",
            f"the text has {len(text):,} characters; this server accepts "
            f"{settings.max_characters:,}",
        )  # fmt: skip
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Refusal(422, "invalid_text", "the text contains half of a character") from None
    ids, truncated = predictor.tokens([text])
    return Prepared(ids, bool(truncated))


def _vector(values: Any, predictor: Predictor, settings: ServeSettings) -> Prepared:
    numbers = isinstance(values, list) and all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in values
    )
    if not numbers:
        raise Refusal(422, "invalid_vector", "a vector must be a list of numbers")
    if len(values) > MOST_WIDTH:
        raise Refusal(413, "vector_too_long", f"a vector has at most {MOST_WIDTH:,} numbers")
    if not all(abs(value) <= LARGEST for value in values):  # also NaN
        raise Refusal(422, "not_finite", "a vector must contain finite numbers of 32 bits")
    try:
        return Prepared(predictor.vectors(np.array([values], dtype=np.float32)))
    except DataError as error:
        raise Refusal(422, "invalid_vector", str(error).partition(";")[0]) from None
