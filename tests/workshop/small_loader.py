"""A loader over a small shard folder, and what to compare of its steps."""

from itertools import islice
from typing import Any

from pipeline.batches.loader import StepBatches, TrainLoader
from pipeline.batches.masking import MaskingConfig
from pipeline.batches.microbatch import MicroBatch
from pipeline.batches.sources import Source
from pipeline.batches.special_ids import SpecialIds
from pipeline.corpus.manifest import Manifest
from workshop.micro_batches import each_sequence

LENGTH = 32
# A tar of one pair beside one of 2,610 (blocks of 1,024, 1,024 and 562). A lane's epoch is 337 of the 2,701
# pairs and a step takes 6 of each lane, so the first epoch ends inside step 56.
TRAIN = (1, 2610, 90)
LANES, GLOBAL, ACROSS = 8, 48, 56


def loader(shards: tuple[str, Manifest], special: SpecialIds, **more: Any) -> TrainLoader:
    given: dict[str, Any] = {"seed": 1, "phase": 0, "lanes": LANES, "global_batch": GLOBAL, "micro_batch": 6}
    given |= {"sequence_length": LENGTH, "masking": MaskingConfig(), "special": special}
    return TrainLoader(sources=[Source(folder=shards[0], manifest=shards[1])], **(given | more))


def steps(made: TrainLoader, count: int) -> list[StepBatches]:
    with made:
        return list(islice(made, count))


def contents(batches: list[MicroBatch]) -> dict[tuple[int, int], tuple[bytes, ...]]:
    """What each sequence of some micro-batches looks like, by (epoch, sample)."""
    found = {}
    for batch in batches:
        for identity, content in each_sequence(batch):
            assert identity not in found
            found[identity] = content
    return found


def same(one: MicroBatch, other: MicroBatch) -> bool:
    numbers = (
        "step", "micro_step", "sequences", "longest", "masked", "labelled", "lost", "short_of_candidates",
    )  # fmt: skip
    return all(getattr(one, name) == getattr(other, name) for name in numbers) and all(
        array.dtype == other.arrays()[name].dtype and array.tobytes() == other.arrays()[name].tobytes()
        for name, array in one.arrays().items()
    )
