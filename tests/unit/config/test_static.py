"""The check that imports no classes: constructors read from source, and what it reports."""

from __future__ import annotations

import ast
import inspect
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from conftest import REPO
from helpers import command, config
from tl_lightning.config import elsewhere, static
from tl_lightning.config.compose import compose, unknown_key, unknown_overrides
from tl_lightning.config.schema import known_keys
from tl_lightning.config.signatures import Parameter, Signature, signature_of
from tl_lightning.config.static import (
    NotStatic,
    StaticClass,
    is_kind,
    static_bases,
    static_signature,
)
from tl_lightning.config.validation import structure
from tl_lightning.config.validation.check import check_keys
from tl_lightning.errors import ConfigError

#: Libraries that take seconds to import.
SLOW = ("torch", "torchvision", "torchmetrics", "lightning", "timm", "transformers")
_TARGET = re.compile(r"_target_: (tl_lightning[\w.]+)")
TARGETS = sorted(
    {name for path in (REPO / "conf").rglob("*.yaml") for name in _TARGET.findall(path.read_text())}
)


def real(target: str) -> Any:
    module, _, name = target.rpartition(".")
    return getattr(import_module(module), name)


def plain(hint: Any) -> bool:
    """Return whether a hint consists of builtins, bounds and types of ``typing`` only."""
    text = hint.__name__ if inspect.isclass(hint) else str(hint)
    names = set(re.findall(r"[A-Za-z_][\w.]*", re.sub(r"'[^']*'", "", text)))
    return names <= {
        "int", "float", "bool", "str", "list", "None", "NoneType", "typing.Annotated",
        "typing.Literal", "typing.Any", "collections.abc.Sequence", "collections.abc.Mapping",
        "Bounds", "low", "high", "open", "inf", "True", "False",
    }  # fmt: skip


# -- constructors ------------------------------------------------------------------------------
def test_classes_are_found_in_conf() -> None:
    assert len(TARGETS) > 60
    assert {"tl_lightning.methods.dann.DANN", "tl_lightning.models.FineTuning"} <= set(TARGETS)


@pytest.mark.parametrize("target", TARGETS)
def test_signature_read_from_source_equals_that_of_the_class(target: str) -> None:
    found, expected = static_signature(target), signature_of(real(target))
    assert found is not None
    assert found.name == expected.name
    if found.open_ended:  # continues in a class of another package
        expected = Signature(
            expected.name, {k: expected.parameters[k] for k in found.parameters}, True
        )
    assert found.open_ended == expected.open_ended
    assert list(found.parameters) == list(expected.parameters)
    for name, parameter in found.parameters.items():
        other = expected.parameters[name]
        assert parameter.required == other.required, name
        if plain(other.hint):
            assert parameter.hint == other.hint, name


@pytest.mark.parametrize("target", TARGETS)
def test_base_classes_read_from_source_equal_those_of_the_class(target: str) -> None:
    mro = [base for base in real(target).__mro__ if base.__module__.startswith("tl_lightning.")]
    assert static_bases(target) == {base.__name__ for base in mro}


#: Attributes that the checks before any import read.
DECLARED = (
    "train_on", "learn_from", "unseen", "target_optional", "target_keys", "target_requires",
    "target_place", "has_domains", "has_cells", "has_strong", "gives", "takes", "tasks",
    "extra_views", "required_domains", "teacher", "teacher_views", "alternating", "source_free",
    "adds_loss",
)  # fmt: skip


@pytest.mark.parametrize("target", TARGETS)
def test_attributes_read_from_source_equal_those_of_the_class(target: str) -> None:
    found, cls = StaticClass(target), real(target)
    for name in DECLARED:
        assert getattr(found, name, "absent") == getattr(cls, name, "absent"), name
    mro = [base for base in cls.__mro__ if base.__module__.startswith("tl_lightning.")]
    assert found.bases == [f"{base.__module__}.{base.__qualname__}" for base in mro]
    for base in mro:
        name = f"{base.__module__}.{base.__qualname__}"
        assert is_kind(found, name)
        assert is_kind(cls, name)
    assert not is_kind(found, "tl_lightning.methods.dann.Nope")


def test_attributes_that_only_the_class_can_tell_are_refused() -> None:
    with pytest.raises(NotStatic, match=r"^DANN\.step$|^Method\.|^Adversary\."):
        _ = StaticClass("tl_lightning.methods.dann.DANN").begin_epoch
    with pytest.raises(NotStatic, match=r"^my\.data\.Module\.gives$"):
        _ = StaticClass("my.data.Module").gives
    with pytest.raises(NotStatic, match=r"^my\.data\.Module$"):
        is_kind(StaticClass("my.data.Module"), "tl_lightning.models.base.TransferModule")
    with pytest.raises(AttributeError, match=r"^DANN has no attribute nope$"):
        _ = StaticClass("tl_lightning.methods.dann.DANN").nope


@pytest.mark.parametrize("code", ["open('x')", "print()", "[x for x in (1,)]", "len('a')"])
def test_values_that_run_code_are_not_evaluated(code: str, monkeypatch) -> None:
    tree = ast.parse(f"class A:\n    value = {code}\n")
    monkeypatch.setattr(static, "_tree", lambda module: tree)
    with pytest.raises(NotStatic):
        _ = StaticClass("tl_lightning.made_up.A").value


@pytest.mark.parametrize("target", [
    "torch.optim.Adam", "tl_lightning.methods.dann.Nope", "tl_lightning.nope.Nope", "os.system", "",
    "tl_lightning.tasks.metrics.METRICS",
])  # fmt: skip
def test_other_names_have_no_signature(target: str) -> None:
    assert static_signature(target) is None
    assert static_bases(target) == set()


def test_inherited_and_aliased_constructors_are_read() -> None:
    """Through base classes, ``**kwargs`` and re-exports, in the order of the definition."""
    found = static_signature("tl_lightning.methods.cdan.CDAN")
    assert found is not None
    assert found.parameters["max_lambda"] == Parameter(float, True)
    assert static_signature("tl_lightning.models.FineTuning") == static_signature(
        "tl_lightning.models.supervised.FineTuning"
    )


# -- problems ----------------------------------------------------------------------------------
def problems(*overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        check_keys(config(*overrides))
    return caught.value.problems


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("+head.dropuot=1", "head.dropuot is not a setting of Head; did you mean 'dropout'?"),
        ("+data.bach_size=8",
         "data.bach_size is not a setting of DigitsDataModule; did you mean 'batch_size'?"),
        ("+method.dann.max_lamda=1", "max_lamda is not a setting of DANN; did you mean 'max_lamb"),
        ("+backbone.width=[4]", "backbone.width is not a setting of ConvNet; did you mean 'widths"),
        ("+checkpointing.keep=3", "checkpointing.keep is not a setting; did you mean 'keep_last'?"),
        ("+scheduler.warmpu=0.1", "scheduler.warmpu is not a setting of Cosine; did you mean 'war"),
        ("~head.dropout", "head.dropout is missing, but Head requires it; set head.dropout=<val"),
        ("~layer_decay", "layer_decay is missing; set it as in conf/train.yaml"),
    ],
)  # fmt: skip
def test_unknown_and_missing_keys(override: str, message: str) -> None:
    (problem,) = problems(override)
    assert message in problem


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("head.dropout=no", "head.dropout=no is not a number; set head.dropout=<value>"),
        ("optimizer.lr=abc", "optimizer.lr=abc is not a number of at least 0; set optimizer.lr="),
        ("data.batch_size=0", "data.batch_size=0 is not an integer of at least 1; set data.batch_"),
        ("data.batch_size=2.5", "data.batch_size=2.5 is not an integer of at least 1; set data.b"),
        ("seed=-1", "seed=-1 is not an integer in [0, 4294967295]; set seed=<value>"),
        ("backbone.widths=[a]", "backbone.widths=['a'] is not a list of integers; set backbone.w"),
        ("trainer.devices=1.5", "trainer.devices=1.5 is not an integer of at least 1, -1, a"),
        ("trainer.max_epochs=0", "trainer.max_epochs=0 must be at least 1, or -1 for no limit; se"),
        ("method.dann.gain=x", "method.dann.gain=x is not a number; set method.dann.gain=<value>"),
        ("test=maybe", "test=maybe is not true or false; set test=<value>"),
        ("tags=debug", "tags=debug is not a list of strings; set tags=<value>"),
    ],
)  # fmt: skip
def test_values_of_a_wrong_type_or_out_of_range(override: str, message: str) -> None:
    (problem,) = problems(override)
    assert message in problem


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("selection=sorce_val", "is not a selection rule; did you mean 'source_val'?"),
        ("task_weighting=pcgrd", "is not a task weighting; did you mean 'pcgrad'?"),
        ("report.projection=umapp", "is not one of pca, tsne, umap; set report.projection="),
        ("cache.images=on", "is not one of off, decoded, auto; set cache.images=<value>"),
        (
            "data.augment=strongest",
            "data.augment=strongest is not none, flip, light, crop, standard",
        ),
        ("compile=fast", "is not inductor, cudagraphs, aot_eager, eager, true or false; set co"),
    ],
)
def test_unknown_choices(override: str, message: str) -> None:
    found = problems(override)
    assert all(problem.startswith(override) for problem in found)
    assert message in found[-1]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "report.projection=umap",
            "needs the package umap-learn; run pip install 'tl_lightning[um",
        ),
        ("logger=tensorboard", "needs the package tensorboard; run pip install 'tl_lightning[tens"),
        ("logger=wandb", "needs the package wandb; run pip install 'tl_lightning[wandb]'"),
    ],
)
def test_optional_package_that_is_not_installed(override: str, message: str, monkeypatch) -> None:
    monkeypatch.setattr(structure, "find_spec", lambda _: None)
    (problem,) = problems(override)
    assert message in problem
    assert ", or set " in problem


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.target=null"], "model=dann adapts to a target, but data.target=null; set data.ta"),
        (["data=folder", "data.root=/x"], "model=dann adapts to a target, but data.target=null"),
        (["data=vectors", "backbone=vector_net", "data.source.train=a.csv"],
         "but data.target=null; set data.target.train=<file>, or set model=source_only"),
        (["data=stream", "data.source.url=/x"], "set data.target.url=<folder or address>"),
        (["model=source_only", "track_target=true", "data.target=null"],
         "track_target=true logs accuracy on the target, but data.target=null"),
        (["model=source_only", "method=[dann]"], "model=source_only does not support adaptation"),
        (["model=source_free"], "model=source_free adapts a trained model, but init=null"),
        (["backbone=minilm"], "data=digits provides images, but backbone=tl_lightning.backbones."),
        (["task=regression"], "task=regression needs numbers, but data=digits has one class per"),
        (["method=[mcc,fixmatch]", "cache.features=full", "data.augment=none"],
         "method=[fixmatch] augments target images in every step, but cache.features=full rep"),
        (["model=domain_generalization", "method=[dann]"], "method=[dann] adapts to the target"),
    ],
)  # fmt: skip
def test_what_classes_declare_is_checked_without_importing_them(
    overrides: list[str], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        check_keys(compose(overrides))
    assert message in caught.value.problems[0]


@pytest.mark.parametrize("target", [None, "usps", {}])
def test_classes_of_other_packages_are_left_to_the_later_checks(target: Any) -> None:
    given = config("data.target=null")
    given["data"]["target"] = target
    given["model"]["_target_"] = "my.models.Model"
    given["data"]["_target_"] = "my.data.Module"
    assert check_keys(given) == given


def test_all_problems_are_reported_at_once() -> None:
    overrides = [
        "optimizer.lr=abc",
        "head.dropout=no",
        "lr_find=x",
        "selection=sorce_val",
        "test=3",
    ]
    found = problems(*overrides, "+head.dropuot=1", "cache.images=on")
    keys = [problem.split("=")[0].split(" ")[0] for problem in found]
    assert sorted(keys) == sorted([
        "optimizer.lr", "head.dropout", "lr_find", "selection", "test", "head.dropuot",
        "cache.images",
    ])  # fmt: skip


def test_configuration_given_is_not_changed() -> None:
    given = config()
    assert check_keys(given) == given
    assert check_keys(given)["trainer"] is not given["trainer"]


# -- settings of other frameworks --------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.parametrize(
    ("override", "here"),
    [
        ("lr=0.1", "optimizer.lr=<rate>"),
        ("learning_rate=0.1", "optimizer.lr=<rate>"),
        ("epochs=3", "trainer.max_epochs=<number>"),
        ("batch_size=8", "data.batch_size=<number>"),
        ("bs=8", "data.batch_size=<number>"),
        ("ckpt_path=a.ckpt", "resume=<run folder or .ckpt>"),
        ("devices=2", "trainer.devices=<number>"),
        ("arch=resnet18", "backbone=<name>"),
        ("num_classes=10", "data=<name>, whose classes are counted"),
    ],
)
def test_setting_of_another_framework_names_the_one_here(override: str, here: str) -> None:
    name = override.split("=")[0]
    expected = f"{name} is not a setting; use {here}"
    assert unknown_overrides([override]) == [expected]
    (problem,) = problems(f"+{override}")  # Hydra accepts any key with +
    assert problem.startswith(expected)


def test_other_unknown_settings_name_the_nearest() -> None:
    assert unknown_overrides(["sede=1"]) == ["sede is not a setting; did you mean 'seed'?"]
    assert unknown_overrides(["data.image_size=1"]) == [
        "data.image_size is not a setting; use backbone.size=<pixels>"
    ]
    # Only in sections: a callback may have a setting of that name, or another one.
    (problem,) = unknown_overrides(["callbacks.nan_guard.lr=1"])
    assert problem.startswith("callbacks.nan_guard.lr is not a setting; valid: ")


def test_settings_of_other_frameworks_are_listed_once_and_are_unknown_here() -> None:
    names = [name for names in elsewhere._ELSEWHERE.values() for name in names.split(", ")]
    assert sorted(names) == sorted(set(names))
    assert not set(names) & set(known_keys())


def test_settings_named_in_their_place_exist() -> None:
    cfg = compose(["backbone=resnet18", "optimizer=sgd", "data=dogs", "callbacks=ema"])
    keys = [key for key in elsewhere._ELSEWHERE if "=" in key]
    assert len(keys) > 30
    for key in keys:
        name, _, value = key.partition("=")
        assert unknown_key(key, cfg) == "", key
        group = REPO / "conf" / name
        assert name.split(".")[0] in {*known_keys(), "debug", "hydra"}, key
        if group.is_dir() and re.fullmatch(r"[\w, ]+", value):
            for choice in re.split(r", | or ", value):
                assert (group / f"{choice}.yaml").is_file(), key
    assert (REPO / "scripts" / "tune.py").is_file()


# -- imports -----------------------------------------------------------------------------------
def imported_by(code: str) -> list[str]:
    """Return which of the slow libraries are imported by Python code in a process of its own."""
    end = f"import json, sys; print(json.dumps([n for n in {SLOW} if n in sys.modules]))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{end}"], capture_output=True, text=True, check=True
    )
    found: list[str] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.slow
def test_refusing_a_typo_imports_no_slow_library() -> None:
    code = """
from tl_lightning.config.compose import compose
from tl_lightning.config.validation.check import check
from tl_lightning.errors import ConfigError

for override in ("+head.dropuot=1", "+modle=dann", "+lr=0.1", "optimizer.lr=abc", "seed=x",
                 "selection=sorce_val", "data.batch_size=0", "+method.dann.max_lamda=1",
                 "data.target=null", "backbone=minilm", "task=regression", "model=source_free"):
    try:
        check(compose([override]))
    except ConfigError:
        continue
    raise SystemExit(f"{override} was accepted")
"""
    assert imported_by(code) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "override", ["modle=dann", "+head.dropuot=1", "lr=0.1", "data.target=null"]
)
def test_command_with_a_typo_imports_no_slow_library(override: str, tmp_path: Path) -> None:
    code = f"""
import os, sys
os.chdir({str(tmp_path)!r})
sys.argv = ["train.py", {override!r}]
from tl_lightning.cli.train import train

try:
    train()
except SystemExit as end:
    assert end.code == 2, end.code
else:
    raise AssertionError
"""
    assert imported_by(code) == []


@pytest.mark.slow
def test_message_of_the_command(tmp_path: Path) -> None:
    def refused(arguments: Sequence[str]) -> str:
        done = command("train", arguments, tmp_path)
        assert done.returncode == 2
        return done.stderr

    message = refused(["+head.dropuot=1", "optimizer.lr=abc"])
    assert "head.dropuot is not a setting of Head; did you mean 'dropout'?" in message
    assert "optimizer.lr=abc is not a number of at least 0; set optimizer.lr=<value>" in message
    assert "Traceback" not in message
    assert not list(tmp_path.rglob("report.json"))
