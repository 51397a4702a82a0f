"""Conflicts between auxiliary tasks and other settings."""

from __future__ import annotations

import pytest

from helpers import config, file_config
from tl_lightning.config.allowlist import stored_problems
from tl_lightning.config.validation import check as validation
from tl_lightning.errors import ConfigError

TASK = "aux_task=[coarse]"
AGE = ("+aux_task@aux_tasks.age=regression",)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["task_weighting=fair"],
         r"task_weighting=fair is not a task weighting; valid: fixed, pcgrad, uncertainty"),
        (["+aux_tasks.x.weight=1"],
         r"aux_tasks\.x does not define a task; set aux_task=\[x\] if conf/aux_task/ has it, or "
         r"\+aux_task@aux_tasks\.x=classification"),
        (["+aux_tasks.x=3"], r"aux_tasks\.x does not define a task"),
        (["+aux_task@aux_tasks.type=regression"],
         r"aux_tasks\.type is not a valid task name, as .* rename it, e\.g\. aux_tasks\.type_1"),
        (["+aux_task@aux_tasks.a-b=regression"],
         r"aux_tasks\.a-b is not a valid task name .* rename it, e\.g\. aux_tasks\.ab_1"),
        ([TASK, "aux_tasks.coarse._target_=tl_lightning.tasks.head.Head"],
         r"aux_tasks\.coarse\._target_=tl_lightning\.tasks\.head\.Head is not a subclass of "
         r"AuxiliaryTask, such as .*; see docs/bring_your_own\.md#metric"),
        ([TASK, "aux_tasks.coarse.weight=-1"],
         r"aux_tasks\.coarse\.weight=-1 must be at least 0; set aux_tasks\.coarse\.weight=1"),
        ([TASK, "aux_tasks.coarse.groups=null"], r"aux_tasks\.coarse requires .* neither is set"),
        ([TASK, "aux_tasks.coarse.labels=x"], r"but both are set; set one of them"),
        ([*AGE, "aux_tasks.age.labels=age"],
         r"aux_tasks\.age\.labels=age is a label column, but data=digits has none; set aux_tasks"),
        ([TASK, "+aux_task@aux_tasks.o=ordinal", "aux_tasks.o.groups=x",
          "aux_tasks.o.levels=[a,a]"],
         r"o\.levels=\['a', 'a'\] must be at least two distinct levels; set aux_tasks\.o"),
        ([TASK, "model=fine_tuning", "data.mixup_alpha=0.2"],
         r"mixup_alpha=0\.2 mixes images .* aux_task=\[coarse\]; set data\.mixup_alpha=0"),
        ([TASK, "model=source_free", "method=[shot]", "init=x"],
         r"without labels, so aux_task=\[coarse\] would learn nothing; set aux_task=none"),
        ([TASK, "task_weighting=pcgrad", "trainer.accumulate_grad_batches=2"],
         r"task_weighting=pcgrad computes the gradients .* not supported with "
         r"trainer\.accumulate_grad_batches=2; set trainer\.accumulate_grad_batches=1, or task_we"),
        ([TASK, "task_weighting=pcgrad", "trainer.devices=2"],
         r"not supported with trainer\.devices=2; set trainer\.devices=1, or task_weighting=fixed"),
        ([TASK, "task_weighting=pcgrad", "trainer.precision=16-mixed"],
         r"precision=16-mixed; set trainer\.precision=bf16-mixed, or task_weighting=fixed"),
        ([TASK, "task_weighting=pcgrad", "model=domain_adaptation", "method=[mcd]"],
         r"method=\[mcd\] takes several optimizer steps per batch; set task_weighting=fixed"),
        ([TASK, "task_weighting=pcgrad", "model=feature_extraction"],
         r"head\.bottleneck=null has no trainable shared parameters; set head\.bottleneck=256"),
    ],
)  # fmt: skip
def test_problems(overrides, message) -> None:
    with pytest.raises(ConfigError, match=message):
        validation.check(config(*overrides))


def test_label_column_that_is_not_read(tmp_path) -> None:
    columns = ("data=csv", "data.label_columns=[weight]", *AGE, "aux_tasks.age.labels=age")
    found = file_config(tmp_path, *columns, "model=fine_tuning", "data.target=null")
    message = (
        r"labels=age is not in data\.label_columns=\['weight'\]; set data\.label_columns="
        r"\[weight,age\]"
    )
    with pytest.raises(ConfigError, match=message):
        validation.check(found)


def test_stored_task_must_be_named_in_conf() -> None:
    """Checkpoints with auxiliary tasks can be loaded, but may not build other classes."""
    for kind in ("coarse", "classification", "multi_label", "regression", "ordinal"):
        assert not stored_problems({"aux_tasks": config(f"aux_task=[{kind}]")["aux_tasks"]})
    for target in ("os.system", "tl_lightning.tasks.head.Head"):
        found = stored_problems({"aux_tasks": {"x": {"_target_": target}}})
        assert found[0].startswith(
            f"aux_tasks.x._target_={target} is not a class named in conf/aux_task/"
        )


def test_valid_tasks_pass_the_check() -> None:
    assert list(validation.check(config(TASK)).aux_tasks) == ["coarse"]
    both = config(TASK, *AGE, "aux_tasks.age.groups=x", "task_weighting=uncertainty")
    assert list(validation.check(both).aux_tasks) == ["coarse", "age"]
    validation.check(
        config("task_weighting=pcgrad", "trainer.accumulate_grad_batches=2")
    )  # one task
