"""Requests for predictions, valid and not, to a real server on loopback."""

from __future__ import annotations

import base64
import io
import json
import struct
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from layouts import image, png_chunk
from serving import Client, served, small
from tl_lightning import __version__
from tl_lightning.inference.predictor import Predictor


@pytest.fixture(scope="module")
def client(predictor: Predictor) -> Iterator[Client]:
    with served(predictor, max_mb=1, max_pixels=2_000_000, max_inputs=4, max_wait_ms=1) as found:
        yield found


@pytest.fixture(scope="module")
def texts() -> Iterator[Client]:
    with served(small("texts"), max_characters=50) as found:
        yield found


@pytest.fixture(scope="module")
def vectors() -> Iterator[Client]:
    with served(small("vectors")) as found:
        yield found


def picture(seed: int = 0, size: tuple[int, int] = (40, 30)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


def b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def bomb(width: int, height: int) -> bytes:
    """Return a PNG whose header has many pixels; nothing else of it is there."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", header) + png_chunk(b"IDAT", pixels)


def shares(prediction: Any) -> list[float]:
    return [one["probability"] for one in prediction["classes"]]


def refusal(answer: tuple[int, Any]) -> tuple[int, str]:
    status, body = answer
    assert set(body) <= {"error", "message", "index"}
    assert "Traceback" not in json.dumps(body)
    return status, body["error"]


# -- answers -----------------------------------------------------------------------------
def test_files_and_base64_have_the_predictor_s_probabilities(
    client: Client, predictor: Predictor
) -> None:
    contents = [picture(seed) for seed in range(3)]
    status, by_form = client.files(*contents, top="3")
    assert status == 200
    status, by_json = client.json({"images": [b64(one) for one in contents], "top": 3})
    assert status == 200
    for one, other in zip(by_form["predictions"], by_json["predictions"], strict=True):
        assert shares(one) == pytest.approx(shares(other), abs=1e-6)
    inputs = [predictor.image(one)[None] for one in contents]
    for one, found in zip(inputs, by_form["predictions"], strict=True):
        outputs = predictor.outputs(one)
        expected = predictor.probabilities(outputs.logits)[0]
        order = expected.argsort()[::-1]
        assert found["label"] == predictor.classes[order[0]]
        assert [c["name"] for c in found["classes"]] == [predictor.classes[k] for k in order[:3]]
        assert np.allclose(shares(found), expected[order[:3]], atol=1e-6)
        assert found["abstained"] is False


def test_top_is_set_by_body_form_or_address(client: Client) -> None:
    one = b64(picture())
    for answer in (
        client.json({"images": [one], "top": 1}),
        client.files(picture(), top="1"),
        client.json({"images": [one]}, "/predict?top=1"),
    ):
        assert len(answer[1]["predictions"][0]["classes"]) == 1
    assert len(client.files(picture())[1]["predictions"][0]["classes"]) == 3  # all classes


def test_texts_are_predicted_alone_and_together(texts: Client) -> None:
    words = ["abc", "a much longer text", "z"]
    status, together = texts.json({"texts": words})
    assert status == 200
    assert [found.get("truncated", False) for found in together["predictions"]] == [
        False,
        True,
        False,
    ]
    for word, found in zip(words, together["predictions"], strict=True):
        alone = texts.json({"texts": [word]})[1]["predictions"][0]
        assert alone["classes"] == [
            {"name": one["name"], "probability": pytest.approx(one["probability"], abs=1e-6)}
            for one in found["classes"]
        ]


def test_vectors_are_predicted(vectors: Client) -> None:
    rows = [[0.5, -1, 2, 0], [1e3, 0, 0, 0]]
    status, found = vectors.json({"vectors": rows})
    assert status == 200
    predictor = vectors.service.model.predictor
    outputs = predictor.outputs(predictor.vectors(np.array(rows, np.float32)))
    expected = predictor.probabilities(outputs.logits)
    assert predictor.record is not None
    novelty = predictor.record.novelty(outputs.features)
    for row, new, one in zip(expected, novelty, found["predictions"], strict=True):
        assert one["classes"][0]["probability"] == pytest.approx(row.max())
        assert one["novelty"] == pytest.approx(new)
    assert 0 < novelty[0] < novelty[1] <= 1


def test_below_the_threshold_the_model_abstains() -> None:
    model = small("vectors")
    assert model.record is not None
    with served(model, precision=0.85) as client:
        unsure, sure = client.json({"vectors": [[0, 0, 0, 0], [9, 9, 9, 9]]})[1]["predictions"]
        assert (unsure["abstained"], unsure["label"]) == (True, None)
        assert (sure["abstained"], sure["label"]) == (False, sure["classes"][0]["name"])
        described = client.get("/model")[1]
    assert described["precision"] == 0.85
    assert described["threshold"] == model.record.threshold(0.85)


def test_health_model_and_metrics(client: Client, texts: Client) -> None:
    assert client.get("/health") == (200, {"status": "ready", "model": "source_only-dogs"})
    client.service.stopping = True
    assert client.get("/health")[0] == 503
    client.service.stopping = False
    status, found = client.get("/model")
    assert (status, found["classes"]) == (200, list(client.service.model.predictor.classes))
    assert found["input"] == {"kind": "images", "size": client.service.model.predictor.spec.size}
    assert found["provenance"]["tl_lightning"] == __version__
    assert found["provenance"]["model"] == "source_only"
    client.files(picture())
    lines = dict(line.rsplit(" ", 1) for line in client.get("/metrics")[1].decode().splitlines())
    assert int(lines['tl_responses_total{status="200"}']) >= 3
    assert 0 < int(lines["tl_batches_total"]) <= int(lines["tl_samples_total"])
    assert lines["tl_samples_waiting"] == "0"


def test_the_description_has_no_paths(client: Client, texts: Client) -> None:
    for one in (client, texts):
        text = json.dumps(one.get("/model")[1])
        assert "/home" not in text
        assert str(one.service.model.predictor.file.parent) not in text


def test_responses_have_security_headers_and_no_pages_of_others(client: Client) -> None:
    client.get("/health")
    assert client.headers["x-content-type-options"] == "nosniff"
    assert client.headers["content-security-policy"].startswith("default-src 'none'")
    assert client.headers["cache-control"] == "no-store"
    assert "server" not in client.headers
    assert refusal(client.get("/docs")) == (404, "not_found")
    schema = client.get("/openapi.json")[1]["paths"]["/predict"]["post"]
    assert set(schema["requestBody"]["content"]) == {"application/json", "multipart/form-data"}


# -- refusals ----------------------------------------------------------------------------
@pytest.mark.parametrize("text", [
    "/etc/passwd", "/etc/passwd1", "../../data", "http://127.0.0.1/a.png", "file:///etc/passwd", "",
    "data:image/png;base64,AAAA", 7, None, ["a"],
])  # fmt: skip
def test_a_path_or_address_is_not_opened(client: Client, text: Any, tmp_path: Path) -> None:
    status, code = refusal(client.json({"images": [text]}))
    assert (status, code) in {(422, "invalid_base64"), (422, "unreadable_image")}


def test_a_path_to_an_image_is_not_opened(client: Client, tmp_path: Path) -> None:
    file = image(tmp_path / "abcd.png", 0)
    for name in (str(file), file.name, file.as_uri()):
        assert refusal(client.json({"images": [name]}))[0] == 422
    answer = client.files(file=str(file))
    assert refusal(answer) == (422, "unknown_key")
    assert "are not opened" in answer[1]["message"]


def test_images_with_many_pixels_are_refused_by_their_header(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decode(*arguments: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(type(client.service.model.predictor), "image", decode)
    for width, height in ((30_000, 30_000), (1_501, 1_500), (2_000_001, 1), (15_000, 15_000)):
        assert refusal(client.files(bomb(width, height))) == (413, "image_too_large")
    assert client.get("/health")[0] == 200


def test_what_is_not_an_image_is_refused_with_its_index(client: Client) -> None:
    for content in (b"some text", b"", picture()[:200], b"\x89PNG\r\n\x1a\n" + bytes(99)):
        answer = client.files(picture(), content)
        assert refusal(answer) == (422, "unreadable_image")
        assert answer[1]["index"] == 1
        assert "0x" not in answer[1]["message"]


@pytest.mark.parametrize(("body", "status", "code"), [
    (b"{", 400, "invalid_json"),
    (b"", 400, "invalid_json"),
    (b"\xff\xfe", 400, "invalid_json"),
    (b'{"images": ' + b"[" * 10 + b"]" * 10 + b"}", 422, "invalid_base64"),
    (b'{"images": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", 413, "too_many_inputs"),
    (b'{"images": [' + b'"",' * 99 + b'""]}', 413, "too_many_inputs"),
    (b'{"images": ["","","","",""]}', 413, "too_many_inputs"),
    (b'{"images": []}', 422, "no_inputs"),
    (b'{"images": "AAAA"}', 422, "invalid_body"),
    (b'{"top": 3}', 422, "invalid_body"),
    (b"[]", 422, "invalid_body"),
    (b'{"images": [""], "top": NaN}', 400, "invalid_json"),
    (b'{"images": ["AAAA"], "top": 0}', 422, "invalid_top"),
    (b'{"images": ["AAAA"], "top": true}', 422, "invalid_top"),
    (b'{"images": ["AAAA"], "path": "/"}', 422, "unknown_key"),
    (b'{"texts": ["AAAA"]}', 422, "wrong_kind"),
    (b'{"vectors": [[1]]}', 422, "wrong_kind"),
])  # fmt: skip
def test_a_body_that_is_not_valid(client: Client, body: bytes, status: int, code: str) -> None:
    assert refusal(client.json(body)) == (status, code)


def test_digits_of_a_number_and_depth_of_a_text_body_are_bounded(texts: Client) -> None:
    assert refusal(texts.json(b'{"texts": ["a"], "top": ' + b"9" * 5000 + b"}"))[0] == 400
    deep = b'{"texts": ' + b"[" * 5_000 + b"]" * 5_000 + b"}"
    # Python 3.13 reads as deep as this, and the answer is then that a text must be a string.
    old = sys.version_info < (3, 13)
    assert refusal(texts.json(deep)) == ((400, "invalid_json") if old else (422, "invalid_text"))
    assert refusal(texts.json(b" " * 50_000)) == (413, "body_too_large")


def test_too_many_files_and_forms_that_are_not_valid(client: Client) -> None:
    assert refusal(client.files(*[picture()] * 5)) == (413, "too_many_inputs")
    assert refusal(client.files()) == (422, "no_inputs")
    assert refusal(client.files(picture(), top="many")) == (422, "invalid_top")
    for kind in ("multipart/form-data", "multipart/form-data; boundary=x"):
        answer = client.ask("POST", "/predict", b"garbage", {"content-type": kind})
        assert refusal(answer) == (400, "invalid_form")


def test_other_types_paths_and_methods(client: Client) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "image/png"):
        answer = client.ask("POST", "/predict", b"a", {"content-type": kind})
        assert refusal(answer) == (415, "unsupported_type")
    assert refusal(client.get("/predict")) == (405, "wrong_method")
    assert refusal(client.get("/../etc/passwd")) == (404, "not_found")


@pytest.mark.parametrize(("text", "status", "code"), [
    ("", 422, "invalid_text"), ("  ", 422, "invalid_text"), (3, 422, "invalid_text"),
    ("\ud800", 422, "invalid_text"), ("a" * 51, 413, "text_too_long"),
])  # fmt: skip
def test_a_text_that_is_not_valid(texts: Client, text: Any, status: int, code: str) -> None:
    answer = texts.json({"texts": ["fine", text]})
    assert refusal(answer) == (status, code)
    assert answer[1]["index"] == 1


def test_a_model_of_texts_takes_no_files(texts: Client) -> None:
    assert refusal(texts.files(picture())) == (422, "wrong_kind")
    assert refusal(texts.json({"images": [b64(picture())]})) == (422, "wrong_kind")


@pytest.mark.parametrize(("row", "code"), [
    ("[NaN, 0, 0, 0]", "invalid_json"), ("[Infinity, 0, 0, 0]", "invalid_json"),
    ("[1e999, 0, 0, 0]", "not_finite"), ("[1e39, 0, 0, 0]", "not_finite"),
    (f"[1{'0' * 400}, 0, 0, 0]", "not_finite"),
    ("[1, 2, 3]", "invalid_vector"), ("[1, 2, 3, 4, 5]", "invalid_vector"),
    ('["1", 2, 3, 4]', "invalid_vector"), ("[true, 2, 3, 4]", "invalid_vector"),
    ("[[1], 2, 3, 4]", "invalid_vector"), ("1", "invalid_vector"), ("[]", "invalid_vector"),
])  # fmt: skip
def test_a_vector_that_is_not_valid(vectors: Client, row: str, code: str) -> None:
    found = refusal(vectors.json(f'{{"vectors": [{row}]}}'.encode()))
    assert found == (400 if code == "invalid_json" else 422, code)


def test_a_long_vector_is_refused(vectors: Client) -> None:
    row = ",".join(["0"] * 20_001)
    answer = vectors.json(f'{{"vectors": [[{row}]]}}'.encode())
    assert refusal(answer) == (413, "vector_too_long")


def test_outputs_that_are_not_finite_are_an_error_of_the_server(vectors: Client) -> None:
    model = small("vectors")
    nothing = lambda features: (features, features * np.nan)  # noqa: E731
    model.module.task.forward = nothing  # type: ignore[method-assign]
    with served(model) as client:
        assert refusal(client.json({"vectors": [[1, 2, 3, 4]]})) == (500, "not_finite")
