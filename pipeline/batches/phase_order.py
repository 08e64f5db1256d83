"""The order of a phase: what a manifest holds, held against what the phase asks, without opening a shard.

In: a manifest, a phase's numbers. Out: its `OrderPlan`. What always holds: torch is not loaded, so that a
doomed run is refused at once.
"""

from pipeline.batches.order import OrderPlan
from pipeline.corpus.manifest import Manifest
from pipeline.corpus.shards import LONGEST_SEQUENCE
from pipeline.errors import InputError


def order_plan(
    manifest: Manifest, *, seed: int, phase: int, lanes: int, global_batch: int, sequence_length: int
) -> OrderPlan:
    """The order of a phase over a manifest's training pairs.

    Raises InputError where the shards hold too few pairs, or pairs longer than `sequence_length`.
    """
    if manifest.max_seq_length > sequence_length:
        raise InputError(
            f"the shards hold pairs of up to {manifest.max_seq_length} tokens, the phase's sequence_length is "
            f"{sequence_length}; raise it, or shard with --max-seq-length {sequence_length}"
        )
    if sequence_length > LONGEST_SEQUENCE:
        raise InputError(f"sequence_length is {sequence_length}; the most is {LONGEST_SEQUENCE}")
    pairs = manifest.of_split("train").block_pairs
    return OrderPlan(block_pairs=pairs, seed=seed, phase=phase, lanes=lanes, global_batch=global_batch)
