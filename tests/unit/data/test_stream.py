import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch

from helpers import config, same, weights
from layouts import domain_folders, file_settings, picture
from tl_lightning import cli, pipeline
from tl_lightning.checking.sheet import augmentation_sheet
from tl_lightning.checking.survey import survey
from tl_lightning.data import fetch
from tl_lightning.data.cache import CacheSettings
from tl_lightning.data.dataset import PictureDataset
from tl_lightning.data.domains import DomainFolders
from tl_lightning.data.fetch import ChunkFiles
from tl_lightning.data.sampler import ChunkSampler
from tl_lightning.data.serve import loader_of
from tl_lightning.data.shards import Shards, StreamDataset
from tl_lightning.data.stream import StreamData
from tl_lightning.data.stream_writer import write_streams
from tl_lightning.errors import ConfigError, DataError
from tl_lightning.types import InputSpec

CLASSES = ("dog", "horse", "house")
SPEC = InputSpec(size=16)


@pytest.fixture(scope="module")
def litdata():
    """Skip where the engine is absent: it is an optional extra."""
    return pytest.importorskip("litdata", reason="pip install 'tl_lightning[stream]'")


def files(root, **changed):
    """Return the data module that reads photo and sketch from their files."""
    given = {"source": {"domain": "photo"}, "target": {"domain": "sketch"}, **changed}
    return DomainFolders(**file_settings(root, aliases=None, note=None, **given))
