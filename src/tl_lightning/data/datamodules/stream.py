"""Images streamed from litdata shards, for datasets larger than the disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

from tl_lightning.config.hints import above, at_least
from tl_lightning.config.schema import CacheConfig, cache_root
from tl_lightning.data.datamodules.image import ImageDataModule
from tl_lightning.data.datamodules.source_target import only_keys
from tl_lightning.data.domain import Domain, Split
from tl_lightning.data.samplers.domain import ChunkSampler, DomainSampler, spread
from tl_lightning.data.streaming.chunks import Shards, StreamDataset, StreamSplit, opened
from tl_lightning.data.streaming.fetch import fetched_text, is_remote, litdata
from tl_lightning.data.transforms.geometry import Centre
from tl_lightning.errors import ConfigError, DataError
from tl_lightning.types import SPLITS, Stream

__all__ = ["ABOUT", "StreamDataModule"]

#: File next to the splits: ``{"classes": [...]}`` and metadata from the writer.
ABOUT = "classes.json"


class StreamDataModule(ImageDataModule):
    """One stream per domain with the folders ``train``, ``val`` and ``test`` written by litdata.

    A sample is ``{"image": encoded bytes, "label": class name, "name": text}``. Labels are stored
    with their images, but ignored for domains that are trained without labels.

    Args:
        source: ``{url}``: a local folder or remote address with the splits.
        target: The same for the target; None or a ``url`` of None means no target.
        classes: Class names in the order of the labels, or None to read ``classes.json`` of the
            source.
        window: Number of chunks to shuffle together in training.
        cache_gb: Maximum disk space of downloaded chunks of all streams.
        cache_dir: Folder for downloaded chunks, or None for a subfolder of :func:`cache_root`.
        kwargs: See :class:`ImageDataModule`.
    """

    target_optional: ClassVar[bool] = True
    target_keys: ClassVar[frozenset[str]] = frozenset({"url"})
    #: Labels are read with the images, so features cannot be cached by index.
    storable: ClassVar[bool] = False

    def __init__(
        self,
        *,
        source: Mapping[str, Any],
        target: Mapping[str, Any] | None,
        classes: Sequence[str] | None,
        window: Annotated[int, at_least(1)],
        cache_gb: Annotated[float, above(0)],
        cache_dir: str | None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        own = {"sampling": self.sampling, "target_sampling": self.target_sampling}
        for problem in self.check_config("data", own):
            raise ConfigError(problem)
        nodes = {"source": source, "target": target or {}}
        for name, node in nodes.items():
            only_keys(f"data.{name}", node, {"url"})
        self.urls = {name: node.get("url") for name, node in nodes.items()}
        self.given_classes = classes
        self.window = window
        self.limit = int(1e9 * cache_gb)
        self.root = Path(cache_dir).expanduser() if cache_dir else cache_root() / "streams"
        #: Known overlap of the images with pretraining data, by domain.
        self.overlaps: dict[str, str] = {}

    @classmethod
    def check_config(cls, where: str, params: Mapping[str, Any]) -> Iterator[str]:
        """Yield one message for each invalid setting."""
        if params.get("sampling") == "class_balanced":
            yield (
                f"{where}.sampling=class_balanced needs all labels in advance, but those of a "
                f"stream are read with its images; set {where}.sampling=uniform, or use files"
            )
        if params.get("target_sampling") == "pseudo_balanced":
            yield (
                f"{where}.target_sampling=pseudo_balanced draws single samples by their predicted "
                "classes, but a stream is read chunk by chunk; set "
                f"{where}.target_sampling=uniform, or use files"
            )

    @classmethod
    def target_hint(cls) -> str:
        """Return what to set below ``data.target`` for a target, for error messages."""
        return "url=<folder or address>"

    def domains(self) -> Mapping[str, Domain]:
        """Return the domains; reads the indices of the shards, but no images."""
        litdata()
        if self.urls["source"] is None:
            raise DataError(
                f"data={self.name} needs shards, but data.source.url=null; set "
                "data.source.url=/shards/photo (or s3://bucket/photo)"
            )
        if self.urls["target"] == self.urls["source"]:
            raise DataError(
                f"data.source.url and data.target.url are both {self.urls['source']}; set another "
                "data.target.url, or data.target.url=null for no target"
            )
        source = self._domain("source", None)
        if self.urls["target"] is None:
            return {"source": source}
        return {"source": source, "target": self._domain("target", source.classes)}

    def _domain(self, domain: str, expected: tuple[str, ...] | None) -> Domain:
        """Return one domain; its classes must be ``expected``, in any order."""
        url = str(self.urls[domain]).rstrip("/")
        if not is_remote(url):
            url = str(Path(url).expanduser().absolute())
            if not Path(url).is_dir():
                raise DataError(
                    f"data.{domain}.url={self.urls[domain]} is not a folder; set "
                    f"data.{domain}.url=/a/folder/with/train/val/test, or an address such as s3://bucket/photo"
                )
        about = self._about(domain, url)
        classes = tuple(str(name) for name in about["classes"])
        if expected is not None and set(classes) != set(expected):
            missing, extra = set(expected) - set(classes), set(classes) - set(expected)
            raise DataError(
                f"the classes of {url} differ from those of the source: missing: "
                f"{', '.join(sorted(missing)) or 'none'}; extra: "
                f"{', '.join(sorted(extra)) or 'none'}; write both streams with the same classes, "
                "or set another data.target.url"
            )
        number = {name: label for label, name in enumerate(expected or classes)}
        self.overlaps[domain] = str(about.get("overlap") or "")
        digests = about.get("sha256") or {}
        found = {
            name: StreamSplit.of(
                opened(f"{url}/{name}", number, self.root, self.limit, digests.get(name, ""))
            )
            for name in SPLITS
        }
        note = str(about.get("note") or "")
        return Domain(url.rpartition("/")[2], tuple(number), **found, note=note)

    def _about(self, domain: str, url: str) -> dict[str, Any]:
        """Return the content of ``classes.json``, or the configured classes."""
        if self.given_classes is not None:
            return {"classes": list(self.given_classes)}
        text = fetched_text(url, ABOUT)
        if text is None:
            raise DataError(
                f"{url} has no {ABOUT} with the class names of data.{domain}; write "
                '{"classes": ["cat", "dog"]} to it, or set data.classes=[cat,dog]'
            )
        try:
            found = json.loads(text)
        except ValueError as error:
            raise DataError(f"{url}/{ABOUT} is not valid JSON: {error}; write it again") from error
        names = found.get("classes") if isinstance(found, dict) else None
        valid = isinstance(names, list) and all(isinstance(name, str) for name in names)
        if not valid or len(set(names or ())) != len(names or ()) or len(names or ()) < 2:
            raise DataError(
                f"{url}/{ABOUT} must contain at least two different class names as strings, got "
                f'{str(found)[:80]}; write {{"classes": ["cat", "dog"]}}'
            )
        return dict(found)

    def check_domains(self, found: Mapping[str, Domain]) -> Iterator[str]:
        """Yield problems that prevent training."""
        yield from super().check_domains(found)
        largest = [
            max(shards.files.sizes, default=0)
            for shards in (_shards(domain.train) for domain in found.values())
            if is_remote(shards.files.url)
        ]
        needed = self.window * sum(largest)
        if needed > self.limit:
            yield (
                f"data.window={self.window} chunks of each domain need {needed / 1e9:.3g} GB, but "
                f"data.cache_gb={self.limit / 1e9:g}: chunks would be downloaded again for every "
                f"image; set data.cache_gb={2 * needed / 1e9:.3g}, or a smaller data.window"
            )

    def cache_images(self, settings: CacheConfig, epochs: int) -> None:
        """Raise DataError if a stream should be decoded to disk, where it may not fit."""
        if settings.images == "decoded":
            raise DataError(
                "cache.images=decoded is not supported with streams; set cache.images=off, or "
                "train from files (data=folder, data=domains or data=csv)"
            )

    def check_browsable(self) -> None:
        """Raise DataError: a stream cannot be inspected image by image."""
        raise DataError(
            f"data={self.name} is read chunk by chunk and cannot be checked for duplicates and "
            "leaks; check the dataset that the shards were written from"
        )

    def notes(self, pretrained: bool) -> list[str]:
        """Return the notes for the report, with the overlap recorded by the writer."""
        overlaps = [self.overlaps[domain] for domain in self.domain_names] if pretrained else []
        return [*super().notes(pretrained), *dict.fromkeys(filter(None, overlaps))]

    def fingerprint(self) -> str:
        """Return a hash of the samples as recorded by the writer, or else of the indices."""
        digest = hashlib.sha256()
        for domain in self.domain_names:
            for name in SPLITS:
                shards = _shards(getattr(self.found[domain], name))
                digest.update(f"{domain}/{name}/{len(shards)}/{shards.digest}".encode())
        return digest.hexdigest()

    def sample_indices(self, domain: str, count: int) -> list[int]:
        """Return indices of samples from at most ``window`` chunks, to read no others."""
        shards = _shards(self.found[domain].test)
        chunks = spread(len(shards.counts), self.window)
        indices = [
            index
            for chunk in chunks
            for index in range(int(shards.ends[chunk]) - shards.counts[chunk], shards.ends[chunk])
        ]
        return [indices[k] for k in spread(len(indices), count)]

    def train_sampler(self, stream: Stream, split: Split, **kwargs: Any) -> DomainSampler:
        """Return a sampler that needs only a few chunks at a time."""
        return ChunkSampler(chunks=_shards(split).counts, window=self.window, **kwargs)

    def dataset(self, domain: str, split: Split, train: bool) -> StreamDataset:
        """Return the dataset of a split."""
        if not train:
            return StreamDataset(_shards(split), self.input_spec, Centre(self.input_spec))
        geometry = self.augmentation.geometry
        return StreamDataset(_shards(split), self.input_spec, geometry, self.seeded)


def _shards(split: Split) -> Shards:
    assert isinstance(split, StreamSplit)
    return split.shards
