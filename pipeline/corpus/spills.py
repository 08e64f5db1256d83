"""Spill files: tokenised documents on disk between map and reduce, sorted by hash.

In: tokenised documents in any order. Out: runs (Arrow IPC files of one record batch, sorted by hash), and
from all runs together the documents of any range of hashes, each once, as a `Partition`.
What always holds: memory is bounded by a run when writing and by the range's distinct documents when reading
(runs are mapped, not read; a run holds each document once); which of several equal documents stays is decided
by content, never by where it came from.

Columns of a run: `high`, `low` uint64 (the document's hash), `layout` uint64 (hash of its sentences'
lengths and tokens), `sentences` list<uint32> (tokens of each sentence), `tokens` list<uint16 | uint32>; where words
are wanted, `continues` list<uint8> (1 for each token that continues a word).

Example:
    writer = SpillWriter("SHARDS/.work", "spill-0")
    writer.add(batch)
    runs = writer.finish()
    partition, duplicates = read_partition("SHARDS/.work", runs, (0, 1 << 64), lambda high: high >= 0)
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from pipeline import storage
from pipeline.corpus.partition import Partition
from pipeline.corpus.ragged import gather, starts_of

# Tokens held before a run is written: 16 MB as uint16, and twice that while it is being sorted.
_RUN_TOKENS = 8 << 20

HASHES = 1 << 64  # of documents, as far as ranges go: the upper half of each hash
U64 = NDArray[np.uint64]


@dataclass(frozen=True, kw_only=True)
class Tokenised:
    """Documents as tokens, in any order.

    high, low: uint64 (documents), the halves of each document's hash
    sentence_counts: int64 (documents)
    sentence_lengths: uint32 (sentences), tokens of each; no sentence is empty
    tokens: uint16 or uint32
    continues: bool (tokens), those that continue the word before them; None where words are not wanted
    """

    high: U64
    low: U64
    sentence_counts: NDArray[np.int64]
    sentence_lengths: NDArray[np.uint32]
    tokens: NDArray[Any]
    continues: NDArray[np.bool_] | None = None


@dataclass(frozen=True, kw_only=True)
class Run:
    """One spill file; `bytes` tells a whole one from one cut short.

    documents: those that came, repeated ones too
    distinct: those that stayed, each once
    """

    name: str
    bytes: int
    documents: int
    distinct: int


class SpillWriter:
    """Gathers documents and writes a run whenever enough have come."""

    def __init__(self, folder: str, stem: str, *, run_tokens: int = _RUN_TOKENS) -> None:
        self._folder, self._stem, self._run_tokens = folder, stem, run_tokens
        self._held: list[Tokenised] = []
        self._held_tokens = 0
        self._runs: list[Run] = []

    def add(self, batch: Tokenised) -> None:
        """Take `batch` in."""
        if not len(batch.high):
            return
        self._held.append(batch)
        self._held_tokens += len(batch.tokens)
        if self._held_tokens >= self._run_tokens:
            self._flush()

    def finish(self) -> tuple[Run, ...]:
        """Write what is left; returns all runs."""
        if self._held:
            self._flush()
        return tuple(self._runs)

    def _flush(self) -> None:
        documents = _joined(self._held)
        batch = _sorted_batch(documents)
        self._held, self._held_tokens = [], 0
        name = f"{self._stem}-{len(self._runs):04d}.arrow"
        path = os.path.join(self._folder, name)
        storage.write_whole(path, lambda stream: _write_batch(stream, batch))
        self._runs.append(
            Run(
                name=name,
                bytes=os.path.getsize(path),
                documents=len(documents.high),
                distinct=batch.num_rows,
            )
        )


def _joined(batches: Sequence[Tokenised]) -> Tokenised:
    flags = [batch.continues for batch in batches if batch.continues is not None]
    return Tokenised(
        continues=np.concatenate(flags) if flags else None,
        **{
            name: np.concatenate([getattr(batch, name) for batch in batches])
            for name in ("high", "low", "sentence_counts", "sentence_lengths", "tokens")
        },
    )


def _sorted_batch(documents: Tokenised) -> pa.RecordBatch:
    """The documents ascending by hash, each once."""
    sentences = starts_of(documents.sentence_counts)
    tokens = starts_of(documents.sentence_lengths)[sentences]
    layout = np.fromiter(
        (
            _layout(
                documents.sentence_lengths[first:last],
                documents.tokens[start:stop],
                None if documents.continues is None else documents.continues[start:stop],
            )
            for first, last, start, stop in _bounds(sentences, tokens)
        ),
        dtype=np.uint64,
        count=len(documents.high),
    )
    order = firsts(documents.high, documents.low, layout)
    lengths = gather(documents.sentence_lengths, sentences[order], sentences[order + 1])
    columns = {
        "high": pa.array(documents.high[order]),
        "low": pa.array(documents.low[order]),
        "layout": pa.array(layout[order]),
        "sentences": _lists(documents.sentence_counts[order], lengths),
    }
    for name, values in (("tokens", documents.tokens), ("continues", documents.continues)):
        if values is not None:
            # A byte a flag: bits could not be read where they lie.
            flat = gather(values, tokens[order], tokens[order + 1])
            flat = flat.view(np.uint8) if flat.dtype == np.bool_ else flat
            columns[name] = _lists((tokens[1:] - tokens[:-1])[order], flat)
    return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))


def _bounds(sentences: NDArray[np.int64], tokens: NDArray[np.int64]) -> Iterator[tuple[int, int, int, int]]:
    firsts, starts = sentences.tolist(), tokens.tolist()
    return zip(firsts[:-1], firsts[1:], starts[:-1], starts[1:], strict=True)


def _layout(lengths: NDArray[np.uint32], tokens: NDArray[Any], continues: NDArray[np.bool_] | None) -> int:
    state = xxhash.xxh3_64(lengths.tobytes())
    state.update(tokens.tobytes())
    if continues is not None:
        state.update(continues.tobytes())
    return state.intdigest()


def _lists(counts: NDArray[np.int64], values: NDArray[Any]) -> pa.LargeListArray:
    # "Large": 64-bit offsets, since one document alone may pass 2^31 tokens.
    return pa.LargeListArray.from_arrays(pa.array(starts_of(counts)), pa.array(values))


def _write_batch(stream: IO[bytes], batch: pa.RecordBatch) -> None:
    with pa.ipc.new_file(stream, batch.schema) as writer:
        writer.write_batch(batch)


def hash_ranges(count: int) -> list[tuple[int, int]]:
    """The hashes cut into `count` ranges [low, high) of equal width."""
    return [(index * HASHES // count, (index + 1) * HASHES // count) for index in range(count)]


def read_hashes(folder: str, runs: Sequence[Run], wanted: tuple[int, int]) -> tuple[U64, U64]:
    """The hashes (upper and lower halves) of all documents in the range, once for each run they are in."""
    high, low = [], []
    for run in runs:
        with _opened(folder, run) as batch:
            rows = _rows(batch, wanted)
            high.append(batch.column("high").to_numpy()[rows].copy())
            low.append(batch.column("low").to_numpy()[rows].copy())
    return _concatenated(high, np.uint64), _concatenated(low, np.uint64)


def firsts(high: U64, low: U64, layout: U64 | None = None) -> NDArray[np.int64]:
    """The rows of distinct documents, ascending by hash; of equal ones the row of the least layout.

    The choice is by content (the same words may be cut into sentences or cased otherwise), not by file name,
    so that no name or order of files decides a byte of the shards.
    """
    order = np.lexsort((low, high)) if layout is None else np.lexsort((layout, low, high))
    first = np.ones(len(order), np.bool_)
    first[1:] = np.diff(high[order]).astype(np.bool_) | np.diff(low[order]).astype(np.bool_)
    return order[first]


def read_partition(
    folder: str, runs: Sequence[Run], wanted: tuple[int, int], keep: Callable[[U64], NDArray[np.bool_]]
) -> Partition:
    """The documents in a range of hashes of which `keep` (of their upper halves) holds, each once."""
    # Keys first, so that of documents in many runs only the copies that stay are gathered.
    keys, places = [np.zeros((3, 0), np.uint64)], [np.zeros((2, 0), np.int64)]
    for index, run in enumerate(runs):
        with _opened(folder, run) as batch:
            rows = _rows(batch, wanted)
            columns = [batch.column(name).to_numpy()[rows] for name in ("high", "low", "layout")]
            chosen = np.flatnonzero(keep(columns[0]))
            keys.append(np.stack(columns)[:, chosen])
            places.append(np.stack([np.full(len(chosen), index), chosen + rows.start]))
    high, low, layout = np.concatenate(keys, axis=1)
    stay = firsts(high, low, layout)
    run_of, row_of = np.concatenate(places, axis=1)[:, stay]
    counts, lengths = np.zeros(len(stay), np.int64), [np.zeros(0, np.uint32)]
    flats: dict[str, list[NDArray[Any]]] = {"tokens": [], "continues": []}
    for index, run in enumerate(runs):
        with _opened(folder, run) as batch:
            rows_here = row_of[run_of == index]
            sentence_starts, sentences = _flat(batch, "sentences")
            counts[run_of == index] = sentence_starts[rows_here + 1] - sentence_starts[rows_here]
            lengths.append(gather(sentences, sentence_starts[rows_here], sentence_starts[rows_here + 1]))
            for name in flats.keys() & set(batch.schema.names):
                starts, values = _flat(batch, name)
                flats[name].append(gather(values, starts[rows_here], starts[rows_here + 1]))
    # They lie run by run now; back to the order of hashes.
    by_run = np.argsort(run_of, kind="stable")
    place = np.argsort(by_run)
    all_lengths = np.concatenate(lengths)
    sentence_starts = starts_of(counts[by_run])
    token_starts = starts_of(all_lengths)[sentence_starts]
    in_order = {
        name: gather(np.concatenate(parts), token_starts[place], token_starts[place + 1])
        for name, parts in flats.items()
        if parts
    }
    return Partition(
        tokens=in_order.get("tokens", np.zeros(0, np.uint16)),
        continues=in_order["continues"].view(np.bool_) if "continues" in in_order else None,
        sentence_offsets=starts_of(gather(all_lengths, sentence_starts[place], sentence_starts[place + 1])),
        document_offsets=starts_of(counts),
        document_hashes=high[stay],
    )


@contextmanager
def _opened(folder: str, run: Run) -> Iterator[pa.RecordBatch]:
    """The record batch of a run, mapped."""
    with pa.memory_map(os.path.join(folder, run.name), "rb") as file:
        yield pa.ipc.open_file(file).get_batch(0)


def _rows(batch: pa.RecordBatch, wanted: tuple[int, int]) -> slice:
    high = batch.column("high").to_numpy()
    # The upper bound may be 2^64, which no uint64 holds: compare with the last hash wanted.
    start = int(np.searchsorted(high, np.uint64(wanted[0]), side="left"))
    stop = int(np.searchsorted(high, np.uint64(wanted[1] - 1), side="right"))
    return slice(start, stop)


def _flat(batch: pa.RecordBatch, name: str) -> tuple[NDArray[np.int64], NDArray[Any]]:
    column = batch.column(name)
    return column.offsets.to_numpy(), column.values.to_numpy()


def _concatenated(arrays: list[NDArray[Any]], empty: Any) -> NDArray[Any]:
    return np.concatenate(arrays) if arrays else np.zeros(0, empty)
