"""Augmentation, Mixup/CutMix and synthetic domain shift."""
