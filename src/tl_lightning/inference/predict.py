"""Prediction of any number of samples, from Python or to a file."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tl_lightning import __version__
from tl_lightning.errors import ConfigError, DataError
from tl_lightning.inference.adaptation.source import source_batches
from tl_lightning.inference.adaptation.stream import StreamAdaptation
from tl_lightning.inference.draft import LOGITS, ROWS, Draft, digest_after
from tl_lightning.inference.folding import fold_batch_norm
from tl_lightning.inference.formats import Format
from tl_lightning.inference.logit_sample import LogitSample
from tl_lightning.inference.options import Options, device_names
from tl_lightning.inference.pipeline import Chunk, outputs_of
from tl_lightning.inference.predictions import Prediction, rows_of
from tl_lightning.inference.predictor import Predictor
from tl_lightning.inference.reading import chunk_size
from tl_lightning.inference.sources import Sample, from_python
from tl_lightning.reliability.assessment import Assessment, assess
from tl_lightning.utils.console import say
from tl_lightning.utils.text import shorten

__all__ = ["Summary", "Work", "none_readable", "opened", "stream", "to_file", "whole"]

#: Number of samples that cannot be read which a summary lists.
LISTED = 20
#: Called with the number of further samples that are done, and ``earlier=True`` for those that an
#: interrupted command had done.
Advance = Callable[..., None]


@dataclass
class Summary:
    """Sums over all predictions, and how far to trust them.

    Attributes:
        logits: Of a part of the samples.
        counts: ``readable``, ``unreadable``, ``truncated`` and ``abstained`` samples, and the sum
            ``kept_probability`` of those that did not abstain.
        continued: Number of samples that an interrupted command had done.
        adapted: What the adaptation has counted, if the model adapts.
        problems: The first samples that cannot be read, with the reasons.
    """

    logits: LogitSample
    counts: Counter[str] = field(default_factory=Counter)
    continued: int = 0
    adapted: Mapping[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def add(self, chunk: Chunk, rows: Sequence[Prediction], first: int) -> bytes:
        """Take the rows of a chunk into account; return the kept logits, encoded.

        Args:
            chunk: The chunk.
            rows: Its predictions.
            first: Position of its first sample in the input.
        """
        self.adapted = chunk.adapted
        self.counts["unreadable"] += len(chunk.problems)
        listed = [f"{row.sample}: {row.error}" for row in rows if row.error]
        self.problems += listed[: LISTED - len(self.problems)]
        self.counts["readable"] += len(chunk.positions)
        self.counts["truncated"] += chunk.truncated
        abstained = sum(row.abstained for row in rows)
        self.counts["abstained"] += abstained
        kept = (row.probability for row in rows if row.probability and not row.abstained)
        self.counts["kept_probability"] += sum(kept)  # type: ignore[assignment]
        if chunk.outputs is None:
            return b""
        positions = [first + position for position in chunk.positions]
        return self.logits.add(positions, chunk.outputs.logits)


@dataclass
class Work:
    """Everything that predictions need besides the samples.

    Attributes:
        predictors: The model on every device.
        options: How samples are predicted.
        threshold: Probability below which a sample has no class, or None.
        adaptation: The copy of the model that adapts to the samples, or None. Such work is for
            one input.
        source: Hash of the samples that its regulariser is computed on; empty without.
        regulariser: Network inputs of these samples, until :meth:`prepare` has used them.
    """

    predictors: Sequence[Predictor]
    options: Options
    threshold: float | None
    adaptation: StreamAdaptation | None = None
    source: str = ""
    regulariser: Iterator[Tensor] | None = None

    @property
    def predictor(self) -> Predictor:
        """The model on the first device."""
        return self.predictors[0]

    @property
    def batch_size(self) -> int:
        """Number of samples per batch."""
        return self.options.samples(self.predictor.module.device.type)

    def summary(self) -> Summary:
        """Return the summary of no predictions."""
        return Summary(LogitSample(len(self.predictor.classes)))

    def prepare(self) -> None:
        """Compute the regulariser of the adaptation, if it is not, which takes long.

        It is left until the input has been found, so that a wrong one is reported at once.

        Raises:
            ConfigError: If the learning rate is too high for the regulariser.
            DataError: If one of the samples of the source cannot be read.
        """
        batches, self.regulariser = self.regulariser, None
        if batches is not None and self.adaptation is not None:
            self.adaptation.regularise(batches)

    def chunks(self, samples: Iterable[Sample]) -> Iterator[tuple[Chunk, list[Prediction]]]:
        """Yield the predictions of samples in their order, chunk by chunk."""
        self.prepare()
        parts = (self.predictors, samples, self.options, self.adaptation)
        with closing(outputs_of(*parts)) as found:
            for chunk in found:
                yield chunk, list(rows_of(self.predictor, chunk, self.options, self.threshold))

    def assessed(self, summary: Summary) -> Assessment:
        """Return how far to trust the predictions."""
        return assess(self.predictor.record, summary.logits.logits)


def opened(checkpoint: str | Path | Predictor, options: Options, allow: Sequence[str] = ()) -> Work:
    """Load a model for predictions.

    Raises:
        CheckpointError: If the checkpoint cannot be used.
        ConfigError: If an option does not fit the model or this machine.
        DataError: If samples of the source, which an adaptation requires, are missing.
    """
    if isinstance(checkpoint, Predictor):
        predictors = [checkpoint]
        if options.devices != "all":
            raise ConfigError("devices has no effect on a Predictor; pass its checkpoint")
    else:
        names = device_names(options.devices)
        if options.adapt is not None:
            names = _only(names, options)
        predictors = [Predictor.open(checkpoint, allow, names[0])]
    if options.tta and predictors[0].kind != "images":
        raise ConfigError(
            f"tta=true mirrors images, but the model classifies {predictors[0].kind}; remove tta"
        )
    _check_task(predictors[0], options)
    work = Work(predictors, options, predictors[0].threshold(options.precision))
    if options.adapt is not None:  # before batch norm is folded, which the adaptation needs
        _adapting(work)
    if not isinstance(checkpoint, Predictor):
        if predictors[0].module.device.type == "cpu":
            fold_batch_norm(predictors[0].module)
        predictors += [predictors[0].on(name) for name in names[1:]]
    return work


def _check_task(predictor: Predictor, options: Options) -> None:
    """Raise an error for options that need classes if the model predicts something else."""
    if not predictor.of_labels:
        return
    adapt = options.adapt and options.adapt.method
    given = (
        ("top", options.top if options.top != 1 else None),
        ("precision", options.precision),
        ("adapt", adapt),
    )
    for name, value in given:
        if value is not None:
            raise ConfigError(
                f"{name}={value} is for classes, but the model has "
                f"task={predictor.module.task.kind}; remove {name}"
            )


def _only(names: list[str], options: Options) -> list[str]:
    """Return the device that adapts: the first one, unless several were named."""
    assert options.adapt is not None
    if len(names) > 1 and options.devices not in ("all", ["all"]):
        raise ConfigError(
            f"adapt={options.adapt.method} adapts one copy of the model to the samples in their "
            f"order, got {len(names)} devices; set devices={names[0]}"
        )
    return names[:1]


def _adapting(work: Work) -> None:
    assert work.options.adapt is not None
    work.adaptation = StreamAdaptation(work.predictor, work.options.adapt, work.batch_size)
    if work.options.adapt.regularised:
        work.regulariser, work.source = source_batches(work.predictor, work.options)


def stream(work: Work, inputs: Any) -> Iterator[Prediction]:
    """Yield one prediction per input, in their order, while further inputs are read."""
    for _, rows in work.chunks(from_python(inputs, work.predictor.kind).samples):
        yield from rows


def whole(work: Work, inputs: Any) -> list[Prediction]:
    """Return one prediction per input, in their order.

    Raises:
        DataError: If none of the inputs can be read.
    """
    rows = list(stream(work, inputs))
    none_readable([f"{row.sample} ({row.error})" for row in rows if row.error], len(rows))
    return rows


def none_readable(problems: Sequence[str], total: int) -> None:
    """Raise DataError if there is a problem with every sample."""
    if len(problems) == total:
        listed = shorten(problems)
        raise DataError(
            f"none of {total} inputs can be read: {listed}" if total else "the input is empty"
        )


def to_file(
    work: Work,
    samples: Iterable[Sample],
    out: Path,
    form: Format,
    advance: Advance,
) -> Summary:
    """Write the predictions of samples to a file, which appears once it is complete.

    The same call continues after an interruption, and writes the same file as without one.

    Args:
        work: The model and its options.
        samples: The inputs.
        out: The file.
        form: Its format.
        advance: Called after every chunk.

    Raises:
        DataError: If the file cannot be written.
    """
    work.prepare()
    form.unknown = work.predictor.recognises_unknown
    form.values = work.predictor.value_names
    form.kind = work.predictor.module.task.kind
    if out.exists() and not out.is_file():  # such as /dev/stdout, which must not be replaced
        return _to_pipe(work, samples, out, form, advance)
    summary = work.summary()
    with Draft.open(out.resolve(), _identity(work, out)) as draft:
        rest, digest = _continued(draft, iter(samples), work)
        done, adaptation = draft.state.samples, draft.adaptation
        draft.start()
        if done:
            say(f"continuing after {done:,} samples of an interrupted command")
            summary.logits.restore(draft.stored(LOGITS), int(draft.state.counts["readable"]))
            summary.counts.update(draft.state.counts)
            summary.continued = done
            if work.adaptation is not None:
                work.adaptation.restore(adaptation)
                summary.adapted = work.adaptation.counts
            advance(done, earlier=True)
        else:
            draft.append(form.header(), b"")
        for chunk, rows in work.chunks(rest):
            draft.append(form.encoded(rows), summary.add(chunk, rows, done))
            done += len(chunk.samples)
            digest = digest_after(digest, chunk.samples)
            adaptation = chunk.adaptation
            if draft.due:
                draft.commit(done, digest, summary.counts, adaptation)
            advance(len(chunk.samples))
        draft.commit(done, digest, summary.counts, adaptation)
        draft.replace(form.finished(draft.folder / ROWS))
    return summary


def _to_pipe(
    work: Work, samples: Iterable[Sample], out: Path, form: Format, advance: Advance
) -> Summary:
    summary, done = work.summary(), 0
    # The reader of a pipe may want only the beginning, such as head.
    with suppress(BrokenPipeError), out.open("wb", buffering=0) as file:
        file.write(form.header())
        for chunk, rows in work.chunks(samples):
            summary.add(chunk, rows, done)
            done += len(chunk.samples)
            file.write(form.encoded(rows))
            advance(len(chunk.samples))
    return summary


def _continued(draft: Draft, samples: Iterator[Sample], work: Work) -> tuple[Iterator[Sample], str]:
    """Return the samples without those that are done, if they are the same as before.

    Also returns the hash of those that are done.
    """
    done, digest = draft.state.samples, ""
    size = chunk_size(work.predictor, work.batch_size, work.adaptation is not None)
    read: list[Sample] = []
    while len(read) < done:
        chunk = list(itertools.islice(samples, min(size, done - len(read))))
        if not chunk:
            break
        read += chunk
        digest = digest_after(digest, chunk)
    more = list(itertools.islice(samples, 1))
    if digest != draft.state.digest or (more and done % size):
        draft.restart(f"the inputs have changed since the interrupted command for out={draft.out}")
        return itertools.chain(read, more, samples), ""
    return itertools.chain(more, samples), digest


def _identity(work: Work, out: Path) -> dict[str, Any]:
    """Return what rows depend on besides the samples, by the names of the options."""
    options, predictor = work.options, work.predictor
    return {
        "checkpoint": predictor.checksum,
        "top": options.top,
        "precision": options.precision,
        "embeddings": options.embeddings,
        "tta": options.tta,
        "adapt": None if options.adapt is None else options.adapt.named(work.source),
        "batch_size": work.batch_size,
        "type of device": predictor.module.device.type,
        "number of OpenMP threads": torch.get_num_threads(),
        "version": [__version__, torch.__version__, np.__version__],
    }
