"""A trained model as it is stored, whatever the files that it was read from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

__all__ = ["StoredModel"]


@dataclass(frozen=True)
class StoredModel:
    """What a checkpoint contains of a model.

    Attributes:
        config: The configuration of its run, as plain values.
        classes: Class names in label order.
        aux_tasks: Label information of the auxiliary tasks by name.
        input_state: Preprocessing fitted on the training samples.
        restored_by: Backbone settings besides the configuration, such as a tokenizer.
        state_dict: The weights.
        data: The data of its run, see :func:`.resume.data_state`; empty if they are not known.
        reliability: Outputs of source validation, see :class:`.SelectedOutputs`, and the
            temperature that calibrates them; empty in checkpoints of models that were not tested.
        partial: Whether weights that only training needs are left out, as in published models.
    """

    config: Mapping[str, Any]
    classes: tuple[str, ...]
    aux_tasks: Mapping[str, Any]
    input_state: Mapping[str, Any]
    restored_by: Mapping[str, Any]
    state_dict: Mapping[str, Tensor]
    data: Mapping[str, Any] = field(default_factory=dict)
    reliability: Mapping[str, Any] = field(default_factory=dict)
    partial: bool = False

    def section(self, name: str) -> Mapping[str, Any]:
        """Return the settings of a node or section of the configuration."""
        found: Mapping[str, Any] = self.config[name]
        return found

    def part(self, prefix: str) -> dict[str, Tensor]:
        """Return the weights whose names start with ``prefix``, without it."""
        return {
            name.removeprefix(prefix): value
            for name, value in self.state_dict.items()
            if name.startswith(prefix)
        }
