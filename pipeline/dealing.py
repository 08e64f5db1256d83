"""An order in which any few neighbours carry nearly their share of the whole.

In: things of different sizes, such as a block's pairs with their lengths. Out: the order to lay them in.
What always holds: it is a permutation, a function of the sizes, the order that they come in and the place of the
first; equal sizes keep to chance, that is to the order that they come in.

How: things are sorted into 64 strata of nearly equal number, the smallest first, and place p takes one of stratum
`stratum_of(p)`: the bits of p mod 64 reversed (van der Corput's sequence), so that any run of places meets the
strata evenly, and those of 2, 4, … 64 places exactly so.

Example:
    >>> deal(np.array([5, 1, 9, 3])).tolist()
    [1, 0, 3, 2]
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

STRATA = 64
_REVERSED = np.array([int(f"{number:06b}"[::-1], 2) for number in range(STRATA)], np.uint8)


def stratum_of(places: NDArray[Any]) -> NDArray[np.uint8]:
    """The stratum that each place takes from: 0 the smallest things, 63 the largest."""
    return _REVERSED[places & (STRATA - 1)]


def deal(sizes: NDArray[Any], first: int = 0) -> NDArray[np.int64]:
    """The order for things of `sizes`: which of them stands at places first, first + 1, …"""
    count = len(sizes)
    strata = stratum_of(np.arange(first, first + count))
    # Stable sorts throughout: what is not told apart stays in the order that it came in.
    by_size = np.argsort(sizes, kind="stable")
    wanted = np.repeat(np.arange(STRATA), np.bincount(strata, minlength=STRATA))
    members = np.sort(wanted * count + by_size) - wanted * count
    order = np.empty(count, np.int64)
    order[np.argsort(strata, kind="stable")] = members
    return order
