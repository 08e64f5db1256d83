"""Who reads what, when: arithmetic on the manifest's counts (pure; no file is opened here).

In: pairs per block in the manifest's order, a seed, a phase, lanes, a global batch. Out: for every lane
and position the sample that stands there.
What always holds:
- Of N samples, N mod L sit out an epoch, the next ones in turn each time, so that all sit out equally often.
- An epoch's blocks, permuted by (seed, phase, epoch), are one sequence, cut into L lanes of n = N // L. Lane
  position q is offset q % n of epoch q // n; step s takes positions [s·k, (s + 1)·k) of every lane,
  k = global_batch / L. So a step's samples depend on neither ranks, workers nor micro-batches, and a position
  costs the same to find at step 10 and at step 10,000,000.
- In an epoch each sample is seen at most once.
- A lane meets a block that no other lane meets, apart from the blocks that a cut falls in.
- A window's samples are shuffled, then dealt by the stratum of length that their rows stand for (`dealing`; the
  shards' rows are laid so): what a step takes of a lane, of a rank's lanes or of all has nearly its share of tokens.

Example:
    plan = OrderPlan(block_pairs=[1024, 1024, 7], seed=1, phase=0, lanes=8, global_batch=64)
    plan.locate(lane=3, start=0, stop=8).sample     # what lane 3 gives to step 0
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.batches.samples import Samples, joined
from pipeline.counter_random import key, permutation
from pipeline.dealing import deal, stratum_of
from pipeline.errors import InputError

I64 = NDArray[np.int64]

# Pairs shuffled together: four blocks' worth, 1 MB of a lane at 128 tokens.
WINDOW = 4096
# Blocks of a source whose epochs' layouts are small enough to keep several.
_SMALL = 1 << 14
MOST_DEFAULT_LANES = 64

_BLOCKS = int.from_bytes(b"blocks")
_WINDOW = int.from_bytes(b"window")
_OUT = int.from_bytes(b"out")


@dataclass(frozen=True, kw_only=True, eq=False)
class _Layout:
    """An epoch's sequence.

    blocks: in order
    starts: the sequence index at which each begins, and the end (blocks + 1)
    out: ranges [first, last) of samples that sit out, ascending: two where the turn passes the end
    """

    blocks: NDArray[np.int32]
    starts: I64
    out: tuple[tuple[int, int], tuple[int, int]]


@dataclass(frozen=True, kw_only=True, eq=False)
class OrderPlan:
    """The order of one phase.

    block_pairs: pairs of every block of the split, in the manifest's order
    seed: of the run
    phase: the recipe's phase, from 0
    lanes: runs that an epoch is cut into; the world size divides it
    global_batch: sequences a step, over all ranks; a multiple of `lanes`
    window: samples of a lane that are shuffled together

    Raises InputError where the numbers don't fit one another.
    """

    block_pairs: NDArray[np.integer] | Sequence[int]
    seed: int
    phase: int
    lanes: int
    global_batch: int
    window: int = WINDOW
    _layouts: dict[int, _Layout] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        # An array keeps its type: of nine million blocks (a million shards) uint16 are 18 MB, int64 72.
        if not isinstance(self.block_pairs, np.ndarray):
            object.__setattr__(self, "block_pairs", np.asarray(self.block_pairs, np.int64))
        for name in ("lanes", "global_batch", "window"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("seed", "phase"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} is {getattr(self, name)}; it must not be negative")
        check_batch(self.global_batch, self.lanes, self.samples)

    def __getstate__(self) -> dict[str, Any]:
        # What a plan has worked out is 200 MB for a million shards, and costs two seconds to work out again.
        return {name: value for name, value in self.__dict__.items() if name != "first_samples"} | {
            "_layouts": {}
        }

    @cached_property
    def first_samples(self) -> I64:
        """The number of each block's first sample, and of all samples at the end (blocks + 1)."""
        return _running(self.block_pairs)

    @cached_property
    def samples(self) -> int:
        """Samples of an epoch, those that sit out included."""
        return int(np.sum(self.block_pairs, dtype=np.int64))

    @property
    def lane_length(self) -> int:
        """Samples that a lane gives in an epoch."""
        return self.samples // self.lanes

    @property
    def per_lane(self) -> int:
        """Samples that a step takes of each lane."""
        return self.global_batch // self.lanes

    @property
    def left_out(self) -> int:
        """Samples that sit out each epoch: fewer than `lanes`."""
        return self.samples - self.lanes * self.lane_length

    def epochs_done(self, step: int) -> float:
        """Epochs trained on before `step`."""
        return step * self.per_lane / self.lane_length

    def locate(self, lane: int, start: int, stop: int) -> Samples:
        """The samples at positions start … stop − 1 of a lane, over windows and epochs alike."""
        parts = []
        position = start
        while position < stop:
            first, last = self.window_bounds(lane, position)
            window = self.window_samples(lane, position)
            parts.append((window, slice(position - first, min(stop, last) - first)))
            position = last
        return joined([window.take(np.arange(part.start, part.stop)) for window, part in parts])

    def as_it_lies(self, lane: int, start: int, stop: int) -> Samples:
        """The samples at positions start … stop − 1 of a lane's sequence before its windows are shuffled."""
        parts = []
        while start < stop:
            epoch, offset = divmod(start, self.lane_length)
            count = min(stop - start, self.lane_length - offset)
            parts.append(self._at(epoch, lane * self.lane_length + offset, np.arange(count)))
            start += count
        return joined(parts)

    def window_bounds(self, lane: int, position: int) -> tuple[int, int]:
        """The positions (first, last + 1) of the window that holds a lane's `position`."""
        epoch, offset = divmod(position, self.lane_length)
        index, stagger = self._window_index(lane, offset)
        first = max(0, index * self.window - stagger)
        last = min(self.lane_length, (index + 1) * self.window - stagger)
        return epoch * self.lane_length + first, epoch * self.lane_length + last

    def _window_index(self, lane: int, offset: int) -> tuple[int, int]:
        # All lanes stand at the same offset. Were their windows cut at the same offsets too, all would read
        # their next blocks in the same step and the accelerator would wait: so the cuts are spread evenly.
        stagger = lane * self.window // self.lanes if self.lane_length > self.window else 0
        return (offset + stagger) // self.window, stagger

    def window_samples(self, lane: int, position: int) -> Samples:
        """All samples of the window that holds a lane's `position`, in reading order."""
        first, last = self.window_bounds(lane, position)
        epoch, offset = divmod(first, self.lane_length)
        index, _ = self._window_index(lane, offset)
        shuffle = permutation(key(_WINDOW, self.seed, self.phase, epoch, lane, index), last - first)
        samples = self._at(epoch, lane * self.lane_length + offset, shuffle)
        # Lanes are dealt one after the other, so that those of a rank continue one another in a step.
        return samples.take(deal(stratum_of(samples.row), first + lane * self.per_lane))

    def head(self, count: int, epoch: int = 0, start: int = 0) -> Samples:
        """Samples start … start + count − 1 of an epoch's sequence as it stands, without lanes or windows."""
        return self._at(epoch, start, np.arange(count))

    def sitting_out(self, epoch: int) -> I64:
        """The samples that no lane gives in `epoch`."""
        return np.concatenate([np.arange(first, last) for first, last in self._out(epoch)])

    def _out(self, epoch: int) -> tuple[tuple[int, int], tuple[int, int]]:
        first = (key(_OUT, self.seed, self.phase) + epoch * self.left_out) % self.samples
        last = first + self.left_out
        return (0, max(0, last - self.samples)), (first, min(last, self.samples))

    def _at(self, epoch: int, start: int, shuffle: I64) -> Samples:
        """The samples at sequence indices start + shuffle, `shuffle` being a permutation of a range."""
        layout = self._layout(epoch)
        index = start + shuffle
        low, high = np.searchsorted(layout.starts, [start, start + len(shuffle) - 1], side="right")
        starts, blocks = layout.starts[low - 1 : high], layout.blocks[low - 1 : high].astype(np.int64)
        slot = np.searchsorted(starts, index, side="right") - 1
        firsts, ends = self.first_samples[blocks], self.first_samples[blocks + 1]
        sample = index + (firsts - starts)[slot]
        for out in layout.out:
            # Those behind a gap in their block move up by its width.
            gap, width = np.maximum(firsts, out[0]), _overlap(firsts, ends, out)
            sample += np.where(sample >= gap[slot], width[slot], 0)
        return Samples(
            blocks=blocks,
            slot=slot,
            row=sample - firsts[slot],
            sample=sample,
            epoch=np.full(len(index), epoch),
            unfinished=blocks[-1:],
        )

    def _blocks_of(self, first: int, last: int) -> slice:
        """The blocks that hold the samples first … last − 1."""
        if first == last:
            return slice(0, 0)
        low, high = np.searchsorted(self.first_samples, [first, last - 1], side="right")
        return slice(int(low) - 1, int(high))

    def _layout(self, epoch: int) -> _Layout:
        layout = self._layouts.get(epoch)
        if layout is None:
            out, pairs = self._out(epoch), np.array(self.block_pairs)
            for gap in out:
                touched = self._blocks_of(*gap)
                firsts, ends = self.first_samples[:-1][touched], self.first_samples[1:][touched]
                pairs[touched] -= _overlap(firsts, ends, gap).astype(pairs.dtype)
            blocks = permutation(key(_BLOCKS, self.seed, self.phase, epoch), len(pairs))
            layout = _Layout(blocks=blocks.astype(np.int32), starts=_running(pairs[blocks]), out=out)
            # Two epochs meet in a step, and a million shards make a layout of 100 MB; in a mixture a small source
            # comes round several times.
            while len(self._layouts) >= (2 if len(pairs) > _SMALL else 16):
                del self._layouts[next(iter(self._layouts))]
            self._layouts[epoch] = layout
        return layout


def _running(counts: NDArray[np.integer] | Sequence[int]) -> I64:
    """0 and the sums up to each of `counts` (len + 1)."""
    sums = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, dtype=np.int64, out=sums[1:])
    return sums


def _overlap(firsts: I64, ends: I64, interval: tuple[int, int]) -> I64:
    """How many numbers of each range [first, end) lie in `interval`."""
    return np.maximum(0, np.minimum(ends, interval[1]) - np.maximum(firsts, interval[0]))


def check_batch(global_batch: int, lanes: int, samples: int) -> None:
    """Raise InputError where a global batch is no multiple of the lanes, or more than there are samples."""
    if global_batch % lanes:
        raise InputError(
            f"global_batch {global_batch} is no multiple of lanes {lanes}; "
            f"set lanes={default_lanes(global_batch)}"
        )
    if samples < global_batch:
        raise InputError(
            f"the shards hold {samples} pairs, fewer than one global batch of {global_batch}; "
            "lower global_batch or shard a larger corpus"
        )


def default_lanes(global_batch: int) -> int:
    """The largest divisor of the global batch up to 64."""
    return max(lanes for lanes in range(1, MOST_DEFAULT_LANES + 1) if global_batch % lanes == 0)
