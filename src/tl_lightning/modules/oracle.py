"""The upper bound that an adapted model is held against; it needs what adaptation does without."""

from __future__ import annotations

from typing import ClassVar

from tl_lightning.modules.models import FineTuning

__all__ = ["LabelledTarget"]


class LabelledTarget(FineTuning):
    """Everything learns, from *labelled target* training pictures (the baseline ``oracle``).

    Steps, batches and settings are those of every other model. What learns from the source
    elsewhere learns from the target here, and target validation is scored with its labels.
    """

    learn_from: ClassVar[str] = "target"
