"""DSBN: domain-specific batch normalisation.

Chang, You, Seo, Kwak, Han (2019): Domain-Specific Batch Normalization for Unsupervised Domain
Adaptation. CVPR.
"""

from __future__ import annotations

from tl_lightning.methods.adabn import AdaBN

__all__ = ["DSBN"]


class DSBN(AdaBN):
    """Batch norm with separate statistics, scale and shift for each domain.

    The target's scale and shift are trained only by loss terms on the target, so combine it with a
    method that adds such terms (``method=[dsbn,self_training]``, ``[dsbn,dann]``).

    Args:
        in_features: Not used by this method.
        num_classes: Not used by this method.
    """

    own_affine = True
    find_unused_parameters = True
