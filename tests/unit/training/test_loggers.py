"""Loggers that cannot reach their server or database."""

from __future__ import annotations

import pytest

from helpers import config
from tl_lightning.errors import ConfigError
from tl_lightning.training import fit as training


@pytest.mark.filterwarnings("ignore")  # of its libraries
@pytest.mark.parametrize("address", [
    "nonsense://x", "", "sqlite:////dev/null/x.db", "http://me:secret@127.0.0.1:1",
])  # fmt: skip
def test_invalid_address_is_a_configuration_error(address, tmp_path, monkeypatch) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.chdir(tmp_path)
    settings = config(
        "model=source_only", "logger=mlflow", f"logger.mlflow.tracking_uri='{address}'"
    )
    with pytest.raises(
        ConfigError, match=r"logger\.mlflow cannot be started: .*set logger=csv"
    ) as error:
        training.fit(settings, tmp_path / "run")
    assert "secret" not in str(error.value)
