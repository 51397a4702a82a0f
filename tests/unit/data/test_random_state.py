"""No thread of a loader uses a global random state, whose order of use would be that of a race."""

from __future__ import annotations

import random
import threading
from typing import get_args

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from helpers import file_config, same, stopped_at, weights
from layouts import image, split_folders
from tl_lightning.config.schema import CacheConfig
from tl_lightning.data.cache.build_images import build_cache
from tl_lightning.data.domain import Split
from tl_lightning.data.io.images import shorter_side
from tl_lightning.data.loaders import dataset_of, loader_of
from tl_lightning.data.samplers.domain import DomainSampler
from tl_lightning.data.transforms.presets import Augment, augmentation
from tl_lightning.training import fit as training
from tl_lightning.types import InputSpec

SPEC = InputSpec(16, (0.5,) * 3, (0.5,) * 3)
PIXELS = {"shift": 1, "zoom": 0.1, "shear": 0.1, "contrast": 0.2, "invert": 0.1}
#: Functions that use a global generator if no other is passed.
TORCH = "rand randn randint randperm rand_like randn_like randint_like normal bernoulli multinomial"
DRAWS = "uniform_ normal_ random_ bernoulli_ exponential_ geometric_ log_normal_ cauchy_"
STATE = "manual_seed seed get_rng_state set_rng_state"


@pytest.fixture
def outside(monkeypatch) -> list[str]:
    """Record each use of a global generator by a thread other than the main one."""
    found: list[str] = []

    def watch(owner, name: str) -> None:
        original = getattr(owner, name)

        def watched(*args, **kwargs):
            if threading.current_thread() is not threading.main_thread() and not kwargs.get(
                "generator"
            ):
                found.append(name)
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, watched)

    for name in f"{TORCH} {STATE}".split():
        watch(torch, name)
        if name in STATE.split():
            watch(torch.random, name)
    for name in DRAWS.split():
        watch(torch.Tensor, name)
    for module in (np.random, random):
        for name in dir(module):
            kept = name.startswith("_") or name in ("default_rng", "test")
            if callable(getattr(module, name)) and not kept and name[0].islower():
                watch(module, name)
    return found


def augmentations():
    """Yield every preset, the augmentation of small images, and transforms of the user."""
    yield from ((name, {"augment": name}) for name in get_args(Augment))
    yield "pixels", {"augment": PIXELS}
    yield "transform", {"augment": "none", "transform": v2.RandomResizedCrop(16)}


def test_the_fixture_sees_threads(outside) -> None:
    thread = threading.Thread(target=lambda: (torch.rand(1), np.random.rand(), random.random()))
    thread.start()
    thread.join()
    torch.rand(1)
    assert outside == ["rand", "rand", "random"]


@pytest.mark.parametrize(
    ("name", "settings"), [*augmentations()], ids=lambda value: str(value)[:16]
)
def test_threads_use_no_global_generator(tmp_path, outside, name, settings) -> None:
    """Decoded images are cropped in threads; policies that draw globally run in processes."""
    paths = [image(tmp_path / "files" / f"{k}.png", k) for k in range(6)]
    split = Split(paths, np.arange(6), [path.name for path in paths])
    folder = CacheConfig(images="decoded", dir=str(tmp_path / "cache"))
    cache = build_cache(split, "test", shorter_side(SPEC), SPEC, folder)
    augment = augmentation(SPEC, **settings)
    data = dataset_of(split, SPEC, augment.geometry, cache, seeded=True)
    order = DomainSampler(size=6, batch_size=2, num_batches=4, seed=0, domain=0)
    states = np.random.get_state()[1].tolist(), random.getstate()
    loaded = [list(loader_of(data, 2, order, workers, False)) for workers in (0, 2)]
    for plain, threaded in zip(*loaded, strict=True):
        images = [augment.finish(batch["inputs"], batch["seeds"]) for batch in (plain, threaded)]
        assert torch.equal(*images)
    assert np.random.get_state()[1].tolist() == states[0]
    assert random.getstate() == states[1]
    assert outside == []


@pytest.mark.slow
@pytest.mark.parametrize("augment", ["randaugment", "trivialaugment"])
def test_policies_on_decoded_images_give_equal_weights_twice_and_resumed(
    tmp_path, monkeypatch, augment
) -> None:
    root = split_folders(tmp_path / "images")
    settings = file_config(
        root, "data=folder", f"data.augment={augment}", "cache.images=decoded",
        "model=source_only", "data.num_workers=2",
    )  # fmt: skip
    for name in ("first", "again"):
        training.fit(settings, tmp_path / name)
    with stopped_at(monkeypatch, 1, 0):
        training.fit(settings, tmp_path / "resumed")
    training.fit({**settings, "resume": "auto"}, tmp_path / "resumed")
    first, *others = (
        weights(tmp_path / name / "checkpoints" / "last.ckpt")
        for name in ("first", "again", "resumed")
    )
    assert all(same(first, other) for other in others)
