"""Notes on the console."""

from __future__ import annotations

import pytest

from tl_lightning.utils.console import say


@pytest.mark.parametrize(("rank", "printed"), [(None, "once\n"), ("0", "once\n"), ("3", "")])
def test_a_note_is_printed_once_per_machine(rank, printed, monkeypatch, capsys) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if rank is not None:
        monkeypatch.setenv("LOCAL_RANK", rank)
    say("once")
    assert capsys.readouterr().err == printed
