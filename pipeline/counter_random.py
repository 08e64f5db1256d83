"""Random numbers that are a function of a key and a counter, and of nothing else.

In: integers that name a draw (seed, epoch, sample, position …). Out: 64 uniform bits for each.
What always holds: no state, so it doesn't matter who draws, in which order or how often; the bits
depend on no library's generator, so shards and masks stay the same when numpy changes its own.
The mixer is splitmix64's finaliser (Steele, Lea, Flood 2014), applied twice per draw.

Example:
    >>> draw(key(1, 2), np.arange(3)).dtype
    dtype('uint64')
"""

import numpy as np
from numpy.typing import NDArray

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB

_PIECE = 1 << 15

U64 = NDArray[np.uint64]


def _mix_int(value: int) -> int:
    value = ((value ^ (value >> 30)) * _FIRST) & _MASK
    value = ((value ^ (value >> 27)) * _SECOND) & _MASK
    return value ^ (value >> 31)


def mix64(values: U64) -> U64:
    """Splitmix64's finaliser on each of `values` (uint64, any shape): a bijection of 64 bits."""
    mixed = (values ^ (values >> np.uint64(30))) * np.uint64(_FIRST)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(_SECOND)
    return mixed ^ (mixed >> np.uint64(31))


def key(*parts: int) -> int:
    """A 64-bit key folded from non-negative integers; their order and number matter."""
    folded = _mix_int(len(parts) + _GOLDEN)
    for part in parts:
        if part < 0:
            raise ValueError(f"a key's parts are not negative, got {part}")
        # A part of more than 64 bits is folded limb by limb, so that none of it is lost.
        while True:
            folded = _mix_int(((folded ^ (part & _MASK)) + _GOLDEN) & _MASK)
            part >>= 64
            if not part:
                break
    return folded


def draw(draw_key: int | U64, counters: NDArray[np.integer]) -> U64:
    """64 uniform bits for each of `counters` (integers, any shape) under `draw_key`, or each under its own."""
    offset = np.asarray(draw_key, np.uint64)
    return mix64(mix64(counters.astype(np.uint64) * np.uint64(_GOLDEN) + offset) ^ offset)


def permutation(draw_key: int, size: int) -> NDArray[np.int64]:
    """The numbers 0 … size − 1 in an order that is a function of (draw_key, size): that of their draws."""
    # Sorted as one: a draw's upper bits with the number it is of. An argsort of nine million draws takes six times
    # as long and twice the memory. In pieces that stay in a core's caches.
    bits = np.uint64(max(0, size - 1).bit_length())
    mask = np.uint64((1 << int(bits)) - 1)
    keys = np.empty(size, np.uint64)
    for start in range(0, size, _PIECE):
        numbers = np.arange(start, min(start + _PIECE, size))
        keys[start : start + _PIECE] = (draw(draw_key, numbers) & ~mask) | numbers.astype(np.uint64)
    keys.sort()
    # Where upper bits are the same (40 pairs of nine million), the lower ones decide.
    same = np.flatnonzero((keys[1:] ^ keys[:-1]) <= mask)
    keys &= mask
    order = keys.view(np.int64)
    if len(same):
        tied = np.union1d(same, same + 1)
        order[tied] = order[tied][np.argsort(draw(draw_key, order[tied]), kind="stable")]
    return order


def unit(bits: U64) -> NDArray[np.float64]:
    """`bits` as numbers in [0, 1), from their upper 53."""
    return (bits >> np.uint64(11)).astype(np.float64) * (1.0 / (1 << 53))


def below(bits: U64, limits: NDArray[np.integer]) -> NDArray[np.int64]:
    """`bits` as integers in 0 … limit − 1, each limit from 1 to 2^31 (bias under limit / 2^32)."""
    return ((bits >> np.uint64(32)) * limits.astype(np.uint64) >> np.uint64(32)).view(np.int64)


class Stream:
    """A sequence of draws under one key, for code that walks rather than fills arrays.

    Example: `Stream(key(seed, document)).below(6)` is a die's throw.
    """

    __slots__ = ("_counter", "_key")

    def __init__(self, stream_key: int) -> None:
        self._key = stream_key
        self._counter = 0

    def bits(self) -> int:
        """The next 64 uniform bits."""
        mixed = _mix_int((self._counter * _GOLDEN + self._key) & _MASK)
        self._counter += 1
        return _mix_int(mixed ^ self._key)

    def unit(self) -> float:
        """The next number in [0, 1)."""
        return (self.bits() >> 11) * (1.0 / (1 << 53))

    def below(self, limit: int) -> int:
        """The next integer in 0 … limit − 1 (bias under limit / 2^64)."""
        return (self.bits() * limit) >> 64

    def between(self, low: int, high: int) -> int:
        """The next integer in low … high, both included."""
        return low + self.below(high - low + 1)
