"""Overrides as people type them: paths, names and lists that the shell has split."""

from __future__ import annotations

import shlex
import types
import typing
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from omegaconf import OmegaConf

from helpers import command
from tl_lightning.checkpoints.io import StoredModel
from tl_lightning.config.compose import compose, composed
from tl_lightning.config.overrides import NAMES, TEXTS, override_problems, readable
from tl_lightning.config.paths import CONF
from tl_lightning.config.schema import _SECTIONS, RunConfig
from tl_lightning.config.static import static_signature
from tl_lightning.config.validation.check import check_keys
from tl_lightning.data.datamodules.domain_folders import asked_domains
from tl_lightning.errors import ConfigError, DataError
from tl_lightning.evaluation import nodes

NASTY = [
    "a b", "josé", "a'b", 'a"b', "a=b", "a(1)", "a[1]", "a{1}", "a$b", "-a", "~/a", "a#b", "a&b;c",
    "a!b", "01", "1e3", "1_0", "true", "0x1f", "nan", "2024", "it's \"x\"", "a\\", "a\\'b", "a:b",
    "*", "[a]/b", "@a", "%a", "a|b", "<a>", "ｆull", "日本",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("text", NASTY)
def test_a_text_reaches_the_configuration_unchanged(text: str) -> None:
    cfg = composed(["data=folder", f"data.root={text}", f"init={text}", f"data.name={text}"], ())
    assert [cfg.data.root, cfg.init, cfg.data.name] == [text] * 3


@pytest.mark.slow
@pytest.mark.parametrize("text", [one for one in NASTY if "]" not in one and '"' not in one])
def test_names_in_a_list_reach_the_configuration_unchanged(text: str) -> None:
    cfg = composed(["data=domains", f"data.classes=[x,{text}]", f"data.source.domain=[{text}]",
                    f"data.target.domain={text}"], ())  # fmt: skip
    assert (cfg.data.classes, cfg.data.source.domain) == (["x", text], [text])
    assert cfg.data.target.domain == text


def test_null_means_nothing_except_in_a_list() -> None:
    cfg = composed(["data=domains", "data.classes=null", "data.source.domain=[null,yes]"], ())
    assert (cfg.data.classes, cfg.data.source.domain) == (None, ["null", "yes"])


def test_what_hydra_reads_is_not_changed() -> None:
    given = ["-m", "model=dann,source_only", "seed=range(0,3)", "optimizer.lr=1e-3", "~head",
             "data.root='a b'", "+x={a:1}", "data.source.domain=choice(a,b)", "data.root=${x}/y",
             "--cfg", "job", "hydra/launcher=local", "+aux_task@aux_tasks.age=regression",
             "data.root=/a,/b"]  # fmt: skip
    assert readable(given, sweep=True) == given
    assert readable(given) == given


def test_names_of_a_sweep_are_texts() -> None:
    assert readable(["data.source.domain=1e3,null,[1_0,b]"], sweep=True) == [
        "data.source.domain='1e3',null,['1_0',b]"
    ]


def test_a_list_split_by_the_shell_is_put_together() -> None:
    assert readable(["method=[dann,", "mcc]", "data.classes=[a,", "b", "c]"]) == [
        "method=[dann, mcc]", "data.classes=[a,b c]",
    ]  # fmt: skip
    assert list(composed(["method=[dann,", "mcc]"], ()).method) == ["dann", "mcc"]
    # Another setting ends it.
    assert readable(["method=[dann,", "seed=0]"]) == ["method=[dann,", "seed='0]'"]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("method=[dann", "method=[dann cannot be read; for a text, set 'method=\"[dann\"'"),
        (
            "images",
            "images is not <key>=<value>; set images=<value>, or put quotes around a",
        ),
        (
            "data.root=/a,b",
            "data.root=/a,b has several values, which only a sweep takes; add -m for"
            " a sweep, or set 'data.root=\"/a,b\"' for one value",
        ),
        ("model=dann,mmd", "which only a sweep takes; add -m for a sweep"),
        ("--epochs=3", "--epochs=3 is not an option; use trainer.max_epochs=<number>"),
        ("--batch-size", "--batch-size is not an option; use data.batch_size=<number>"),
    ],
)
def test_refused_arguments_say_what_to_set(argument: str, message: str) -> None:
    (problem,) = override_problems(readable([argument]))
    assert message in problem
    if " for one value" in problem:  # what a shell makes of it is read as one text
        (advised,) = shlex.split(problem.split("set ")[1].removesuffix(" for one value"))
        assert compose(["data=folder", advised]).data.root == "/a,b"
    with pytest.raises(ConfigError):
        composed([argument], ())


def test_flags_keep_their_values() -> None:
    assert override_problems(["-m", "--config-dir", "mine", "-cn", "train", "seed=0,1"], True) == []


def test_numbers_from_yaml_are_not_names() -> None:
    with pytest.raises(DataError, match=r"contains 1000\.0, which is not a text; put names in quo"):
        asked_domains(["a", 1e3], "data.source.domain", ["a"], {"a": 1}, "/x")
    cfg: Any = OmegaConf.merge(compose(["data=folder"]), {"data": {"classes": [0, 1]}})
    with pytest.raises(ConfigError, match=r"set data\.classes=\['0', '1'\], with the quotes"):
        check_keys(cfg)


def test_settings_of_a_stored_run_are_read_as_those_of_a_new_one(monkeypatch) -> None:
    plain: Any = OmegaConf.to_container(
        compose(["data=domains", "model=source_only"]), resolve=True
    )
    config = {**plain, "data": {**plain["data"], "target": None}}
    stored = StoredModel(config, (), {}, {}, {}, {})
    monkeypatch.setattr(nodes, "read_model", lambda path: stored)
    given = ["data.classes=[01,1e3]", "data.target.root=~/josé (1)", "data.test_fraction=.5"]
    found = nodes.stored_node("data", "x.ckpt", given)
    assert found == {
        **plain["data"], "classes": ["01", "1e3"], "test_fraction": 0.5,
        "target": {"root": "~/josé (1)"},
    }  # fmt: skip
    with pytest.raises(
        ConfigError, match=r"data\.image_size is not a setting; use backbone\.size="
    ):
        nodes.stored_node("data", "x.ckpt", ["data.image_size=3"])
    with pytest.raises(ConfigError, match=r"data\.augment=\{a cannot be read; for a text, "):
        nodes.stored_node("data", "x.ckpt", ["data.augment={a"])


# -- the lists are complete --------------------------------------------------------------------
def kind(hint: Any) -> str:
    """Return whether a type hint is a text or a list of texts."""
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    (one, *others) = [
        arg for arg in (typing.get_args(hint) if union else [hint]) if arg is not type(None)
    ]
    if one is str and not others:
        return "text"
    listed = typing.get_origin(one) in (list, Sequence) and typing.get_args(one) == (str,)
    return "names" if listed and not others else ""


def declared() -> Iterator[tuple[str, str]]:
    """Yield every setting of conf/ whose class declares a text or a list of texts."""
    for file in CONF.glob("*/*.yaml"):
        waiting: list[tuple[str, Any]] = [(file.parent.name, OmegaConf.load(file))]
        while waiting:
            path, node = waiting.pop()
            if OmegaConf.is_dict(node):
                plain: Any = OmegaConf.to_container(node, resolve=False)
                waiting += [(f"{path}.{key}", node._get_node(key)) for key in plain]
                signature = static_signature(str(plain.get("_target_", "")))
                for key, parameter in signature.parameters.items() if signature else ():
                    yield f"{path}.{key}", kind(parameter.hint)
    for prefix, cls in [("", RunConfig), *((f"{name}.", cls) for name, cls in _SECTIONS.items())]:
        for key, hint in typing.get_type_hints(cls).items():
            yield f"{prefix}{key}", kind(hint)


def test_every_declared_text_and_list_of_names_is_known() -> None:
    found = {key: what for key, what in declared() if what}
    assert len(found) > 20
    # Names of aux tasks are in aux_tasks.<name>; loggers write below the run.
    own = {key for key in found if key.startswith(("aux_task.", "logger."))}
    for key in found.keys() - own:
        assert key in (TEXTS if found[key] == "text" else NAMES), key


@pytest.mark.slow
def test_every_text_and_list_of_names_exists() -> None:
    cfgs = [
        compose([f"data={data}", f"backbone={backbone}", f"model={model}"])
        for data, backbone, model in (("csv", "timm", "auto"), ("vectors", "minilm", "dann"),
                                      ("domains", "hf", "dann"), ("stream", "resnet18", "dann"))
    ]  # fmt: skip
    sections = {"hydra.run.dir", "hydra.sweep.dir", "backbone.lora.targets"}
    for key in (TEXTS | NAMES) - sections:
        *parents, last = key.split(".")
        nodes = [OmegaConf.select(cfg, ".".join(parents)) if parents else cfg for cfg in cfgs]
        assert any(node is not None and last in node for node in nodes), key


# -- commands ----------------------------------------------------------------------------------
def test_a_typed_command_with_a_path_that_hydra_refuses(tmp_path) -> None:
    run = command("train", ["model=fine_tuning", "data=folder", "data.root=~/jos é (1)"], tmp_path)
    assert run.returncode == 2
    assert "not found with data.root=~/jos é (1); tried: " in run.stderr
    assert "Traceback" not in run.stderr
