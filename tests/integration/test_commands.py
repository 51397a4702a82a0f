"""The command line interface, run in subprocesses from another folder."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time

import pytest
import torch

from conftest import REPO, TINY
from helpers import command, config, evaluated, same, weights
from tl_lightning.cli import train
from tl_lightning.cli.common import plain_command
from tl_lightning.evaluation import evaluate as evaluation
from tl_lightning.training import fit as training


def test_help_and_misspelt_options_are_fast_and_do_not_import_torch(tmp_path) -> None:
    code = (
        "import sys, runpy, time\n"
        "sys.argv = ['train.py'] + {!r}\n"
        "try: runpy.run_path({!r}, run_name='__main__')\n"
        "except SystemExit as end: code = end.code\n"
        "else: code = 0\n"
        "slow = [m for m in ('torch', 'lightning', 'torchvision') if m in sys.modules]\n"
        "print('IMPORTED', slow)\n"
        "print('CODE', code, 'SECONDS', time.process_time())\n"
    )
    for arguments, expected in ((["--help"], 0), (["model=dan"], 2), (["modle=dann"], 2)):
        script = code.format(arguments, str(REPO / "scripts" / "train.py"))
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True,
            timeout=60, check=False,
        )  # fmt: skip
        assert "IMPORTED []" in done.stdout
        match = re.search(r"CODE (\S+) SECONDS (\S+)", done.stdout)
        assert match is not None
        assert match[1] == str(expected)
        assert float(match[2]) < 3  # of the processor, so that other work does not count
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_run_is_the_same_if_imports_are_put_off(tmp_path) -> None:
    """The other tests run in processes that have imported everything already."""
    argv = [sys.executable, str(REPO / "scripts" / "train.py"), *TINY, "hydra.run.dir=a"]
    subprocess.run(argv, cwd=tmp_path, capture_output=True, timeout=200, check=True)
    report = training.fit(config(), tmp_path / "b")
    stored = json.loads((tmp_path / "a" / "report.json").read_text())
    assert stored["metrics"] == report["metrics"]
    last = [weights(tmp_path / name / "checkpoints" / "last.ckpt") for name in ("a", "b")]
    assert same(*last)


CASES = {
    "typo": (
        ["model=dan"],
        "error: model=dan is not a choice of conf/model/; did you mean '",
        2,
    ),
    "no such key": (["modle=dann"], "error: modle is not a setting; did you mean 'model'?", 2),
    "no such node": (["optimizer.lrate=1"], "error: optimizer.lrate is not a setting", 2),
    "hydra's advice": (["+seeds=3"], "error: seeds is not a setting; did you mean 'seed'?", 2),
    "text for a number": (["optimizer.lr=abc"], "error: optimizer.lr=abc is not a number", 2),
    "no target": (["data.target=null"], "model=dann adapts to a target, but data.target=null", 2),
    "a launcher": (["hydra/launcher=local"], "hydra/launcher=local requires a sweep; add -m", 2),
    "no data": (["data=mnist_mnistm", "data.root=/nowhere"], "data.root", 2),
}


@pytest.mark.parametrize("case", sorted(CASES))
def test_errors_are_messages_without_traceback_or_run_folder(case, tmp_path) -> None:
    arguments, message, code = CASES[case]
    done = command("train", arguments, tmp_path)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "outputs").glob("*"))


@pytest.mark.slow
def test_missing_gpu_is_reported(tmp_path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    done = command("train", ["trainer=gpu", "trainer.devices=7"], tmp_path)
    assert done.returncode == 2
    assert "trainer.devices=7, but this machine has no GPU" in done.stderr


@pytest.mark.slow
def test_missing_weights_without_network_are_reported(tmp_path) -> None:
    """The network is disabled by a closed proxy."""
    closed = "http://127.0.0.1:9"
    done = command(
        "train", [*TINY[:5], "backbone=resnet18"], tmp_path, TORCH_HOME=str(tmp_path / "hub"),
        https_proxy=closed, HTTPS_PROXY=closed, http_proxy=closed, no_proxy="",
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "pretrained weights of backbone resnet18 not found: the download failed" in done.stderr
    assert "put it at" in done.stderr
    assert "backbone.weights=<file>" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_adapted_model_can_be_tested_on_a_dataset_without_target(tmp_path) -> None:
    report = training.fit(config("model=dann", "selection=bnm", "baselines=[]"), tmp_path)
    last = tmp_path / report["selection"]["checkpoint"]
    source = config("model=source_only", "data.target=null")["data"]
    source["batch_size"] = 10**6  # larger than the dataset, which is fine without training
    metrics = evaluation.evaluate(last, source, None)["metrics"]
    assert metrics == {k: v for k, v in evaluated(report).items() if k.startswith("source/")}
    assert evaluation.evaluate(last, None, None)["metrics"] == evaluated(report)


def test_train_evaluate_and_report(tmp_path) -> None:
    run = tmp_path / "run"
    done = command("train", [*TINY, f"hydra.run.dir={run}"], tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads((run / "report.json").read_text())
    assert (run / "report.html").is_file()
    assert set(report["metrics"]) == {
        f"{role}/test/{name}"
        for role in ("source", "target")
        for name in ("acc", "precision", "recall", "f1")
    } | {"health/a_distance_before", "health/a_distance_after"}
    checkpoint = run / report["selection"]["checkpoint"]
    again = command("evaluate", [f"checkpoint={run}"], tmp_path)  # the selected checkpoint
    assert again.returncode == 0, again.stderr
    assert str(checkpoint) in again.stdout.replace("\n", "")
    assert f"{100 * report['metrics']['target/test/acc']:.1f} %" in again.stdout
    typo = command("evaluate", [f"checkpoint={checkpoint}", "dta=digits"], tmp_path)
    assert typo.returncode == 2
    assert "did you mean 'data'" in typo.stderr
    page = command("report", [str(run)], tmp_path)
    assert "report.html" in page.stdout
    nowhere = command("report", ["/nowhere"], tmp_path)
    assert nowhere.returncode == 2
    assert "folder not found: /nowhere" in nowhere.stderr
    missing = command("evaluate", ["data=digits"], tmp_path)
    assert "checkpoint is missing; set checkpoint=" in missing.stderr


@pytest.mark.slow
def test_sweep_writes_one_table_with_the_joint_bn_baseline(tmp_path) -> None:
    done = command(
        "train",
        ["-m", *TINY, "model=source_only,dann", "seed=0,1", "hydra.sweep.dir=sweep"],
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    sweep = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    text = json.dumps(sweep)
    assert all(name in text for name in ("source_only", "joint_bn", "dann"))
    names = sorted(p.parent.name for p in (tmp_path / "sweep").rglob("report.json"))
    assert names.count("joint_bn") == 2
    assert len(names) == 6
    assert (tmp_path / "sweep" / "index.html").is_file()


@pytest.mark.slow
def test_failed_job_does_not_stop_the_sweep_but_sets_its_exit_code(tmp_path) -> None:
    done = command(
        "train",
        ["-m", *TINY, "data.batch_size=16,0", "model=source_only", "hydra.sweep.dir=sweep"],
        tmp_path,
    )
    assert done.returncode == 1
    assert "data.batch_size=0" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(list((tmp_path / "sweep").rglob("report.json"))) == 1
    assert len(list((tmp_path / "sweep").rglob("failed.json"))) == 1


def two_ranks(*more: str) -> list[str]:
    return [*TINY, "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=2", *more]


@pytest.mark.slow
def test_two_ranks_write_one_run_folder_in_a_sweep(tmp_path) -> None:
    """With -m the second rank must join the job instead of starting the sweep again."""
    done = command(
        "train",
        ["-m", *two_ranks("seed=0,1", "hydra.sweep.dir=sweep")],
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "sweep").rglob("report.json"))) == 2
    assert not (tmp_path / "outputs").exists()


@pytest.mark.slow
def test_two_ranks_equal_one_rank_with_twice_the_batch_size(tmp_path) -> None:
    """Without batch norm and with SGD: the same samples, augmentations and weights."""
    common = ["backbone.norm=false", "optimizer=sgd", "trainer.max_epochs=1"]
    for name, arguments in (
        ("two", two_ranks("data.batch_size=8")),
        ("one", [*TINY, "data.batch_size=16"]),
    ):
        done = command("train", [*arguments, *common, f"hydra.run.dir={name}"], tmp_path)
        assert done.returncode == 0, done.stderr
    two, one = (weights(tmp_path / n / "checkpoints" / "last.ckpt") for n in ("two", "one"))
    assert not same(one, {k: torch.zeros_like(v) for k, v in one.items()})
    for name, value in one.items():
        assert torch.allclose(value, two[name], atol=1e-6), name
    metrics = [
        json.loads((tmp_path / n / "report.json").read_text())["metrics"] for n in ("two", "one")
    ]
    assert metrics[0] == pytest.approx(metrics[1], abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("sent", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signal_saves_a_checkpoint_and_the_run_can_be_resumed(sent, status, tmp_path) -> None:
    arguments = [*TINY, "trainer.max_epochs=400", "hydra.run.dir=run", "resume=auto"]
    process = subprocess.Popen(
        [sys.executable, str(REPO / "scripts" / "train.py"), *arguments],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    deadline = time.monotonic() + 120
    while not last.is_file() and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(sent)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == status, output
    assert "Traceback" not in output
    if sent == signal.SIGINT:
        assert "interrupted; resume with resume=auto hydra.run.dir=" in output
    epoch = torch.load(last, weights_only=True)["epoch"]
    arguments[-3] = f"trainer.max_epochs={epoch + 2}"
    done = command("train", arguments, tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"epoch {epoch + 2}/{epoch + 2}" in done.stdout
    assert "epoch 1/" not in done.stdout


def _interrupt(arguments=None) -> None:
    raise KeyboardInterrupt


def _interrupt_in_lightning(arguments=None) -> None:
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        sys.exit(1)


@pytest.mark.parametrize("work", [_interrupt, _interrupt_in_lightning])
def test_ctrl_c_prints_one_word_and_exits_with_130(work, monkeypatch, capsys) -> None:
    """While the configuration is composed, and in commands that do not train."""
    monkeypatch.setattr(sys, "argv", ["train.py", "seed=0"])
    monkeypatch.setattr(train, "_train", work)
    for run in (train.train, lambda: plain_command(work, "usage")):
        with pytest.raises(SystemExit) as end:
            run()
        assert end.value.code == 130
        assert capsys.readouterr().err == "interrupted\n"
