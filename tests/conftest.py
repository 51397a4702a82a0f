"""Settings shared by all tests: a tiny configuration, a temporary cache and real data."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

REPO = Path(__file__).resolve().parents[1]
REAL = Path(os.environ.get("TL_REAL_DATA", REPO.parent / "shared" / "data"))

torch.set_num_threads(1)

#: A run of about one second: small images, a small network, six steps.
TINY = [
    "data=digits",
    "data.size=16",
    "data.batch_size=16",
    "data.steps_per_epoch=3",
    "data.target_copies=1",
    "backbone.size=16",
    "backbone.widths=[4,8]",
    "backbone.features=16",
    "trainer=cpu",
    "trainer.precision=32-true",
    "trainer.max_epochs=2",
    "trainer.deterministic=true",
    "channels_last=false",
    "callbacks.adversary_monitor.patience=100",  # six steps are too few for a discriminator
    "baselines=auto",
    "selection=last",  # tests of interruption must not depend on completed validations
    "checkpointing.min_seconds=0",
    "report.samples=60",
    "report.examples=4",
]


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep caches out of the home folder, also those of child processes."""
    before = os.environ.get("TL_CACHE")
    os.environ["TL_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["TL_CACHE"]
    else:
        os.environ["TL_CACHE"] = before


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the folder of real data, or skip the test if there is none."""
    if not REAL.is_dir():
        pytest.skip(f"no real data at TL_REAL_DATA={REAL}")
    return REAL


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the folder of a trained run, whose backbone or statistics later runs start from."""
    from helpers import config
    from tl_lightning.training import fit as training

    folder = tmp_path_factory.mktemp("trained")
    training.fit(config("model=source_only", "trainer.max_epochs=2"), folder)
    return str(folder)
