"""Stop signals, noted rather than obeyed at once, so that all ranks stop at the same step.

In: SIGINT, SIGTERM, SIGUSR1. Out: a number that the training loop reduces over the ranks each step.
What always holds: outside `watching()` the process has its usual handlers back.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_WATCHED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class StopRequest:
    """The last stop signal that arrived; 0 for none."""

    def __init__(self) -> None:
        self.signal_number = 0

    def note(self, signal_number: int, frame: FrameType | None) -> None:
        """The handler."""
        self.signal_number = signal_number


@contextmanager
def watching() -> Iterator[StopRequest]:
    """Note stop signals instead of dying of them, until the block ends."""
    request = StopRequest()
    before = {number: signal.signal(number, request.note) for number in _WATCHED}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
