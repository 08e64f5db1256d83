"""The line that a person watches while a run trains.

In: a step's metrics. Out: standard error: one line redrawn on a terminal, a plain line now and then when
piped. What always holds: rank 0 alone draws; nobody needs to look.
"""

import sys
import time
from collections.abc import Sequence
from typing import Any

from pipeline.progress import duration, write

_SECONDS_BETWEEN_LINES = 10.0
_SECONDS_BETWEEN_DRAWS = 0.2


class TrainingDisplay:
    """Draws steps of a run of `total` steps, of which `done` are behind.

    tasks: those that metrics have losses and accuracies of
    """

    def __init__(self, *, total: int, done: int, shown: bool, tasks: Sequence[str]) -> None:
        self._total, self._first, self._shown, self._tasks = total, done, shown, tasks
        self._terminal = sys.stderr.isatty()
        self._started = time.monotonic()
        self._drawn = 0.0

    def step(self, metrics: dict[str, Any]) -> None:
        """Show a step, unless the last one has only just been shown."""
        if not self._shown:
            return
        now = time.monotonic()
        pause = _SECONDS_BETWEEN_DRAWS if self._terminal else _SECONDS_BETWEEN_LINES
        evaluated = any(name.startswith("held_out") for name in metrics)
        if now - self._drawn < pause and not evaluated and metrics["step"] != self._total:
            return
        self._drawn = now
        step = metrics["step"]
        left = (now - self._started) / (step - self._first) * (self._total - step)
        losses = ", ".join(f"{task} {metrics[f'{task}_loss']:.3f}" for task in self._tasks)
        accuracies = ", ".join(f"{task} {metrics[f'{task}_accuracy']:.1%}" for task in self._tasks)
        line = (
            f"step {step}/{self._total}  loss {metrics['loss']:.3f} ({losses})  accuracy {accuracies}  "
            f"{metrics['sequences_per_second']:.0f} sequences/s  {metrics['tokens_per_second']:,.0f} tokens/s  "
            f"{duration(left)} left"
        )
        write(f"\r\x1b[2K{line}" if self._terminal else f"{line}\n")
        if evaluated:
            figures = "; ".join(
                f"{task} loss {metrics[f'held_out_{task}_loss']:.4f}, "
                f"accuracy {metrics[f'held_out_{task}_accuracy']:.1%}"
                for task in self._tasks
            )
            self.say(f"step {step}  held-out {figures}")

    def say(self, line: str) -> None:
        """A line that stays."""
        if self._shown:
            write(("\r\x1b[2K" if self._terminal else "") + f"{line}\n")
