"""Ranks and micro-batches of a step carry nearly equal numbers of tokens."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.batches.order import OrderPlan
from pipeline.batches.share import Share
from pipeline.dealing import deal

STEPS = 60


def lengths_of(blocks: list[int], *, dealt: bool) -> NDArray[np.int64]:
    """For each sample of a split its tokens, four in five full, as short documents and short targets leave them."""
    rng = np.random.default_rng(1)
    lengths = np.where(rng.random(sum(blocks)) < 0.8, 128, rng.integers(5, 128, sum(blocks)))
    return lengths[deal(lengths)] if dealt else lengths


def tokens(plan: OrderPlan, lengths: NDArray[np.int64], **share: Any) -> NDArray[np.int64]:
    """Tokens by step, rank and micro-batch."""
    found = []
    for step in range(STEPS):
        for rank in range(share["world_size"]):
            lanes = Share(plan=plan, rank=rank, **share).lanes
            parts = [plan.locate(lane, step * plan.per_lane, (step + 1) * plan.per_lane) for lane in lanes]
            mine = lengths[np.concatenate([part.sample for part in parts])]
            found.append(mine.reshape(-1, share["micro_batch"]).sum(axis=1))
    return np.array(found).reshape(STEPS, share["world_size"], -1)


def heaviest(sums: NDArray[np.int64]) -> float:
    """How much more than its equals the heaviest carries, on average over the steps."""
    flat = sums.reshape(STEPS, -1)
    return float((flat.max(axis=1) / flat.mean(axis=1)).mean() - 1)


@pytest.mark.parametrize(
    ("lanes", "global_batch", "world_size", "micro_batch"),
    [(16, 256, 4, 16), (64, 64, 4, 16), (64, 512, 8, 32), (8, 256, 8, 32), (12, 96, 4, 24)],
)
def test_a_step_is_nearly_equally_heavy_everywhere(
    lanes: int, global_batch: int, world_size: int, micro_batch: int
) -> None:
    blocks = [1024] * 70 + [311]
    plan = OrderPlan(block_pairs=blocks, seed=1, phase=0, lanes=lanes, global_batch=global_batch)
    share = {"world_size": world_size, "micro_batch": micro_batch}
    dealt = tokens(plan, lengths_of(blocks, dealt=True), **share)
    left_to_chance = tokens(plan, lengths_of(blocks, dealt=False), **share)
    for sums in (lambda each: each, lambda each: each.sum(axis=2)):
        assert heaviest(sums(dealt)) < 0.04
        assert heaviest(sums(dealt)) < heaviest(sums(left_to_chance)) / 2
