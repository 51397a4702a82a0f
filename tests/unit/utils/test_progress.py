"""Progress output on stderr: a bar in a terminal, and a line with the elapsed time."""

from tl_lightning.utils.progress import advancing


def test_elapsed_time_is_printed(capsys):
    with advancing("counting 3 sheep", 3) as advance:
        advance(3)
    captured = capsys.readouterr()
    assert captured.err.startswith("counting 3 sheep: 0.")
    assert captured.out == ""


def test_terminal_shows_a_bar(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with advancing("counting 3 sheep", 3) as advance:
        advance(1)
        advance(2)
    assert "counting 3 sheep" in capsys.readouterr().err
