"""Pieces of different lengths laid end to end in one array, as tokens and sentences are here.

In: flat arrays, and the pieces' lengths or bounds. Out: bounds, or pieces picked and laid end to end anew.
What always holds: nothing is changed in place but what `Growing` holds.

Example:
    starts_of(np.array([2, 0, 3]))  # [0 2 2 5]
    gather(np.arange(5), np.array([2, 0]), np.array([5, 2]))  # [2 3 4 0 1]
"""

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray


def starts_of(lengths: NDArray[Any]) -> NDArray[np.int64]:
    """Where each of the pieces laid end to end starts, and where the last one stops (n + 1)."""
    starts = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=starts[1:])
    return starts


def gather(flat: NDArray[Any], starts: NDArray[np.int64], stops: NDArray[np.int64]) -> NDArray[Any]:
    """The ranges [start, stop) of `flat`, laid end to end."""
    # Slices joined in one call: for segments of some sixty tokens faster than an index of every token, and
    # without its eight bytes a token.
    pieces = [flat[start:stop] for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)]
    return np.concatenate(pieces) if pieces else flat[:0]


class Growing:
    """A flat array that more is added to, in time linear in all that is added."""

    def __init__(self, dtype: DTypeLike) -> None:
        self._room = np.empty(1024, dtype)
        self._length = 0

    def __len__(self) -> int:
        return self._length

    @property
    def values(self) -> NDArray[Any]:
        """All that was added, in order; not to be kept beyond the next `add`."""
        return self._room[: self._length]

    def add(self, values: NDArray[Any]) -> None:
        """Put `values` behind what is there."""
        end = self._length + len(values)
        if end > len(self._room):
            room = np.empty(2 * end, self._room.dtype)
            room[: self._length] = self.values
            self._room = room
        self._room[self._length : end] = values
        self._length = end
