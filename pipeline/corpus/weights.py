"""A source's weight → how many sets of pairs each of its documents gives.

In: a weight, a seed and a document's hash. Out: a number of sets: the weight itself where it is whole; else the whole
number below or above it, as often as makes the weight on average.
What always holds: the draw is of the document's hash alone, so neither files nor their order decide it, nor which
source a document stands in: one that stands in two gives as many sets as in that of more weight.

Example:
    sets_of(2.0, 1, high)  # 2
    sets_of(0.5, 1, high)  # 0 for one half of all documents, 1 for the other
"""

from pipeline import counter_random
from pipeline.errors import InputError

MOST_SETS = 255
"""Of one document: runs keep the number in a byte."""

_WEIGHT = 0x57454948  # tells this use of the seed from others


def check_weight(weight: float) -> None:
    """Raise InputError where `weight` is none."""
    if not 0 < weight <= MOST_SETS:
        raise InputError(f"weight is {weight:g}; it must be above 0, and {MOST_SETS} at most")


def sets_of(weight: float, seed: int, high: int) -> int:
    """How many sets a document gives, by the upper 64 bits of its hash; 0: it is left out."""
    whole = int(weight)
    part = weight - whole
    if not part:
        return whole
    return whole + (counter_random.Stream(counter_random.key(seed, _WEIGHT, high)).unit() < part)
