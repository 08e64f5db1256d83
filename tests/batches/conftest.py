"""Small shard folders of generated pairs, and the vocabulary that they were made with."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from pipeline.batches.special_ids import SpecialIds
from pipeline.corpus.manifest import Manifest, write_manifest
from pipeline.corpus.shard_table import ShardTable
from pipeline.corpus.shards import PREFIXES, Block, ShardInfo, Split, write_shard
from workshop.small_loader import LENGTH, TRAIN

VOCABULARY = 1000
SPECIALS = tuple(range(20))  # [PAD] 0, [UNK] 1, [CLS] 2, [SEP] 3, [MASK] 4, then unused ones
MakeShards = Callable[..., Manifest]


@pytest.fixture(scope="session")
def special() -> SpecialIds:
    return SpecialIds(size=VOCABULARY, pad_id=0, cls_id=2, sep_id=3, mask_id=4, special_ids=SPECIALS)


def _pairs(count: int, longest: int, rng: np.random.Generator, words: bool) -> Block:
    lengths = rng.integers(2, longest - 2, count)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    # From 1: literal [UNK], [SEP] and [MASK] stand in the text too.
    tokens = rng.integers(1, VOCABULARY, offsets[-1])
    a_lengths = rng.integers(1, lengths).astype(np.uint16)
    continues = None
    if words:
        # Drawn apart, so that all else is what it is without words.
        continues = np.random.default_rng(count).random(offsets[-1]) < 0.4
        continues[offsets[:-1]] = continues[offsets[:-1] + a_lengths] = False
    return Block(
        tokens=tokens.astype(np.uint16),
        offsets=offsets,
        continues=continues,
        a_lengths=a_lengths,
        random_next=rng.random(count) < 0.5,
        document_a=rng.integers(0, 1 << 62, count).astype(np.uint64),
        document_b=rng.integers(0, 1 << 62, count).astype(np.uint64),
    )


@pytest.fixture(scope="session")
def make_shards() -> MakeShards:
    """make_shards(folder, train=[pairs of each tar], validation=[…], longest=…, words=…) writes a shard folder."""

    def make(
        folder: Path,
        *,
        train: Sequence[int],
        validation: Sequence[int] = (),
        longest: int = 32,
        seed: int = 0,
        words: bool = False,
    ) -> Manifest:
        rng = np.random.default_rng(seed)
        shards: list[ShardInfo] = []
        sides: list[tuple[Split, Sequence[int]]] = [("train", train), ("validation", validation)]
        for split, counts in sides:
            for index, count in enumerate(counts):
                name = f"{PREFIXES[split]}-{index:05d}.tar"
                shards.append(write_shard(str(folder), name, split, _pairs(count, longest, rng, words)))
        manifest = Manifest(
            settings={"max_seq_length": longest},
            vocabulary={"hash": "v", "size": VOCABULARY, "cased": False},
            corpus={},
            counts={},
            versions={},
            shards=ShardTable.of(shards),
        )
        write_manifest(str(folder), manifest)
        return manifest

    return make


@pytest.fixture(scope="session")
def shards(make_shards: MakeShards, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Manifest]:
    folder = tmp_path_factory.mktemp("shards")
    return str(folder), make_shards(folder, train=TRAIN, validation=(70, 40), longest=LENGTH)


@pytest.fixture
def own_shards(make_shards: MakeShards, tmp_path: Path) -> tuple[str, Manifest]:
    return str(tmp_path), make_shards(tmp_path, train=(300, 300), validation=(5,), longest=LENGTH)
