"""The interactive plot of a run's page, in a browser and without JavaScript."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from browser import Page, browser
from tl_lightning.callbacks.explanations import sprite_of
from tl_lightning.reporting.artifacts import Predictions
from tl_lightning.reporting.run.embedding import MOST, embedding
from tl_lightning.reporting.run.page import write_page
from tl_lightning.utils.plotting import jpeg

SIDE, POINTS = 32, 12
#: One colour per sample, which is recognised in a screenshot.
COLOURS = [(40 + 18 * k, 230 - 15 * k, (90 * k) % 250) for k in range(POINTS)]
SCRIPT = "</script><script>document.title='executed'</script><img src=x onerror=alert(1)>.jpg"


def arrays(points: int = POINTS, **changed: Any) -> dict[str, Any]:
    """Return predictions whose samples lie on a grid; every third prediction is wrong."""
    half = points // 2
    names = [f"photo_{k}.jpg" for k in range(points)]
    names[3] = SCRIPT
    true = np.arange(points) % 3
    pred = np.where(np.arange(points) % 3 == 1, (true + 1) % 3, true)
    grid = np.stack([np.arange(points) % 4, np.arange(points) // 4], axis=1).astype(float)
    images = [np.full((SIDE, SIDE, 3), COLOURS[k % POINTS], np.uint8) for k in range(points)]
    found: dict[str, Any] = {"features_before": grid[::-1].copy(), "features_after": grid}
    found["features_domain"] = np.repeat([0, 1], [half, points - half])
    found["features_label"] = true
    found["features_row"] = np.concatenate([np.arange(half), np.arange(points - half)])
    for domain, part in (("source", slice(0, half)), ("target", slice(half, points))):
        found |= {f"{domain}_true": true[part], f"{domain}_pred": pred[part]}
        found[f"{domain}_confidence"] = np.full(len(true[part]), 0.875, np.float32)
        found[f"{domain}_name"] = np.array(names[part])
    sprite = np.frombuffer(jpeg(sprite_of(images, SIDE), quality=95), np.uint8)
    found |= {"thumbnails_point": np.arange(points), "thumbnails_side": np.array(SIDE)}
    return found | {"thumbnails_sprite": sprite} | changed


def written(make_run: Any, **changed: Any) -> Path:
    run = make_run(classes=("ant", "<b>bee", "cat"))
    np.savez(run / "predictions.npz", **arrays(**changed))
    return write_page(run)


def at(page: Page, point: int) -> tuple[float, float]:
    """Return where a sample is drawn: the grid has four columns and three rows."""
    left, top, width, height = page.run(
        "(() => { const b = document.getElementById('embedding-area').getBoundingClientRect();"
        " return [b.left, b.top, b.width, b.height]; })()"
    )
    x, y = (point % 4) / 3, (point // 4) / 2
    return left + 12 + x * (width - 24), top + height - 12 - y * (height - 24)


def shown(page: Page) -> list[str]:
    return page.run("[...document.querySelectorAll('#embedding-shown dd')].map(d => d.textContent)")


def opened(page: Page, file: Path, width: int = 1200, javascript: bool = True) -> None:
    page.size(width, 1000)
    page.open(file, javascript)
    page.run("document.getElementById('embedding').scrollIntoView()")


def test_confidence_that_is_not_finite_is_valid_json(make_run: Any) -> None:
    values = np.array([np.nan, np.inf, 0.5, 0.5, 0.5, 0.5], np.float32)
    page = written(make_run, target_confidence=values).read_text()
    text = re.search(r'<script type="application/json" id="embedding-data">(.*?)</script>', page)
    assert text is not None

    def refused(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    data = json.loads(text[1], parse_constant=refused)
    assert data["points"]["confidence"][POINTS // 2 :] == [None, None, 50.0, 50.0, 50.0, 50.0]


@pytest.mark.slow
def test_the_pointer_shows_image_names_and_classes_without_errors_or_network(
    make_run: Any, tmp_path: Path
) -> None:
    file = written(make_run)
    with browser() as page:
        for width in (1200, 400):
            opened(page, file, width)
            overflow = "document.documentElement.scrollWidth - window.innerWidth"
            assert page.run(overflow) <= 0
            for point in range(POINTS):
                page.move(*at(page, point))
                true, wrong = point % 3, point % 3 == 1
                names = ["ant", "<b>bee", "cat"]
                assert shown(page) == [
                    SCRIPT if point == 3 else f"photo_{point}.jpg",
                    "source" if point < POINTS // 2 else "target",
                    names[true],
                    f"{names[(true + 1) % 3 if wrong else true]}, 87.5 %",
                ]
            x, y = page.run(
                "(() => { const b = document.querySelector('#embedding-shown .image')"
                ".getBoundingClientRect();"
                " return [b.left + b.width / 2, b.top + b.height / 2]; })()"
            )
            for point in (0, 5, 11):
                page.move(*at(page, point))
                with Image.open(page.screenshot(tmp_path / "window.png")) as image:
                    pixel = image.convert("RGB").getpixel((round(x), round(y)))
                assert np.abs(np.subtract(pixel, COLOURS[point])).max() < 12
        assert page.run("document.title") != "executed"
        assert page.errors == []
        assert page.requests == [file.as_uri()] * 2


@pytest.mark.slow
def test_keys_filters_and_features_before_training(make_run: Any) -> None:
    file = written(make_run)
    with browser() as page:
        opened(page, file)
        page.run("document.getElementById('embedding-area').focus()")
        page.press("ArrowDown")
        page.press("ArrowDown")
        assert shown(page)[0] == "photo_9.jpg"  # from the top row, the second one
        page.press("Escape")
        assert shown(page) == []
        page.run("document.getElementById('embedding-errors').click()")
        page.move(*at(page, 2))  # a right prediction, not drawn now
        assert shown(page) == []
        page.move(*at(page, 4))
        assert shown(page)[0] == "photo_4.jpg"
        page.run("document.getElementById('embedding-errors').click()")
        choose = "(() => { const s = document.getElementById('embedding-when'); s.value = 'before';"
        page.run(choose + " s.dispatchEvent(new Event('change')); })()")
        page.move(*at(page, 2))  # in the reverse order
        assert shown(page)[0] == f"photo_{POINTS - 1 - 2}.jpg"
        assert page.errors == []


@pytest.mark.slow
def test_without_javascript_the_page_shows_the_plots_as_images(make_run: Any) -> None:
    file = written(make_run)
    seen = "document.querySelector('{}').getBoundingClientRect().height"
    with browser() as page:
        opened(page, file, javascript=False)
        assert page.run(seen.format("#embedding")) == 0
        assert page.run(seen.format("#projections img")) > 100
        opened(page, file)
        assert page.run(seen.format("#embedding")) > 100
        assert page.run("document.getElementById('projections').open") is False


def test_a_page_with_the_plot_is_one_file_and_forbids_requests(make_run: Any) -> None:
    text = written(make_run).read_text()
    assert "default-src 'none'; img-src data:" in text
    assert SCRIPT not in text  # the name is escaped
    embedded = re.search(r'id="embedding-data">(.*?)</script>', text, re.DOTALL)
    assert embedded is not None
    assert json.loads(embedded[1])["points"]["name"][3] == SCRIPT
    rest = text.replace(embedded[1], "")
    addresses = re.findall(r'(?:src|href)="([^"]*)|url\(([^)]*)\)', rest)
    assert len(addresses) > 3
    assert all("".join(one).startswith("data:image/") for one in addresses)


def test_at_most_2000_samples_are_drawn() -> None:
    found = embedding(Predictions(arrays(points=2_500), ["a", "b", "c"]))
    assert found is not None
    assert (len(found["points"]["name"]), found["total"]) == (MOST, 2_500)


@pytest.mark.parametrize(
    "change",
    [
        {"thumbnails_point": np.array([99])},
        {"features_row": np.full(POINTS, 99)},
        {"thumbnails_point": np.zeros(0, int)},
    ],
)
def test_indices_that_do_not_exist_leave_out_the_plot(make_run: Any, change: Any) -> None:
    text = written(make_run, **change).read_text()
    assert "embedding-data" not in text
    assert 'id="projections" open' in text


def test_the_sheet_has_every_image_at_its_place() -> None:
    images = [np.full((SIDE, SIDE, 3), colour, np.uint8) for colour in COLOURS]
    sheet = np.asarray(Image.open(io.BytesIO(jpeg(sprite_of(images, SIDE), quality=95))))
    assert sheet.shape == (3 * SIDE, 4 * SIDE, 3)
    for k, colour in enumerate(COLOURS):
        middle = sheet[(k // 4) * SIDE + SIDE // 2, (k % 4) * SIDE + SIDE // 2]
        assert np.abs(middle.astype(int) - colour).max() < 10
