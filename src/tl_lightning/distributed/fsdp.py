"""Weights, gradients and optimizer states divided over the ranks (FSDP2), for large backbones.

Zhao et al. (2023): PyTorch FSDP. VLDB. Rajbhandari et al. (2020): ZeRO. SC. Every layer group of
the backbone, the task and each adapter is a unit: its weights are gathered just before they are
used. Lightning's ``ModelParallelStrategy`` holds the process group and the checkpoints, which are
the same single files as anywhere else.
"""

from __future__ import annotations

from typing import Any

import lightning as L
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

__all__ = ["Sharded", "shard"]


def shard(module: Any, mesh: Any) -> None:
    """Divide the parameters of a model over a one-dimensional mesh of ranks, in place.

    Args:
        module: A ``TransferModule``; its parts are what a step calls, so each is a unit of its own.
        mesh: The ranks.
    """
    blocks = [part for group in module.backbone.layer_groups() for part in group.modules]
    own = [*module.others.tasks.values(), *getattr(module, "adapters", {}).values()]
    parts = [module.backbone, module.task, *own]
    for part in (*blocks, *parts):
        if any(True for _ in part.parameters()):
            # Before the unit's own hooks, which a view in place of a tensor could be freed of.
            part.register_forward_hook(_of_its_own)
            name = type(part).__name__
            fully_shard(part, mesh=mesh)
            type(part).__name__ = name  # terms of the loss are called after it
            if hasattr(part, "domain_logits"):  # asked for outside of a step as well
                register_fsdp_forward_method(part, "domain_logits")


def _of_its_own(module: nn.Module, inputs: Any, output: Any) -> Any:
    """Return the output with memory of its own in place of views of other tensors."""
    if isinstance(output, Tensor):
        return output.clone() if output._is_view() else output
    if isinstance(output, tuple):
        return tuple(_of_its_own(module, inputs, one) for one in output)
    return output


class Sharded(ModelParallelStrategy):
    """Lightning's strategy for FSDP2, sharding our models by their layer groups.

    The parts of a model are divided when the ranks are connected, so that the model itself knows
    nothing of it.
    """

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        """Connect the ranks; all of them share the data, and the weights."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def setup(self, trainer: L.Trainer) -> None:
        """Divide the model, once; the optimizer is made of the parts."""
        module: Any = self.lightning_module
        if not getattr(module, "is_sharded", False):
            shard(module, self.device_mesh["data_parallel"])
            module.is_sharded = True
        module.configure_model = _done  # Lightning refuses a model that does not shard itself
        super().setup(trainer)


def _done() -> None:
    """Do nothing: the model is divided already."""
