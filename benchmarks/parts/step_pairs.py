"""Micro-batches for the benchmarks of a step: from a shard folder, or drawn where there is none.

In: a shard folder of `bertpipe shard`, or lengths to draw. Out: bertpipe's own micro-batches, masked as in training.
What always holds: they are a function of the arguments.
"""

from itertools import islice

import numpy as np

from pipeline.batches.loader import TrainLoader
from pipeline.batches.masking import MaskingConfig
from pipeline.batches.microbatch import BUCKETS, MicroBatch
from pipeline.batches.sources import Source
from pipeline.batches.special_ids import SpecialIds
from pipeline.corpus.manifest import read_manifest
from pipeline.corpus.vocabulary import load_vocabulary

VOCAB_SIZE = 30522  # bert-base-uncased's
SEED = 1


def from_shards(folder: str, *, batch: int, length: int, count: int) -> list[MicroBatch]:
    """`count` micro-batches of `batch` pairs, as a run would train on them."""
    manifest, vocabulary = read_manifest(folder), load_vocabulary(f"{folder}/vocab")
    loader = TrainLoader(
        sources=[Source(folder=folder, manifest=manifest)],
        seed=SEED,
        phase=0,
        lanes=1,
        global_batch=batch,
        micro_batch=batch,
        sequence_length=length,
        masking=MaskingConfig(),
        special=SpecialIds.of(vocabulary),
    )
    with loader:
        return [step.micro_batches[0] for step in islice(loader, count)]


def draw_lengths(batch: int, length: int, fill: float) -> np.ndarray:
    """Lengths with a mean of about fill × length, shaped as published pairs are: most full, the rest any."""
    shortest = length // 8
    rest = (shortest + length) / 2 / length  # mean fill of lengths spread evenly
    full = round((fill - rest) / (1 - rest) * batch)
    # Spread evenly rather than drawn: a small batch then has the fill that was asked for.
    spread = shortest + (length - shortest) * (np.arange(batch - full) + 0.5) / max(1, batch - full)
    lengths = np.concatenate([np.full(full, length), spread.round().astype(np.int64)])
    return np.random.default_rng(SEED).permutation(lengths)


def drawn(*, batch: int, length: int, fill: float, count: int) -> list[MicroBatch]:
    """`count` micro-batches of random ids, 15 % of them masked (Devlin et al. 2018 §3.1)."""
    return [_drawn(draw_lengths(batch, length, fill), number) for number in range(count)]


def _drawn(lengths: np.ndarray, number: int) -> MicroBatch:
    generator = np.random.default_rng((SEED, number))
    starts = np.concatenate([[0], np.cumsum(lengths)])
    tail = -starts[-1] % BUCKETS.tokens
    masked = [
        start + np.sort(generator.choice(np.arange(1, length), size=max(1, round(0.15 * length)), replace=False))
        for start, length in zip(starts, lengths, strict=False)
    ]  # fmt: skip
    positions = np.concatenate(masked)
    return MicroBatch(
        step=number,
        micro_step=0,
        sequences=len(lengths),
        longest=int(lengths.max()),
        masked=len(positions),
        labelled=len(lengths),
        lost=0,
        short_of_candidates=0,
        samples_B=np.arange(len(lengths)),
        epochs_B=np.zeros(len(lengths), dtype=np.int64),
        tokens_T=generator.integers(1000, VOCAB_SIZE, size=starts[-1] + tail, dtype=np.int32),
        sequence_starts_B1=starts.astype(np.int32),
        masked_positions_M=positions.astype(np.int32),
        masked_labels_M=generator.integers(1000, VOCAB_SIZE, size=len(positions), dtype=np.int32),
        positions_T=np.concatenate([*map(np.arange, lengths), np.zeros(tail)]).astype(np.int16),
        next_labels_B=generator.integers(2, size=len(lengths)).astype(np.int8),
        segments_T=np.concatenate([*(np.arange(n) >= n // 2 for n in lengths), np.zeros(tail)]).astype(
            np.int8
        ),
    )
