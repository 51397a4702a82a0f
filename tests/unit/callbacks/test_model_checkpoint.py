"""Checkpoints are written atomically, and never from a broken model."""

from __future__ import annotations

import io as io_module

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from helpers import config, weights
from tl_lightning.callbacks import model_checkpoint as checkpoint
from tl_lightning.callbacks.model_checkpoint import SelectionCheckpoint
from tl_lightning.checkpoints import io as storage
from tl_lightning.checkpoints.io import AtomicCheckpointIO
from tl_lightning.config.identity import other_settings
from tl_lightning.errors import CheckpointError, TrainingError
from tl_lightning.evaluation import load as loading
from tl_lightning.models import FineTuning
from tl_lightning.selection.rules import SELECTIONS
from tl_lightning.training import fit as training


def test_failed_write_keeps_old_file_and_removes_draft(tmp_path, monkeypatch) -> None:
    path = tmp_path / "last.ckpt"
    io = AtomicCheckpointIO(keep_last=1)
    io.save_checkpoint({"x": torch.ones(2)}, path)
    before = path.read_bytes()

    def partial_write(obj, file):
        file.write(b"half")
        raise RuntimeError("unexpected pos: no space left")

    monkeypatch.setattr(torch, "save", partial_write)
    with pytest.raises(CheckpointError, match=r"cannot write checkpoint .*MiB free.*are intact"):
        io.save_checkpoint({"x": torch.zeros(2)}, path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


def test_ctrl_c_during_write_is_not_reported_as_full_disk(tmp_path, monkeypatch) -> None:
    """torch raises an error on closing an interrupted archive; KeyboardInterrupt takes priority."""
    path = tmp_path / "last.ckpt"
    io = AtomicCheckpointIO(keep_last=1)
    io.save_checkpoint({"x": torch.ones(2)}, path)
    before = path.read_bytes()

    class Interrupted(io_module.BufferedWriter):
        calls = 0

        def write(self, data):
            Interrupted.calls += 1
            if Interrupted.calls == 3:
                raise KeyboardInterrupt
            return super().write(data)

    def open_interrupted(path, mode):
        return Interrupted(io_module.FileIO(path, mode))

    monkeypatch.setattr(storage, "open", open_interrupted, raising=False)
    with pytest.raises(KeyboardInterrupt):
        io.save_checkpoint({"x": torch.zeros(2)}, path)
    assert Interrupted.calls >= 3
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


def test_only_oracle_uses_target_labels() -> None:
    assert [name for name, rule in SELECTIONS.items() if rule.uses_target_labels] == ["oracle"]


@pytest.mark.slow
@pytest.mark.parametrize("rule", sorted(SELECTIONS))
def test_rule_is_in_checkpoint_name_and_report(rule, tmp_path) -> None:
    source = ["data.source.domain=[plain,inverted]"] if rule.endswith("_domain") else []
    report = training.fit(config(f"selection={rule}", *source), tmp_path)
    chosen = report["selection"]
    assert chosen["rule"] == rule
    assert rule in chosen["checkpoint"] or rule == "last"
    assert "=" not in chosen["checkpoint"]
    assert (tmp_path / chosen["checkpoint"]).is_file()
    assert chosen["uses_target_labels"] is (rule == "oracle")


def make_first_epoch_best(monkeypatch) -> None:
    values = iter([0.9, 0.5, 0.4])
    monkeypatch.setattr(
        SelectionCheckpoint,
        "_monitor_candidates",
        lambda self, trainer: {
            "validator/floored/im": torch.tensor(next(values, 0.1)),
            "epoch": torch.tensor(trainer.current_epoch),
            "step": torch.tensor(trainer.global_step),
        },
    )


def test_last_epoch_is_saved_in_addition_to_best(tmp_path, monkeypatch) -> None:
    """A resumed run starts from the last epoch, not from the last improvement."""
    make_first_epoch_best(monkeypatch)
    report = training.fit(config("selection=im", "trainer.max_epochs=3"), tmp_path)
    assert report["selection"]["epoch"] == 0
    stored = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert stored["epoch"] == 2


@pytest.mark.slow
def test_moved_run_folder_keeps_best_model(tmp_path, monkeypatch) -> None:
    """Otherwise a resumed run would only choose among the epochs after the move."""
    make_first_epoch_best(monkeypatch)
    chosen = ("selection=im", "checkpointing.min_seconds=0")
    training.fit(config(*chosen, "trainer.max_epochs=2"), tmp_path / "one")
    (tmp_path / "one").rename(tmp_path / "two")
    longer = config(*chosen, "trainer.max_epochs=3", "resume=auto")
    report = training.fit(longer, tmp_path / "two")
    assert report["selection"]["epoch"] == 0
    assert report["selection"]["value"] == pytest.approx(0.9)


@pytest.mark.slow
def test_checkpoint_contains_progress_and_plain_values_only(tmp_path) -> None:
    training.fit(config(), tmp_path)
    stored = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert 0 < stored["progress"] <= 1
    assert stored["hyper_parameters"]["config"]["method"]["dann"]["max_lambda"] > 0
    names = [g["name"] for g in stored["optimizer_states"][0]["param_groups"]]
    assert names == ["backbone", "head", "dann"]


@pytest.mark.slow
def test_nan_loss_stops_run_before_checkpoint_is_overwritten(tmp_path, monkeypatch) -> None:
    original = FineTuning.losses

    def broken(self, batch):
        terms = original(self, batch)
        return {"task": terms["task"] * float("nan")} if self.current_epoch == 1 else terms

    monkeypatch.setattr(FineTuning, "losses", broken)
    with pytest.raises(TrainingError, match=r"not finite at epoch 2, batch 0 \(task nan; learning"):
        training.fit(config("model=source_only"), tmp_path)
    state = weights(tmp_path / "checkpoints" / "last.ckpt")
    assert all(torch.isfinite(v).all() for v in state.values() if v.is_floating_point())


def test_load_errors(tmp_path) -> None:
    with pytest.raises(
        CheckpointError, match=r"no\.ckpt not found; pass the path of a \.ckpt file"
    ):
        loading.load(tmp_path / "no.ckpt")
    broken = tmp_path / "broken.ckpt"
    broken.write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"is corrupt or contains more than tensors"):
        loading.load(broken)
    foreign = tmp_path / "foreign.ckpt"
    torch.save({"state_dict": {}}, foreign)
    with pytest.raises(CheckpointError, match=r"was not written by tl_lightning"):
        loading.load(foreign)


@pytest.mark.slow
def test_tampered_config_is_rejected(tmp_path) -> None:
    from tl_lightning.errors import ConfigError

    report = training.fit(config("trainer.max_epochs=1"), tmp_path)
    path = tmp_path / report["selection"]["checkpoint"]
    stored = torch.load(path, weights_only=True)
    stored["hyper_parameters"]["config"]["head"]["_target_"] = "os.system"
    torch.save(stored, path)
    with pytest.raises(ConfigError, match=r"os\.system is not a class named in conf/head/"):
        loading.load(path)


@pytest.mark.slow
def test_resume_errors(tmp_path) -> None:
    with pytest.raises(CheckpointError, match=r"nothing to resume at resume=.*set resume=auto"):
        training.fit(config(f"resume={tmp_path}/nowhere"), tmp_path)
    training.fit(config("trainer.max_epochs=3"), tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"written in epoch 3, but trainer.max_epochs=1"):
        training.fit(config("resume=auto", "trainer.max_epochs=1"), tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rule", "written"), [("last", [0, 3, 4]), ("source_val", [0, 1, 2, 3, 4])]
)
def test_short_epochs_skip_checkpoints_except_for_the_last(
    rule, written, tmp_path, monkeypatch
) -> None:
    saved = []
    original = SelectionCheckpoint._save_checkpoint

    def record(self, trainer, filepath):
        saved.append(trainer.current_epoch)
        original(self, trainer, filepath)

    monkeypatch.setattr(SelectionCheckpoint, "_save_checkpoint", record)
    monkeypatch.setattr(checkpoint, "monotonic", lambda: 100.0 + 4.0 * trained["epochs"])
    trained = {"epochs": 0}

    def tick(self, *_):
        trained["epochs"] += 1

    monkeypatch.setattr(FineTuning, "on_train_epoch_start", tick, raising=False)
    monkeypatch.setattr(ModelCheckpoint, "check_monitor_top_k", lambda *_: True)
    extra = (f"selection={rule}", "checkpointing.min_seconds=10", "trainer.max_epochs=5")
    training.fit(config("model=source_only", *extra), tmp_path)
    assert list(dict.fromkeys(saved)) == written
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] == 4


@pytest.mark.slow
@pytest.mark.filterwarnings("default:.*different settings:UserWarning")
@pytest.mark.filterwarnings("default:The dirpath has changed:UserWarning")
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ("seed=1", "seed=0, now 1"),
        ("optimizer.lr=0.3", r"optimizer\.lr=[0-9.]+, now 0\.3"),
        ("method=[mcc]", r"method=\[dann\], now \[mcc\]"),
    ],
)
def test_auto_resume_requires_same_settings(changed, message, tmp_path) -> None:
    """Otherwise a finished model would be reported for a seed or rate it was not trained with."""
    settings = ("model=domain_adaptation", "method=[dann]", "trainer.max_epochs=1")
    training.fit(config(*settings), tmp_path)
    before = (tmp_path / "report.json").read_bytes()
    expected = rf"different settings: {message}.*; use the same settings to resume"
    with pytest.raises(CheckpointError, match=expected):
        training.fit(config(*settings, changed, "resume=auto"), tmp_path)
    assert (tmp_path / "report.json").read_bytes() == before
    report = training.fit(
        config(*settings, "seed=1", "trainer.max_epochs=2", f"resume={tmp_path}"), tmp_path / "new"
    )
    assert [
        w for w in report["warnings"] if "different settings: seed=0, now 1; learning rates" in w
    ]


def test_data_paths_devices_and_number_of_epochs_do_not_change_run_identity() -> None:
    old = config("trainer.max_epochs=1", "data.num_workers=0")
    old["data"] |= {"root": "/a", "table": "/a/list.csv"}
    new = config("trainer.max_epochs=9", "data.num_workers=2", "compile=true", "logger={}")
    new["data"] |= {"root": "/b", "table": "moved/list.csv"}
    assert other_settings(old, new) == []
    new["data"]["table"] = "/a/other.csv"
    assert other_settings(old, new) == ["data.table=/a/list.csv, now /a/other.csv"]


@pytest.mark.slow
def test_speed_of_resumed_run_counts_its_own_steps_only(tmp_path) -> None:
    """Otherwise a run resumed just before its end would be reported as much too fast."""
    first = training.fit(config("trainer.max_epochs=2"), tmp_path)["timing"]
    resumed = training.fit(config("trainer.max_epochs=2", "resume=auto"), tmp_path)["timing"]
    assert first["from_step"] == 0
    assert first["steps_per_s"] == pytest.approx(first["steps"] / first["fit_s"], rel=0.01)
    assert (resumed["steps"], resumed["from_step"]) == (first["steps"], first["steps"])
    assert resumed["steps_per_s"] == 0
