"""The held-out pairs as micro-batches: always the same ones, with the same masks.

In: a shard folder with its manifest, how many pairs, a seed, an objective. Out: a rank's micro-batches.
What always holds: together the ranks hold the first `sequences` pairs of the validation split's shuffled
order, once each, in the same sequences, whatever the world size and the micro-batch; every rank gets equally many
micro-batches, some with nothing to count, so that all call the network equally often (ZeRO 3 hangs otherwise).
Pairs whose block is lost, where that is allowed, have nothing to count either.

Example:
    for micro_batch in held_out_micro_batches("SHARDS", manifest, sequences=2048, micro_batch=32,
                                              masking=masking, special=special, seed=1): ...
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipeline.batches.asking import ask
from pipeline.batches.block_source import BlockSource
from pipeline.batches.masking import MaskingConfig, mask_keys
from pipeline.batches.microbatch import BUCKETS, Buckets, MicroBatch, even_edges, pack, unpack
from pipeline.batches.order import OrderPlan
from pipeline.batches.sequences import Sequences, blanks, join, lay_out
from pipeline.batches.special_ids import SpecialIds
from pipeline.batches.text import lay_text, most_sequences
from pipeline.corpus.manifest import Manifest
from pipeline.corpus.shards import Block
from pipeline.counter_random import key
from pipeline.errors import InputError
from pipeline.objectives import MLM_NSP, Objective

_HELD_OUT = int.from_bytes(b"held-out")
# Pairs laid as one text: a number of its own, so that other micro-batches are cut from the same sequences.
_TEXT_PAIRS = 256


def held_out_blocks(folder: str, manifest: Manifest, damage: str = "error") -> BlockSource:
    """Where held-out pairs are read: one for all evaluations of a run says once what is lost.

    damage: as `BlockSource` has it; the pairs of a lost block count nowhere
    """
    return BlockSource([(folder, manifest.of_split("validation"))], damage)


def held_out_micro_batches(
    folder: str,
    manifest: Manifest,
    *,
    sequences: int,
    micro_batch: int,
    masking: MaskingConfig,
    special: SpecialIds,
    seed: int,
    objective: Objective = MLM_NSP,
    text_length: int | None = None,
    rank: int = 0,
    world_size: int = 1,
    buckets: Buckets = BUCKETS,
    blocks: BlockSource | None = None,
) -> Iterator[MicroBatch]:
    """Rank `rank`'s part of the first `sequences` held-out pairs (all where there are fewer).

    text_length: tokens of a sequence where pairs are laid as text; by default the longest pair's
    blocks: `held_out_blocks` of the same folder; by default one in which damage is an error

    `step` is 0 and `micro_step` counts over all ranks' micro-batches. Raises InputError where the shards
    hold no held-out pairs, and RunFailed where a block is missing or damaged (unless such are skipped).
    """
    shards = manifest.of_split("validation")
    if not manifest.pairs("validation"):
        raise InputError(f"{folder} holds no held-out pairs; shard with --validation-fraction above 0")
    if sequences < 1 or micro_batch < 1:
        raise InputError(f"sequences is {sequences} and micro_batch {micro_batch}; both must be at least 1")
    seed = key(_HELD_OUT, seed)
    plan = OrderPlan(block_pairs=shards.block_pairs, seed=seed, phase=0, lanes=1, global_batch=1)
    is_text = objective.layout == "text"
    length = (text_length if is_text else None) or manifest.max_seq_length
    # Pairs that are laid out together, and into how many micro-batches.
    together = _TEXT_PAIRS if is_text else micro_batch
    most = most_sequences(together, manifest.max_seq_length, length)
    count = min(sequences, plan.samples)
    a_rank = -(-count // (together * world_size))
    maker = _HeldOut(
        source=blocks or held_out_blocks(folder, manifest), plan=plan, objective=objective, masking=masking,
        special=special, length=length, together=together, parts=-(-most // micro_batch) if is_text else 1,
        buckets=buckets,
    )  # fmt: skip
    return maker.micro_batches(count, range(rank * a_rank, (rank + 1) * a_rank))


@dataclass(frozen=True, kw_only=True)
class _HeldOut:
    """Makes groups of `together` pairs, `parts` micro-batches each."""

    source: BlockSource
    plan: OrderPlan
    objective: Objective
    masking: MaskingConfig
    special: SpecialIds
    length: int
    together: int
    parts: int
    buckets: Buckets
    _held: dict[int, Block] = field(default_factory=dict)

    def micro_batches(self, count: int, groups: range) -> Iterator[MicroBatch]:
        """Those of `groups` of the first `count` pairs."""
        try:
            for group in groups:
                yield from self._group(group, min(self.together, count - group * self.together))
        finally:
            self.source.close()

    def _group(self, group: int, count: int) -> list[MicroBatch]:
        if count > 0:
            sequences, keys = self._lay_out(group * self.together, count)
        else:
            sequences, keys = blanks(0, self.special), np.zeros(0, np.uint64)
        if (missing := self.parts - len(sequences)) > 0:
            sequences = join([sequences, blanks(missing, self.special)], self.special)
            keys = np.concatenate([keys, np.zeros(missing, np.uint64)])
        sequences, masked = ask(
            self.objective, sequences, keys, self.masking, self.special,
            sequence_length=self.length, rate=self.masking.last_rate,
        )  # fmt: skip
        buffer = pack(
            sequences,
            masked,
            step=0,
            micro_steps=range(group * self.parts, (group + 1) * self.parts),
            pad_id=self.special.pad_id,
            edges=even_edges(len(sequences), self.parts),
            buckets=self.buckets,
        )
        return unpack(buffer)

    def _lay_out(self, first: int, count: int) -> tuple[Sequences, NDArray[np.uint64]]:
        """The sequences of `count` pairs from the `first` on, and their keys."""
        samples = self.plan.head(count, start=first)
        blocks = {int(n): self._block(int(n)) for n in samples.blocks}
        self._held.clear()
        self._held.update(blocks)
        laid = lay_out(list(blocks.values()), samples, self.special)
        if self.objective.layout == "pair":
            return laid, self._keys(laid)
        text = lay_text(laid, each=count, length=self.length, special=self.special)
        return text.sequences, text.keys(self._keys(text.sequences))

    def _block(self, number: int) -> Block:
        return self._held[number] if number in self._held else self.source.read(number)

    def _keys(self, sequences: Sequences) -> NDArray[np.uint64]:
        return mask_keys(seed=self.plan.seed, phase=0, epochs=sequences.epochs, samples=sequences.samples)
