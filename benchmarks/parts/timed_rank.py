"""`bertpipe` as a rank that notes how long messages between ranks hold it up, by part of the step.

    python benchmarks/parts/timed_rank.py FILE pretrain RECIPE …

In: a file, a command's arguments, a launcher's variables where there are several ranks. Out: the command's own work,
and in the file a JSON object a step: when it began (of a clock that all processes share) and the seconds held up. What
always holds: counted are the seconds inside a collective, or waiting for one that was begun before, another rank's
lateness included; what passes while this rank computes is not.
"""

import json
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

# This checkout, installed or not; the folder of this file, which Python puts first, is none of its packages.
sys.path[0] = str(Path(__file__).resolve().parents[2])

COLLECTIVES = (
    "all_reduce", "all_gather", "all_gather_into_tensor", "all_to_all_single", "barrier", "broadcast", "reduce",
    "reduce_scatter_tensor",
)  # fmt: skip
OTHERS = "others"


class Clock:
    """Seconds held up since the last step began, by part."""

    def __init__(self) -> None:
        self.parts = [OTHERS]
        self.held_up: Counter[str] = Counter()
        self._depth = 0

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, the time in it counted, and that of waiting for what it returns."""

        def call(*given: Any, **named: Any) -> Any:
            began = time.perf_counter()
            self._depth += 1
            try:
                work = function(*given, **named)
            finally:
                self._depth -= 1
                if not self._depth:  # one calls another
                    self.held_up[self.parts[-1]] += time.perf_counter() - began
            return Waited(work, self.timed) if hasattr(work, "wait") else work

        return call

    def within(self, owner: Any, name: str, part: str) -> None:
        """Count what holds up `owner.name` under `part`."""
        own = getattr(owner, name)

        def noted(*given: Any, **named: Any) -> Any:
            self.parts.append(part)
            try:
                return own(*given, **named)
            finally:
                self.parts.pop()

        setattr(owner, name, noted)


class Waited:
    """A collective under way, the time of waiting for which counts."""

    def __init__(self, work: Any, timed: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        self._work = work
        self.wait = timed(work.wait)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._work, name)


def main() -> None:
    """Run the command."""
    path = sys.argv.pop(1)
    import torch.distributed as dist

    clock = Clock()
    # Before DeepSpeed looks which of them there are.
    for name in COLLECTIVES:
        setattr(dist, name, clock.timed(getattr(dist, name)))
    from pipeline.training.joining import load_deepspeed

    load_deepspeed()
    from pipeline.training import loop
    from pipeline.training.engine import Engine
    from pipeline.training.step import Rounds

    clock.within(Engine, "backward", "gradients")
    clock.within(Engine, "step", "update")
    clock.within(Rounds, "close", "round")
    step = loop.Training._step

    with Path(path).open("w", encoding="utf-8") as file:

        def noted(*given: Any, **named: Any) -> Any:
            clock.held_up.clear()
            began = time.monotonic()
            result = step(*given, **named)
            file.write(json.dumps({"began": began, "held_up": dict(clock.held_up)}) + "\n")
            file.flush()
            return result

        loop.Training._step = noted  # type: ignore[method-assign]
        from pipeline.cli import main as bertpipe

        bertpipe()


if __name__ == "__main__":
    main()
