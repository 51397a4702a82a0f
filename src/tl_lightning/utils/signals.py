"""What a signal does to a run: it saves at the next place where nothing is half done, and ends.

SIGTERM (a scheduler's preemption), SIGUSR1 (its warning) and the first Ctrl-C let the training step
or validation batch at hand finish. Where nothing trains (pictures are decoded, features extracted,
the test runs) there is nothing to save, and the command ends at once. SIGUSR2 is left to others.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

__all__ = ["EXIT_CODE", "Interrupted", "end_interrupted", "signals", "take_signals"]

#: Of a command that a signal has ended; Ctrl-C ends with 130.
EXIT_CODE = 143


class Interrupted(SystemExit):
    """Ends the command because a signal asked for it."""

    def __init__(self) -> None:
        super().__init__(EXIT_CODE)


class _Signals:
    """The signals of this process.

    Attributes:
        received: The signal that arrived, or 0.
        gentle: Whether somebody will look at ``received`` soon.
        forward: Tells the ranks that this process has started, or None.
    """

    def __init__(self) -> None:
        self.received = 0
        self.gentle = False
        self.forward: Callable[[int], None] | None = None
        self.process = 0

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Take over the signals, in the process's main thread."""
        self.received, self.gentle, self.forward = 0, False, None
        self.process = os.getpid()
        numbers = [signal.SIGTERM, signal.SIGINT]
        if sys.platform != "win32":
            numbers.append(signal.SIGUSR1)
        if threading.current_thread() is not threading.main_thread():
            numbers = []
        before = {number: signal.signal(number, self._handle) for number in numbers}
        try:
            yield
        finally:
            self.gentle = False
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, number: int, frame: Any) -> None:
        if os.getpid() != self.process:
            self._handle_in_child(number)
            return
        again = self.received == number == signal.SIGINT
        self.received = number
        if self.forward is not None and number != signal.SIGINT:  # a terminal tells them itself
            self.forward(number)
        if self.gentle and not again:
            if number == signal.SIGINT:
                print("\nstopping after this step; Ctrl-C again: at once", file=sys.stderr)
            return
        self.end()

    def _handle_in_child(self, number: int) -> None:
        """Do in a loader's process what is done in it by default; Ctrl-C is its parent's."""
        if number == signal.SIGTERM:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif number == signal.SIGINT and not self.gentle:
            raise KeyboardInterrupt

    def end_other_ranks(self) -> None:
        """Kill the ranks that this process has started: one that hangs hears nothing else."""
        if self.forward is not None and sys.platform != "win32":
            self.forward(signal.SIGKILL)

    def end(self) -> None:
        """Raise what ends the command."""
        if self.received == signal.SIGINT:
            raise KeyboardInterrupt
        raise Interrupted


signals = _Signals()


def end_interrupted(end: KeyboardInterrupt | SystemExit) -> NoReturn:
    """End a command that Ctrl-C has cut with a word and its code; any other end goes on.

    Lightning ends with 1 at Ctrl-C in a test, without a word.
    """
    cut = isinstance(end, KeyboardInterrupt) or isinstance(end.__context__, KeyboardInterrupt)
    if not cut or getattr(end, "code", None) == 130:  # which has been told already
        raise end
    print("interrupted", file=sys.stderr, flush=True)
    sys.exit(130)


def take_signals(trainer: Any) -> None:
    """Keep a Lightning trainer from handling signals itself.

    It would end with code 0 and no word, save in the middle of an accumulation, requeue SLURM jobs
    by SIGUSR1, and talk to other ranks from within a handler, which can wait for ever.
    """
    trainer._signal_connector.register_signal_handlers = lambda: None
    launcher = trainer.strategy.launcher
    signals.forward = launcher.kill if launcher is not None else None
