"""Blocks of pairs → sequences ready to mask, a window of a lane at a time.

In: a shard folder's tars and a lane's order. Out: `Sequences`, [CLS] A [SEP] B [SEP] laid end to end.
What always holds: a lane reads its blocks in order, each once an epoch, and keeps one window (4,096
sequences: 1 MB at 128 tokens of two bytes) and one block; at most eight tars are open.

Example:
    lane = Lane(plan, 3, BlockSource("SHARDS", manifest.of_split("train")), special)
    for part in lane.parts(start=0, stop=64): ...
"""

import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from pipeline import storage
from pipeline.batches.order import OrderPlan, Samples
from pipeline.batches.special_ids import SpecialIds
from pipeline.corpus.shards import Block, ShardInfo, read_block_from
from pipeline.errors import RunFailed
from pipeline.progress import say

SPECIALS_A_PAIR = 3
# The label of a pair that has none; PyTorch's cross-entropy passes over it.
IGNORED = -100
_OPEN_TARS = 8
# A network's file system that is away for a moment is waited for; what will not change is not.
_SECONDS_BEFORE_TRYING_AGAIN = (0.5, 2.0, 8.0)
_LASTING = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)


@dataclass(frozen=True, kw_only=True, eq=False)
class Sequences:
    """Sequences [CLS] A [SEP] B [SEP], laid end to end, in the order in which they are trained on.

    tokens: ids as narrow as the shards hold them (T)
    starts: int64 (B + 1), where each begins, and the end of the last
    a_ends: int32 (B), tokens of [CLS] A [SEP]: where segment B begins inside its sequence
    next_labels: int8 (B), 1 where B is a random next, IGNORED where the pair is lost
    samples, epochs: int64 (B), each sequence's identity
    """

    tokens: NDArray[Any]
    starts: NDArray[np.int64]
    a_ends: NDArray[np.int32]
    next_labels: NDArray[np.int8]
    samples: NDArray[np.int64]
    epochs: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.a_ends)

    def take(self, first: int, last: int) -> "Sequences":
        """Sequences first … last − 1, copying no token."""
        begin, end = self.starts[first], self.starts[last]
        return Sequences(
            tokens=self.tokens[begin:end],
            starts=self.starts[first : last + 1] - begin,
            a_ends=self.a_ends[first:last],
            next_labels=self.next_labels[first:last],
            samples=self.samples[first:last],
            epochs=self.epochs[first:last],
        )


def join(parts: Sequence[Sequences]) -> Sequences:
    """The sequences of several parts, in order."""
    if len(parts) == 1:
        return parts[0]
    ends = np.cumsum([0] + [len(part.tokens) for part in parts])
    starts = [part.starts[1:] + end for part, end in zip(parts, ends, strict=False)]
    return Sequences(
        tokens=np.concatenate([part.tokens for part in parts]),
        starts=np.concatenate([ends[:1], *starts]),
        a_ends=np.concatenate([part.a_ends for part in parts]),
        next_labels=np.concatenate([part.next_labels for part in parts]),
        samples=np.concatenate([part.samples for part in parts]),
        epochs=np.concatenate([part.epochs for part in parts]),
    )


def _lost(pairs: int) -> Block:
    """What stands for a block that could not be read: as many pairs, of no tokens."""
    return Block(
        tokens=np.zeros(0, np.uint16),
        offsets=np.zeros(pairs + 1, np.int64),
        a_lengths=np.zeros(pairs, np.uint16),
        random_next=np.zeros(pairs, np.bool_),
        document_a=np.zeros(pairs, np.uint64),
        document_b=np.zeros(pairs, np.uint64),
    )


def lay_out(blocks: Sequence[Block], samples: Samples, special: SpecialIds) -> Sequences:
    """The sequences of `samples`, whose `slot` counts in `blocks`."""
    lengths = np.concatenate([block.lengths for block in blocks])
    begins = np.cumsum(lengths) - lengths
    pair = np.cumsum([0] + [len(block) for block in blocks])[samples.slot] + samples.row
    # One token to spare: where all blocks are lost there is none to take from.
    tokens = np.concatenate([*(block.tokens for block in blocks), np.zeros(1, blocks[0].tokens.dtype)])
    a_lengths = np.concatenate([block.a_lengths for block in blocks])[pair].astype(np.int64)
    starts = np.concatenate([[0], np.cumsum(lengths[pair] + SPECIALS_A_PAIR)])
    # Each output place takes the token at its own index plus a shift, one shift for [CLS] A [SEP] and one for
    # B [SEP]; the places of special tokens take a neighbour's (`clip` for the very first and last) and are
    # then overwritten.
    shifts = np.repeat(begins[pair] - starts[:-1] - 1, 2)
    shifts[1::2] -= 1
    runs = np.empty(2 * len(pair), np.int64)
    runs[0::2] = a_lengths + 2
    runs[1::2] = np.diff(starts) - runs[0::2]
    places = np.repeat(shifts, runs)
    places += np.arange(len(places))
    laid = tokens.take(places, mode="clip")
    if special.size - 1 > np.iinfo(laid.dtype).max:
        laid = laid.astype(np.uint32)
    a_ends = runs[0::2]
    laid[starts[:-1]] = special.cls_id
    laid[starts[:-1] + a_ends - 1] = special.sep_id
    laid[starts[1:] - 1] = special.sep_id
    next_labels = np.concatenate([block.random_next for block in blocks])[pair].astype(np.int8)
    next_labels[lengths[pair] == 0] = IGNORED  # lost
    return Sequences(
        tokens=laid,
        starts=starts,
        a_ends=a_ends.astype(np.int32),
        next_labels=next_labels,
        samples=samples.sample,
        epochs=samples.epoch,
    )


class BlockSource:
    """The blocks of a list of tars, numbered over all of them in order.

    damage: `error`, or `skip`: a block that cannot be read is said aloud, and its pairs are empty ones
    """

    def __init__(self, folder: str, shards: Sequence[ShardInfo], damage: str = "error") -> None:
        self._folder = folder
        self._damage = damage
        self._lost: set[int] = set()
        self._shards = tuple(shards)
        counts = [len(shard.block_pairs) for shard in self._shards]
        self._first_blocks = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        self._open: OrderedDict[int, IO[bytes]] = OrderedDict()

    def read(self, number: int) -> Block:
        """Block `number`, its bytes checked against the manifest.

        Raises RunFailed naming file and offset where it is missing or damaged, unless such are skipped.
        """
        index = int(np.searchsorted(self._first_blocks, number, side="right")) - 1
        shard, block = self._shards[index], number - int(self._first_blocks[index])
        try:
            return self._read(index, block)
        except RunFailed as error:
            if self._damage != "skip":
                raise
            pairs = shard.block_pairs[block]
            if number not in self._lost:
                self._lost.add(number)
                say(f"warning: {error}. Its {pairs} pairs are left out (loader.damage is skip)")
            return _lost(pairs)

    def _read(self, index: int, block: int) -> Block:
        shard = self._shards[index]
        path = storage.join(self._folder, shard.name)
        for wait in (*_SECONDS_BEFORE_TRYING_AGAIN, None):
            try:
                return read_block_from(self._tar(index, path), path, shard, block)
            except OSError as error:
                reason = error.strerror or error
                if wait is None or isinstance(error, _LASTING):
                    raise RunFailed(f"cannot read {path}: {reason}; restore it from its source") from error
                # A handle that has failed once is often stale.
                if index in self._open:
                    self._open.pop(index).close()
                say(f"warning: cannot read {path}: {reason}; trying again in {wait:g} s")
                time.sleep(wait)
        raise AssertionError("the last attempt returns or raises")

    def _tar(self, index: int, path: str) -> IO[bytes]:
        if index in self._open:
            self._open.move_to_end(index)
        else:
            if len(self._open) == _OPEN_TARS:
                self._open.popitem(last=False)[1].close()
            self._open[index] = storage.open_read(path)
        return self._open[index]

    def close(self) -> None:
        """Close the tars."""
        while self._open:
            self._open.popitem()[1].close()


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
