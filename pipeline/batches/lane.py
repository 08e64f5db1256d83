"""One lane of the order, read a window at a time.

In: an order plan, a lane's number, where blocks come from. Out: `Sequences` for any positions of the lane.
What always holds: a lane reads its blocks in order, each once an epoch, and keeps one window (4,096
sequences: 1 MB at 128 tokens of two bytes), one block, and near the window's end the next one's blocks.

Example:
    lane = Lane(plan, 3, BlockSource([("SHARDS", manifest.of_split("train"))]), special)
    for part in lane.parts(start=0, stop=64): ...
"""

from collections.abc import Iterator

from pipeline.batches.block_source import BlockSource
from pipeline.batches.mixture import Order
from pipeline.batches.samples import NO_SAMPLES, Samples
from pipeline.batches.sequences import Sequences, lay_out
from pipeline.batches.special_ids import SpecialIds
from pipeline.corpus.shards import Block


class Lane:
    """One lane's sequences, in order; remembers the window it stands in.

    ahead: positions before a window's end at which the next one's blocks are asked for
    until: the first position that is never asked for (None: without end)
    """

    def __init__(
        self,
        plan: Order,
        lane: int,
        source: BlockSource,
        special: SpecialIds,
        *,
        ahead: int = 0,
        until: int | None = None,
    ) -> None:
        self._plan = plan
        self._lane = lane
        self._source = source
        self._special = special
        self._ahead = ahead
        self._until = until
        self._bounds = (0, 0)
        self._window: Sequences | None = None
        self._coming: tuple[tuple[int, int], Samples] = ((0, 0), NO_SAMPLES)
        # A window mostly ends inside a block, in which the next one begins.
        self._held: dict[int, Block] = {}

    def parts(self, start: int, stop: int) -> Iterator[Sequences]:
        """The sequences at positions start … stop − 1, in parts that end where windows do."""
        while start < stop:
            window = self._window_at(start)
            first, last = self._bounds
            end = min(stop, last)
            if last - end <= self._ahead and (self._until is None or last < self._until):
                self.prepare(last)
            yield window.take(start - first, end - first)
            start = end

    def covers(self, position: int) -> bool:
        """Whether the present window holds `position`."""
        return self._bounds[0] <= position < self._bounds[1]

    def prepare(self, position: int) -> None:
        """Begin to read what the window at `position` needs, where that is not the present one."""
        first, last = self._coming[0]
        if first <= position < last or self.covers(position):
            return
        samples = self._plan.window_samples(self._lane, position)
        self._source.request(number for number in samples.blocks.tolist() if number not in self._held)
        self._coming = self._plan.window_bounds(self._lane, position), samples

    def _window_at(self, position: int) -> Sequences:
        if self._window is None or not self.covers(position):
            self.prepare(position)
            self._window = None  # before its successor takes the same memory again
            (self._bounds, samples), self._coming = self._coming, ((0, 0), NO_SAMPLES)
            numbers = samples.blocks.tolist()
            held = self._held
            blocks = [held[each] if each in held else self._source.read(each) for each in numbers]
            self._window = lay_out(blocks, samples, self._special)
            self._held = {number: blocks[numbers.index(number)] for number in samples.unfinished.tolist()}
        return self._window
