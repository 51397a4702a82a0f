"""What is wrong with further tasks, in words."""

from __future__ import annotations

import pytest

from helpers import config, file_config
from tl_lightning.config.allowlist import stored_faults
from tl_lightning.config.validation import check as validation
from tl_lightning.errors import ConfigError

TASK = "task=[coarse]"
AGE = ("+task@tasks.age=regression",)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["balance=fair"], r"balance=fair is no balance; valid: fixed, pcgrad, uncertainty"),
        (["+tasks.x.weight=1"], r"tasks\.x says no kind of task; type task=\[x\] if there is such"),
        (["+tasks.x=3"], r"tasks\.x says no kind of task"),
        (["+task@tasks.type=regression"], r"tasks\.type is no name for a task .* tasks\.type_1"),
        (["+task@tasks.a-b=regression"], r"tasks\.a-b is no name for a task .* tasks\.ab_1"),
        ([TASK, "tasks.coarse._target_=tl_lightning.tasks.head.Head"],
         r"tasks\.coarse\._target_=tl_lightning\.tasks\.head\.Head is no further task; type"),
        ([TASK, "tasks.coarse.weight=-1"], r"tasks\.coarse\.weight=-1 is below 0; type tasks\.coa"),
        ([TASK, "tasks.coarse.groups=null"], r"tasks\.coarse takes its labels .* neither is given"),
        ([TASK, "tasks.coarse.labels=x"], r"and both are given; type one of them"),
        ([*AGE, "tasks.age.labels=age"], r"labels=age is a column, but data=digits has none; type"),
        ([TASK, "+task@tasks.o=ordinal", "tasks.o.groups=x", "tasks.o.levels=[a,a]"],
         r"tasks\.o\.levels=\['a', 'a'\] must name at least two levels, each once"),
        ([TASK, "model=fine_tuning", "data.mix.mixup=0.2"],
         r"data\.mix\.mixup mixes pictures .* tasks=\[coarse\]; type data\.mix\.mixup=0"),
        ([TASK, "model=source_free", "adapter=[shot]", "init=x"],
         r"shows no labels, so tasks=\[coarse\] would learn nothing; type task=none"),
        ([TASK, "balance=pcgrad", "trainer.accumulate_grad_batches=2"],
         r"balance=pcgrad sets the gradients .*accumulate_grad_batches=2 does not go with; type"),
        ([TASK, "balance=pcgrad", "trainer.devices=2"], r"devices=2 does not go with; type train"),
        ([TASK, "balance=pcgrad", "trainer.precision=16-mixed"],
         r"precision=16-mixed would scale; type trainer\.precision=bf16-mixed, or balance=fixed"),
        ([TASK, "balance=pcgrad", "model=domain_adaptation", "adapter=[mcd]"],
         r"adapter=\[mcd\] takes several steps a batch; type balance=fixed"),
        ([TASK, "balance=pcgrad", "model=feature_extraction"],
         r"with head\.bottleneck=null shares nothing that learns; type head\.bottleneck=256"),
    ],
)  # fmt: skip
def test_words(overrides, words) -> None:
    with pytest.raises(ConfigError, match=words):
        validation.check(config(*overrides))


def test_a_column_that_nobody_reads(tmp_path) -> None:
    of_files = ("data=csv", "data.others=[weight]", *AGE, "tasks.age.labels=age")
    found = file_config(tmp_path, *of_files, "model=fine_tuning", "data.target=null")
    words = r"labels=age is not in data\.others=\['weight'\]; type data\.others=\[weight,age\]"
    with pytest.raises(ConfigError, match=words):
        validation.check(found)


def test_a_stored_task_is_of_a_kind_that_conf_names() -> None:
    """So that a checkpoint with tasks can be read, and builds nothing else by them."""
    for kind in ("coarse", "classification", "multi_label", "regression", "ordinal"):
        assert not stored_faults({"tasks": config(f"task=[{kind}]")["tasks"]})
    for hostile in ("os.system", "tl_lightning.tasks.head.Head"):
        found = stored_faults({"tasks": {"x": {"_target_": hostile}}})
        assert found[0].startswith(f"tasks.x._target_={hostile} is no class that conf/task/ names")


def test_what_is_right_is_let_through() -> None:
    assert list(validation.check(config(TASK))["tasks"]) == ["coarse"]
    both = config(TASK, *AGE, "tasks.age.groups=x", "balance=uncertainty")
    assert list(validation.check(both)["tasks"]) == ["coarse", "age"]
    validation.check(config("balance=pcgrad", "trainer.accumulate_grad_batches=2"))  # one task
