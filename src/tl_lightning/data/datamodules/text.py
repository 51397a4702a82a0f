"""Base data module of texts: tokenised once, batched by length."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from tl_lightning.data.cache.features import FeatureLoader
from tl_lightning.data.cache.images import CacheSettings, cache_root
from tl_lightning.data.cache.tokens import TextDataset, TokenCache, texts_digest, tokenised
from tl_lightning.data.datamodules.base import STREAMS, TransferDataModule
from tl_lightning.data.datamodules.source_target import SourceTargetMixin
from tl_lightning.data.datasets import EvalDataset
from tl_lightning.data.domain import Domain, Split
from tl_lightning.data.io.texts import as_texts
from tl_lightning.data.layout import Layout
from tl_lightning.data.samplers.domain import DomainSampler
from tl_lightning.data.samplers.length import BucketSampler, SortedSampler
from tl_lightning.errors import DataError
from tl_lightning.types import TextSpec

__all__ = ["TextDataModule"]

SHOWN = 5
#: Characters of an example text in the report.
LETTERS = 200


class TextDataModule(SourceTargetMixin, TransferDataModule):
    """Texts on disk; subclasses implement :meth:`read`.

    All texts are read and checked before training. They are tokenised once; the token ids are
    cached in memory-mapped files.

    Args:
        too_long: Whether to ``truncate`` texts with more tokens than the maximum length (the
            report gives their number), or to raise an ``error``.
        bucket: Number of batches to sort by length together, see :class:`BucketSampler`.
        kwargs: See :class:`SourceTargetMixin`.
    """

    target_optional: ClassVar[bool] = True
    other_data: ClassVar[str] = "text_domains"
    gives: ClassVar[str] = "texts"

    def __init__(
        self, *, too_long: Literal["truncate", "error"], bucket: int, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if bucket < 1:
            raise DataError(
                f"data.bucket={bucket} must be at least 1 (batches sorted by length together); set "
                "data.bucket=50, or data.bucket=1 for no sorting"
            )
        self.too_long = too_long
        self.bucket = bucket
        self.token_root = cache_root() / "tokens"
        #: Token ids by domain, and the row of every sample name in them.
        self.tokens: dict[str, TokenCache] = {}
        self.rows: dict[str, dict[str, int]] = {}

    # -- samples -----------------------------------------------------------------------------
    def _read(self, role: str, node: Mapping[str, Any]) -> tuple[str, Layout]:
        name, layout = super()._read(role, node)
        return name, layout.map(lambda split: as_texts(split, self.on_problem))

    def synthetic(self, name: str, layout: Layout) -> Mapping[str, Domain]:
        """Raise DataError for a target without a root or a domain."""
        key = "domain=<name>" if self.has_domains else "root=<folder>"
        raise DataError(
            f"data.target.labelled_per_class is set, but no target; set data.target.{key}, or "
            "data.target.labelled_per_class=0"
        )

    def apart(self, source: Layout, target: Layout) -> None:
        """Report a target with the same texts as the source."""
        one, other = (
            texts_digest(sorted(map(str, layout.whole().samples))) for layout in (source, target)
        )
        if one == other:
            self.on_problem(
                "data.source and data.target contain the same texts; set another "
                f"data.target.{'domain' if self.has_domains else 'root'}, or data.target=null"
            )

    def browse(self) -> None:
        """Raise DataError: texts cannot be inspected as images."""
        raise DataError(
            f"data={self.name} contains texts, but this command checks images; train.py itself "
            "checks for empty texts and invalid UTF-8 before training"
        )

    # -- tokens ------------------------------------------------------------------------------
    def cache(self, settings: CacheSettings, epochs: int) -> None:
        """Tokenise the texts, or open the cached tokens.

        Raises:
            DataError: If a text is too long and ``too_long=error``, or the disk is full.
        """
        self.token_root = settings.root / "tokens"
        for role in self.roles:
            self.cached(role)

    @property
    def form(self) -> TextSpec:
        """Input specification of the backbone."""
        assert isinstance(self.spec, TextSpec), "call attach() before tokenising"
        return self.spec

    def cached(self, role: str) -> TokenCache:
        """Return the token ids of all texts of a domain."""
        if role not in self.tokens:
            domain = self.found[role]
            whole = domain.whole()
            texts: Any = whole.samples
            name = f"{self.name}-{domain.name}"
            found = tokenised(texts, self.form, name, self.token_root)
            self.tokens[role] = found
            self.rows[role] = {name: row for row, name in enumerate(whole.names)}
            if self.too_long == "error":
                self._refuse_long(role, found, whole)
        return self.tokens[role]

    def _refuse_long(self, role: str, found: TokenCache, whole: Split) -> None:
        long = np.flatnonzero(found.cut).tolist()
        if not long:
            return
        limit, texts = self.form.max_length, whole.samples
        shown = [
            f"{whole.names[k]} ({self.form.tokenizer.length(str(texts[k]))})" for k in long[:SHOWN]
        ]
        more = f" and {len(long) - SHOWN} more" if len(long) > SHOWN else ""
        raise DataError(
            f"{len(long)} of {len(found)} texts of the {role} have more than "
            f"backbone.max_length={limit} tokens: {', '.join(shown)}{more}; set "
            "data.too_long=truncate, or shorten them"
        )

    # -- report ------------------------------------------------------------------------------
    def notes(self, pretrained: bool) -> list[str]:
        """Return the notes for the report, including truncated and duplicate texts."""
        found = super().notes(pretrained)
        for role in self.roles:
            cut = int(self.cached(role).cut.sum())
            if cut:
                number = len(self.tokens[role])
                found.append(
                    f"{role}: {cut:,} of {number:,} texts have more than "
                    f"{self.form.max_length} tokens and were truncated (data.too_long)"
                )
            domain = self.found[role]
            if role == "target":
                source_texts = set(self.found["source"].train.samples)
                shared = sum(text in source_texts for text in domain.test.samples)
                if shared:
                    found.append(
                        f"target: {shared:,} of {len(domain.test):,} test texts are identical to "
                        "labelled training texts of the source"
                    )
            train_texts = set(domain.train.samples)
            duplicates = sum(text in train_texts for text in domain.test.samples)
            if duplicates and domain.train is not domain.test:
                found.append(
                    f"{role}: {duplicates:,} of {len(domain.test):,} test texts are identical to "
                    "training texts"
                )
        return found

    def fingerprint(self) -> str:
        """Return a hash of the names and contents of all texts by domain and split."""
        digest = hashlib.sha256()
        for role in self.roles:
            for name in ("train", "val", "test"):
                split: Any = getattr(self.found[role], name)
                digest.update(f"{role}/{name}/{texts_digest(split.names)}".encode())
                digest.update(texts_digest(split.samples).encode())
        return digest.hexdigest()

    def excerpts(self, role: str, places: list[int]) -> list[str]:
        """Return the beginning of the test texts at these indices."""
        texts = self.found[role].test.samples
        return [" ".join(str(texts[k])[: 2 * LETTERS].split())[:LETTERS] for k in places]

    # -- loaders -----------------------------------------------------------------------------
    def _rows(self, role: str, split: Split) -> NDArray[np.int64]:
        """Return the rows of a split in the token cache of its domain."""
        rows = self.rows[role]
        return np.array([rows[name] for name in split.names], dtype=np.int64)

    def _lengths(self, role: str, split: Split) -> NDArray[np.int64]:
        lengths: NDArray[np.int64] = self.cached(role).lengths[self._rows(role, split)]
        return lengths

    def _sampler(self, split: Split, **kwargs: Any) -> DomainSampler:
        role = self.domain_of(STREAMS[kwargs["domain"]]).removesuffix("_labelled")
        return BucketSampler(lengths=self._lengths(role, split), window=self.bucket, **kwargs)

    def _eval_loader(self, name: str, split: Split) -> DataLoader[Any] | FeatureLoader:
        if name in self.features:
            return super()._eval_loader(name, split)
        role, trainer = name.partition("/")[0], self.trainer
        rank, world = (trainer.global_rank, trainer.world_size) if trainer else (0, 1)
        sampler = SortedSampler(lengths=self._lengths(role, split), rank=rank, world=world)
        dataset = EvalDataset(self._dataset(role, split, train=False))
        return self._loader(dataset, self.eval_batch_size, sampler)

    def _dataset(self, role: str, split: Split, train: bool) -> Any:
        role = role.removesuffix("_labelled")
        cache = self.cached(role)
        return TextDataset(cache, self._rows(role, split), split.labels)
