"""DSBN: domain-specific batch normalisation.

Chang, You, Seo, Kwak, Han (2019): Domain-Specific Batch Normalization for Unsupervised Domain
Adaptation. CVPR.
"""

from __future__ import annotations

from tl_lightning.methods.adabn import AdaBN

__all__ = ["DSBN"]


class DSBN(AdaBN):
    """Every batch norm has statistics, a scale and a shift of its own for each domain.

    The target's scale and shift learn only from terms on the target: use it beside a method that
    has some (``adapter=[dsbn,self_training]``, ``[dsbn,dann]``).

    Args:
        in_features: Not used by this method.
        num_classes: Not used by this method.
    """

    own_affine = True
    may_rest = True
