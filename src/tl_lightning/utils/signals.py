"""Signal handling: graceful shutdown of a run at the next consistent state.

SIGTERM (preemption by a scheduler), SIGUSR1 (its warning) and the first Ctrl-C let the current
training step or validation batch finish. Outside of training (decoding, feature extraction, tests)
there is nothing to save, and the command ends immediately. SIGUSR2 is not handled.
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

#: Exit code of a command ended by a signal; for Ctrl-C it is 130.
EXIT_CODE = 143


class Interrupted(SystemExit):
    """Raised to end the command after a signal."""

    def __init__(self) -> None:
        super().__init__(EXIT_CODE)


class _Signals:
    """Signal state of this process.

    Attributes:
        received: The last signal received, or 0.
        gentle: Whether the training loop polls ``received``, so that the handler only records it.
        forward: Sends a signal to the ranks launched by this process, or None.
    """

    def __init__(self) -> None:
        self.received = 0
        self.gentle = False
        self.forward: Callable[[int], None] | None = None
        self.process = 0

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Install the signal handlers inside the context, if in the main thread."""
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
        if self.forward is not None and number != signal.SIGINT:  # the terminal forwards Ctrl-C
            self.forward(number)
        if self.gentle and not again:
            if number == signal.SIGINT:
                print("\nstopping after this step; press Ctrl-C again to stop now", file=sys.stderr)
            return
        self.end()

    def _handle_in_child(self, number: int) -> None:
        """Apply the default action in a DataLoader worker; Ctrl-C is left to the parent."""
        if number == signal.SIGTERM:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif number == signal.SIGINT and not self.gentle:
            raise KeyboardInterrupt

    def end_other_ranks(self) -> None:
        """Kill the ranks launched by this process; a hanging rank ignores other signals."""
        if self.forward is not None and sys.platform != "win32":
            self.forward(signal.SIGKILL)

    def end(self) -> None:
        """Raise the exception that ends the command."""
        if self.received == signal.SIGINT:
            raise KeyboardInterrupt
        raise Interrupted


signals = _Signals()


def end_interrupted(end: KeyboardInterrupt | SystemExit) -> NoReturn:
    """Exit with a message and code 130 after Ctrl-C; re-raise any other exit.

    Lightning exits with code 1 and no message on Ctrl-C during testing.
    """
    ctrl_c = isinstance(end, KeyboardInterrupt) or isinstance(end.__context__, KeyboardInterrupt)
    if not ctrl_c or getattr(end, "code", None) == 130:  # 130: already reported
        raise end
    print("interrupted", file=sys.stderr, flush=True)
    sys.exit(130)


def take_signals(trainer: Any) -> None:
    """Keep a Lightning trainer from handling signals itself.

    It would exit with code 0 and no message, save in the middle of gradient accumulation, requeue
    SLURM jobs on SIGUSR1, and communicate with other ranks inside a handler, which can deadlock.
    """
    trainer._signal_connector.register_signal_handlers = lambda: None
    launcher = trainer.strategy.launcher
    signals.forward = launcher.kill if launcher is not None else None
