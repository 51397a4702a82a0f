"""The LightningModules."""

from tl_lightning.modules.adaptation import DomainAdaptation, SourceFree
from tl_lightning.modules.base import TransferModule
from tl_lightning.modules.models import FeatureExtraction, FineTuning

__all__ = ["DomainAdaptation", "FeatureExtraction", "FineTuning", "SourceFree", "TransferModule"]
