"""Base data module of texts: tokenised once, batched by length."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from tl_lightning.config.hints import at_least
from tl_lightning.config.schema import CacheConfig, cache_root
from tl_lightning.data.cache.tokens import TextDataset, TokenCache, texts_digest, tokenised
from tl_lightning.data.datamodules.base import TransferDataModule
from tl_lightning.data.datamodules.source_target import SourceTarget, TestSplit
from tl_lightning.data.domain import Domain, Split
from tl_lightning.data.io.folders import OnProblem
from tl_lightning.data.io.texts import as_texts, scan_texts, text_files
from tl_lightning.data.layout import Layout
from tl_lightning.data.needs import ModelNeeds
from tl_lightning.data.samplers.domain import DomainSampler
from tl_lightning.data.samplers.length import BucketSampler, SortedSampler
from tl_lightning.data.target import target_setting
from tl_lightning.errors import DataError
from tl_lightning.types import SPLITS, Spec, SplitKey, Stream, TextSpec
from tl_lightning.utils.text import shorten

__all__ = ["TextDataModule"]

#: Characters of an example text in the report.
LETTERS = 200


class TextDataModule(TransferDataModule):
    """Texts on disk; subclasses implement :meth:`read`.

    All texts are read and checked before training. They are tokenised once; the token ids are
    cached in memory-mapped files.

    Args:
        too_long: Whether to ``truncate`` texts with more tokens than the maximum length (the
            report gives their number), or to raise an ``error``.
        bucket: Number of batches to sort by length together, see :class:`BucketSampler`; 1 for
            no sorting. Class-balanced batches are not sorted.
        root, val_fraction, test_fraction, test_split, classes, transductive, source, target: See
            :class:`SourceTarget`.
        kwargs: See :class:`TransferDataModule`.
    """

    gives: ClassVar[str] = "texts"
    spec_type: ClassVar[type[Spec]] = TextSpec
    target_optional: ClassVar[bool] = True
    target_keys: ClassVar[frozenset[str]] = frozenset(
        {"root", "domain", "labels", "classes", "test", "labelled_per_class"}
    )
    #: The ``data`` option with domains, suggested in errors.
    other_data: ClassVar[str] = "text_domains"
    #: Whether the texts are files in folders, not in a table.
    in_folders: ClassVar[bool] = True

    def __init__(
        self,
        *,
        too_long: Literal["truncate", "error"],
        bucket: Annotated[int, at_least(1)],
        root: str,
        val_fraction: float,
        test_fraction: float,
        test_split: TestSplit,
        classes: Sequence[str] | None,
        transductive: bool,
        source: Mapping[str, Any],
        target: Mapping[str, Any] | None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.pair = SourceTarget(
            self, root=root, val_fraction=val_fraction, test_fraction=test_fraction,
            test_split=test_split, classes=classes, transductive=transductive, source=source,
            target=target,
        )  # fmt: skip
        self.too_long = too_long
        self.bucket = bucket
        self.token_root = cache_root() / "tokens"
        #: Token ids by domain, and the row of every sample name in them.
        self.tokens: dict[str, TokenCache] = {}
        self.rows: dict[str, dict[str, int]] = {}

    # -- samples -----------------------------------------------------------------------------
    def domains(self) -> Mapping[str, Domain]:
        """Return the source and, if there is one, the target."""
        return self.pair.domains()

    def collect_problems(self, on_problem: OnProblem) -> None:
        """Pass problems that could be recovered from to a callback instead of raising them."""
        self.pair.on_problem = on_problem

    def read(self, domain: str, node: Mapping[str, Any]) -> tuple[str, Layout]:
        """Return the name and the layout of one domain; see :class:`DomainReader`."""
        raise NotImplementedError

    def list_files(self, folder: Path) -> list[Path]:
        """Return the text files directly in a folder."""
        return text_files(folder)

    def scan(self, folder: Path, **kwargs: Any) -> dict[str, list[Path]]:
        """Return the text files of every class folder."""
        return scan_texts(folder, **kwargs)

    def has_own_layout(self, folder: Path) -> bool:
        """Return whether a folder has labels although none of its folders is named as a class."""
        return False

    def read_test(self, place: str) -> Layout:
        """Return the texts of ``data.target.test``, a folder of class folders."""
        root = Path(place).expanduser().absolute()
        return self.pair.folders.read_labelled(root, "data.target.test")

    def load_samples(self, layout: Layout) -> Layout:
        """Return the layout with texts in place of files."""
        return layout.map(lambda split: as_texts(split, self.pair.on_problem))

    def synthetic(self, name: str, layout: Layout) -> Mapping[str, Domain]:
        """Raise DataError for a target without a root or a domain."""
        raise DataError(
            "data.target.labelled_per_class is set, but no target; set "
            f"data.target.{target_setting(type(self))}, or data.target.labelled_per_class=0"
        )

    def check_apart(self, source: Layout, target: Layout) -> None:
        """Report a target with the same texts as the source."""
        one, other = (
            texts_digest(sorted(map(str, layout.whole().samples))) for layout in (source, target)
        )
        if one == other:
            self.pair.on_problem(
                "data.source and data.target contain the same texts; set another "
                f"data.target.{'domain' if self.has_domains else 'root'}, or data.target=null"
            )

    def check_browsable(self) -> None:
        """Raise DataError: texts cannot be inspected as images."""
        raise DataError(
            f"data={self.name} contains texts, but this command checks images; train.py itself "
            "checks for empty texts and invalid UTF-8 before training"
        )

    # -- tokens ------------------------------------------------------------------------------
    def cache_images(self, settings: CacheConfig, epochs: int) -> None:
        """Tokenise the texts, or open the cached tokens.

        Raises:
            DataError: If a text is too long and ``too_long=error``, or the disk is full.
        """
        self.token_root = settings.root / "tokens"
        for domain in self.domain_names:
            self.cached(domain)

    def prepare(self, needs: ModelNeeds | None = None, repeat_epoch: bool = False) -> None:
        """Forget the tokens of another model; see :meth:`TransferDataModule.prepare`."""
        super().prepare(needs, repeat_epoch)
        self.tokens, self.rows = {}, {}

    @property
    def form(self) -> TextSpec:
        """Input specification of the backbone."""
        spec = self.prepared.input_spec
        assert isinstance(spec, TextSpec)
        return spec

    def cached(self, domain: str) -> TokenCache:
        """Return the token ids of all texts of a domain."""
        if domain not in self.tokens:
            whole = self.found[domain].whole()
            texts: Any = whole.samples
            name = f"{self.name}-{self.found[domain].name}"
            found = tokenised(texts, self.form, name, self.token_root)
            self.tokens[domain] = found
            self.rows[domain] = {name: row for row, name in enumerate(whole.names)}
            if self.too_long == "error":
                self._refuse_long(domain, found, whole)
        return self.tokens[domain]

    def _refuse_long(self, domain: str, found: TokenCache, whole: Split) -> None:
        long = np.flatnonzero(found.cut).tolist()
        if not long:
            return
        limit, texts = self.form.max_length, whole.samples
        lengths = [f"{whole.names[k]} ({self.form.tokenizer.length(str(texts[k]))})" for k in long]
        raise DataError(
            f"{len(long)} of {len(found)} texts of the {domain} have more than "
            f"backbone.max_length={limit} tokens: {shorten(lengths)}; set "
            "data.too_long=truncate, or shorten them"
        )

    # -- report ------------------------------------------------------------------------------
    def notes(self, pretrained: bool) -> list[str]:
        """Return the notes for the report, including truncated and duplicate texts."""
        found = super().notes(pretrained)
        for domain in self.domain_names:
            cut = int(self.cached(domain).cut.sum())
            if cut:
                number = len(self.tokens[domain])
                found.append(
                    f"{domain}: {cut:,} of {number:,} texts have more than "
                    f"{self.form.max_length} tokens and were truncated (data.too_long)"
                )
            train, test = self.found[domain].train, self.found[domain].test
            if domain == "target":
                source_texts = set(self.found["source"].train.samples)
                shared = sum(text in source_texts for text in test.samples)
                if shared:
                    found.append(
                        f"target: {shared:,} of {len(test):,} test texts are identical to "
                        "labelled training texts of the source"
                    )
            if test.labels is None:  # predicted, not tested, and possibly the training texts
                continue
            train_texts = set(train.samples)
            duplicates = sum(text in train_texts for text in test.samples)
            if duplicates and train is not test:
                found.append(
                    f"{domain}: {duplicates:,} of {len(test):,} test texts are identical to "
                    "training texts"
                )
        return found

    def fingerprint(self) -> str:
        """Return a hash of the names and contents of all texts by domain and split."""
        digest = hashlib.sha256()
        for domain in self.domain_names:
            for name in SPLITS:
                split: Any = getattr(self.found[domain], name)
                digest.update(f"{domain}/{name}/{texts_digest(split.names)}".encode())
                digest.update(texts_digest(split.samples).encode())
        return digest.hexdigest()

    def excerpts(self, domain: str, indices: list[int]) -> list[str]:
        """Return the beginning of the test texts at these indices."""
        texts = self.found[domain].test.samples
        return [" ".join(str(texts[k])[: 2 * LETTERS].split())[:LETTERS] for k in indices]

    # -- loaders -----------------------------------------------------------------------------
    def _rows(self, domain: str, split: Split) -> NDArray[np.int64]:
        """Return the rows of a split in the token cache of its domain."""
        rows = self.rows[domain]
        return np.array([rows[name] for name in split.names], dtype=np.int64)

    def _lengths(self, domain: str, split: Split) -> NDArray[np.int64]:
        lengths: NDArray[np.int64] = self.cached(domain).lengths[self._rows(domain, split)]
        return lengths

    def train_sampler(self, stream: Stream, split: Split, **kwargs: Any) -> DomainSampler:
        """Return a sampler whose batches contain texts of similar length."""
        lengths = self._lengths(self.domain_of(stream), split)
        return BucketSampler(lengths=lengths, window=self.bucket, **kwargs)

    def eval_sampler(self, key: SplitKey, split: Split, rank: int, world: int) -> SortedSampler:
        """Return a sampler that starts with the longest texts."""
        return SortedSampler(lengths=self._lengths(key.domain, split), rank=rank, world=world)

    def dataset(self, domain: str, split: Split, train: bool) -> TextDataset:
        """Return the dataset of a split."""
        return TextDataset(self.cached(domain), self._rows(domain, split), split.labels)
