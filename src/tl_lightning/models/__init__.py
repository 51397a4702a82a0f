"""LightningModules for fine-tuning, feature extraction and domain adaptation."""

from tl_lightning.models.adaptation import DomainAdaptation, SourceFree
from tl_lightning.models.base import TransferModule
from tl_lightning.models.generalization import DomainGeneralization
from tl_lightning.models.supervised import FeatureExtraction, FineTuning

__all__ = [
    "DomainAdaptation", "DomainGeneralization", "FeatureExtraction", "FineTuning", "SourceFree",
    "TransferModule",
]  # fmt: skip
