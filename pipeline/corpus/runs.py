"""Runs: tokenised documents on disk between map and reduce, sorted by hash.

In: tokenised documents in any order. Out: runs (Arrow IPC files of one record batch, sorted by hash), each of a range
of hashes, and from all runs together the documents of any range, each once.
What always holds: memory is bounded by what is written, and by the range's distinct documents when reading (runs are
mapped, not read; a run holds each document once); which of several equal documents stays is decided by content and
by the weight of its source, never by where it came from.

Columns of a run: `high`, `low` uint64 (the document's hash), `layout` uint64 (hash of its sentences'
lengths and tokens), `copies` uint8 (sets of pairs it gives), `source` uint16 (which of the sources it is of),
`sentences` list<uint32> (tokens of each sentence), `tokens` list<uint16 | uint32>; where words are wanted,
`continues` list<uint8> (1 for each token that continues a word).

Example:
    runs = write_runs("SHARDS/.work", "spill-0-0000", documents)
    found = read_range("SHARDS/.work", runs, (0, 1 << 64))
"""

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from functools import partial
from typing import IO, Any

import numpy as np
import pyarrow as pa
import xxhash
from numpy.typing import NDArray

from pipeline import storage
from pipeline.corpus.arrow_arrays import from_arrow, to_arrow
from pipeline.corpus.ragged import gather, starts_of
from pipeline.errors import RunFailed

HASHES = 1 << 64  # of documents, as far as ranges go: the upper half of each hash
EVERYTHING = (0, HASHES)
U64 = NDArray[np.uint64]
Range = tuple[int, int]

# So many at most for one batch of documents, each of so many tokens at least: what is reduced can be removed in
# eighths, and small corpora don't fall to crumbs.
_RANGES = 8
_LEAST_TOKENS = 1 << 18
_KEYS = ("high", "low", "copies", "layout", "source")  # by which one of several equal documents is chosen


@dataclass(frozen=True, kw_only=True)
class Tokenised:
    """Documents as tokens, in any order.

    high, low: uint64 (documents), the halves of each document's hash
    copies: uint8 (documents), sets of pairs that each gives
    source: uint16 (documents), which of the corpus's sources each is of
    sentence_counts: int64 (documents)
    sentence_lengths: uint32 (sentences), tokens of each; no sentence is empty
    tokens: uint16 or uint32
    continues: bool (tokens), those that continue the word before them; None where words are not wanted
    """

    high: U64
    low: U64
    copies: NDArray[np.uint8]
    source: NDArray[np.uint16]
    sentence_counts: NDArray[np.int64]
    sentence_lengths: NDArray[np.uint32]
    tokens: NDArray[Any]
    continues: NDArray[np.bool_] | None = None


@dataclass(frozen=True, kw_only=True)
class Run:
    """One file; `bytes` tells a whole one from one cut short.

    documents: those that came, repeated ones too
    distinct: those that stayed, each once
    hashes: the range [low, high) that its documents are of
    """

    name: str
    bytes: int
    documents: int
    distinct: int
    hashes: Range = EVERYTHING

    def is_whole(self, folder: str) -> bool:
        """Whether the file is there in its full length."""
        path = os.path.join(folder, self.name)
        return os.path.exists(path) and os.path.getsize(path) == self.bytes


def read_runs(marks: Sequence[dict[str, Any]]) -> tuple[Run, ...]:
    """Runs as a mark lists them."""
    return tuple(Run(**mark | {"hashes": tuple(mark["hashes"])}) for mark in marks)


def overlap(one: Range, other: Range) -> bool:
    """Whether two ranges of hashes have one in common."""
    return one[0] < other[1] and other[0] < one[1]


def hash_ranges(count: int, within: Range = EVERYTHING) -> list[Range]:
    """A range of hashes cut into `count` ranges [low, high) of equal width."""
    low, width = within[0], within[1] - within[0]
    return [(low + index * width // count, low + (index + 1) * width // count) for index in range(count)]


def joined(batches: Sequence[Tokenised]) -> Tokenised:
    """The documents of several batches as one."""
    names = [each.name for each in fields(Tokenised) if getattr(batches[0], each.name) is not None]
    return Tokenised(**{name: np.concatenate([getattr(batch, name) for batch in batches]) for name in names})


def write_runs(folder: str, stem: str, documents: Tokenised, within: Range = EVERYTHING) -> tuple[Run, ...]:
    """Write `documents`, whose hashes lie `within` a range, as runs of parts of it, each document once.

    Raises RunFailed where the disk refuses.
    """
    parts = min(_RANGES, 1 << max(0, (len(documents.tokens) // _LEAST_TOKENS).bit_length() - 1))
    batch = _sorted_batch(documents)
    high, came = from_arrow(batch.column("high")), np.sort(documents.high)
    runs = []
    for index, hashes in enumerate(hash_ranges(parts, within)):
        rows = _rows(high, hashes)
        part, name = batch.slice(rows.start, rows.stop - rows.start), f"{stem}-{index}.arrow"
        path = os.path.join(folder, name)
        storage.write_whole(path, partial(_write_batch, batch=part))
        runs.append(
            Run(
                name=name,
                bytes=os.path.getsize(path),
                documents=len(range(*_rows(came, hashes).indices(len(came)))),
                distinct=part.num_rows,
                hashes=hashes,
            )
        )
    return tuple(runs)


def _sorted_batch(documents: Tokenised) -> pa.RecordBatch:
    """The documents ascending by hash, each once."""
    sentences = starts_of(documents.sentence_counts)
    tokens = starts_of(documents.sentence_lengths)[sentences]
    layout = _layouts(documents, sentences, tokens)
    order = firsts(documents.high, documents.low, documents.copies, layout)
    lengths = gather(documents.sentence_lengths, sentences[order], sentences[order + 1])
    columns = {
        "high": to_arrow(documents.high[order]),
        "low": to_arrow(documents.low[order]),
        "layout": to_arrow(layout[order]),
        "copies": to_arrow(documents.copies[order]),
        "source": to_arrow(documents.source[order]),
        "sentences": _lists(documents.sentence_counts[order], lengths),
    }
    for name, values in (("tokens", documents.tokens), ("continues", documents.continues)):
        if values is not None:
            # A byte a flag: bits could not be read where they lie.
            flat = gather(values, tokens[order], tokens[order + 1])
            flat = flat.view(np.uint8) if flat.dtype == np.bool_ else flat
            columns[name] = _lists((tokens[1:] - tokens[:-1])[order], flat)
    return pa.RecordBatch.from_arrays(list(columns.values()), names=list(columns))


def _layouts(documents: Tokenised, sentences: NDArray[np.int64], tokens: NDArray[np.int64]) -> U64:
    """A hash for each document of how it is cut into sentences and tokens."""
    lengths, flat, flags = documents.sentence_lengths, documents.tokens, documents.continues

    def layout(first: int, last: int, start: int, stop: int) -> int:
        state = xxhash.xxh3_64(lengths[first:last].tobytes())
        state.update(flat[start:stop].tobytes())
        if flags is not None:
            state.update(flags[start:stop].tobytes())
        return state.intdigest()

    first, start = sentences.tolist(), tokens.tolist()
    found = map(layout, first[:-1], first[1:], start[:-1], start[1:])
    return np.fromiter(found, np.uint64, len(documents.high))


def _lists(counts: NDArray[np.int64], values: NDArray[Any]) -> pa.LargeListArray:
    # "Large": 64-bit offsets, since one document alone may pass 2^31 tokens.
    return pa.LargeListArray.from_arrays(to_arrow(starts_of(counts)), to_arrow(values))


def _write_batch(stream: IO[bytes], batch: pa.RecordBatch) -> None:
    with pa.ipc.new_file(stream, batch.schema) as writer:
        writer.write_batch(batch)


def firsts(
    high: U64,
    low: U64,
    copies: NDArray[np.uint8] | None = None,
    layout: U64 | None = None,
    source: NDArray[np.uint16] | None = None,
) -> NDArray[np.int64]:
    """The rows of distinct documents, ascending by hash; of equal ones that of most copies, then the least layout.

    The choice is by content (the same words may be cut into sentences or cased otherwise), not by file name,
    so that no name or order of files decides a byte of the shards. The least source goes with it, for the counts.
    """
    keys = [
        key for key in (source, layout, None if copies is None else ~copies, low, high) if key is not None
    ]
    order = np.lexsort(keys)
    first = np.ones(len(order), np.bool_)
    first[1:] = np.diff(high[order]).astype(np.bool_) | np.diff(low[order]).astype(np.bool_)
    return order[first]


def read_hashes(folder: str, runs: Sequence[Run], wanted: Range) -> tuple[U64, U64]:
    """The hashes (upper and lower halves) of all documents in the range, once for each run they are in."""
    high, low = [np.zeros(0, np.uint64)], [np.zeros(0, np.uint64)]
    for run in runs:
        if overlap(run.hashes, wanted):
            with ExitStack() as stack:
                batch = _opened(stack, folder, run)
                rows = _rows(from_arrow(batch.column("high")), wanted)
                high.append(from_arrow(batch.column("high"))[rows].copy())
                low.append(from_arrow(batch.column("low"))[rows].copy())
    return np.concatenate(high), np.concatenate(low)


def read_range(
    folder: str,
    runs: Sequence[Run],
    wanted: Range,
    keep: Callable[[U64], NDArray[np.bool_]] = lambda high: np.ones(len(high), np.bool_),
) -> Tokenised:
    """The documents in a range of hashes of which `keep` (of their upper halves) holds, each once, in order.

    Raises RunFailed where a run is gone.
    """
    # Keys first, so that of documents in many runs only the copies that stay are gathered. One run at a time is
    # mapped: held-out documents lie all over them, and what was touched of all together came to a gigabyte.
    near: list[Run] = []
    keys, places = [], []
    for run in runs:
        if not overlap(run.hashes, wanted):
            continue
        with ExitStack() as stack:
            batch = _opened(stack, folder, run)
            rows = _rows(from_arrow(batch.column("high")), wanted)
            chosen = rows.start + np.flatnonzero(keep(from_arrow(batch.column("high"))[rows]))
            keys.append([from_arrow(batch.column(name))[chosen] for name in _KEYS])
        places.append(np.stack([np.full(len(chosen), len(near)), chosen]))
        near.append(run)
    if not near:
        return _nothing()
    columns = dict(zip(_KEYS, map(np.concatenate, zip(*keys, strict=True)), strict=True))
    stay = firsts(**columns)
    run_of, row_of = np.concatenate(places, axis=1)[:, stay]
    counts, lengths = np.zeros(len(stay), np.int64), []
    flats: dict[str, list[NDArray[Any]]] = {"tokens": [], "continues": []}
    for index, run in enumerate(near):
        rows_here = row_of[run_of == index]
        with ExitStack() as stack:
            batch = _opened(stack, folder, run)
            sentence_starts, sentences = _flat(batch, "sentences")
            counts[run_of == index] = sentence_starts[rows_here + 1] - sentence_starts[rows_here]
            lengths.append(_gathered(sentences, sentence_starts, rows_here))
            for name in flats.keys() & set(batch.schema.names):
                starts, values = _flat(batch, name)
                flats[name].append(_gathered(values, starts, rows_here))
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
    return Tokenised(
        high=columns["high"][stay],
        low=columns["low"][stay],
        copies=columns["copies"][stay],
        source=columns["source"][stay],
        sentence_counts=counts,
        sentence_lengths=gather(all_lengths, sentence_starts[place], sentence_starts[place + 1]),
        tokens=in_order["tokens"],
        continues=in_order["continues"].view(np.bool_) if "continues" in in_order else None,
    )


def _gathered(flat: NDArray[Any], starts: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[Any]:
    """Some rows' values, of which nothing refers to the file any more."""
    found = gather(flat, starts[rows], starts[rows + 1])
    return found if len(rows) else found.copy()


def _nothing() -> Tokenised:
    kinds = {"high": np.uint64, "low": np.uint64, "copies": np.uint8, "source": np.uint16}
    kinds |= {"sentence_counts": np.int64, "sentence_lengths": np.uint32, "tokens": np.uint16}
    return Tokenised(**{name: np.zeros(0, kind) for name, kind in kinds.items()})


def _opened(stack: ExitStack, folder: str, run: Run) -> pa.RecordBatch:
    """The record batch of a run, mapped as long as `stack` is open."""
    path = os.path.join(folder, run.name)
    try:
        file = stack.enter_context(pa.memory_map(path, "rb"))
    except FileNotFoundError:
        raise RunFailed(
            f"{path} is gone; run the same command again, it makes anew what is missing"
        ) from None
    return pa.ipc.open_file(file).get_batch(0)


def _rows(high: U64, wanted: Range) -> slice:
    # The upper bound may be 2^64, which no uint64 holds: compare with the last hash wanted.
    start = int(np.searchsorted(high, np.uint64(wanted[0]), side="left"))
    stop = int(np.searchsorted(high, np.uint64(wanted[1] - 1), side="right"))
    return slice(start, stop)


def _flat(batch: pa.RecordBatch, name: str) -> tuple[NDArray[np.int64], NDArray[Any]]:
    column = batch.column(name)
    return from_arrow(column.offsets), from_arrow(column.values)
