"""What one worker does: its lanes, step after step, as packed micro-batches.

In: a shard folder, a rank's share of an order plan, how to mask. Out: chunks, each a buffer with a few
consecutive micro-batches of one worker's, the same number of chunks a step from every worker.
What always holds: a chunk is a function of (manifest, plan, share, masking, worker, step) alone; the work is the same
in the trainer's own process and in another.

Example:
    for chunk in assembly.chunks(reader=0): micro_batches = unpack(chunk)
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pipeline.batches.block_source import BlockSource
from pipeline.batches.lane import Lane
from pipeline.batches.masking import MaskingConfig, mask_keys, mask_tokens
from pipeline.batches.microbatch import BUCKETS, Buckets, pack, packed_size
from pipeline.batches.sequences import Sequences, join
from pipeline.batches.share import Share
from pipeline.batches.special_ids import SpecialIds
from pipeline.corpus.shards import ShardInfo
from pipeline.errors import RunFailed

# Tokens that are masked and handed over together: enough that numpy's cost a call is small, few enough to stay
# near a core's caches (512 sequences of 128; a quarter, and twice as many, were slower for micro-batches of 16).
_CHUNK_TOKENS = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Assembly:
    """All that makes a rank's micro-batches; pickles to a worker.

    sequence_length: of the phase, special tokens included; the manifest promised no longer pairs
    start_step: the first step; stop_step: the first that is not made (None: without end)
    steps: the phase's, over which a masking rate moves
    damage: as `BlockSource` has it
    """

    folder: str
    shards: tuple[ShardInfo, ...]
    share: Share
    masking: MaskingConfig
    special: SpecialIds
    sequence_length: int
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
    def largest_chunk(self) -> int:
        """The most bytes that a chunk can have."""
        each = self.share.micro_batch
        tokens = each * self.sequence_length + self.buckets.tokens
        masked = each * self.masking.most(self.sequence_length) + self.buckets.masked
        return self.micro_batches_a_chunk * packed_size(each, tokens, masked)

    def chunks(self, reader: int, source: BlockSource | None = None) -> Iterator[NDArray[np.uint8]]:
        """Worker `reader`'s chunks from `start_step` on.

        Raises RunFailed where a block is missing or damaged (unless such are skipped), or holds longer pairs than
        the manifest says.
        """
        source = source or BlockSource(self.folder, self.shards, self.damage)
        plan = self.share.plan
        lanes = [Lane(plan, lane, source, self.special) for lane in self.share.lanes_of(reader)]
        steps = (
            itertools.count(self.start_step)
            if self.stop_step is None
            else range(self.start_step, self.stop_step)
        )
        micro_steps = self.share.micro_steps_of(reader)
        try:
            for step in steps:
                start, stop = step * plan.per_lane, (step + 1) * plan.per_lane
                parts = itertools.chain.from_iterable(lane.parts(start, stop) for lane in lanes)
                rest: Sequences | None = None
                for first in range(0, len(micro_steps), self.micro_batches_a_chunk):
                    these = micro_steps[first : first + self.micro_batches_a_chunk]
                    sequences, rest = _gather(parts, rest, len(these) * self.share.micro_batch)
                    yield self._chunk(sequences, step, these)
        finally:
            source.close()

    def _chunk(self, sequences: Sequences, step: int, micro_steps: range) -> NDArray[np.uint8]:
        plan = self.share.plan
        longest = int(np.diff(sequences.starts).max())
        if longest > self.sequence_length:
            raise RunFailed(
                f"{self.folder} holds a sequence of {longest} tokens, its manifest promises at most "
                f"{self.sequence_length}; run `bertpipe shard` again into an empty folder"
            )
        epochs = self.masking.epoch_of(sequences.epochs)
        keys = mask_keys(seed=plan.seed, phase=plan.phase, epochs=epochs, samples=sequences.samples)
        rate = self.masking.rate_at(step, self.steps)
        masked = mask_tokens(
            sequences.tokens, sequences.starts, keys, self.masking, self.special, self.sequence_length, rate,
            sequences.continues,
        )  # fmt: skip
        return pack(
            sequences,
            masked,
            step=step,
            micro_steps=micro_steps,
            pad_id=self.special.pad_id,
            buckets=self.buckets,
        )


def _gather(
    parts: Iterator[Sequences], rest: Sequences | None, count: int
) -> tuple[Sequences, Sequences | None]:
    """The next `count` sequences, and what is left of the part that they end in."""
    taken: list[Sequences] = []
    missing = count
    while True:
        part = next(parts) if rest is None else rest
        if len(part) >= missing:
            taken.append(part.take(0, missing))
            return join(taken), part.take(missing, len(part)) if len(part) > missing else None
        taken.append(part)
        missing -= len(part)
        rest = None
