"""The census: spills → how many distinct documents there are, and which partition each belongs to.

In: runs of all splits, and the settings that count. Out: the held-out documents' rule, the partitions, and a file that
lists the documents' hashes.
What always holds: memory is bounded by a range of hashes, not by the corpus; a document's side and partition
follow from its hash, so no document is on both sides; each side has two documents or none.

Example:
    census = take_census(folder, runs, validation_fraction=0.01, seed=1)
    partitions = plan_partitions(census, asked=8)
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline import counter_random, storage
from pipeline.corpus.document_list import KnownDocuments, write_documents
from pipeline.corpus.runs import U64, Run, firsts, hash_ranges, read_hashes
from pipeline.corpus.shards import PREFIXES, Split

# A random-next segment wants a choice of documents: a shard's labels would else give away the few it has.
LEAST_DOCUMENTS = 64
# At most this share of a small corpus is held out to come up to that number.
_LARGEST_TOP_UP = 0.1
_RANGE_DOCUMENTS = 1 << 20  # 16 MB of hashes at once
_MARK = "census.json"
_HELD_OUT = 0x48454C44  # tells this use of the seed from others


@dataclass(frozen=True, kw_only=True)
class Sides:
    """Which documents are held out: those whose draw is at most `threshold`; none where that is None."""

    seed: int
    threshold: int | None

    def holds(self, split: Split, high: U64) -> NDArray[np.bool_]:
        """Which of the documents (upper halves of their hashes) are of that side."""
        if self.threshold is None:
            return np.full(len(high), split == "train")
        held_out = _draws(self.seed, high) <= np.uint64(self.threshold)
        return held_out if split == "validation" else ~held_out


@dataclass(frozen=True, kw_only=True)
class Census:
    """What the spills hold: distinct documents, those among them held out, and repetitions dropped."""

    documents: int
    held_out: int
    duplicates: int
    sides: Sides


@dataclass(frozen=True, kw_only=True)
class PartitionPlan:
    """One shard to be: a range of hashes of one side."""

    split: Split
    index: int
    hashes: tuple[int, int]
    sides: Sides

    @property
    def name(self) -> str:
        """The shard's file."""
        return f"{PREFIXES[self.split]}-{self.index:05d}.tar"


def _draws(seed: int, high: U64) -> U64:
    return counter_random.draw(counter_random.key(seed, _HELD_OUT), high)


def held_out_count(documents: int, fraction: float) -> int:
    """How many of so many documents are to be held out.

    The fraction asked for, or what negatives need (64 documents, up to a tenth of the corpus); 0 where
    either side would be left with a single document.
    """
    if not fraction:
        return 0
    wanted = max(round(documents * fraction), min(LEAST_DOCUMENTS, int(documents * _LARGEST_TOP_UP)))
    wanted = min(wanted, documents - 2)
    return wanted if wanted >= 2 else 0


def take_census(
    folder: str,
    runs: Sequence[Run],
    *,
    came: int,
    validation_fraction: float,
    seed: int,
    known: KnownDocuments | None = None,
) -> Census:
    """Count distinct documents, list them, and find the threshold that holds the right number of them out.

    came: all documents of the corpus, repeated ones too
    known: those that were made into shards before, which are repetitions here
    """
    stayed = sum(run.distinct for run in runs)
    # Repetitions over several runs count here, so this is no less than the number that will be held out.
    most = max(round(stayed * validation_fraction), LEAST_DOCUMENTS)
    documents, lowest = 0, np.zeros(0, np.uint64)

    def counted() -> Iterator[U64]:
        nonlocal documents, lowest
        for wanted in hash_ranges(1 + stayed // _RANGE_DOCUMENTS):
            high, low = read_hashes(folder, runs, wanted)
            distinct = high[firsts(high, low)]
            if known is not None:
                distinct = distinct[~known.holds(distinct)]
            documents += len(distinct)
            draws = _draws(seed, distinct)
            if len(lowest) == most:
                draws = draws[draws < lowest[-1]]  # few, once some ranges were counted
            lowest = np.sort(np.concatenate([lowest, draws]))[:most]
            yield distinct

    write_documents(documents_file(folder), counted())
    held_out = held_out_count(documents, validation_fraction)
    threshold = int(lowest[held_out - 1]) if held_out else None
    return Census(
        documents=documents,
        held_out=held_out,
        duplicates=came - documents,
        sides=Sides(seed=seed, threshold=threshold),
    )


def documents_file(folder: str) -> str:
    """Where the census lists the documents that it counts."""
    return os.path.join(folder, "documents.bin")


def read_census(folder: str, made_from: str) -> Census | None:
    """The census that was taken of these very documents; None where none was."""
    path = os.path.join(folder, _MARK)
    if not os.path.exists(path):
        return None
    mark = storage.read_json(path)
    if mark["made_from"] != made_from or not os.path.exists(documents_file(folder)):
        return None
    return Census(**mark["census"] | {"sides": Sides(**mark["census"]["sides"])})


def write_census(folder: str, census: Census, made_from: str) -> None:
    """Keep a census, so that a restart knows the partitions when runs are gone already."""
    storage.write_json(os.path.join(folder, _MARK), {"made_from": made_from, "census": asdict(census)})


def plan_partitions(
    census: Census, *, asked: int, numbered_from: Mapping[Split, int] | None = None
) -> list[PartitionPlan]:
    """The shards of both sides: as many as asked for, where each gets 64 documents, else fewer.

    numbered_from: the number of each side's first shard; 0 where it isn't said
    """
    first = numbered_from or {}
    training = census.documents - census.held_out
    shards = max(1, min(asked, training // LEAST_DOCUMENTS))
    plans = _partitions("train", shards, census.sides, first.get("train", 0))
    if census.held_out:
        in_proportion = round(shards * census.held_out / training)
        shards = max(1, min(in_proportion, census.held_out // LEAST_DOCUMENTS))
        plans += _partitions("validation", shards, census.sides, first.get("validation", 0))
    return plans


def _partitions(split: Split, count: int, sides: Sides, first: int) -> list[PartitionPlan]:
    return [
        PartitionPlan(split=split, index=first + index, hashes=hashes, sides=sides)
        for index, hashes in enumerate(hash_ranges(count))
    ]
