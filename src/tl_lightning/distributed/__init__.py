"""Distributed training: ranks, strategies and FSDP."""
