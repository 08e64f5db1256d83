"""The order of several shard folders' pairs in given shares (pure, as `order` is).

In: an order plan for each source, and their weights. Out: for every lane and position the sample that stands there.
What always holds:
- Of the first q positions of a lane a source has its share, less than one off for each of the sources; so all lanes
  together, and every step, keep to the weights.
- A source's samples come as its own plan has them: each at most once in an epoch of its own, whatever the others
  do; a source that is small beside its weight is gone through more often.
- A position is arithmetic on the manifests' counts, the same to find at step 10 and at step 10,000,000.
Samples and blocks are numbered over all sources, in their order.

How: position q of a lane's sequence is source after source what the shares leave to each (exact fractions), taken
from the source's own lane as it lies; windows of it are shuffled, then dealt by source and by stratum of length.

Example:
    mixture = Mixture(plans=(wiki, books), weights=(0.7, 0.3), global_batch=64)
    mixture.window_samples(lane=3, position=0).sample
"""

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np

from pipeline.batches.order import WINDOW, OrderPlan, check_batch
from pipeline.batches.samples import Samples, joined
from pipeline.counter_random import key, permutation
from pipeline.dealing import STRATA, deal, stratum_of
from pipeline.errors import InputError

_MIXTURE = int.from_bytes(b"mixture")


@dataclass(frozen=True, kw_only=True, eq=False)
class Mixture:
    """The order of a phase over several sources; reads as an `OrderPlan` does.

    plans: each source's, of one seed, phase and number of lanes
    weights: of the sources, in proportion to one another, above 0
    global_batch: sequences a step, of all sources together; a multiple of the lanes

    Raises InputError where a weight is not above 0, or the numbers don't fit one another.
    """

    plans: tuple[OrderPlan, ...]
    weights: tuple[float, ...]
    global_batch: int

    def __post_init__(self) -> None:
        for weight in self.weights:
            if not 0 < weight < float("inf"):
                raise InputError(f"a source's weight is {weight}; it must be above 0")
        check_batch(self.global_batch, self.lanes, sum(plan.samples for plan in self.plans))

    @property
    def seed(self) -> int:
        """Of the run."""
        return self.plans[0].seed

    @property
    def phase(self) -> int:
        """The recipe's phase, from 0."""
        return self.plans[0].phase

    @property
    def lanes(self) -> int:
        """Runs that every source's epoch is cut into."""
        return self.plans[0].lanes

    @property
    def per_lane(self) -> int:
        """Samples that a step takes of each lane."""
        return self.global_batch // self.lanes

    @cached_property
    def window(self) -> int:
        """Samples of a lane that are shuffled together: no more than a lane's share of all sources."""
        return max(1, min(WINDOW, sum(plan.samples for plan in self.plans) // self.lanes))

    @cached_property
    def _of_the_rest(self) -> tuple[Fraction, ...]:
        """Each source's share of what those before it leave."""
        weights = [Fraction(str(weight)) for weight in self.weights]
        return tuple(weight / sum(weights[index:]) for index, weight in enumerate(weights))

    def counts(self, position: int) -> list[int]:
        """How many of a lane's first `position` samples each source gives."""
        found = []
        for share in self._of_the_rest:
            found.append(position * share.numerator // share.denominator)
            position -= found[-1]
        return found

    def epochs_done(self, step: int) -> float:
        """How often as many samples as all sources hold have been trained on before `step`."""
        return step * self.global_batch / sum(plan.samples for plan in self.plans)

    def epochs_of_sources(self, step: int) -> list[float]:
        """How often each source has been gone through before `step`."""
        given = self.counts(step * self.per_lane)
        return [count / plan.lane_length for count, plan in zip(given, self.plans, strict=True)]

    def window_bounds(self, lane: int, position: int) -> tuple[int, int]:
        """The positions (first, last + 1) of the window that holds a lane's `position`."""
        index, stagger = self._window_index(lane, position)
        return max(0, index * self.window - stagger), (index + 1) * self.window - stagger

    def _window_index(self, lane: int, position: int) -> tuple[int, int]:
        stagger = lane * self.window // self.lanes  # as in OrderPlan: lanes do not all read in the same step
        return (position + stagger) // self.window, stagger

    def window_samples(self, lane: int, position: int) -> Samples:
        """All samples of the window that holds a lane's `position`, in reading order."""
        first, last = self.window_bounds(lane, position)
        index, _ = self._window_index(lane, position)
        parts, sources, blocks, samples = [], [], 0, 0
        ranges = zip(self.plans, self.counts(first), self.counts(last), strict=True)
        for source, (plan, begin, end) in enumerate(ranges):
            part = plan.as_it_lies(lane, begin, end)
            parts.append(part.renumbered(blocks, samples))
            sources.append(np.full(len(part), source))
            blocks, samples = blocks + len(plan.first_samples) - 1, samples + plan.samples
        window = joined(parts)
        # A small source is gone through several times in one window; its blocks are read once for all.
        numbers, slots = np.unique(window.blocks, return_inverse=True)
        window = Samples(
            blocks=numbers,
            slot=slots[window.slot],
            row=window.row,
            sample=window.sample,
            epoch=window.epoch,
            unfinished=np.unique(np.concatenate([part.unfinished for part in parts])),
        )
        shuffle = permutation(key(_MIXTURE, self.seed, self.phase, lane, index), len(window))
        by_source = np.concatenate(sources)[shuffle] * STRATA + stratum_of(window.row[shuffle])
        return window.take(shuffle[deal(by_source, first + lane * self.per_lane)])


Order = OrderPlan | Mixture
"""What a phase is read in the order of."""
