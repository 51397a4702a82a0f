"""Nothing that is read from a file is executed."""

from __future__ import annotations

import ast
import pickle
import re
from pathlib import Path

import pytest
import torch

from conftest import REPO
from helpers import Payload
from tl_lightning.checkpoints.io import AtomicCheckpointIO
from tl_lightning.cli.train import train
from tl_lightning.errors import CheckpointError

SOURCE = [*(REPO / "src").rglob("*.py"), *(REPO / "scripts").rglob("*.py")]
#: Keyword arguments without which a reader may execute what is in a file.
REQUIRED = {
    "torch.load": {"weights_only": True},
    "np.load": {"allow_pickle": False},
    "get_state_dict": {"weights_only": True},
    "from_pretrained": {"trust_remote_code": False},
}
#: What executes code or a shell, in files that may use it.
FORBIDDEN = r"pickle|joblib|marshal|shelve|dill|yaml\.(unsafe_)?load|os\.system|os\.popen|eval|exec"
TRUSTED = {"eval": {"config/static.py"}}  # the annotations of this package


def calls(path: Path) -> list[tuple[str, dict[str, object]]]:
    """Return the name and the constant keyword arguments of every call in a file."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            constants = {
                key.arg: key.value.value
                for key in node.keywords
                if key.arg and isinstance(key.value, ast.Constant)
            }
            found.append((ast.unparse(node.func), constants))
    return found


@pytest.mark.parametrize("path", SOURCE, ids=lambda path: str(path.relative_to(REPO)))
def test_files_are_read_without_executing_code(path: Path) -> None:
    for name, arguments in calls(path):
        for reader, required in REQUIRED.items():
            if name == reader or name.endswith(f".{reader}"):
                assert required.items() <= arguments.items(), (name, required)
        assert not arguments.get("shell"), name
        short = name.rpartition(".")[2]
        trusted = any(path.match(f"*/{one}") for one in TRUSTED.get(name, ()))
        module_method = name == "module.eval" or (short == "eval" and name != "eval")
        assert trusted or module_method or not re.fullmatch(FORBIDDEN, name), name
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"^\s*(import|from) (pickle|joblib|marshal|shelve|dill)\b", text, re.M)


def test_the_trainer_reads_no_code_from_a_checkpoint(tmp_path) -> None:
    """Also if the caller, or a later version of Lightning, asks for it."""
    file, executed = tmp_path / "last.ckpt", tmp_path / "executed"
    torch.save({"hyper_parameters": {"config": {}}, "x": Payload(executed)}, file)
    with pytest.raises(CheckpointError, match=r"contains more than tensors and plain values"):
        AtomicCheckpointIO(keep_last=1).load_checkpoint(file, weights_only=False)
    assert not executed.exists()


@pytest.mark.parametrize("flag", ["--experimental-rerun", "--exp"])
def test_hydra_runs_no_pickled_job(flag, tmp_path, monkeypatch, capsys) -> None:
    (tmp_path / "config.pickle").write_bytes(pickle.dumps(Payload(tmp_path / "executed")))
    monkeypatch.setattr("sys.argv", ["tl-train", flag, str(tmp_path / "config.pickle")])
    with pytest.raises(SystemExit) as end:
        train()
    assert end.value.code == 2
    assert "--experimental-rerun is not supported, as the file it reads" in capsys.readouterr().err
    assert not (tmp_path / "executed").exists()


def test_other_options_are_not_taken_for_a_pickled_job(monkeypatch, capsys) -> None:
    monkeypatch.setattr("sys.argv", ["tl-train", "--epochs", "3"])
    with pytest.raises(SystemExit):
        train()
    message = capsys.readouterr().err
    assert "--epochs is not an option; use trainer.max_epochs=<number>" in message
    assert "--experimental-rerun" not in message
