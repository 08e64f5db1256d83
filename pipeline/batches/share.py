"""A rank's share of an order plan, and its workers' (pure arithmetic).

In: a plan, rank and world size, sequences a micro-batch, workers asked for. Out: which lanes a rank and a
worker read, which micro-batches of a step a worker makes.
What always holds: every rank makes equally many micro-batches a step; each lane is read by one worker of one
rank, so a block is too, apart from the blocks that a cut between lanes falls in.

Example:
    share = Share(plan=plan, rank=1, world_size=2, micro_batch=16, workers=2)
    share.lanes_of(0), share.micro_steps_of(0)
"""

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.batches.mixture import Order
from pipeline.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Share:
    """What one rank computes of every step of a plan, and which of its workers reads what.

    rank, world_size: this rank, of how many
    micro_batch: sequences it computes at once
    workers: asked for; `readers` is how many there can be

    Raises InputError where ranks or micro-batches don't divide the plan.
    """

    plan: Order
    rank: int
    world_size: int
    micro_batch: int
    workers: int = 0

    def __post_init__(self) -> None:
        lanes, batch = self.plan.lanes, self.plan.global_batch
        if self.micro_batch < 1 or self.workers < 0:
            raise InputError(
                f"micro_batch is {self.micro_batch} and workers is {self.workers}; "
                "they must be at least 1 and at least 0"
            )
        if not 0 <= self.rank < self.world_size:
            raise InputError(
                f"rank {self.rank} doesn't exist in a world of {self.world_size}; ranks begin at 0"
            )
        if lanes % self.world_size:
            fits = [ranks for ranks in _divisors(lanes) if ranks < self.world_size]
            other = (
                f"make global_batch ({batch}) a multiple of {self.world_size}"
                if batch % self.world_size
                else f"set lanes={self.world_size}"
            )
            raise InputError(
                f"{self.world_size} ranks don't divide the plan's {lanes} lanes; use {fits[-1]} ranks, or {other}"
            )
        if batch % (self.world_size * self.micro_batch):
            a_rank = batch // self.world_size
            fits = [size for size in _divisors(a_rank) if size < self.micro_batch]
            remedy = f"set micro_batch={fits[-1]}" if fits else "raise global_batch"
            raise InputError(
                f"micro_batch {self.micro_batch} doesn't divide the {a_rank} sequences that each of "
                f"{self.world_size} ranks takes of a global batch of {batch}; {remedy}"
            )

    @property
    def micro_batches(self) -> int:
        """Micro-batches a step on this rank; the same on every rank."""
        return self.plan.global_batch // (self.world_size * self.micro_batch)

    @property
    def lanes(self) -> range:
        """The lanes that this rank reads."""
        count = self.plan.lanes // self.world_size
        return range(self.rank * count, (self.rank + 1) * count)

    @property
    def readers(self) -> int:
        """The most workers, up to those asked, that own whole lanes and whole micro-batches; at least 1."""
        most = min(max(1, self.workers), len(self.lanes), self.micro_batches)
        return max(n for n in range(1, most + 1) if self.micro_batches % n == 0 == len(self.lanes) % n)

    def lanes_of(self, reader: int) -> range:
        """The lanes of worker `reader`, which makes micro-batches reader, reader + readers, … of each step.

        Those hold samples of these lanes only: micro-batches dealt over all lanes would have every worker
        read every block.
        """
        count = len(self.lanes) // self.readers
        return self.lanes[reader * count : (reader + 1) * count]

    def micro_steps_of(self, reader: int) -> range:
        """The micro-batches of a step that worker `reader` makes."""
        return range(reader, self.micro_batches, self.readers)


def _divisors(number: int) -> Iterator[int]:
    return (size for size in range(1, number + 1) if number % size == 0)
