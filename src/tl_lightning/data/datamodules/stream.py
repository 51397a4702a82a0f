"""Images in Parquet files, read in place or streamed from a bucket."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

from tl_lightning.config.hints import at_least
from tl_lightning.config.schema import CacheConfig, cache_root
from tl_lightning.data.datamodules.image import ImageDataModule
from tl_lightning.data.datamodules.source_target import only_keys
from tl_lightning.data.domain import Domain, Split
from tl_lightning.data.samplers.domain import ChunkSampler, DomainSampler
from tl_lightning.data.streaming.parquet_files import Parts, opened
from tl_lightning.data.streaming.row_groups import filesystem, is_remote, parquet
from tl_lightning.data.streaming.shards import Shards, StreamDataset, StreamSplit
from tl_lightning.data.transforms.geometry import Centre
from tl_lightning.errors import ConfigError, DataError
from tl_lightning.types import SPLITS, Stream
from tl_lightning.utils.spread import spread

__all__ = ["StreamDataModule"]


class StreamDataModule(ImageDataModule):
    """One stream per domain with the folders ``train``, ``val`` and ``test`` of Parquet files.

    The columns are those of Hugging Face's image datasets: ``image`` (encoded bytes, or a struct
    with the field ``bytes``) and ``label`` (class names, or integers with class names in the
    schema). The labels of domains that are trained without labels are not read.

    Args:
        source: ``{url}``: a local folder or remote address with the splits.
        target: The same for the target; None or a ``url`` of None means no target.
        classes: Class names in the order of the labels, or None to read them from the source.
        window: Number of row groups to shuffle together in training.
        local_copy: Whether to copy the files of an address to a subfolder of :func:`cache_root`
            first, instead of reading them over the network in every epoch and worker.
        kwargs: See :class:`ImageDataModule`.
    """

    target_optional: ClassVar[bool] = True
    target_keys: ClassVar[frozenset[str]] = frozenset({"url"})
    target_place: ClassVar[str] = "url=<folder or address>"
    #: Labels are read with the images, so features cannot be cached by index.
    storable: ClassVar[bool] = False

    def __init__(
        self,
        *,
        source: Mapping[str, Any],
        target: Mapping[str, Any] | None,
        classes: Sequence[str] | None,
        window: Annotated[int, at_least(1)],
        local_copy: bool,
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
        self.local_copy = local_copy
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
                "classes, but a stream is read row group by row group; set "
                f"{where}.target_sampling=uniform, or use files"
            )

    def domains(self) -> Mapping[str, Domain]:
        """Return the domains; reads the footers of the files, but no images."""
        parquet()
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
                    f"data.{domain}.url={self.urls[domain]} is not a folder; set data.{domain}.url="
                    "/a/folder/with/train/val/test, or an address such as s3://bucket/photo"
                )
        parts = {name: opened(_folder(url, name)) for name in SPLITS}
        if is_remote(url) and self.local_copy:
            parts = {name: part.copied(cache_root() / "streams") for name, part in parts.items()}
        classes = self._classes(domain, parts["train"], expected)
        if expected is not None and set(classes) != set(expected):
            missing, extra = set(expected) - set(classes), set(classes) - set(expected)
            raise DataError(
                f"the classes of {url} differ from those of the source: missing: "
                f"{', '.join(sorted(missing)) or 'none'}; extra: "
                f"{', '.join(sorted(extra)) or 'none'}; write both streams with the same classes, "
                "or set another data.target.url"
            )
        number = {name: label for label, name in enumerate(expected or classes)}
        about = parts["train"].about
        self.overlaps[domain] = str(about.get("overlap") or "")
        found = {
            name: StreamSplit.of(part.shards(number, self.window)) for name, part in parts.items()
        }
        splits = found["train"], found["val"], found["test"]
        note = str(about.get("note") or "")
        return Domain(url.rpartition("/")[2], tuple(number), *splits, note=note)

    def _classes(
        self, domain: str, train: Parts, expected: tuple[str, ...] | None
    ) -> tuple[str, ...]:
        """Return the class names of a domain.

        Those of a target whose labels are strings are not read; they are assumed to be
        ``expected``, and compared when test images are read.
        """
        if self.given_classes is not None:
            return tuple(self.given_classes)
        classes = train.names
        if classes is None:
            classes = expected or sorted(train.labels())
        if len(set(classes)) != len(classes) or len(classes) < 2:
            raise DataError(
                f"{train.url} must have at least two different class names, got "
                f"{', '.join(classes) or 'none'}; write the shards of data.{domain} again, or set "
                "data.classes=[cat,dog]"
            )
        return tuple(classes)

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
            f"data={self.name} is read row group by row group and cannot be checked for "
            "duplicates and leaks; check the dataset that the shards were written from"
        )

    def notes(self, pretrained: bool) -> list[str]:
        """Return the notes for the report, with the overlap recorded by the writer."""
        overlaps = [self.overlaps[domain] for domain in self.domain_names] if pretrained else []
        return [*super().notes(pretrained), *dict.fromkeys(filter(None, overlaps))]

    def fingerprint(self) -> str:
        """Return a hash of the samples as recorded by the writer, or else of the files' footers."""
        digest = hashlib.sha256()
        for domain in self.domain_names:
            for name in SPLITS:
                shards = _shards(getattr(self.found[domain], name))
                digest.update(f"{domain}/{name}/{len(shards)}/{shards.digest}".encode())
        return digest.hexdigest()

    def sample_indices(self, domain: str, count: int) -> list[int]:
        """Return indices of samples from at most ``window`` row groups, to read no others."""
        shards = _shards(self.found[domain].test)
        counts = shards.counts
        indices = [
            index
            for group in spread(len(counts), self.window)
            for index in range(int(shards.ends[group]) - counts[group], shards.ends[group])
        ]
        return [indices[k] for k in spread(len(indices), count)]

    def train_sampler(self, stream: Stream, split: Split, **kwargs: Any) -> DomainSampler:
        """Return a sampler that needs only a few row groups at a time."""
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


def _folder(url: str, split: str) -> str:
    """Return the folder of a split; the validation split may also be called ``validation``."""
    if split == "val":
        fs, path = filesystem(f"{url}/validation")
        try:
            if fs.exists(path):
                return f"{url}/validation"
        except Exception:
            pass
    return f"{url}/{split}"
