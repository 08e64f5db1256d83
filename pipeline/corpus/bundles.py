"""Splits → bundles: what a worker reads in one task.

In: splits, sorted by path. Out: the same splits in the same order, neighbours gathered up to a piece's size. What
always holds: a bundle is no larger than a piece, but for one of a single split; which splits are gathered is a
function of their sizes, never of workers.

A task has a cost of its own, and each spill is opened for every shard: of 100,000 small files, a task a file would
be 100,000 spills.

Example:
    gather_bundles(find_splits(["corpus/"]), piece_bytes(13_172_736))
"""

from collections.abc import Sequence

from pipeline.corpus.splits import Split

Bundle = tuple[Split, ...]

# What a split counts at least: to open a file takes time, too (a request, where it lies in a store).
_LEAST_BYTES = 16 << 10


def gather_bundles(splits: Sequence[Split], piece: int) -> list[Bundle]:
    """The splits in bundles of up to `piece` bytes."""
    bundles: list[list[Split]] = []
    gathered = 0
    for split in splits:
        size = max(_LEAST_BYTES, split.bytes)
        if not bundles or gathered + size > piece:
            bundles.append([])
            gathered = 0
        bundles[-1].append(split)
        gathered += size
    return [tuple(bundle) for bundle in bundles]
