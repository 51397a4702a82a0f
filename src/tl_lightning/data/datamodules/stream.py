"""Pictures in shards: streams of litdata chunks, for data larger than a disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from tl_lightning.data.cache.images import CacheSettings, cache_root
from tl_lightning.data.datamodules.image import PictureData
from tl_lightning.data.datasets import ArrayDataset, PictureDataset
from tl_lightning.data.domain import Domain, Split
from tl_lightning.data.samplers.domain import ChunkSampler, DomainSampler, spread
from tl_lightning.data.streaming.chunks import Shards, StreamDataset, StreamSplit, opened
from tl_lightning.data.streaming.fetch import fetched_text, is_remote, litdata
from tl_lightning.data.transforms.geometry import Centre
from tl_lightning.errors import DataError, nearest

__all__ = ["ABOUT", "SPLITS", "StreamData"]

SPLITS = ("train", "val", "test")
#: The file beside the splits: ``{"classes": [...]}``, and what the writer knew of the pictures.
ABOUT = "classes.json"


class StreamData(PictureData):
    """One stream a domain: the folders ``train``, ``val`` and ``test``, each written by litdata.

    A sample is ``{"image": encoded bytes, "label": class name, "name": text}``. Labels are read
    with their pictures; those of a domain that trains without labels are never looked at.

    Args:
        source: ``{url}``: the folder above the splits, or what it is fetched from.
        target: Likewise; None or a ``url`` of None: no target.
        classes: Class names in the order of the labels, or None: ``classes.json`` beside the
            source's splits says them.
        window: Chunks that training shuffles together.
        cache_gb: Most that fetched chunks of all streams take on this machine's disk.
        cache_dir: Where they lie, or None for a folder of :func:`cache_root`.
        kwargs: As in :class:`PictureData`.
    """

    #: A target without a url is no target, see :class:`FileData`.
    target_optional: ClassVar[bool] = True
    #: Labels come with the pictures, which have no places of their own.
    storable: ClassVar[bool] = False
    #: What to type for a target.
    target_key: ClassVar[str] = "url=<folder or address>"

    def __init__(
        self,
        *,
        source: Mapping[str, Any],
        target: Mapping[str, Any] | None,
        classes: Sequence[str] | None,
        window: int,
        cache_gb: float,
        cache_dir: str | None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        nodes = {"source": source, "target": target or {}}
        for role, node in nodes.items():
            for key in node:
                if key != "url":
                    raise DataError(f"data.{role} has no key {key!r}; {nearest(str(key), ['url'])}")
        for key, value in (("window", window), ("cache_gb", cache_gb)):
            if value <= 0:
                raise DataError(f"data.{key}={value} must be above 0; type data.{key}=8")
        self.urls = {role: node.get("url") for role, node in nodes.items()}
        # Training asks here whether there is a target at all, before the data is looked at.
        self.target = target if self.urls["target"] is not None else None
        self.given_classes = classes
        self.window = window
        self.limit = int(1e9 * cache_gb)
        self.root = Path(cache_dir).expanduser() if cache_dir else cache_root() / "streams"
        #: What is known of the pictures' overlap with pretraining, by domain.
        self.overlaps: dict[str, str] = {}

    @classmethod
    def no_target(cls, target: Mapping[str, Any] | None) -> bool:
        """Return whether these settings of ``target`` mean that there is none."""
        return target is None or target.get("url") is None

    def domains(self) -> Mapping[str, Domain]:
        """Return the domains; reads their indices, no picture."""
        litdata()
        if self.urls["source"] is None:
            raise DataError(
                f"data={self.name} needs shards, but data.source.url=null; type "
                "data.source.url=/shards/photo (or s3://bucket/photo)"
            )
        if self.urls["target"] == self.urls["source"]:
            raise DataError(
                f"data.source.url and data.target.url are both {self.urls['source']}: the same "
                "pictures in both domains; type another data.target.url, or null for no target"
            )
        source = self._domain("source", None)
        if self.urls["target"] is None:
            return {"source": source}
        return {"source": source, "target": self._domain("target", source.classes)}

    def _domain(self, role: str, expected: tuple[str, ...] | None) -> Domain:
        """Return one domain; its classes must be the expected ones, in any order."""
        url = str(self.urls[role]).rstrip("/")
        if not is_remote(url):
            url = str(Path(url).expanduser().absolute())
            if not Path(url).is_dir():
                raise DataError(
                    f"data.{role}.url={self.urls[role]} is no folder; type data.{role}.url=/a/"
                    "folder/with/train/val/test, or an address such as s3://bucket/photo"
                )
        about = self._about(role, url)
        classes = tuple(str(name) for name in about["classes"])
        if expected is not None and set(classes) != set(expected):
            missing, extra = set(expected) - set(classes), set(classes) - set(expected)
            raise DataError(
                f"the classes of {url} are not the source's: missing: "
                f"{', '.join(sorted(missing)) or 'none'}; extra: "
                f"{', '.join(sorted(extra)) or 'none'}; make both streams of the same classes, or "
                "type another data.target.url"
            )
        number = {name: label for label, name in enumerate(expected or classes)}
        self.overlaps[role] = str(about.get("overlap") or "")
        digests = about.get("sha256") or {}
        found = {
            name: StreamSplit.of(
                opened(f"{url}/{name}", number, self.root, self.limit, digests.get(name, ""))
            )
            for name in SPLITS
        }
        note = str(about.get("note") or "")
        return Domain(url.rpartition("/")[2], tuple(number), **found, note=note)

    def _about(self, role: str, url: str) -> dict[str, Any]:
        """Return what ``classes.json`` says, or the classes given."""
        if self.given_classes is not None:
            return {"classes": list(self.given_classes)}
        text = fetched_text(url, ABOUT)
        if text is None:
            raise DataError(
                f"{url} holds no {ABOUT}, so that data.{role} has no class names; write "
                '{"classes": ["cat", "dog"]} there, or type data.classes=[cat,dog]'
            )
        try:
            found = json.loads(text)
        except ValueError as error:
            raise DataError(f"{url}/{ABOUT} is no JSON: {error}; write it again") from error
        names = found.get("classes") if isinstance(found, dict) else None
        texts = isinstance(names, list) and all(isinstance(name, str) for name in names)
        if not texts or len(set(names or ())) != len(names or ()) or len(names or ()) < 2:
            raise DataError(
                f"{url}/{ABOUT} must name at least two different classes as texts, got "
                f'{str(found)[:80]}; write {{"classes": ["cat", "dog"]}}'
            )
        return dict(found)

    def faults(self, found: Mapping[str, Domain]) -> Iterator[str]:
        """Yield what keeps these domains from training."""
        yield from super().faults(found)
        largest = [
            max(shards.files.sizes, default=0)
            for shards in (_shards(domain.train) for domain in found.values())
            if is_remote(shards.files.url)
        ]
        needed = self.window * sum(largest)
        if needed > self.limit:
            yield (
                f"data.window={self.window} chunks of each domain take {needed / 1e9:.3g} GB, but "
                f"data.cache_gb={self.limit / 1e9:g}: every chunk would be fetched for every "
                f"picture; type data.cache_gb={2 * needed / 1e9:.3g}, or a smaller data.window"
            )

    def cache(self, settings: CacheSettings, epochs: int) -> None:
        """Refuse to decode a stream to a disk that it may not fit on."""
        if settings.images == "decoded":
            raise DataError(
                "cache.images=decoded would decode a whole stream to disk; type cache.images=off, "
                "or train from the files themselves (data=folder, domains or csv)"
            )

    def browse(self) -> None:
        """Refuse to look at pictures one by one."""
        raise DataError(
            f"data={self.name} is read chunk by chunk, which finds no duplicates or leaks; check "
            "the data set that the shards were made of"
        )

    def notes(self, pretrained: bool) -> list[str]:
        """Return what the report must say of the data; overlap as the writer found it."""
        own = [text for role in self.roles if (text := self.overlaps[role])] if pretrained else []
        return [*super().notes(pretrained), *dict.fromkeys(own)]

    def fingerprint(self) -> str:
        """Return a hash of the samples as the writer saw them, or else of the indices."""
        digest = hashlib.sha256()
        for role in self.roles:
            for name in SPLITS:
                shards = _shards(getattr(self.found[role], name))
                digest.update(f"{role}/{name}/{len(shards)}/{shards.digest}".encode())
        return digest.hexdigest()

    def sample_places(self, role: str, count: int) -> list[int]:
        """Return the places of samples from at most ``window`` chunks: the others stay unread."""
        shards = _shards(self.found[role].test)
        chunks = spread(len(shards.counts), self.window)
        inside = [
            place
            for chunk in chunks
            for place in range(int(shards.ends[chunk]) - shards.counts[chunk], shards.ends[chunk])
        ]
        return [inside[k] for k in spread(len(inside), count)]

    def _sampler(self, split: Split, **place: Any) -> DomainSampler:
        return ChunkSampler(chunks=_shards(split).counts, window=self.window, **place)

    def _dataset(self, role: str, split: Split, train: bool) -> PictureDataset | ArrayDataset:
        assert self.spec is not None, "attach() comes before the loaders"
        if not train:
            return StreamDataset(_shards(split), self.spec, Centre(self.spec))
        return StreamDataset(_shards(split), self.spec, self.changes.geometry, self.seeded)


def _shards(split: Split) -> Shards:
    assert isinstance(split, StreamSplit)
    return split.shards
