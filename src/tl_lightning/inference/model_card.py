"""The model card of a published model: what the report of its run says, for other people."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined

from tl_lightning import __version__
from tl_lightning.checkpoints.published import FILES
from tl_lightning.checkpoints.stored import StoredModel
from tl_lightning.config.paths import CONF
from tl_lightning.errors import ConfigError, DataError
from tl_lightning.inference.private import PLACE
from tl_lightning.reliability.assessment import Record
from tl_lightning.reporting.artifacts import read_predictions
from tl_lightning.reporting.estimates import estimated_accuracy
from tl_lightning.reporting.formatting import percent, points, seeds_range, uses_target_labels
from tl_lightning.reporting.run.context import describe
from tl_lightning.reporting.run.start import chosen_text
from tl_lightning.reporting.run.trust import estimate_text
from tl_lightning.reporting.schema import fingerprint_of, read_report
from tl_lightning.reporting.sweep.summary import summarise
from tl_lightning.reporting.sweep.tables import mean_text
from tl_lightning.utils.text import printable

__all__ = ["Publication", "model_card", "thresholds"]

#: Precisions for which a model's thresholds are published.
PRECISIONS = (0.8, 0.9, 0.95, 0.99)
#: The hub's names of metrics, and of tasks by what is classified.
METRICS = {"acc": "accuracy", "precision": "precision", "recall": "recall", "f1": "f1"}
TASKS = {
    "images": "image-classification", "texts": "text-classification",
    "vectors": "tabular-classification",
}  # fmt: skip
#: Inputs of the example on the card.
EXAMPLES = {"images": '"photos"', "texts": '["a text"]', "vectors": "rows"}
KINDS = {"hf": "texts", "TextBackbone": "texts", "MLP": "vectors"}
#: Classes shown by name on the card.
SHOWN_CLASSES = 40
#: A note that names files of the training data, which are not published.
_FILES = re.compile(r"[\w-]+\.[A-Za-z]{2,5}\b(?!=)")


@dataclass(frozen=True)
class Publication:
    """What is published of a model.

    Attributes:
        stored: The model as read from its checkpoint.
        run: Folder of its run; None if the checkpoint is not the selected one of a run.
        report: The report of the run.
        name: ``owner/name``, or the name of the folder.
        license: Identifier of a licence, or None.
        authors: Names of authors.
        outputs: Whether the outputs on source validation are published.
        thresholds: See :func:`thresholds`.
        allow: Own classes that the model is made of.
    """

    stored: StoredModel
    run: Path | None
    report: Mapping[str, Any] | None
    name: str
    license: str | None
    authors: tuple[str, ...]
    outputs: bool
    thresholds: Mapping[str, float | None]
    allow: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """``images``, ``texts`` or ``vectors``."""
        target = str(self.stored.section("backbone")["_target_"]).rpartition(".")[2]
        return KINDS.get(target, "images")

    @property
    def data(self) -> str:
        """Name of the dataset."""
        return str(self.stored.section("data").get("name", "own data"))


def thresholds(stored: StoredModel) -> dict[str, float | None]:
    """Return the confidence from which each precision is assured; None where it is not.

    Empty if the checkpoint has no outputs on source validation.
    """
    record = Record.of(stored.reliability)
    if record is None or not math.isfinite(record.temperature):
        return {}
    found: dict[str, float | None] = {}
    for precision in PRECISIONS:
        try:
            found[f"{precision:g}"] = record.threshold(precision)
        except ConfigError:
            found[f"{precision:g}"] = None
    return found


def model_card(publication: Publication) -> str:
    """Return the content of ``README.md``: metadata of the hub, and the card.

    Raises:
        DataError: If the report of the run is damaged, or an option is not valid metadata.
    """
    loader = PackageLoader("tl_lightning.inference", "templates")
    environment = Environment(
        loader=loader, autoescape=False, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters["md"] = plain
    text = environment.get_template("model_card.md.j2").render(**_values(publication))
    try:
        card = ModelCard(f"---\n{_metadata(publication).to_yaml()}\n---\n\n{text}")
    except (ValueError, TypeError) as error:
        raise DataError(f"the model card has no valid metadata: {error}") from error
    return str(card)


def plain(value: object) -> str:
    r"""Return a text without meaning in Markdown or HTML.

    >>> plain("<b>a|b</b> *c*")
    '&lt;b>a\\|b&lt;/b> \\*c\\*'
    """
    text = " ".join(printable(str(value)).split())
    return re.sub(r"([\\`*_\[\]|])", r"\\\1", text.replace("&", "&amp;").replace("<", "&lt;"))


def _metadata(publication: Publication) -> ModelCardData:
    stored, report = publication.stored, publication.report or {}
    methods = list(stored.config.get("method") or ())
    task = TASKS[publication.kind]
    return ModelCardData(
        library_name="tl_lightning",
        license=publication.license,
        pipeline_tag=task,
        tags=[*methods, "transfer-learning", *(["domain-adaptation"] if methods else [])],
        datasets=[publication.data] if re.fullmatch(r"[\w.-]+", publication.data) else None,
        metrics=list(dict.fromkeys(METRICS[m] for _, m, _ in _figures(report) if m in METRICS)),
        model_name=publication.name,
        eval_results=[
            EvalResult(
                task_type=task,
                dataset_type=publication.data,
                dataset_name=f"{publication.data}, {domain}",
                dataset_split="test",
                dataset_config=domain,
                metric_type=METRICS.get(metric, metric),
                metric_name=f"{domain} test {metric}",
                metric_value=value,
            )
            for domain, metric, value in _figures(report)
        ]
        or None,
    )


def _figures(report: Mapping[str, Any]) -> Iterator[tuple[str, str, float]]:
    """Yield domain, metric and value of the test metrics of the main task, target first."""
    for domain in ("target", "source"):
        for key, value in (report.get("metrics") or {}).items():
            own, _, metric = key.partition("/test/")
            if own == domain and "/" not in metric and isinstance(value, int | float):
                yield domain, metric, value


def _values(publication: Publication) -> dict[str, Any]:
    stored, report = publication.stored, publication.report
    config = stored.config
    backbone = stored.section("backbone")
    name = Path(str(backbone.get("name") or str(backbone["_target_"]).rpartition(".")[2])).name
    return {
        "name": publication.name,
        "kind": publication.kind,
        "classes": stored.classes,
        "shown": SHOWN_CLASSES,
        "data": publication.data,
        "data_header": _header("data", publication.data)[0],
        "credit": _header("data", publication.data)[1],
        "domains": _domains(stored.section("data")),
        "counts": stored.data.get("counts") or {},
        "fingerprint": stored.data.get("fingerprint"),
        "backbone": name,
        "start": _start(publication, name),
        "model": stored.section("model").get("name"),
        "methods": [(one, _header("method", one)[0]) for one in config.get("method") or ()],
        "optimizer": str(stored.section("optimizer")["_target_"]).rpartition(".")[2],
        "lr": stored.section("optimizer").get("lr"),
        "epochs": stored.section("trainer").get("max_epochs"),
        "steps": stored.section("trainer").get("max_steps"),
        "seed": config["seed"],
        "version": __version__,
        "results": None if report is None else _results(publication, report),
        "reliability": _reliability(publication),
        "rejects": publication.stored.config.get("rejection", "none") not in ("none", None),
        "overlap": _overlap(publication),
        "bound": report is not None and uses_target_labels(report),
        "files": FILES,
        "outputs": _outputs(publication),
        "license": publication.license,
        "authors": publication.authors,
        "allow": publication.allow,
        "example": EXAMPLES[publication.kind],
    }


def _header(group: str, name: str) -> tuple[str, str]:
    """Return the first sentence, and the credit and licence, of a choice of ``conf/``."""
    file = CONF / group / f"{name}.yaml"
    if not re.fullmatch(r"\w+", name) or not file.is_file():
        return "", ""
    block = re.match(r"(?:#.*\n)+", file.read_text(encoding="utf-8"))
    lines = [line.lstrip("# ") for line in (block[0] if block else "").splitlines()]
    text = " ".join(line for line in lines if not line.startswith("@package"))
    first = re.match(r".+?(?<! al)\.(?= |$)", text)
    credit = re.search(r"Credit: (.*?)(?= No automatic download| *$)", text)
    return (first[0] if first else ""), (credit[1] if credit else "")


def _domains(data: Mapping[str, Any]) -> dict[str, str]:
    """Return the names of the domains; folders are not named."""
    found = {}
    for key in ("source", "target"):
        node = data.get(key)
        domain = node.get("domain") if isinstance(node, Mapping) else None
        if domain:
            found[key] = ", ".join(domain) if isinstance(domain, list) else str(domain)
    return found


def _start(publication: Publication, name: str) -> str:
    """Return what the network started from, with the licence of its weights if it is known."""
    stored = publication.stored
    backbone = stored.section("backbone")
    if stored.config.get("init") or backbone.get("checkpoint"):
        return "another trained model of its author"
    if backbone.get("weights"):
        return "weights in a file of its author"
    if not backbone.get("pretrained"):
        return "random weights"
    if str(backbone["_target_"]).endswith("TimmBackbone"):
        import timm

        known = timm.get_pretrained_cfg(name)
        licence = getattr(known, "license", None)
        stated = f"whose stated licence is {licence}" if licence else "of unknown licence"
        return f"pretrained weights from timm, {stated}"
    return f"pretrained weights ({backbone.get('tag') or name}), whose licence is not stated here"


def _results(publication: Publication, report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures of a run as text, as its page shows them."""
    run = publication.run
    assert run is not None
    predictions = read_predictions(run / "predictions.npz", list(publication.stored.classes))
    page = describe(report, predictions, run)
    selection = report.get("selection") or {}
    return {
        "domains": page["metrics"]["domains"],
        "rows": page["metrics"]["rows"],
        "ranges": [
            (one["label"], one["note"]) for one in page["headline"]["figures"] if one["note"]
        ],
        "rule": selection.get("rule"),
        "description": page["selection"]["text"],
        "epoch": chosen_text(selection),
        "baselines": page["baselines"],
        "candidates": page["candidates"],
        "verdict": page["verdict"],
        "beside": _beside(run, report),
        "notes": _notes(report),
    }


def _beside(run: Path, report: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the runs beside this one say: other seeds, and differences from baselines."""
    found = []
    for file in sorted(run.parent.glob("*/report.json")):
        try:
            found.append(read_report(file))
        except DataError:
            continue  # not a part of this publication
    others = {fingerprint_of(report), None}
    rows = summarise(one for one in found if fingerprint_of(one) in others).rows
    own = [row for row in rows if row.group == report.get("group")]
    row = own[0] if len(own) == 1 else None
    several = row is not None and len(row.seeds) > 1
    sentences = [] if row is None else [
        one.sentence for one in row.comparisons.values() if one.interval is not None
    ]  # fmt: skip
    return {
        "seeds": seeds_range(row.seeds) if row is not None and several else None,
        "means": {
            name: mean_text(mean)
            for name, mean in (("target", row.target), ("source", row.source))
            if mean is not None and several
        }
        if row is not None
        else {},
        # A label has the settings in which runs differ, which may be folders.
        "sentences": [text for text in sentences if not PLACE.search(text)],
    }


def _notes(report: Mapping[str, Any]) -> list[str]:
    """Return the notes of a run that name no files."""
    return [
        note
        for note in map(str, report.get("notes") or ())
        if not PLACE.search(note) and not _FILES.search(note)
        and not note.startswith("pretraining overlap")
    ]  # fmt: skip


def _reliability(publication: Publication) -> dict[str, Any]:
    """Return the estimated accuracy, the temperatures and the thresholds as text."""
    report, stored = publication.report or {}, publication.stored
    found = estimated_accuracy(report)
    truth = (report.get("metrics") or {}).get("target/test/acc")
    scales = {
        name: float(value)
        for name, key in (("source", "temperature"), ("target", "target_temperature"))
        if (value := stored.reliability.get(key)) is not None and math.isfinite(value)
    }
    return {
        "estimate": None if found is None else estimate_text(found),
        "truth": None if truth is None else percent(truth),
        "error": None if found is None or truth is None else points(found[0] - truth),
        "warnings": [*((report.get("estimated_accuracy") or {}).get("warnings") or ())],
        "temperatures": {name: f"{value:.3f}" for name, value in scales.items()},
        "thresholds": {
            f"{100 * float(key):g} %": None if value is None else f"{value:.3f}"
            for key, value in publication.thresholds.items()
        },
    }


def _overlap(publication: Publication) -> str:
    """Return what is known of an overlap of the data with those of the pretraining."""
    notes = [str(note) for note in (publication.report or {}).get("notes") or ()]
    found = [note for note in notes if note.startswith("pretraining overlap")]
    if found:
        return found[0][0].upper() + found[0][1:] + ", so that figures on them are optimistic."
    if publication.report is None:
        return "Not known."
    if not publication.stored.section("backbone").get("pretrained"):
        return "The network of this run was not pretrained on public data."
    return (
        "The names of the files do not suggest that the pretrained network has seen these samples; "
        "nothing else was checked."
    )


def _outputs(publication: Publication) -> dict[str, int] | None:
    """Return the sizes of the published outputs on source validation; None without."""
    found = publication.stored.reliability
    if not publication.outputs or "logits" not in found:
        return None
    samples, classes = found["logits"].shape
    kept, width = found["features"].shape
    return {"samples": samples, "classes": classes, "kept": kept, "width": width}
