"""One lane of the order, read a window at a time.

In: an order plan, a lane's number, where blocks come from. Out: `Sequences` for any positions of the lane.
What always holds: a lane reads its blocks in order, each once an epoch, and keeps one window (4,096
sequences: 1 MB at 128 tokens of two bytes) and one block.

Example:
    lane = Lane(plan, 3, BlockSource("SHARDS", manifest.of_split("train")), special)
    for part in lane.parts(start=0, stop=64): ...
"""

from collections.abc import Iterator

from pipeline.batches.block_source import BlockSource
from pipeline.batches.order import OrderPlan
from pipeline.batches.sequences import Sequences, lay_out
from pipeline.batches.special_ids import SpecialIds
from pipeline.corpus.shards import Block


class Lane:
    """One lane's sequences, in order; remembers the window it stands in."""

    def __init__(self, plan: OrderPlan, lane: int, source: BlockSource, special: SpecialIds) -> None:
        self._plan = plan
        self._lane = lane
        self._source = source
        self._special = special
        self._bounds = (0, 0)
        self._window: Sequences | None = None
        # A window mostly ends inside a block, in which the next one begins.
        self._last: tuple[int, Block] | None = None

    def parts(self, start: int, stop: int) -> Iterator[Sequences]:
        """The sequences at positions start … stop − 1, in parts that end where windows do."""
        while start < stop:
            window = self._window_at(start)
            first, last = self._bounds
            end = min(stop, last)
            yield window.take(start - first, end - first)
            start = end

    def _window_at(self, position: int) -> Sequences:
        if self._window is None or not self._bounds[0] <= position < self._bounds[1]:
            self._window = None  # before its successor takes the same memory again
            samples = self._plan.window_samples(self._lane, position)
            blocks = [self._block(int(number)) for number in samples.blocks]
            self._window = lay_out(blocks, samples, self._special)
            self._last = (int(samples.blocks[-1]), blocks[-1])
            self._bounds = self._plan.window_bounds(self._lane, position)
        return self._window

    def _block(self, number: int) -> Block:
        if self._last is not None and self._last[0] == number:
            return self._last[1]
        return self._source.read(number)
