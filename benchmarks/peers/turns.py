"""The side of a worker: wait for a turn, report how long it took."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from typing import Any


class Turns:
    """One turn is one line on the standard input, and is answered by one line of JSON.

    What libraries print goes to the standard error, so that it does not mix with the answers.

    Args:
        steps: Number of steps in a turn.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self._answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self._started = self._used = 0.0

    def wait(self) -> None:
        """Wait for the next turn and start its clock; without one, the worker ends."""
        if not sys.stdin.readline():
            sys.stdout.flush()
            os._exit(0)
        self._used, self._started = time.process_time(), time.perf_counter()

    def done(self, loss: float) -> None:
        """Answer with the duration of the turn, the peak memory so far and the last loss.

        The processor time is that of all threads of the process; on an idle machine, that of a
        single thread is the duration.
        """
        seconds = time.perf_counter() - self._started
        processor = time.process_time() - self._used
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # kilobytes on Linux
        answer = {"seconds": seconds, "processor": processor, "peak_mb": peak, "loss": loss}
        print(json.dumps(answer), file=self._answers, flush=True)


class EpochTurns:
    """Each epoch is a turn; for a callback of Lightning, which has two names of its package.

    Args:
        turns: The turns.
    """

    def __init__(self, turns: Turns) -> None:
        self.turns = turns

    def on_train_epoch_start(self, *_: Any) -> None:
        """Wait for the turn."""
        self.turns.wait()

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, *_: Any) -> None:
        """Keep the loss."""
        self.loss = outputs["loss"].detach()

    def on_train_epoch_end(self, *_: Any) -> None:
        """Answer."""
        self.turns.done(float(self.loss))
