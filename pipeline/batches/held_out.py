"""The held-out pairs as micro-batches: always the same ones, with the same masks.

In: a shard folder with its manifest, how many pairs, a seed. Out: a rank's micro-batches.
What always holds: together the ranks hold the first `sequences` pairs of the validation split's shuffled
order, once each, whatever the world size; every rank gets equally many micro-batches, some with nothing to
count, so that all call the network equally often (ZeRO 3 hangs otherwise).

Example:
    for micro_batch in held_out_micro_batches("SHARDS", manifest, sequences=2048, micro_batch=32,
                                              masking=masking, special=special, seed=1): ...
"""

from collections.abc import Iterator

from pipeline.batches.block_source import BlockSource
from pipeline.batches.masking import MaskingConfig, mask_keys, mask_tokens
from pipeline.batches.microbatch import BUCKETS, Buckets, MicroBatch, empty_micro_batch, pack, unpack
from pipeline.batches.order import OrderPlan
from pipeline.batches.sequences import lay_out
from pipeline.batches.special_ids import SpecialIds
from pipeline.corpus.shards import Block, Manifest
from pipeline.counter_random import key
from pipeline.errors import InputError

_HELD_OUT = int.from_bytes(b"held-out")


def held_out_micro_batches(
    folder: str,
    manifest: Manifest,
    *,
    sequences: int,
    micro_batch: int,
    masking: MaskingConfig,
    special: SpecialIds,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
    buckets: Buckets = BUCKETS,
) -> Iterator[MicroBatch]:
    """Rank `rank`'s part of the first `sequences` held-out pairs (all where there are fewer).

    `step` is 0 and `micro_step` counts over all ranks' micro-batches. Raises InputError where the shards
    hold no held-out pairs, and RunFailed where a block is missing or damaged.
    """
    shards = manifest.of_split("validation")
    if not manifest.pairs("validation"):
        raise InputError(f"{folder} holds no held-out pairs; shard with --validation-fraction above 0")
    if sequences < 1 or micro_batch < 1:
        raise InputError(f"sequences is {sequences} and micro_batch {micro_batch}; both must be at least 1")
    seed = key(_HELD_OUT, seed)
    pairs = [count for shard in shards for count in shard.block_pairs]
    plan = OrderPlan(block_pairs=pairs, seed=seed, phase=0, lanes=1, global_batch=1)
    count = min(sequences, plan.samples)
    a_rank = -(-count // (micro_batch * world_size))
    return _micro_batches(
        BlockSource(folder, shards), plan, count, range(rank * a_rank, (rank + 1) * a_rank),
        micro_batch, masking, special, manifest.max_seq_length, buckets,
    )  # fmt: skip


def _micro_batches(
    source: BlockSource,
    plan: OrderPlan,
    count: int,
    numbers: range,
    micro_batch: int,
    masking: MaskingConfig,
    special: SpecialIds,
    sequence_length: int,
    buckets: Buckets,
) -> Iterator[MicroBatch]:
    held: dict[int, Block] = {}
    try:
        for number in numbers:
            first = number * micro_batch
            if first >= count:
                yield empty_micro_batch(step=0, micro_step=number, special=special, buckets=buckets)
                continue
            samples = plan.head(min(micro_batch, count - first), start=first)
            held = {int(n): held[int(n)] if int(n) in held else source.read(int(n)) for n in samples.blocks}
            laid = lay_out([held[int(n)] for n in samples.blocks], samples, special)
            keys = mask_keys(seed=plan.seed, phase=0, epochs=laid.epochs, samples=laid.samples)
            masked = mask_tokens(
                laid.tokens, laid.starts, keys, masking, special, sequence_length, masking.last_rate,
                laid.continues,
            )  # fmt: skip
            yield from unpack(
                pack(laid, masked, step=0, micro_steps=[number], pad_id=special.pad_id, buckets=buckets)
            )
    finally:
        source.close()
