"""What a rank computes at once: a few small arrays without padding between sequences.

In: sequences and their masks. Out: `MicroBatch`es, and the one buffer of bytes in which several of them
travel from a worker (padded int64 matrices would cost more to hand over than to make: 8 bytes and more a
token for each of four matrices; here it is 7 for everything).
What always holds: arrays are as narrow as their values allow and `tensors` widens them where they are used;
what stands after the last sequence (shapes repeat by whole buckets) belongs to no sequence and counts nowhere;
a micro-batch knows its step and micro-step, and which samples it holds.

Example:
    sums = network(**micro_batch.tensors("cuda"))
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.batches.masking import Masked
from pipeline.batches.sequences import IGNORED, Sequences
from pipeline.errors import InputError

if TYPE_CHECKING:
    import torch

# In the buffer each micro-batch is: eleven numbers, then its arrays, the widest first, padded to eight bytes.
_NUMBERS = 11
_ALIGNMENT = 8


@dataclass(frozen=True, kw_only=True, eq=False)
class MicroBatch:
    """T tokens of B sequences laid end to end, M of them to be guessed.

    step, micro_step: where in the run it stands
    sequences: those that count; B, or 0 where it only keeps ranks in step
    longest: tokens of the longest sequence
    masked: labels that count, at most M
    labelled: next labels that count, at most B
    lost: pairs without tokens, whose block could not be read; they count nowhere
    short_of_candidates: how many more should have been masked, had there been candidates
    samples_B: int64, the number in the split of the pair that each sequence is, or begins in; epochs_B: int64, the
        epoch it is read in
    tokens_T: int32; segments_T: int8, 0 for [CLS] A [SEP], 1 for B [SEP]
    positions_T: int16, from 0 in each sequence
    sequence_starts_B1: int32, where each sequence begins, and the end of the last
    masked_positions_M: int32, indices into tokens_T; masked_labels_M: int32, IGNORED where it doesn't count
    next_labels_B: int8, 1 where segment B is a random next, or stands first; IGNORED where nothing is asked
    """

    step: int
    micro_step: int
    sequences: int
    longest: int
    masked: int
    labelled: int
    lost: int
    short_of_candidates: int
    samples_B: NDArray[np.int64]
    epochs_B: NDArray[np.int64]
    tokens_T: NDArray[np.int32]
    sequence_starts_B1: NDArray[np.int32]
    masked_positions_M: NDArray[np.int32]
    masked_labels_M: NDArray[np.int32]
    positions_T: NDArray[np.int16]
    next_labels_B: NDArray[np.int8]
    segments_T: NDArray[np.int8]

    @property
    def position(self) -> tuple[int, int]:
        """(step, micro-step)."""
        return self.step, self.micro_step

    @property
    def tokens(self) -> int:
        """Tokens of real sequences."""
        return int(self.sequence_starts_B1[-1]) if self.sequences else 0

    @property
    def lengths(self) -> NDArray[np.int32]:
        """Tokens of each sequence that counts."""
        return np.diff(self.sequence_starts_B1)[: self.sequences]

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Its arrays by name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name[-2:] in _SUFFIXES}

    def tensors(self, device: "torch.device | str" = "cpu") -> dict[str, "torch.Tensor | int"]:
        """What `BertForPretraining.forward` takes, by name, on `device`.

        To CUDA everything goes in one asynchronous copy out of pinned memory.
        """
        import torch

        widths = {
            "tokens_T": torch.int32,
            "segments_T": torch.int32,
            "positions_T": torch.int32,
            "sequence_starts_B1": torch.int32,
            "masked_positions_M": torch.int64,
            "masked_labels_M": torch.int64,
            "next_labels_B": torch.int64,
        }
        found: dict[str, torch.Tensor | int] = {"longest": self.longest}
        arrays = {name: array for name, array in self.arrays().items() if name in widths}
        if torch.device(device).type == "cpu":
            return found | {n: torch.from_numpy(array).to(widths[n]) for n, array in arrays.items()}
        sizes = [_aligned(array.nbytes) for array in arrays.values()]
        pinned = torch.empty(sum(sizes), dtype=torch.uint8, pin_memory=True)
        offset, host = 0, pinned.numpy()
        for array, size in zip(arrays.values(), sizes, strict=True):
            host[offset : offset + array.nbytes] = array.view(np.uint8)
            offset += size
        there, offset = pinned.to(device, non_blocking=True), 0
        for (name, array), size in zip(arrays.items(), sizes, strict=True):
            narrow = there[offset : offset + array.nbytes].view(torch.from_numpy(array[:0]).dtype)
            found[name] = narrow.to(widths[name])
            offset += size
        return found


_SUFFIXES = ("_T", "_B", "B1", "_M")
_DTYPES: dict[str, np.dtype[Any]] = {
    "samples_B": np.dtype(np.int64),
    "epochs_B": np.dtype(np.int64),
    "tokens_T": np.dtype(np.int32),
    "sequence_starts_B1": np.dtype(np.int32),
    "masked_positions_M": np.dtype(np.int32),
    "masked_labels_M": np.dtype(np.int32),
    "positions_T": np.dtype(np.int16),
    "next_labels_B": np.dtype(np.int8),
    "segments_T": np.dtype(np.int8),
}


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _bucketed(size: int, bucket: int) -> int:
    return -(-max(size, 1) // bucket) * bucket


def packed_size(sequences: int, tokens: int, masked: int) -> int:
    """The bytes that a micro-batch of B sequences, T tokens and M masked places takes in the buffer."""
    lengths = {"_T": tokens, "_B": sequences, "B1": sequences + 1, "_M": masked}
    arrays = sum(dtype.itemsize * lengths[name[-2:]] for name, dtype in _DTYPES.items())
    return 8 * _NUMBERS + _aligned(arrays)


def _views(buffer: NDArray[np.uint8], sequences: int, tokens: int, masked: int) -> dict[str, NDArray[Any]]:
    lengths = {"_T": tokens, "_B": sequences, "B1": sequences + 1, "_M": masked}
    views, offset = {}, 8 * _NUMBERS
    for name, dtype in _DTYPES.items():
        end = offset + dtype.itemsize * lengths[name[-2:]]
        views[name] = buffer[offset:end].view(dtype)
        offset = end
    return views


@dataclass(frozen=True, kw_only=True)
class Buckets:
    """The multiples that a micro-batch's lengths are rounded up to, so that shapes repeat."""

    tokens: int = 8
    masked: int = 8

    def __post_init__(self) -> None:
        if self.tokens < 1 or self.masked < 1:
            raise InputError(f"buckets are {self.tokens} and {self.masked}; they must be at least 1")


BUCKETS = Buckets()


def even_edges(sequences: int, micro_batches: int) -> NDArray[np.int64]:
    """The first sequence of each micro-batch, and the end: dealt in order, numbers that differ by one at most."""
    return np.arange(micro_batches + 1) * sequences // micro_batches


def pack(
    sequences: Sequences,
    masked: Masked,
    *,
    step: int,
    micro_steps: Sequence[int],
    pad_id: int,
    edges: NDArray[np.int64],
    lost: int = 0,
    buckets: Buckets = BUCKETS,
) -> NDArray[np.uint8]:
    """Cut sequences into micro-batches, one for each of `micro_steps`, and lay these into one buffer.

    edges: the first sequence of each micro-batch, and the end; none is empty (see `blanks`)
    lost: pairs that were lost without leaving a sequence; the first micro-batch counts them
    """
    starts = sequences.starts
    lengths = np.diff(starts)
    positions = (np.arange(starts[-1]) - np.repeat(starts[:-1], lengths)).astype(np.int16)
    segments = positions >= np.repeat(sequences.a_ends.astype(np.int16), lengths)
    counts = np.diff(edges).tolist()
    token_edges = starts[edges].tolist()
    masked_edges = np.concatenate([[0], np.cumsum(masked.counts)])[edges].tolist()
    longest = np.maximum.reduceat(lengths, edges[:-1]).tolist()
    is_blank, there = sequences.is_blank, sequences.samples >= 0

    def total(values: NDArray[Any]) -> list[int]:
        sums: list[int] = np.add.reduceat(values, edges[:-1], dtype=np.int64).tolist()
        return sums

    numbers = {
        "sequences": total(there),
        "labelled": total(sequences.next_labels != IGNORED),
        "lost": total(is_blank & there),
        "short": total(np.where(is_blank, 0, masked.short)),
    }
    numbers["lost"][0] += lost
    shapes = [
        (count, _bucketed(t1 - t0, buckets.tokens), _bucketed(m1 - m0, buckets.masked))
        for count, t0, t1, m0, m1 in zip(
            counts, token_edges, token_edges[1:], masked_edges, masked_edges[1:], strict=False
        )
    ]
    sizes = [packed_size(*shape) for shape in shapes]
    buffer = np.empty(sum(sizes), np.uint8)
    offset = 0
    for index, micro_step in enumerate(micro_steps):
        shape, here = shapes[index], buffer[offset : offset + sizes[index]]
        first, last = edges[index : index + 2]
        t0, t1 = token_edges[index : index + 2]
        m0, m1 = masked_edges[index : index + 2]
        here[: 8 * _NUMBERS].view(np.int64)[:] = (
            step, micro_step, *shape, longest[index], m1 - m0, *(each[index] for each in numbers.values()),
        )  # fmt: skip
        views = _views(here, *shape)
        views["samples_B"][:] = sequences.samples[first:last]
        views["epochs_B"][:] = sequences.epochs[first:last]
        views["next_labels_B"][:] = sequences.next_labels[first:last]
        np.subtract(starts[first : last + 1], t0, out=views["sequence_starts_B1"], casting="unsafe")
        _fill(views["tokens_T"], masked.tokens[t0:t1], pad_id)
        _fill(views["positions_T"], positions[t0:t1], 0)
        _fill(views["segments_T"], segments[t0:t1], 0)
        _fill(views["masked_positions_M"], masked.places[m0:m1] - t0, 0)
        _fill(views["masked_labels_M"], masked.labels[m0:m1], IGNORED)
        offset += sizes[index]
    return buffer


def _fill(view: NDArray[Any], values: NDArray[Any], rest: int) -> None:
    view[: len(values)] = values
    view[len(values) :] = rest


def unpack(buffer: NDArray[np.uint8]) -> list[MicroBatch]:
    """The micro-batches in a buffer of `pack`'s, as views into it."""
    found, offset = [], 0
    while offset < len(buffer):
        numbers = buffer[offset : offset + 8 * _NUMBERS].view(np.int64).tolist()
        step, micro_step, size_B, size_T, size_M, longest, masked, sequences, labelled, lost, short = numbers
        size = packed_size(size_B, size_T, size_M)
        views = _views(buffer[offset : offset + size], size_B, size_T, size_M)
        found.append(
            MicroBatch(
                step=step,
                micro_step=micro_step,
                sequences=sequences,
                longest=longest,
                masked=masked,
                labelled=labelled,
                lost=lost,
                short_of_candidates=short,
                **views,
            )
        )
        offset += size
    return found
