"""Reduce: one range of hashes → one shard (gather, drop duplicates, pair, shuffle, write).

In: the runs of all spills and a partition's plan. Out: a tar in the shard folder and a mark beside the
spills, `<shard>.json`, written last. What always holds: a shard with a mark is whole and was made from
these very spills and settings; memory is bounded by the partition.

Example:
    reduced = reduce_partition(ReduceTask(output="SHARDS", work="SHARDS/.work", runs=runs, plan=plan,
                                          options=PairOptions(max_seq_length=128), made_from=hash))
"""

import os
from dataclasses import asdict, dataclass
from typing import Any

from pipeline import counter_random, storage
from pipeline.corpus.census import PartitionPlan
from pipeline.corpus.document_list import KnownDocuments
from pipeline.corpus.pairs import PairCounts, PairOptions, build_pairs
from pipeline.corpus.partition import Partition
from pipeline.corpus.runs import Run, read_range
from pipeline.corpus.shards import SPLITS, ShardInfo, write_shard

_SHUFFLE = 0x53485546  # tells this use of the seed from others


@dataclass(frozen=True, kw_only=True)
class ReduceTask:
    """What a worker needs to make one shard; `made_from` is the hash of all that decides its bytes.

    known: the list of documents that are in shards already, and stay out of this one
    """

    output: str
    work: str
    runs: tuple[Run, ...]
    plan: PartitionPlan
    options: PairOptions
    made_from: str
    known: str | None = None


@dataclass(frozen=True, kw_only=True)
class Reduced:
    """A shard and how its pairs came about."""

    shard: ShardInfo
    counts: PairCounts


def reduce_partition(task: ReduceTask) -> Reduced:
    """Write the partition's shard. Raises RunFailed where the disk refuses."""
    plan = task.plan
    known = KnownDocuments(task.known)
    documents = read_range(
        task.work,
        task.runs,
        plan.hashes,
        lambda high: plan.sides.holds(plan.split, high) & ~known.holds(high),
    )
    shuffle_key = counter_random.key(task.options.seed, _SHUFFLE, SPLITS.index(plan.split), plan.index)
    block, counts = build_pairs(Partition.of(documents), task.options, shuffle_key=shuffle_key)
    reduced = Reduced(shard=write_shard(task.output, plan.name, plan.split, block), counts=counts)
    storage.write_json(_mark(task), asdict(reduced) | {"made_from": task.made_from})
    return reduced


def read_reduced(task: ReduceTask) -> Reduced | None:
    """The finished shard; None where there is none, it is not whole, or was made from something else."""
    tar = os.path.join(task.output, task.plan.name)
    if not os.path.exists(_mark(task)) or not os.path.exists(tar):
        return None
    mark = storage.read_json(_mark(task))
    fields: dict[str, Any] = mark["shard"]
    lists = {name: tuple(value) for name, value in fields.items() if isinstance(value, list)}
    shard = ShardInfo(**(fields | lists))
    if mark["made_from"] != task.made_from or os.path.getsize(tar) != shard.bytes:
        return None
    return Reduced(shard=shard, counts=PairCounts(**mark["counts"]))


def _mark(task: ReduceTask) -> str:
    return os.path.join(task.work, f"{task.plan.name.removesuffix('.tar')}.json")
