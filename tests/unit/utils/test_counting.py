"""Counts with their rates."""

from __future__ import annotations

import pytest

from tl_lightning.utils import progress
from tl_lightning.utils.progress import Count, counting


def test_the_rate_leaves_out_what_was_done_earlier(monkeypatch, capsys) -> None:
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    count = Count("images", 2000)
    count.after(1000, earlier=True)
    now = 102.0
    assert count.after(10) == "1,010 of 2,000 images, 5.0 images/s"
    with counting("texts", None) as advance:
        advance(7)
        assert not capsys.readouterr().err
        now = 142.0
        advance(3)
        assert capsys.readouterr().err == "10 texts, 0.2 texts/s\n"


@pytest.mark.parametrize("total", [None, 5])
def test_a_terminal_shows_a_bar(total, monkeypatch) -> None:
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    with counting("images", total) as advance:
        advance(2, earlier=True)
        advance(3)
