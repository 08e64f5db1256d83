"""What one worker does: its lanes, step after step, as packed micro-batches.

In: a shard folder, a rank's share of an order plan, how to mask. Out: chunks, each a buffer with a few
consecutive micro-batches of one worker's, the same number of chunks a step from every worker.
What always holds: a chunk is a function of (manifest, plan, share, objective, masking, worker, step) alone; the work
is the same in the trainer's own process and in another. Where pairs are laid as text, the pairs that a lane gives to a
step are one text, so its sequences depend on the lane and the step, not on who reads it; a worker deals the sequences
of its lanes to its micro-batches in order, numbers that differ by one at most.

Example:
    for chunk in assembly.chunks(reader=0): micro_batches = unpack(chunk)
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pipeline.batches.asking import ask, most_asked
from pipeline.batches.block_source import BlockSource
from pipeline.batches.lane import Lane
from pipeline.batches.masking import MaskingConfig, mask_keys
from pipeline.batches.microbatch import BUCKETS, Buckets, even_edges, pack, packed_size
from pipeline.batches.order import WINDOW
from pipeline.batches.sequences import Sequences, blanks, join
from pipeline.batches.share import Share
from pipeline.batches.special_ids import SpecialIds
from pipeline.batches.text import lay_text, most_sequences
from pipeline.corpus.shard_table import ShardTable
from pipeline.errors import RunFailed
from pipeline.objectives import MLM_NSP, Objective

# Tokens that are masked and handed over together: enough that numpy's cost a call is small, few enough to stay
# near a core's caches (512 sequences of 128; a quarter, and twice as many, were slower for micro-batches of 16).
_CHUNK_TOKENS = 1 << 16
# Blocks are asked for so many sequences of a worker's before their window begins: two windows' worth, a tenth of a
# second at full speed, whatever the lanes.
_SEQUENCES_AHEAD = 2 * WINDOW
_LANES_AHEAD = 2


@dataclass(frozen=True, kw_only=True)
class Assembly:
    """All that makes a rank's micro-batches; pickles to a worker.

    folders: the sources' shard folders with their tars, in the plan's order
    sequence_length: of the phase, special tokens included; the manifests promised no longer pairs
    start_step: the first step; stop_step: the first that is not made (None: without end)
    steps: the phase's, over which a masking rate moves
    damage: as `BlockSource` has it
    """

    folders: tuple[tuple[str, ShardTable], ...]
    share: Share
    masking: MaskingConfig
    special: SpecialIds
    sequence_length: int
    objective: Objective = MLM_NSP
    buckets: Buckets = BUCKETS
    start_step: int = 0
    stop_step: int | None = None
    steps: int | None = None
    damage: str = "error"

    @cached_property
    def micro_batches_a_chunk(self) -> int:
        """Micro-batches handed over together."""
        own = self.share.micro_batches // self.share.readers
        return max(1, min(own, _CHUNK_TOKENS // (self.share.micro_batch * self.sequence_length)))

    @property
    def chunks_a_step(self) -> int:
        """Chunks that each worker makes of a step."""
        own = self.share.micro_batches // self.share.readers
        return -(-own // self.micro_batches_a_chunk)

    @property
    def most_sequences(self) -> int:
        """The most sequences that a micro-batch can have."""
        if self.objective.layout == "pair":
            return self.share.micro_batch
        # A little more than micro_batch: a worker's lanes are as many texts, each with a last sequence of its own.
        plan, lanes = self.share.plan, len(self.share.lanes) // self.share.readers
        of_a_step = lanes * most_sequences(plan.per_lane, self.sequence_length, self.sequence_length)
        return max(1, -(-of_a_step // (self.share.micro_batches // self.share.readers)))

    @property
    def largest_chunk(self) -> int:
        """The most bytes that a chunk can have."""
        each = self.most_sequences
        tokens = each * self.sequence_length + self.buckets.tokens
        masked = each * most_asked(self.objective, self.masking, self.sequence_length) + self.buckets.masked
        return self.micro_batches_a_chunk * packed_size(each, tokens, masked)

    def chunks(self, reader: int, source: BlockSource | None = None) -> Iterator[NDArray[np.uint8]]:
        """Worker `reader`'s chunks from `start_step` on.

        Raises RunFailed where a block is missing or damaged (unless such are skipped), or holds longer pairs than
        the manifest says.
        """
        source = source or BlockSource(self.folders, self.damage)
        plan = self.share.plan
        numbers = self.share.lanes_of(reader)
        until = None if self.stop_step is None else self.stop_step * plan.per_lane
        ahead = max(plan.per_lane, _SEQUENCES_AHEAD // len(numbers))
        lanes = [Lane(plan, n, source, self.special, ahead=ahead, until=until) for n in numbers]
        steps = (
            itertools.count(self.start_step)
            if self.stop_step is None
            else range(self.start_step, self.stop_step)
        )
        micro_steps = self.share.micro_steps_of(reader)
        try:
            for step in steps:
                start, stop = step * plan.per_lane, (step + 1) * plan.per_lane
                parts = _parts(lanes, start, stop)
                make = self._pair_chunks if self.objective.layout == "pair" else self._text_chunks
                yield from make(parts, step, micro_steps)
        finally:
            source.close()

    def _pair_chunks(
        self, parts: Iterator[Sequences], step: int, micro_steps: range
    ) -> Iterator[NDArray[np.uint8]]:
        rest: Sequences | None = None
        for these in self._by_chunk(micro_steps):
            sequences, rest = _gather(parts, rest, len(these) * self.share.micro_batch, self.special)
            self._refuse_long(sequences)
            keys = self._sample_keys(sequences)
            yield self._chunk(sequences, keys, even_edges(len(sequences), len(these)), step, these)

    def _text_chunks(
        self, parts: Iterator[Sequences], step: int, micro_steps: range
    ) -> Iterator[NDArray[np.uint8]]:
        pairs = join(list(parts), self.special)
        self._refuse_long(pairs)
        text = lay_text(
            pairs, each=self.share.plan.per_lane, length=self.sequence_length, special=self.special
        )
        sequences, keys, lost = text.sequences, text.keys(self._sample_keys(text.sequences)), text.lost
        if (missing := len(micro_steps) - len(sequences)) > 0:
            sequences = join([sequences, blanks(missing, self.special)], self.special)
            keys = np.concatenate([keys, np.zeros(missing, np.uint64)])
        edges = even_edges(len(sequences), len(micro_steps))
        for these in self._by_chunk(range(len(micro_steps))):
            here = edges[these.start : these.stop + 1]
            first, last = int(here[0]), int(here[-1])
            yield self._chunk(
                sequences.take(first, last), keys[first:last], here - first, step,
                micro_steps[these.start : these.stop], lost,
            )  # fmt: skip
            lost = 0

    def _by_chunk(self, micro_steps: range) -> Iterator[range]:
        for first in range(0, len(micro_steps), self.micro_batches_a_chunk):
            yield micro_steps[first : first + self.micro_batches_a_chunk]

    def _refuse_long(self, pairs: Sequences) -> None:
        longest = int(np.diff(pairs.starts).max())
        if longest > self.sequence_length:
            folders = " or ".join(folder for folder, _ in self.folders)
            raise RunFailed(
                f"{folders} holds a sequence of {longest} tokens, its manifest promises at most "
                f"{self.sequence_length}; run `bertpipe shard` again into an empty folder"
            )

    def _sample_keys(self, sequences: Sequences) -> NDArray[np.uint64]:
        plan, epochs = self.share.plan, self.masking.epoch_of(sequences.epochs)
        return mask_keys(seed=plan.seed, phase=plan.phase, epochs=epochs, samples=sequences.samples)

    def _chunk(
        self,
        sequences: Sequences,
        keys: NDArray[np.uint64],
        edges: NDArray[np.int64],
        step: int,
        micro_steps: range,
        lost: int = 0,
    ) -> NDArray[np.uint8]:
        sequences, masked = ask(
            self.objective,
            sequences,
            keys,
            self.masking,
            self.special,
            sequence_length=self.sequence_length,
            rate=self.masking.rate_at(step, self.steps),
        )
        return pack(
            sequences,
            masked,
            step=step,
            micro_steps=micro_steps,
            pad_id=self.special.pad_id,
            edges=edges,
            lost=lost,
            buckets=self.buckets,
        )


def _parts(lanes: Sequence[Lane], start: int, stop: int) -> Iterator[Sequences]:
    for number, lane in enumerate(lanes):
        # In a first step all lanes begin a window: the next ones' blocks are read while this one's are laid out.
        for later in lanes[number + 1 : number + 1 + _LANES_AHEAD]:
            if not later.covers(start):
                later.prepare(start)
        yield from lane.parts(start, stop)


def _gather(
    parts: Iterator[Sequences], rest: Sequences | None, count: int, special: SpecialIds
) -> tuple[Sequences, Sequences | None]:
    """The next `count` sequences, and what is left of the part that they end in."""
    taken: list[Sequences] = []
    missing = count
    while True:
        part = next(parts) if rest is None else rest
        if len(part) >= missing:
            taken.append(part.take(0, missing))
            return join(taken, special), part.take(missing, len(part)) if len(part) > missing else None
        taken.append(part)
        missing -= len(part)
        rest = None
