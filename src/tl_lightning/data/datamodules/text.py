"""Texts as a source and a target: tokenised once, in batches of like length."""

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
from tl_lightning.data.datamodules.base import STREAMS, TransferData
from tl_lightning.data.datamodules.source_target import Roles
from tl_lightning.data.datasets import EvalDataset
from tl_lightning.data.domain import Domain, Split
from tl_lightning.data.io.texts import as_texts
from tl_lightning.data.layout import Layout
from tl_lightning.data.samplers.domain import DomainSampler
from tl_lightning.data.samplers.length import BucketSampler, SortedSampler
from tl_lightning.errors import DataError
from tl_lightning.types import TextSpec

__all__ = ["TextData"]

SHOWN = 5
#: Letters of an example text in the report.
LETTERS = 200


class TextData(Roles, TransferData):
    """Texts on disk; a data set is a subclass with :meth:`read`.

    All texts are read when the data are looked at, so that what cannot train stops the run before
    it begins. Their token ids are made once and lie in files that map into memory.

    Args:
        too_long: Whether a text of more tokens than the network takes is cut (``truncate``; the
            report says how many) or stops the run (``error``).
        bucket: Batches that are sorted by length together, see :class:`BucketSampler`.
        kwargs: As in :class:`Roles`.
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
                f"data.bucket={bucket} is no number of batches; type data.bucket=50, or 1 for "
                "batches of any lengths"
            )
        self.too_long = too_long
        self.bucket = bucket
        self.token_root = cache_root() / "tokens"
        #: Token ids of every text of a domain, and where in there each name's are.
        self.tokens: dict[str, TokenCache] = {}
        self.rows: dict[str, dict[str, int]] = {}

    # -- finding them ------------------------------------------------------------------------
    def _read(self, role: str, node: Mapping[str, Any]) -> tuple[str, Layout]:
        name, layout = super()._read(role, node)
        return name, layout.map(lambda split: as_texts(split, self.complain))

    def synthetic(self, name: str, layout: Layout) -> Mapping[str, Domain]:
        """Refuse a target that names no texts."""
        key = "domain=<name>" if self.has_domains else "root=<folder>"
        raise DataError(
            f"data.target.labelled_per_class is set, but no target; type data.target.{key}, or "
            "data.target.labelled_per_class=0"
        )

    def apart(self, source: Layout, target: Layout) -> None:
        """Complain of a target that is the source."""
        one, other = (
            texts_digest(sorted(map(str, layout.whole().pictures))) for layout in (source, target)
        )
        if one == other:
            self.complain(
                "data.source and data.target hold the same texts; type another "
                f"data.target.{'domain' if self.has_domains else 'root'}, or data.target=null"
            )

    def browse(self) -> None:
        """Refuse to look at texts as if they were pictures."""
        raise DataError(
            f"data={self.name} holds texts, and this command looks at pictures; train.py itself "
            "refuses empty texts and what is no UTF-8 before it trains"
        )

    # -- what the model needs ----------------------------------------------------------------
    def cache(self, settings: CacheSettings, epochs: int) -> None:
        """Tokenise every text once, or find the tokens.

        Raises:
            DataError: If a text is too long and ``too_long=error``, or the disk is full.
        """
        self.token_root = settings.root / "tokens"
        for role in self.roles:
            self.cached(role)

    @property
    def form(self) -> TextSpec:
        """What the backbone expects of a text."""
        assert isinstance(self.spec, TextSpec), "attach() comes before the tokens"
        return self.spec

    def cached(self, role: str) -> TokenCache:
        """Return the token ids of a domain's texts."""
        if role not in self.tokens:
            domain = self.found[role]
            whole = domain.whole()
            texts: Any = whole.pictures
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
        limit, texts = self.form.max_length, whole.pictures
        shown = [
            f"{whole.names[k]} ({self.form.tokenizer.length(str(texts[k]))})" for k in long[:SHOWN]
        ]
        more = f" and {len(long) - SHOWN} more" if len(long) > SHOWN else ""
        raise DataError(
            f"{len(long)} of {len(found)} texts of the {role} have more than {limit} tokens, "
            f"which is backbone.max_length: {', '.join(shown)}{more}; type "
            "data.too_long=truncate, or shorten them"
        )

    # -- what a report says ------------------------------------------------------------------
    def notes(self, pretrained: bool) -> list[str]:
        """Return what the report must say of the data; also which texts were cut or stand twice."""
        found = super().notes(pretrained)
        for role in self.roles:
            cut = int(self.cached(role).cut.sum())
            if cut:
                number = len(self.tokens[role])
                found.append(
                    f"{role}: {cut:,} of {number:,} texts have more than "
                    f"{self.form.max_length} tokens and were cut there (data.too_long)"
                )
            domain = self.found[role]
            if role == "target":
                shown = set(self.found["source"].train.pictures)
                both = sum(text in shown for text in domain.test.pictures)
                if both:
                    found.append(
                        f"target: {both:,} of {len(domain.test):,} test texts stand word for word "
                        "among the source's for training, which have labels"
                    )
            learned = set(domain.train.pictures)
            twice = sum(text in learned for text in domain.test.pictures)
            if twice and domain.train is not domain.test:
                found.append(
                    f"{role}: {twice:,} of {len(domain.test):,} test texts stand word for word "
                    "among those for training"
                )
        return found

    def fingerprint(self) -> str:
        """Return a hash of the names and words of every text by domain and split."""
        digest = hashlib.sha256()
        for role in self.roles:
            for name in ("train", "val", "test"):
                split: Any = getattr(self.found[role], name)
                digest.update(f"{role}/{name}/{texts_digest(split.names)}".encode())
                digest.update(texts_digest(split.pictures).encode())
        return digest.hexdigest()

    def excerpts(self, role: str, places: list[int]) -> list[str]:
        """Return the first letters of the test texts at these places."""
        texts = self.found[role].test.pictures
        return [" ".join(str(texts[place])[: 2 * LETTERS].split())[:LETTERS] for place in places]

    # -- loaders -----------------------------------------------------------------------------
    def _rows(self, role: str, split: Split) -> NDArray[np.int64]:
        """Return where a split's texts are in the cache of their domain."""
        rows = self.rows[role]
        return np.array([rows[name] for name in split.names], dtype=np.int64)

    def _lengths(self, role: str, split: Split) -> NDArray[np.int64]:
        lengths: NDArray[np.int64] = self.cached(role).lengths[self._rows(role, split)]
        return lengths

    def _sampler(self, split: Split, **place: Any) -> DomainSampler:
        role = self.domain_of(STREAMS[place["domain"]]).removesuffix("_labelled")
        return BucketSampler(lengths=self._lengths(role, split), window=self.bucket, **place)

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
