"""Signs of life: what each rank is doing, readable from other terminals and nodes while it does it.

In: a rank's place, and a word each time it takes up other work. Out: `RUN/ranks/rank-00003.json`, rewritten every ten
seconds, gone when the rank has ended in order. What always holds: a reader sees a whole file; a disk that refuses
costs the sign, never the training; however many ranks there are, the disk sees fewer than fifty writes a second.

Example:
    with beating(Path("RUNS/base"), world) as pulse:
        pulse.at(120, "evaluating")
"""

import json
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pipeline.process_identity import is_alive, this_process
from pipeline.training.world import World

RANKS = "ranks"
_SECONDS_BETWEEN_BEATS = 10.0
_WRITES_A_SECOND = 50
# Beats that may be missing before a rank that cannot be asked counts as dead, and what clocks may differ by.
_MISSING = 3
_SECONDS_OF_SKEW = 10.0


class Pulse:
    """Takes what a rank is doing."""

    def __init__(self) -> None:
        self.step, self.doing, self.since = 0, "starting", time.time()
        self.news = threading.Event()

    def at(self, step: int, doing: str) -> None:
        """`step` steps are done, and the rank now is `doing`: "training", "evaluating", "saving"."""
        changed = doing != self.doing
        self.step, self.doing, self.since = step, doing, time.time()
        if changed:
            self.news.set()


def seconds_between_beats(ranks: int) -> float:
    """How often each of so many ranks gives a sign."""
    return max(_SECONDS_BETWEEN_BEATS, ranks / _WRITES_A_SECOND)


@contextmanager
def beating(run: Path, world: World, *, every: float | None = None) -> Iterator[Pulse]:
    """Give signs of life until the block ends.

    every: seconds between two (default: by the number of ranks)
    """
    pulse = Pulse()
    path = run / RANKS / f"rank-{world.rank:05d}.json"
    pause = every or seconds_between_beats(world.size)
    fixed = this_process() | {"rank": world.rank, "ranks": world.size, "every": pause}
    ended = threading.Event()

    # Other work is told within a second, but where so many ranks would tell it at once.
    soon = min(1.0, pause) if pause <= _SECONDS_BETWEEN_BEATS else pause

    def beat() -> None:
        while True:
            pulse.news.clear()
            _write(path, fixed | {"step": pulse.step, "doing": pulse.doing, "since": pulse.since})
            if ended.wait(soon):
                return
            pulse.news.wait(pause - soon)

    thread = threading.Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield pulse
    finally:
        ended.set()
        pulse.news.set()
        thread.join()
        with suppress(OSError):
            path.unlink()


def _write(path: Path, record: Mapping[str, Any]) -> None:
    temporary = path.with_suffix(".tmp")
    with suppress(OSError):
        path.parent.mkdir(exist_ok=True)
        temporary.write_text(json.dumps({**record, "time": time.time()}))
        os.replace(temporary, path)


def clear(run: Path) -> None:
    """Forget the ranks of an earlier start; called by the folder's owner before any rank of this one beats."""
    for path in (run / RANKS).glob("rank-*"):
        with suppress(OSError):
            path.unlink()


def read_ranks(run: Path) -> list[dict[str, Any]]:
    """What each rank said last, by rank, with `alive` and, in seconds, its `age`; what is no sign is passed over."""
    found = []
    for path in sorted((run / RANKS).glob("rank-*.json")):
        try:
            record = json.loads(path.read_text())
            age = time.time() - float(record["time"])
            by_clock = age < _MISSING * float(record["every"]) + _SECONDS_OF_SKEW
            sure = is_alive(record)
            kept = {"rank": int(record["rank"]), "step": int(record["step"]), "doing": str(record["doing"])}
            kept |= {"host": str(record["host"]), "pid": record["pid"], "since": float(record["since"])}
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            continue
        found.append(kept | {"age": round(max(0.0, age), 1), "alive": by_clock if sure is None else sure})
    return found
