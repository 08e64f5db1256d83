"""Whether all ranks still hold the same weights.

In: an engine whose ranks each hold a whole copy (ZeRO 0 to 2). Out: the ranks whose copy is another than most hold.
What always holds: every rank calls it and gets the same answer; one bit that differs is found. Where weights are
divided (ZeRO 3) there is no second copy to compare with, and none is found.

Example:
    drifted(engine, world)  # [] or, say, [3]
"""

from collections import Counter
from typing import TYPE_CHECKING

from pipeline.training.engine import Engine
from pipeline.training.world import World, sum_over_ranks

if TYPE_CHECKING:
    import torch

# What a float64 holds exactly, which is what ranks sum.
_BITS = 52


def drifted(engine: Engine, world: World) -> list[int]:
    """The ranks whose weights differ from those of the majority."""
    if world.size == 1 or engine.stage == 3:
        return []
    sums = [0.0] * world.size
    sums[world.rank] = float(_checksum(engine.network.module))
    return odd_ones([int(value) for value in sum_over_ranks(sums, engine.device)])


def odd_ones(checksums: list[int]) -> list[int]:
    """The indices of those that aren't the most frequent one; of two that are as frequent, the first is right."""
    (usual, _), *_ = Counter(checksums).most_common(1)
    return [index for index, value in enumerate(checksums) if value != usual]


def _checksum(network: "torch.nn.Module") -> int:
    """A sum of the weights' own bits, each parameter's times an odd number so that none makes up for another."""
    import torch

    total = 0
    for number, parameter in enumerate(network.parameters()):
        bits = parameter.detach().view(torch.int32 if parameter.element_size() == 4 else torch.int16)
        total += (2 * number + 1) * int(bits.sum(dtype=torch.int64))
    return total & ((1 << _BITS) - 1)
