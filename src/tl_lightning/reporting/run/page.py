"""Writer for the self-contained HTML page of a run."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from tl_lightning.errors import DataError
from tl_lightning.reporting.artifacts import Array, Predictions, read_curves, read_predictions
from tl_lightning.reporting.run import figures
from tl_lightning.reporting.run.class_changes import (
    class_change,
    class_change_figure,
    class_sentence,
    read_base,
)
from tl_lightning.reporting.run.context import describe
from tl_lightning.reporting.run.curves import learning_curves, rate_test
from tl_lightning.reporting.run.embedding import embedding
from tl_lightning.reporting.run.explanations import class_examples, explained
from tl_lightning.reporting.run.numbers import number_figures
from tl_lightning.reporting.run.trust import trust_figures
from tl_lightning.reporting.run.unlabelled import (
    changed_sentence,
    contact_sheet,
    unlabelled_figures,
)
from tl_lightning.reporting.schema import read_report
from tl_lightning.utils.files import full_disk_means, read_json, write_bytes, write_text
from tl_lightning.utils.plotting import SOURCE, TARGET, jpeg

__all__ = ["fill", "inline", "write_page"]

EXAMPLES, THUMBNAIL = 24, 112


def write_page(run_dir: Path) -> Path:
    """Write ``report.html`` and ``figures/*.png`` of a finished run.

    Reads ``report.json`` and, if they exist, ``metrics.csv``, ``predictions.npz`` and
    ``baselines/*/report.json``. Images are embedded, so the page needs no network access.

    Args:
        run_dir: The run's folder.

    Returns:
        The path of ``report.html``.

    Raises:
        DataError: If ``report.json`` is missing, one of the files is corrupt or the disk is full;
            an earlier page is left unchanged.
    """
    run_dir = Path(run_dir)
    report = read_report(run_dir)
    curves = read_curves(run_dir / "metrics.csv")
    dataset = report.get("dataset") or {}
    classes = [str(name) for name in dataset.get("classes") or []]
    classes += [str(dataset["unknown"])] if dataset.get("unknown") else []
    predictions = read_predictions(run_dir / "predictions.npz", classes)
    images = learning_curves(curves, report.get("selection"))
    if (run_dir / "lr_find.json").is_file():
        images["lr_find"] = _rate_test(run_dir / "lr_find.json")
    panels = list(images)
    names = [predictions.name(index) for index in range(predictions.num_classes)]
    images |= _prediction_figures(predictions, names, str(report.get("projection") or "pca"))
    images |= trust_figures(predictions, report) | number_figures(report)
    base, predicted = read_base(run_dir, classes), report.get("predicted") or {}
    for domain in predicted:
        images |= unlabelled_figures(predictions, domain)
    change = class_change(predictions, base)
    if change is not None:
        images["class_change"] = class_change_figure(change, names)
    plot = embedding(predictions)
    values = describe(report, predictions, run_dir) | {
        "panels": panels,
        "names": names,
        "embedding": _embedding(plot),
        "explained": explained(predictions, plot, lambda px: inline(jpeg(px), "jpeg")),
        "class_examples": class_examples(predictions, plot),
        "change": None if change is None else class_sentence(change, names),
        "images": {name: inline(png) for name, png in images.items()},
        "changed": changed_sentence(predictions, base) if predicted else None,
        "sheets": {
            domain: contact_sheet(predictions, domain, found, _thumbnail)
            for domain, found in predicted.items()
        },
        "has_csv": (run_dir / "predictions.csv").is_file(),
        "examples": {
            domain: _examples(predictions, domain)
            for domain in ("target", "source")
            if domain not in predicted
        },
    }
    page = fill("run.html.j2", values)
    with full_disk_means(
        f"the disk of {run_dir} is full, so its page was not written; the run is complete and its "
        f"report.json and checkpoints are intact: free some disk space and run tl-report {run_dir}"
    ):
        for name, png in images.items():
            write_bytes(run_dir / "figures" / f"{name}.png", png)
        return write_text(run_dir / "report.html", page)  # last: a page means that all is written


@lru_cache(maxsize=1)
def _environment() -> Environment:
    loader = PackageLoader("tl_lightning.reporting", "templates")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["minus"] = lambda text: str(text).replace("-", "\N{MINUS SIGN}")
    return environment


def fill(template: str, values: Mapping[str, Any]) -> str:
    """Render a template of this package with ``values``, which are escaped."""
    colours = {"source_colour": SOURCE, "target_colour": TARGET}
    return _environment().get_template(template).render(**colours, **values)


def inline(image: bytes, kind: str = "png") -> str:
    """Return an image file as a data URL.

    >>> inline(b""), inline(b"", "jpeg")
    ('data:image/png;base64,', 'data:image/jpeg;base64,')
    """
    return f"data:image/{kind};base64," + base64.b64encode(image).decode("ascii")


def _embedding(found: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return the interactive plot with its images as a data URL."""
    if found is None:
        return None
    data = {name: found[name] for name in ("points", "classes", "colours", "columns")}
    sprite = None if found["sprite"] is None else inline(found["sprite"], "jpeg")
    return {**found, "data": data, "sprite": sprite}


def _rate_test(path: Path) -> bytes:
    try:
        return rate_test(read_json(path))
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(
            f"{path} does not contain rates and losses: it was edited by hand. Delete it, then "
            "write the page again with tl-report"
        ) from error


def _prediction_figures(
    predictions: Predictions, names: list[str], projection: str
) -> dict[str, bytes]:
    """Return PNGs by file stem, as far as the predictions have the data."""
    images: dict[str, bytes] = {}
    accuracies: dict[str, Array] = {}
    for domain in ("source", "target"):
        counts = predictions.confusion(domain)
        if counts is not None:
            title = f"{domain.capitalize()}: % of each true class"
            images[f"confusion_{domain}"] = figures.confusion_matrix(counts, names, title)
            accuracies[domain] = figures.class_accuracy(counts)
        if f"examples_{domain}_confidence" in predictions.arrays:
            continue  # a contact sheet, without true classes
        gallery = figures.example_gallery(predictions, domain, EXAMPLES)
        if gallery is not None:
            images[f"examples_{domain}"] = gallery
    if accuracies:
        images["per_class"] = figures.per_class(accuracies, names)
    return images | figures.features(predictions, projection)


def _examples(predictions: Predictions, domain: str) -> list[dict[str, Any]]:
    """Return example images (inline thumbnails) or texts of a domain, with their predictions."""
    arrays = predictions.arrays
    images, texts = arrays.get(f"examples_{domain}"), arrays.get(f"examples_{domain}_text")
    examples = texts if images is None else images
    if examples is None:
        return []
    true, pred = arrays[f"examples_{domain}_true"], arrays[f"examples_{domain}_pred"]
    names: Any = arrays.get(f"examples_{domain}_name", ())
    return [
        {
            "image": None if images is None else _thumbnail(images[index]),
            "text": None if texts is None else str(texts[index]),
            "true": predictions.name(int(true[index])),
            "pred": predictions.name(int(pred[index])),
            "correct": bool(true[index] == pred[index]),
            "name": str(names[index]) if len(names) else "",
            "tiny": images is not None and max(images[index].shape) < THUMBNAIL,
        }
        for index in range(min(len(examples), EXAMPLES))
    ]


def _thumbnail(pixels: Array) -> str:
    """Return an image (h, w, 3) as a data URL, downscaled if it is large.

    Small images are stored without loss, as the page enlarges them. A PNG of a photograph takes
    fifty times as long as a JPEG, and several times the space.
    """
    from PIL import Image

    image = Image.fromarray(pixels)
    image.thumbnail((2 * THUMBNAIL, 2 * THUMBNAIL))
    buffer = io.BytesIO()
    kind, quality = ("png", {}) if max(pixels.shape) < THUMBNAIL else ("jpeg", {"quality": 85})
    image.save(buffer, format=kind, **quality)
    return inline(buffer.getvalue(), kind)
