"""The page to try a model on, in a browser and by its requests."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from browser import Page, browser
from layouts import image
from serving import COLOURS, Client, served, small
from tl_lightning.errors import ConfigError
from tl_lightning.inference.predictor import Predictor
from tl_lightning.inference.serving.answers import Model
from tl_lightning.inference.serving.neighbours import Neighbours


@pytest.fixture(scope="module")
def client(predictor: Predictor) -> Iterator[Client]:
    with served(predictor, page=True) as found:
        yield found


def pixels_of(address: str) -> Any:
    kind, _, content = address.partition(";base64,")
    assert kind == "data:image/jpeg"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))).convert("RGB")).astype(int)


def coloured(label: int, size: int = 40) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((size, size, 3), COLOURS[label], np.uint8)).save(buffer, "png")
    return buffer.getvalue()


def test_an_image_is_explained(client: Client, predictor: Predictor) -> None:
    status, found = client.files(coloured(1), path="/explain")
    assert status == 200
    assert found["prediction"]["classes"] == [
        {"name": one["name"], "probability": pytest.approx(one["probability"], abs=1e-6)}
        for one in client.files(coloured(1))[1]["predictions"][0]["classes"]
    ]
    size = predictor.spec.size
    seen, heat = pixels_of(found["image"]), pixels_of(found["map"])
    assert seen.shape == heat.shape == (size, size, 3)
    assert np.abs(seen - COLOURS[1]).max() < 12
    assert np.abs(heat - seen).max() > 20


def test_the_neighbours_are_the_nearest_validation_samples_with_their_images(
    client: Client, predictor: Predictor
) -> None:
    found = client.files(coloured(2), path="/explain")[1]
    stored = predictor.stored.reliability
    features = predictor.outputs(predictor.image(coloured(2))[None]).features[0]
    known = stored["features"].float().numpy()
    similar = known @ features / np.linalg.norm(known, axis=1) / np.linalg.norm(features)
    order = np.argsort(-similar, kind="stable")[:5]
    near = found["neighbours"]
    assert [one["similarity"] for one in near] == pytest.approx(similar[order].tolist(), abs=1e-3)
    assert near
    for one in near:  # every image has the colour of its class
        label = predictor.classes.index(one["label"])
        colour = np.median(pixels_of(one["image"]), axis=(0, 1))
        assert np.abs(colour - COLOURS[label]).max() < 25
    assert found["neighbours_missing"] == ""


def test_without_images_of_the_neighbours_the_page_says_so(
    run: Path, predictor: Predictor, tmp_path: Path
) -> None:
    alone = tmp_path / "a.ckpt"
    alone.write_bytes(predictor.file.read_bytes())
    near = Neighbours.of(Model.of(Predictor.open(alone), None))
    assert near is not None
    assert near.images is None
    assert near.missing == "they are in the folder of the run, and this file is elsewhere"
    copy = tmp_path / "run"
    (copy / "checkpoints").mkdir(parents=True)
    moved = copy / "checkpoints" / "a.ckpt"
    moved.write_bytes(predictor.file.read_bytes())
    file = copy / "neighbours.npz"
    for content, reason in (
        (b"", "the folder of the run has none (neighbours.npz)"),
        (b"PK broken", "neighbours.npz in the folder of the run is damaged"),
        (None, "those in the folder of the run belong to another checkpoint"),
    ):
        if content is None:
            arrays = dict(np.load(run / "neighbours.npz", allow_pickle=False))
            np.savez(file, **{**arrays, "features_sha256": np.array("0" * 64)})
        elif content:
            file.write_bytes(content)
        found = Neighbours.of(Model.of(Predictor.open(moved), None))
        assert found is not None
        assert (found.images, found.missing) == (None, reason)


def test_the_page_runs_its_own_script_only_and_names_no_other_server(client: Client) -> None:
    status, content = client.get("/")
    html = content.decode()
    assert status == 200
    policy = client.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'sha256-" in policy
    assert "unsafe-inline" not in policy.partition("style-src")[0]
    assert not re.search(r"https?://", html.replace("http://www.w3.org", ""))
    assert "Accuracy on source validation: " in html


def test_one_input_at_a_time_and_errors_as_in_predict(client: Client) -> None:
    answer = client.files(coloured(0), coloured(1), path="/explain")
    assert (answer[0], answer[1]["error"]) == (413, "too_many_inputs")
    answer = client.files(b"no image", path="/explain")
    assert (answer[0], answer[1]["error"]) == (422, "unreadable_image")


def test_texts_are_explained_without_a_map() -> None:
    with served(small("texts"), page=True) as client:
        assert b"<textarea" in client.get("/")[1]
        status, found = client.json({"texts": ["abc"]}, "/explain")
    assert status == 200
    assert "image" not in found
    assert len(found["neighbours"]) == 5
    assert found["neighbours_missing"].startswith("they are in the folder of the run")


def test_vectors_have_no_page() -> None:
    message = r"demo\.py shows images and texts, but the model dann-vectors classifies vectors"
    with pytest.raises(ConfigError, match=message), served(small("vectors"), page=True):
        pass


# -- browser -----------------------------------------------------------------------------
DONE = "!document.getElementById('result').hidden"
STATUS = "document.getElementById('status').textContent"


def shown(page: Page, selector: str) -> list[str]:
    found = f"[...document.querySelectorAll({json.dumps(selector)})]"
    return page.run(f"{found}.map(e => e.textContent)")


def middle(page: Page, name: str, file: Path) -> Any:
    """Return the colour in the middle of an image of the page."""
    place = (
        f"(() => {{ const e = document.getElementById('{name}');"
        " e.scrollIntoView({block: 'center'}); const b = e.getBoundingClientRect();"
        " return [b.left + b.width / 2, b.top + b.height / 2]; })()"
    )
    x, y = page.run(place)
    with Image.open(page.screenshot(file)) as window:
        return np.array(window.convert("RGB").getpixel((round(x), round(y))))


@pytest.mark.slow
def test_an_image_is_chosen_and_explained_on_the_page(client: Client, tmp_path: Path) -> None:
    files = [tmp_path / f"{k}.png" for k in range(2)]
    for k, file in enumerate(files):
        file.write_bytes(coloured(k))
    expected = [client.files(coloured(k))[1]["predictions"][0] for k in range(2)]
    near = [client.files(coloured(k), path="/explain")[1]["neighbours"] for k in range(2)]
    address = f"http://127.0.0.1:{client.port}/"
    with browser() as page:
        for width in (1200, 400):
            page.size(width, 900)
            page.open(address)
            assert page.run(DONE) is False
            for k, file in enumerate(files):
                page.choose("#file", file)
                page.wait(f"{DONE} && {STATUS} === ''")
                answer = expected[k]
                assert shown(page, "#answer") == [answer["label"]]
                assert shown(page, "#bars .class") == [one["name"] for one in answer["classes"]]
                share = f"{100 * answer['classes'][0]['probability']:.1f} %"
                assert shown(page, "#bars .share")[0] == share
                assert shown(page, "#neighbours b") == [one["label"] for one in near[k]]
                assert np.abs(middle(page, "seen", tmp_path / "a.png") - COLOURS[k]).max() < 15
                page.wait("document.getElementById('map').naturalWidth > 0")
                assert page.run("[...document.images].every(i => !i.src || i.naturalWidth > 0)")
                overflow = "document.documentElement.scrollWidth - window.innerWidth"
                assert page.run(overflow) <= 0
        page.choose("#file", image(tmp_path / "half.png", 3))
        page.wait(f"{STATUS} === ''")
        (tmp_path / "text.jpg").write_text("not an image")
        page.choose("#file", tmp_path / "text.jpg")
        page.wait(f"{STATUS}.startsWith('Not predicted: this is not an image file')")
        assert page.run(DONE) is False
        assert set(page.requests) - {address, f"{address}explain"} == {
            one for one in page.requests if one.startswith("blob:")
        }
        assert [error for error in page.errors if "422" not in error] == []


@pytest.mark.slow
def test_the_page_says_that_it_does_not_know_and_is_dark_if_wanted() -> None:
    with served(small("texts"), page=True, precision=0.85) as client, browser() as page:
        dark = [{"name": "prefers-color-scheme", "value": "dark"}]
        page.call("Emulation.setEmulatedMedia", features=dark)
        page.open(f"http://127.0.0.1:{client.port}/")
        assert page.run("getComputedStyle(document.body).backgroundColor") == "rgb(18, 22, 28)"
        unsure = next(
            word for word in "abcdefghijklmnopqrstuvwxyz"
            if client.json({"texts": [word]})[1]["predictions"][0]["abstained"]
        )  # fmt: skip
        for text in (unsure, "<b>&lt;</b>"):
            page.run(f"document.getElementById('text').value = {json.dumps(text)}")
            page.run("document.getElementById('send').click()")
            page.wait(f"{DONE} && {STATUS} === ''")
            if text == unsure:
                assert shown(page, "#answer") == ["I do not know"]
                assert "a precision of 85.0 % is not assured" in shown(page, "#remark")[0]
        assert page.errors == []
