"""Fully sharded training (FSDP2): weights, gradients and optimizer states divided over the ranks.

Zhao et al. (2023): PyTorch FSDP. VLDB. Rajbhandari et al. (2020): ZeRO. SC. Each layer group of the
backbone, the task and each method is an FSDP unit, whose weights are gathered just before use.
Lightning's ``ModelParallelStrategy`` manages the process group and the checkpoints, which are
single files as with any other strategy.
"""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn

__all__ = ["Sharded", "shard"]


def shard(module: Any, mesh: Any) -> None:
    """Shard the parameters of a model over a one-dimensional device mesh, in place.

    Args:
        module: A ``TransferModule``; each part that a training step calls becomes a separate unit.
        mesh: Device mesh of the ranks.
    """
    # Late, as its import takes long and few commands shard.
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    groups: list[Any] = getattr(module.backbone, "layer_groups", list)()
    blocks = [part for group in groups for part in group.modules]
    extra = [*module.multitask.tasks.values(), *getattr(module, "methods", {}).values()]
    parts = [module.backbone, module.task, *extra]
    for part in (*blocks, *parts):
        if any(True for _ in part.parameters()):
            # Registered before FSDP's own hooks, which must not receive views of other tensors.
            part.register_forward_hook(_clone_views)
            fully_shard(part, mesh=mesh)
            if hasattr(part, "domain_logits"):  # also called outside of training steps
                register_fsdp_forward_method(part, "domain_logits")


def _clone_views(module: nn.Module, inputs: Any, output: Any) -> Any:
    """Return the output with views of other tensors replaced by copies."""
    if isinstance(output, Tensor):
        return output.clone() if output._is_view() else output
    if isinstance(output, tuple):
        return tuple(_clone_views(module, inputs, item) for item in output)
    return output


class Sharded(ModelParallelStrategy):
    """Lightning's FSDP2 strategy, with models sharded by layer group.

    The model is sharded in ``setup``, so that it does not have to implement ``configure_model``.
    """

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        """Set up the process group with all ranks in the data parallel dimension."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def setup(self, trainer: L.Trainer) -> None:
        """Shard the model once, before the optimizer is created from its parameters."""
        module: Any = self.lightning_module
        if not getattr(module, "is_sharded", False):
            shard(module, self.device_mesh["data_parallel"])
            module.is_sharded = True
        module.configure_model = _noop  # Lightning requires models to override it
        super().setup(trainer)


def _noop() -> None:
    """Do nothing: the model is sharded already."""
