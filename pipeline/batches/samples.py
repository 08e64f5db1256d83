"""Samples in the order in which they are read, and where their pairs lie.

In: numbers that an order has worked out. Out: `Samples`. What always holds: the arrays of one `Samples` are equally
long, but for its blocks.

Example:
    joined([first, second]).take(shuffle)
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

I64 = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Samples:
    """Samples in the order in which they are read.

    blocks: the manifest's blocks that hold them, each once, in reading order
    slot: for each sample, which of `blocks`
    row: for each sample, its pair inside that block
    sample: for each sample, its number over the whole split; with `epoch` its identity
    epoch: for each sample
    unfinished: those of `blocks` in which what follows may begin
    """

    blocks: I64
    slot: I64
    row: I64
    sample: I64
    epoch: I64
    unfinished: I64

    def __len__(self) -> int:
        return len(self.sample)

    def take(self, order: I64) -> "Samples":
        """The same samples in another order."""
        return replace(
            self,
            slot=self.slot[order],
            row=self.row[order],
            sample=self.sample[order],
            epoch=self.epoch[order],
        )

    def renumbered(self, blocks: int, samples: int) -> "Samples":
        """The same samples, numbered from other first blocks and samples on."""
        return replace(
            self,
            blocks=self.blocks + blocks,
            sample=self.sample + samples,
            unfinished=self.unfinished + blocks,
        )

    @property
    def block(self) -> I64:
        """For each sample, its block's number in the manifest."""
        return self.blocks[self.slot]


_NONE = np.zeros(0, np.int64)
NO_SAMPLES = Samples(blocks=_NONE, slot=_NONE, row=_NONE, sample=_NONE, epoch=_NONE, unfinished=_NONE)


def joined(parts: Sequence[Samples]) -> Samples:
    """The samples of several parts, one after the other; a block of two parts stands twice among its blocks."""
    if len(parts) == 1:
        return parts[0]
    bases = np.cumsum([0] + [len(part.blocks) for part in parts])
    return Samples(
        blocks=np.concatenate([_NONE, *(part.blocks for part in parts)]),
        slot=np.concatenate([_NONE, *(p.slot + base for p, base in zip(parts, bases, strict=False))]),
        row=np.concatenate([_NONE, *(part.row for part in parts)]),
        sample=np.concatenate([_NONE, *(part.sample for part in parts)]),
        epoch=np.concatenate([_NONE, *(part.epoch for part in parts)]),
        unfinished=parts[-1].unfinished if parts else _NONE,
    )
