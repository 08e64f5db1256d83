"""Reduce: the runs of the whole corpus → its shards, and no shard twice.

In: the partitions' plans and the runs. Out: a finished shard for each plan. What always holds: shards are made from
the lowest hash on, the held-out ones first, and a run is removed once no shard that is still to be made wants it; what
was finished before is kept.

Example:
    done = read_finished(plans, maker)
    reduced = reduce_left(plans, done, runs, maker, run_all)
"""

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from pipeline.corpus.census import PartitionPlan
from pipeline.corpus.pairs import PairOptions
from pipeline.corpus.reducer import Reduced, ReduceTask, read_reduced, reduce_partition
from pipeline.corpus.runs import HASHES, Range, Run, overlap
from pipeline.corpus.shuffling import Freeing, RunAll
from pipeline.progress import Progress


@dataclass(frozen=True, kw_only=True)
class Maker:
    """What all reduce tasks have in common; see `ReduceTask`."""

    output: str
    work: str
    options: PairOptions
    made_from: str
    known: str | None = None

    def task(self, plan: PartitionPlan, runs: Sequence[Run] = ()) -> ReduceTask:
        """The task that makes one shard, of runs that hold its hashes."""
        return ReduceTask(
            output=self.output,
            work=self.work,
            runs=tuple(runs),
            plan=plan,
            options=self.options,
            made_from=self.made_from,
            known=self.known,
        )


def read_finished(plans: Sequence[PartitionPlan], maker: Maker) -> dict[str, Reduced]:
    """The shards that are there already, by name."""
    found = {plan.name: read_reduced(maker.task(plan)) for plan in plans}
    return {name: reduced for name, reduced in found.items() if reduced is not None}


def wanted_from(plans: Sequence[PartitionPlan], done: Mapping[str, Reduced]) -> int:
    """The lowest hash that a shard which is still to be made may hold."""
    return min((plan.hashes[0] for plan in plans if plan.name not in done), default=HASHES)


def reduce_left(
    plans: Sequence[PartitionPlan],
    done: Mapping[str, Reduced],
    runs: Sequence[Run],
    maker: Maker,
    run_all: RunAll,
) -> list[Reduced]:
    """All shards in the order of `plans`, those that are not `done` being made."""
    # Held-out shards hold documents of all hashes, or of many: while they are not made, no run can go.
    left = sorted(
        (plan for plan in plans if plan.name not in done),
        key=lambda plan: (plan.split == "train", plan.index),
    )
    made = dict(done)
    freeing = Freeing(maker.work, runs)
    freeing.below(wanted_from(left, done))
    lowest = [(plan.hashes[0], plan.name) for plan in left]
    heapq.heapify(lowest)
    pairs = 0
    with Progress("pairing", total=len(left), unit="shards") as progress:
        for reduced in run_all(reduce_partition, _tasks(left, runs, maker)):
            made[reduced.shard.name] = reduced
            while lowest and lowest[0][1] in made:
                heapq.heappop(lowest)
            freeing.below(lowest[0][0] if lowest else HASHES)
            pairs += reduced.shard.pairs
            progress.advance(note=f"{pairs:,} pairs", pairs=pairs)
    return [made[plan.name] for plan in plans]


def _tasks(left: Sequence[PartitionPlan], runs: Sequence[Run], maker: Maker) -> Iterator[ReduceTask]:
    # One by one, as they are asked for: of a large corpus each names hundreds of runs. Those are of a few ranges,
    # which are looked at instead of each run.
    ranges: dict[Range, list[Run]] = {}
    for run in runs:
        ranges.setdefault(run.hashes, []).append(run)
    for plan in left:
        near = [own for hashes, own in ranges.items() if overlap(hashes, plan.hashes)]
        yield maker.task(plan, list(chain.from_iterable(near)))
