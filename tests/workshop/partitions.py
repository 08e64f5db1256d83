"""Partitions made of sentence lengths alone, and the parts of benchmarks that tests hold us against."""

import importlib.util
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.corpus.partition import Partition
from pipeline.corpus.ragged import starts_of

Lengths = list[list[int]]  # of each document, its sentences' numbers of tokens

_PARTS = Path(__file__).resolve().parents[2] / "benchmarks" / "parts"


def partition_of(lengths: Lengths, hashes: list[int] | None = None) -> Partition:
    """A partition whose tokens are their own places, so that a segment tells where it was cut."""
    sentences = [tokens for document in lengths for tokens in document]
    return Partition(
        tokens=np.arange(sum(sentences), dtype=np.uint32),
        sentence_offsets=starts_of(np.array(sentences)),
        document_offsets=starts_of(np.array([len(document) for document in lengths])),
        document_hashes=np.array(hashes or range(100, 100 + len(lengths)), dtype=np.uint64),
        document_copies=np.ones(len(lengths), np.uint8),
        document_sources=np.zeros(len(lengths), np.uint16),
    )


def english_lengths(documents: int, seed: int) -> Lengths:
    """Sentence lengths with a mean of 27 and a long tail, as in the shared corpus."""
    draw = random.Random(seed)
    return [
        [1 + int(draw.lognormvariate(3.1, 0.6)) for _ in range(1 + int(draw.expovariate(1 / 18)))]
        for _ in range(documents)
    ]


def load_part(name: str) -> Any:
    """A module of `benchmarks/parts`, among them `published_pairs`, which holds the published algorithm."""
    spec = importlib.util.spec_from_file_location(name, _PARTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look for the module they are of
    spec.loader.exec_module(module)
    return module
