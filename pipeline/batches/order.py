"""Who reads what, when: arithmetic on the manifest's counts (pure; no file is opened here).

In: pairs per block in the manifest's order, a seed, a phase, lanes, a global batch. Out: for every lane
and position the sample that stands there; for every rank and worker the lanes that are its own.
What always holds:
- An epoch's blocks, permuted by (seed, phase, epoch), are one sequence of N samples, cut into L lanes of
  n = N // L. Lane position q is offset q % n of epoch q // n; step s takes positions [s·k, (s + 1)·k) of
  every lane, k = global_batch / L. So a step's samples depend on neither ranks, workers nor micro-batches,
  and a position costs the same to find at step 10 and at step 10,000,000.
- In an epoch each sample is seen at most once; the N − L·n < L that sit out differ from epoch to epoch.
- A lane is read by one worker of one rank, so a block is too, apart from the blocks that a cut falls in.

Example:
    plan = OrderPlan(block_pairs=[1024, 1024, 7], seed=1, phase=0, lanes=8, global_batch=64)
    plan.locate(lane=3, start=0, stop=8).sample     # what lane 3 gives to step 0
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pipeline.counter_random import key, permutation
from pipeline.errors import InputError

I64 = NDArray[np.int64]

# Pairs shuffled together: four blocks' worth, 1 MB of a lane at 128 tokens.
WINDOW = 4096
MOST_DEFAULT_LANES = 64

_BLOCKS = int.from_bytes(b"blocks")
_WINDOW = int.from_bytes(b"window")


@dataclass(frozen=True, kw_only=True, eq=False)
class Samples:
    """Samples in the order in which they are read.

    blocks: the manifest's blocks that hold them, each once, in reading order
    slot: for each sample, which of `blocks`
    row: for each sample, its pair inside that block
    sample: for each sample, its number over the whole split; with `epoch` its identity
    epoch: for each sample
    """

    blocks: I64
    slot: I64
    row: I64
    sample: I64
    epoch: I64

    def __len__(self) -> int:
        return len(self.sample)

    @property
    def block(self) -> I64:
        """For each sample, its block's number in the manifest."""
        return self.blocks[self.slot]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Layout:
    """An epoch's sequence: its blocks in order, and the sequence index at which each starts (n + 1)."""

    blocks: I64
    starts: I64


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

    block_pairs: I64 | Sequence[int]
    seed: int
    phase: int
    lanes: int
    global_batch: int
    window: int = WINDOW
    _layouts: dict[int, _Layout] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "block_pairs", np.asarray(self.block_pairs, np.int64))
        for name in ("lanes", "global_batch", "window"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("seed", "phase"):
            if getattr(self, name) < 0:
                raise InputError(f"{name} is {getattr(self, name)}; it must not be negative")
        if self.global_batch % self.lanes:
            raise InputError(
                f"global_batch {self.global_batch} is no multiple of lanes {self.lanes}; "
                f"set lanes={default_lanes(self.global_batch)}"
            )
        if self.samples < self.global_batch:
            raise InputError(
                f"the shards hold {self.samples} pairs, fewer than one global batch of {self.global_batch}; "
                "lower global_batch or shard a larger corpus"
            )

    @cached_property
    def first_samples(self) -> I64:
        """The number of each block's first sample, and of all samples at the end (blocks + 1)."""
        return np.concatenate([[0], np.cumsum(self.block_pairs)]).astype(np.int64)

    @property
    def samples(self) -> int:
        """Samples of an epoch, those that sit out included."""
        return int(self.first_samples[-1])

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
        bases = np.cumsum([0] + [len(window.blocks) for window, _ in parts])
        none = np.zeros(0, np.int64)
        return Samples(
            blocks=np.concatenate([none, *(window.blocks for window, _ in parts)]),
            slot=np.concatenate(
                [none, *(w.slot[s] + base for (w, s), base in zip(parts, bases, strict=False))]
            ),
            row=np.concatenate([none, *(window.row[part] for window, part in parts)]),
            sample=np.concatenate([none, *(window.sample[part] for window, part in parts)]),
            epoch=np.concatenate([none, *(window.epoch[part] for window, part in parts)]),
        )

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
        return self._at(epoch, lane * self.lane_length + offset, shuffle)

    def head(self, count: int, epoch: int = 0, start: int = 0) -> Samples:
        """Samples start … start + count − 1 of an epoch's sequence as it stands, without lanes or windows."""
        return self._at(epoch, start, np.arange(count))

    def sitting_out(self, epoch: int) -> Samples:
        """The samples that no lane gives in `epoch`."""
        return self._at(epoch, self.lanes * self.lane_length, np.arange(self.left_out))

    def _at(self, epoch: int, start: int, shuffle: I64) -> Samples:
        """The samples at sequence indices start + shuffle, `shuffle` being a permutation of a range."""
        layout = self._layout(epoch)
        index = start + shuffle
        low, high = np.searchsorted(
            layout.starts, [start, max(start, start + len(shuffle) - 1)], side="right"
        )
        starts = layout.starts[low - 1 : high]
        blocks = layout.blocks[low - 1 : high]
        slot = np.searchsorted(starts, index, side="right") - 1
        pairs = np.asarray(self.block_pairs)[blocks]
        # A block's rows begin elsewhere each epoch: were it the last one twice, or the only one, others sit out.
        row = (index - starts[slot] + epoch * self.left_out) % pairs[slot]
        sample = self.first_samples[blocks][slot] + row
        return Samples(blocks=blocks, slot=slot, row=row, sample=sample, epoch=np.full(len(index), epoch))

    def _layout(self, epoch: int) -> _Layout:
        layout = self._layouts.get(epoch)
        if layout is None:
            pairs = np.asarray(self.block_pairs)
            blocks = permutation(key(_BLOCKS, self.seed, self.phase, epoch), len(pairs))
            starts = np.concatenate([[0], np.cumsum(pairs[blocks])]).astype(np.int64)
            layout = _Layout(blocks=blocks, starts=starts)
            # Two epochs meet in one step at most, and a million shards make a layout of 100 MB.
            while len(self._layouts) > 1:
                del self._layouts[next(iter(self._layouts))]
            self._layouts[epoch] = layout
        return layout


def default_lanes(global_batch: int) -> int:
    """The largest divisor of the global batch up to 64."""
    return max(lanes for lanes in range(1, MOST_DEFAULT_LANES + 1) if global_batch % lanes == 0)


@dataclass(frozen=True, kw_only=True)
class Share:
    """What one rank computes of every step of a plan, and which of its workers reads what.

    rank, world_size: this rank, of how many
    micro_batch: sequences it computes at once
    workers: asked for; `readers` is how many there can be

    Raises InputError where ranks or micro-batches don't divide the plan.
    """

    plan: OrderPlan
    rank: int
    world_size: int
    micro_batch: int
    workers: int = 0

    def __post_init__(self) -> None:
        lanes, batch = self.plan.lanes, self.plan.global_batch
        if self.micro_batch < 1 or self.workers < 0:
            raise InputError(
                f"micro_batch is {self.micro_batch} and workers is {self.workers}; "
                "they must be at least 1 and at least 0"
            )
        if not 0 <= self.rank < self.world_size:
            raise InputError(
                f"rank {self.rank} doesn't exist in a world of {self.world_size}; ranks begin at 0"
            )
        if lanes % self.world_size:
            fits = [ranks for ranks in _divisors(lanes) if ranks < self.world_size]
            raise InputError(
                f"{self.world_size} ranks don't divide the plan's {lanes} lanes; "
                f"use {fits[-1]} ranks, or set lanes to a multiple of {self.world_size} that divides {batch}"
            )
        if batch % (self.world_size * self.micro_batch):
            a_rank = batch // self.world_size
            fits = [size for size in _divisors(a_rank) if size < self.micro_batch]
            remedy = f"set micro_batch={fits[-1]}" if fits else "raise global_batch"
            raise InputError(
                f"micro_batch {self.micro_batch} doesn't divide the {a_rank} sequences that each of "
                f"{self.world_size} ranks takes of a global batch of {batch}; {remedy}"
            )

    @property
    def micro_batches(self) -> int:
        """Micro-batches a step on this rank; the same on every rank."""
        return self.plan.global_batch // (self.world_size * self.micro_batch)

    @property
    def lanes(self) -> range:
        """The lanes that this rank reads."""
        count = self.plan.lanes // self.world_size
        return range(self.rank * count, (self.rank + 1) * count)

    @property
    def readers(self) -> int:
        """The most workers, up to those asked, that own whole lanes and whole micro-batches; at least 1."""
        most = min(max(1, self.workers), len(self.lanes), self.micro_batches)
        return max(n for n in range(1, most + 1) if self.micro_batches % n == 0 == len(self.lanes) % n)

    def lanes_of(self, reader: int) -> range:
        """The lanes of worker `reader`, which makes micro-batches reader, reader + readers, … of each step.

        Those hold samples of these lanes only: micro-batches dealt over all lanes would have every worker
        read every block.
        """
        count = len(self.lanes) // self.readers
        return self.lanes[reader * count : (reader + 1) * count]

    def micro_steps_of(self, reader: int) -> range:
        """The micro-batches of a step that worker `reader` makes."""
        return range(reader, self.micro_batches, self.readers)


def _divisors(number: int) -> Iterator[int]:
    return (size for size in range(1, number + 1) if number % size == 0)
