"""What looks at pictures outside the training loop."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch.utils.data import DataLoader

from tl_lightning.data.dataset import Domain, EvalDataset, Split
from tl_lightning.data.features import FeatureLoader, Features
from tl_lightning.data.sampler import EvalSampler, spread
from tl_lightning.data.serve import loader_of

__all__ = ["Looks"]


class Looks:
    """The part of a data module that shows some pictures, or all, once and as they are."""

    found: dict[str, Domain]
    features: dict[str, Features]
    eval_batch_size: int
    pin_memory: bool

    @property
    def roles(self) -> list[str]:
        """The domains present, source first."""
        raise NotImplementedError

    def training_splits(self) -> dict[str, Split]:
        """Return what trains."""
        raise NotImplementedError

    def domain_of(self, stream: str) -> str:
        """Return whose pictures a stream of training batches shows."""
        raise NotImplementedError

    def _dataset(self, role: str, split: Split, train: bool) -> Any:
        raise NotImplementedError

    def _loader(self, dataset: Any, batch_size: int, sampler: Any) -> DataLoader[Any]:
        raise NotImplementedError

    def sample_loader(
        self, role: str, count: int, pictures: bool = False
    ) -> tuple[Iterable[Any], list[int]]:
        """Return batches of ``count`` test pictures without labels, spread over the split.

        Every rank gets all of them. Also returns their places in the split. Where there are stored
        features they stand for the pictures, unless it must be ``pictures``.
        """
        places = self.sample_places(role, count)
        features = self.features.get(f"{role}/test")
        if features is not None and not pictures:
            index = torch.tensor(places)
            return [{"inputs": features.rows(index), "index": index}], places
        split = self.found[role].test.without_labels().subset(places)
        sampler = EvalSampler(size=len(split))
        dataset = EvalDataset(self._dataset(role, split, train=False))
        return self._loader(dataset, self.eval_batch_size, sampler), places

    def sample_places(self, role: str, count: int) -> list[int]:
        """Return the places of at most ``count`` test pictures, spread over the split."""
        return spread(len(self.found[role].test), count)

    def excerpts(self, role: str, places: list[int]) -> list[str]:
        """Return how the test texts at these places begin; nothing where there are no texts."""
        return []

    def whole_loader(self, role: str) -> Iterable[Any]:
        """Return batches of a domain's training split in order, as in evaluation, without labels.

        Every rank gets all of them.
        """
        features = self.features.get(f"{role}/train")
        split = self.found[role].train.without_labels()
        sampler = EvalSampler(size=len(split))
        if features is not None:
            return FeatureLoader(features, None, self.eval_batch_size, sampler)
        dataset = EvalDataset(self._dataset(role, split, train=False))
        return self._loader(dataset, self.eval_batch_size, sampler)

    def picture_loader(
        self, role: str, split: Split, batch_size: int, sampler: Any, augmented: bool, workers: int
    ) -> DataLoader[Any]:
        """Return a loader of a split's pictures, for what looks at them once."""
        dataset = self._dataset(role, split, train=augmented)
        return loader_of(dataset, batch_size, sampler, workers, self.pin_memory)

    def stored_splits(self) -> dict[str, Split]:
        """Return by ``role/split`` every split that a run shows to the model."""
        splits = self.training_splits().items()
        found = {f"{self.domain_of(role)}/train": split for role, split in splits}
        for role in self.roles:
            found[f"{role}/val"] = self.found[role].val
            found[f"{role}/test"] = self.found[role].test
        return found
