"""The order of a phase: what its manifests hold, held against what the phase asks, without opening a shard.

In: the sources of a phase, the phase's numbers. Out: its `OrderPlan`, or its `Mixture` where there are several.
What always holds: torch is not loaded, so that a doomed run is refused at once.
"""

from collections.abc import Sequence

from pipeline.batches.mixture import Mixture, Order
from pipeline.batches.order import OrderPlan
from pipeline.batches.sources import Source
from pipeline.corpus.shards import LONGEST_SEQUENCE
from pipeline.errors import InputError


def phase_order(
    sources: Sequence[Source], *, seed: int, phase: int, lanes: int, global_batch: int, sequence_length: int
) -> Order:
    """The order of a phase over its sources' training pairs.

    Raises InputError where a source holds too few pairs, or pairs longer than `sequence_length`.
    """
    if sequence_length > LONGEST_SEQUENCE:
        raise InputError(f"sequence_length is {sequence_length}; the most is {LONGEST_SEQUENCE}")
    for source in sources:
        if source.manifest.max_seq_length > sequence_length:
            raise InputError(
                f"the shards{_named(source, sources)} hold pairs of up to {source.manifest.max_seq_length} tokens, "
                f"the phase's sequence_length is {sequence_length}; raise it, or shard with --max-seq-length "
                f"{sequence_length}"
            )

    def plan(source: Source, batch: int) -> OrderPlan:
        pairs = source.manifest.of_split("train").block_pairs
        return OrderPlan(block_pairs=pairs, seed=seed, phase=phase, lanes=lanes, global_batch=batch)

    if len(sources) == 1:
        return plan(sources[0], global_batch)
    for source in sources:
        if source.manifest.pairs("train") < lanes:
            raise InputError(
                f"the shards{_named(source, sources)} hold {source.manifest.pairs('train')} pairs, fewer than the "
                f"{lanes} lanes that each source is cut into; lower lanes, or leave the source out"
            )
    # A step takes of a source what its weight says, be it less than one sequence a lane.
    plans = tuple(plan(source, lanes) for source in sources)
    return Mixture(plans=plans, weights=tuple(source.weight for source in sources), global_batch=global_batch)


def _named(source: Source, sources: Sequence[Source]) -> str:
    return f" {source.folder}" if len(sources) > 1 else ""
