"""Progress goes to stderr: a bar for people, a line with the time for everybody."""

from tl_lightning.utils.progress import advancing


def test_a_line_says_how_long_it_took(capsys):
    with advancing("counting 3 sheep", 3) as advance:
        advance(3)
    captured = capsys.readouterr()
    assert captured.err.startswith("counting 3 sheep: 0.")
    assert captured.out == ""


def test_a_terminal_gets_a_bar(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with advancing("counting 3 sheep", 3) as advance:
        advance(1)
        advance(2)
    assert "counting 3 sheep" in capsys.readouterr().err
