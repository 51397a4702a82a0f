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

    With ``per_source``, each named domain of the source has layers of its own, as in the paper's
    experiments with several sources.

    Args:
        kwargs: As in :class:`.AdaBN`.
    """

    own_affine = True
    find_unused_parameters = True
