"""The command ``tl-predict``: classify images, texts or vectors with a trained model."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tl_lightning.checkpoints.places import check_place
from tl_lightning.cli.common import flag, options_of, plain_command
from tl_lightning.cli.usage import CHECKPOINT, Usage
from tl_lightning.errors import ConfigError, DataError
from tl_lightning.utils.text import printable

if TYPE_CHECKING:
    from tl_lightning.inference.predict import Summary, Work
    from tl_lightning.inference.predictions import Prediction
    from tl_lightning.inference.sources import Sample, Source

__all__ = ["predict"]

#: Options and their values as messages show them.
VALUES = {
    "checkpoint": "<run folder or file.ckpt>",
    "input": "<file, folder, 'glob', list.txt, table.csv, table.parquet, vectors.npz or ->",
    "text": "<text>", "column": "<name>", "out": "<file.csv, .jsonl or .parquet>",
    "top": "5", "precision": "0.95", "embeddings": "true", "tta": "true", "batch_size": "64",
    "workers": "2", "devices": "all", "adapt": "tent", "adapt.mode": "online",
    "adapt.reset_every": "1000", "adapt.prior": "16", "adapt.lr": "0.00025", "adapt.steps": "1",
    "adapt.guard": "true", "adapt.fisher": "<samples of the source>",
    "adapt.column": "<name>",
    "allow": "[<import path of a custom class>]",
}  # fmt: skip
#: Options of earlier versions.
FORMER = ("images", "texts")
#: Number of rows in the table.
ROWS = 100
#: Maximum number of characters of a text shown in the table.
SHOWN = 60

USAGE = Usage(
    (
        "predict.py checkpoint=<run or file.ckpt> input=<what to predict> [out=<file>]",
        "predict.py checkpoint=<run or file.ckpt> text=<text> [text=<text> ...]",
    ),
    "Classify images, texts or vectors with a trained model. Probabilities are calibrated. Samples "
    "that cannot be read have an error in place of a class.",
    {
        "Model": CHECKPOINT,
        "Input": {
            "input": "a file, a folder (with its subfolders), a glob in quotes, a list of paths "
            "(.txt), a table (.csv, .tsv, .parquet), texts (.txt, one per line), vectors (.npz, "
            ".npy, .mat, .svmlight), or - for paths or texts from the standard input",
            "column": "column of the table with the paths or texts (default: path, image, file or "
            "text)",
            "text": "a text to classify; can be given several times",
        },
        "Output": {
            "out": ".csv, .jsonl or .parquet; after an interruption, the same command continues it",
            "top": "number of classes per sample (default: 1)",
            "precision": "such as 0.95: samples that are not certain enough have no class",
            "embeddings": "true: also write the inputs of the classifier, to .jsonl and .parquet "
            "(default: false)",
        },
        "Computation": {
            "tta": "true: average each image with its mirror image (default: false)",
            "batch_size": "samples per batch (default: 16 on a CPU, 64 on a GPU or with adapt)",
            "workers": "threads that read (default: the number of processor cores)",
            "devices": "all (every GPU, else the CPU), cpu, or [cuda:0,cuda:1] (default: all)",
        },
        "Adaptation to the input, in its order and without labels": {
            "adapt": "bn, tent, eata or sar; may make predictions worse, see docs/prediction.md "
            "(default: none)",
            "adapt.mode": "online, or episodic: every batch starts from the trained model "
            "(default: online)",
            "adapt.reset_every": "samples after which the model is the trained one again "
            "(default: never)",
            "adapt.guard": "true: return to the trained model after a collapse (default: true)",
            "adapt.prior": "samples that the trained statistics count as (default: 16)",
            "adapt.lr": "learning rate (default: 0.00025, less for batches below 32)",
            "adapt.steps": "steps on each batch (default: 1)",
            "adapt.fisher": "for eata: unlabelled samples of the source, or none",
            "adapt.column": "column of the table adapt.fisher (default: column)",
        },
    },
    (
        "predict.py checkpoint=runs/a input=my/photos out=predictions.csv",
        "predict.py checkpoint=runs/a input='my/*.jpg' top=3 precision=0.95",
    ),
    "0: any sample was predicted; 2: none was, or the command cannot be used; 130: Ctrl-C",
)


def predict() -> None:
    """Predict with a trained model: ``tl-predict checkpoint=<run or file> input=<...>``."""
    plain_command(_predict, USAGE)


def _predict(arguments: list[str]) -> None:
    given = _checked(arguments)
    out = _out(given)
    options = _options(given)
    from tl_lightning.inference.formats import format_of

    form = None if out is None else format_of(out, options.top, options.embeddings)
    if form is None and options.embeddings:
        raise ConfigError("embeddings=true requires a file; set out=<file.jsonl or .parquet>")
    check_place(given["checkpoint"])  # the next imports take seconds
    from tl_lightning.utils.deferred import import_lightning

    import_lightning()  # before the modules that import it as usual
    from tl_lightning.evaluation.nodes import allowed_classes
    from tl_lightning.inference.predict import opened, to_file

    started = time.monotonic()
    work = opened(given["checkpoint"], options, allowed_classes(arguments))
    source = _source(
        work, given, [one.removeprefix("text=") for one in arguments if one.startswith("text=")]
    )
    work.prepare()
    loaded = time.monotonic()
    kind = work.predictor.kind
    from tl_lightning.utils.progress import counting

    with counting(kind, source.total) as advance:
        if out is None or form is None:
            summary = _shown(work, source.samples, advance)
        else:
            summary = to_file(work, source.samples, out, form, advance)
    _conclude(work, summary, loaded - started, time.monotonic() - loaded, out, given)


def _checked(arguments: Sequence[str]) -> dict[str, str]:
    """Return the options; raise ConfigError for unknown, repeated and missing ones."""
    for key, _, value in (argument.partition("=") for argument in arguments):
        if key in FORMER:
            raise ConfigError(f"{key} was replaced by input; set input={value or '<...>'}")
    given = options_of(arguments, VALUES, repeated=("text",))
    for key, value in given.items():
        if not value:
            raise ConfigError(f"{key}= is empty; set {key}={VALUES[key]}")
    if "checkpoint" not in given:
        raise ConfigError(f"checkpoint is missing; set checkpoint={VALUES['checkpoint']}")
    inputs = [key for key in ("text", "input") if key in given]
    if len(inputs) != 1:
        raise ConfigError(
            f"exactly one input is required, got {' and '.join(inputs) or 'none'}; set "
            f"input={VALUES['input']} or text=<text>"
        )
    return given


def _out(given: dict[str, str]) -> Path | None:
    if "out" not in given:
        return None
    out = Path(given["out"]).expanduser()
    if not out.parent.is_dir() or out.is_dir():  # checked before predicting, which may take long
        wrong = f"{out.parent} is not a folder" if not out.is_dir() else "it is a folder"
        raise DataError(f"cannot write out={out}: {wrong}; set out={VALUES['out']}")
    return out


def _options(given: dict[str, str]) -> Any:
    from tl_lightning.inference.options import Options

    kinds = {"top": int, "batch_size": int, "workers": int, "precision": float}
    values: dict[str, Any] = {
        key: _number(key, given[key], kind) for key, kind in kinds.items() if key in given
    }
    for key in ("embeddings", "tta"):
        if key in given:
            values[key] = flag(key, given[key])
    if (adapt := _adapt(given)) is not None:
        values["adapt"] = adapt
    if "devices" in given:
        values["devices"] = [name.strip() for name in given["devices"].strip("[]").split(",")]
    return Options(**values)


def _adapt(given: dict[str, str]) -> Any:
    """Return the options of the adaptation, or None."""
    from tl_lightning.inference.adaptation.options import AdaptOptions

    found: dict[str, Any] = {
        key.removeprefix("adapt."): value
        for key, value in given.items()
        if key.startswith("adapt.")
    }
    if "adapt" not in given:
        if found:
            key = f"adapt.{next(iter(found))}"
            raise ConfigError(f"{key} has no effect without adapt; set adapt={VALUES['adapt']}")
        return None
    kinds = {"reset_every": int, "steps": int, "prior": float, "lr": float}
    for key, kind in kinds.items():
        if key in found:
            found[key] = _number(f"adapt.{key}", found[key], kind)
    if "guard" in found:
        found["guard"] = flag("adapt.guard", found["guard"])
    from tl_lightning.data.io.tables import PARQUET

    tables = (".csv", ".tsv", *PARQUET)
    if "column" in given and Path(found.get("fisher", "")).suffix.lower() in tables:
        found.setdefault("column", given["column"])
    return AdaptOptions(method=given["adapt"], **found)  # type: ignore[arg-type]


def _number(key: str, text: str, kind: type) -> Any:
    try:
        return kind(text)
    except ValueError:
        what = "an integer" if kind is int else "a number"
        raise ConfigError(f"{key}={text} is not {what}; set {key}={VALUES[key]}") from None


def _source(work: Work, given: dict[str, str], typed: Sequence[str]) -> Source:
    from tl_lightning.inference.sources import FORMS, from_input, from_texts

    kind = work.predictor.kind
    if not typed:
        return from_input(given["input"], kind, given.get("column"))
    if kind != "texts":
        problem = f"the model of checkpoint={given['checkpoint']} expects {kind}, got a text"
        raise ConfigError(f"{problem}; set input={FORMS[kind]}")
    if not all(text.strip() for text in typed):
        raise DataError("text= is empty; set text=<text>")
    return from_texts(typed)


def _shown(work: Work, samples: Iterable[Sample], advance: Any) -> Summary:
    """Predict, and print the first rows as a table."""
    summary, done = work.summary(), 0
    first: list[Prediction] = []
    for chunk, rows in work.chunks(samples):
        summary.add(chunk, rows, done)
        done += len(rows)
        first += list(itertools.islice(rows, ROWS - len(first)))
        advance(len(rows))
    _table(first, work.predictor.kind == "texts", work.options.top)
    if done > len(first):
        print(f"... and {done - len(first):,} more; set out=<file.csv> for all of them")
    return summary


def _table(rows: Sequence[Prediction], texts: bool, top: int) -> None:
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    if any(row.values and not row.top for row in rows):
        _value_table(rows)
        return
    familiar = any(row.novelty is not None for row in rows)
    columns = ("class", "probability", *(("novelty",) if familiar else ()))
    table = Table(*columns, Column("sample", overflow="fold"))
    for row in rows:
        shown = row.sample
        if texts and len(shown) > SHOWN:
            shown = f"{shown[: SHOWN - 3]}..."
        best = [("(abstained)", row.top[0][1])] if row.abstained else list(row.top[:top])
        name = "\n".join(name for name, _ in best) or "(error)"
        chance = "\n".join(f"{probability:.3f}" for _, probability in best)
        novelty = "" if row.novelty is None else f"{row.novelty:.2f}"
        if row.unknown and not row.error:
            name = f"(unknown) {name}"
        cells = [name, chance, *((novelty,) if familiar else ())]
        reason = f"\n{row.error}" if row.error else ""
        # As plain text, since rich would parse [...] as markup.
        table.add_row(*(Text(printable(text)) for text in (*cells, shown + reason)))
    Console().print(table)


def _value_table(rows: Sequence[Prediction]) -> None:
    """Print a table of predictions that are numbers, or any number of labels."""
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    names = next([name for name, _ in row.values] for row in rows if row.values)
    several = any(row.label is not None for row in rows)
    columns = (*(["labels"] if several else []), *names)
    table = Table(*map(printable, columns), Column("sample", overflow="fold"))
    for row in rows:
        shown = f"{row.sample[: SHOWN - 3]}..." if len(row.sample) > SHOWN else row.sample
        numbers = [f"{value:.4g}" for _, value in row.values] or [""] * len(names)
        labels = [row.label or ""] if several else []
        reason = f"\n{row.error}" if row.error else ""
        table.add_row(*(Text(printable(cell)) for cell in (*labels, *numbers, shown + reason)))
    Console().print(table)


def _conclude(
    work: Work, summary: Summary, load_s: float, run_s: float, out: Path | None,
    given: dict[str, str],
) -> None:  # fmt: skip
    """Print what was done and how far to trust it; raise DataError if nothing could be read."""
    from tl_lightning.reliability.assessment import expected_accuracy

    counts, kind = summary.counts, work.predictor.kind
    total = int(counts["readable"] + counts["unreadable"])
    if unreadable := int(counts["unreadable"]):
        lines = [f"  {printable(line)}" for line in summary.problems]
        if unreadable > len(lines):
            where = f"; see the column error of {out}" if out else ""
            lines.append(f"  and {unreadable - len(lines):,} more{where}")
        print(
            f"warning: {unreadable:,} of {total:,} {kind} cannot be read and have no prediction:",
            *lines,
            sep="\n",
            file=sys.stderr,
        )
    if counts["truncated"]:
        length = work.predictor.spec.max_length
        text = f"{counts['truncated']:,} of {total:,} texts were truncated to {length} tokens"
        print(text, file=sys.stderr)
    new = total - summary.continued
    rate = f"{new / max(run_s, 1e-9):,.1f} {kind}/s"
    loading = f"loading the model took {load_s:.1f} s"
    print(f"{new:,} {kind} in {run_s:.1f} s: {rate}; {loading}", file=sys.stderr)
    if not counts["readable"]:
        raise DataError(
            f"none of {total:,} {kind} can be read; check input={given.get('input', '')}"
        )
    # A pipe or device may be the standard output, which then contains the predictions only.
    channel = sys.stderr if out is not None and not out.is_file() else sys.stdout
    if out:
        print(f"written: {out}", file=channel)
    if work.threshold is not None:
        print(_abstained(work, summary), file=channel)
    if work.predictor.of_labels:
        return  # an accuracy is estimated of classes only
    if work.adaptation is not None:
        print(_adapted(work, summary), file=channel)
        return
    drawn = len(summary.logits.heap)
    some = "" if drawn == summary.logits.seen else f" (from {drawn:,} of them)"
    for line in expected_accuracy(work.assessed(summary), f"these {kind}{some}"):
        print(line, file=channel)


def _adapted(work: Work, summary: Summary) -> str:
    """Return what the adaptation did, and what is not known for its predictions."""
    options, counts = work.options.adapt, summary.adapted
    assert options is not None
    readable = int(summary.counts["readable"])
    text = f"adapt={options.method} ({options.mode}): predictions depend on the order of the input"
    if options.guard:
        returns, kept = counts.get("returns", 0), counts.get("by_trained_model", 0)
        text += (
            f"; the guard returned {returns:,} times to the trained model, which predicted "
            f"{kept:,} of {readable:,}"
        )
    steps, recoveries = counts.get("steps", 0), counts.get("recoveries", 0)
    if recoveries:
        text += f"; sar restored the trained model {recoveries:,} times"
    if options.method != "bn" and steps <= recoveries:
        reason = "each step was undone" if steps else "no step was taken"
        text += f"; nothing was learned, as {reason}"
    if odd := counts.get("not_finite", 0):
        text += f"; {odd:,} samples with outputs that are not finite took no part in it"
    return (
        f"{text}; probabilities are not calibrated for the adapted model, and its accuracy cannot "
        "be estimated: compare with the predictions without adapt"
    )


def _abstained(work: Work, summary: Summary) -> str:
    """Return how many predictions abstain, and what the precision holds for."""
    counts = summary.counts
    readable, abstained = int(counts["readable"]), int(counts["abstained"])
    text = (
        f"precision={work.options.precision:g}: {abstained:,} of {readable:,} have a probability "
        f"below {work.threshold:.3f} and no class; this precision is assured for samples like "
        "those of source validation, not for others"
    )
    if abstained == readable:
        return text
    mean = counts["kept_probability"] / (readable - abstained)
    return f"{text}; mean probability of the others: {mean:.3f}"
