"""The LightningModules."""

from tl_lightning.modules.base import TransferModule
from tl_lightning.modules.models import DomainAdaptation, FeatureExtraction, FineTuning

__all__ = ["DomainAdaptation", "FeatureExtraction", "FineTuning", "TransferModule"]
