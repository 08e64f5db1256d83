"""Pairs of a shard folder in words, for a person to judge.

In: a shard folder, its manifest and its vocabulary. Out: some of its pairs, drawn over all of it.
What always holds: as many as asked for, where the folder has so many; half of each label, where both are met
often enough; the same seed shows the same pairs.

Example:
    excerpts("SHARDS", read_manifest("SHARDS"), vocabulary, pairs=4, seed=0)
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import counter_random
from pipeline.corpus.manifest import Manifest
from pipeline.corpus.shard_table import ShardTable
from pipeline.corpus.shards import ShardInfo, read_block
from pipeline.corpus.vocabulary import Vocabulary

_TRIES = 20  # pairs looked at for each one wanted, so that both labels are shown


def excerpts(
    folder: str, manifest: Manifest, vocabulary: Vocabulary, *, pairs: int, seed: int
) -> list[dict[str, Any]]:
    """`pairs` pairs in words. Raises RunFailed where a block is damaged."""
    wanted = {True: pairs // 2, False: pairs - pairs // 2}
    chosen: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = []
    ends = np.cumsum(manifest.shards.column("pairs"))
    for place in _places(manifest.shards.total("pairs"), pairs, seed) if pairs else ():
        pair = _excerpt(folder, *_locate(manifest.shards, ends, place), vocabulary)
        if wanted[pair["random_next"]]:
            wanted[pair["random_next"]] -= 1
            chosen.append(pair)
        elif len(others) < pairs:
            others.append(pair)
        if len(chosen) == pairs:
            break
    return chosen + others[: pairs - len(chosen)]


def _places(total: int, pairs: int, seed: int) -> Iterable[int]:
    """The pairs to look at, each once, in order."""
    key = counter_random.key(seed, 1)
    if total <= pairs * _TRIES:
        return [int(place) for place in counter_random.permutation(key, total)]
    stream = counter_random.Stream(key)
    drawn: dict[int, None] = {}
    while len(drawn) < pairs * _TRIES:
        drawn[stream.below(total)] = None
    return drawn


def _excerpt(
    folder: str, shard: ShardInfo, block_index: int, row: int, vocabulary: Vocabulary
) -> dict[str, Any]:
    block = read_block(folder, shard, block_index).take(slice(row, row + 1))
    cut = int(block.a_lengths[0])
    segments = [slice(0, cut), slice(cut, len(block.tokens))]
    a, b = (
        _in_words(block.tokens[part].tolist(), block.continues[part].tolist(), vocabulary)
        if block.continues is not None
        else vocabulary.tokenizer.decode(block.tokens[part].tolist(), skip_special_tokens=False)
        for part in segments
    )
    return {
        "shard": shard.name,
        "block": block_index,
        "row": row,
        "random_next": bool(block.random_next[0]),
        "a_tokens": cut,
        "b_tokens": len(block.tokens) - cut,
        "document_a": f"{int(block.document_a[0]):016x}",
        "document_b": f"{int(block.document_b[0]):016x}",
        "a": a,
        "b": b,
    }


def _in_words(ids: list[int], continues: list[bool], vocabulary: Vocabulary) -> str:
    """A segment with a space before each of its words, and none in them."""
    pieces = set(vocabulary.continuing_ids)
    words: list[str] = []
    for number, follows in zip(ids, continues, strict=True):
        token = vocabulary.tokens[number]
        text = token.removeprefix("##") if number in pieces else token
        if follows:
            words[-1] += text
        else:
            words.append(text)
    return " ".join(words)


def _locate(shards: ShardTable, ends: NDArray[np.int64], place: int) -> tuple[ShardInfo, int, int]:
    """The shard, block and row of the pair at `place` among all; `ends`: the pairs up to each shard's end."""
    number = int(np.searchsorted(ends, place, side="right"))
    shard = shards[number]
    place -= int(ends[number]) - shard.pairs
    for index, pairs in enumerate(shard.block_pairs):
        if place < pairs:
            return shard, index, place
        place -= pairs
    raise ValueError("the place lies beyond the shards' pairs")
