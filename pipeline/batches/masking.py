"""Which tokens the model must guess, and what it sees in their place (pure functions on flat arrays).

In: sequences laid end to end, and for each a 64-bit key made from (seed, phase, epoch, sample). Out: the
tokens with the chosen ones replaced, where those are, and what they were.
What always holds:
- A sequence's mask is a function of its key and its own tokens: not of its neighbours, of who computes it
  or of the order.
- Of a sequence of `length` tokens (special ones included) min(max_predictions, max(1, round(length · rate)))
  are chosen (Devlin et al. 2018's create_pretraining_data), fewer only where candidates run short, counted.
- Special tokens ([CLS] [SEP] [PAD] [MASK] [UNK] [unused*]) are neither chosen nor drawn, also where they
  stand literally in the text; replacements are drawn uniformly from all others. (Google's code masks [UNK].)

Example:
    keys = mask_keys(seed=1, phase=0, epochs=epochs, samples=samples)
    masked = mask_tokens(tokens, starts, keys, MaskingConfig(), special, sequence_length=128)
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.counter_random import draw, key, mix64, unit
from pipeline.errors import InputError

if TYPE_CHECKING:
    from pipeline.corpus.vocabulary import Vocabulary

STRATEGIES = ("token",)

_MASK = int.from_bytes(b"mask")
# Three independent draws for a token: is it chosen, what becomes of it, which token stands in.
_CHOOSE, _ACT, _REPLACE = (np.uint64(key(_MASK, purpose)) for purpose in range(3))
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
# A sortable word for a token: a bit that puts those that may not be chosen last, 47 random bits, and the
# token's place in its sequence, so that sorting a row of words finds places without a second array.
_PLACE_BITS = np.uint64(16)
_PLACE = np.uint64((1 << 16) - 1)
_BARRED = np.uint64(1 << 63)
_LOWER = np.uint64((1 << 63) - 1)
# Words drawn and sorted at once: 256 KB, which a core's second-level cache holds (benchmarks/loader.py; half or
# twice as many cost a tenth).
_WORDS = 1 << 15


@dataclass(frozen=True, kw_only=True)
class MaskingConfig:
    """How tokens are masked (Devlin et al. 2018 §3.1: 15 %, of these 80 / 10 / 10).

    strategy: `token`, each token for itself
    rate: share of a sequence's tokens that are to be guessed
    mask, random, keep: shares of those that become [MASK], become another token, stay
    max_predictions: most a sequence; by default rate · sequence_length, rounded up

    Raises InputError where a share is outside [0, 1] or the three don't sum to 1.
    """

    strategy: str = "token"
    rate: float = 0.15
    mask: float = 0.8
    random: float = 0.1
    keep: float = 0.1
    max_predictions: int | None = None

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise InputError(f"strategy is {self.strategy!r}; known are {', '.join(STRATEGIES)}")
        if not 0 < self.rate <= 1:
            raise InputError(f"rate is {self.rate}; it must be above 0 and at most 1")
        shares = {"mask": self.mask, "random": self.random, "keep": self.keep}
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise InputError(f"{name} is {share}; it must lie between 0 and 1")
        if not math.isclose(sum(shares.values()), 1, abs_tol=1e-6):
            listed = " + ".join(f"{name} {share}" for name, share in shares.items())
            raise InputError(f"masking's {listed} sum to {sum(shares.values()):g}; they must sum to 1")
        if self.max_predictions is not None and self.max_predictions < 1:
            raise InputError(f"max_predictions is {self.max_predictions}; it must be at least 1")

    def most(self, sequence_length: int) -> int:
        """The most tokens guessed in a sequence, in a phase of `sequence_length`."""
        if self.max_predictions is not None:
            return self.max_predictions
        # 0.07 · 100 is 7.000000000000001 in binary; that is no reason for an eighth prediction.
        return max(1, math.ceil(round(self.rate * sequence_length, 9)))

    def predictions(self, lengths: NDArray[Any], sequence_length: int) -> NDArray[np.int64]:
        """How many tokens of sequences of `lengths` (special tokens included) are to be guessed."""
        # rint rounds halves to even, as the round() of the published code does.
        wanted = np.maximum(1, np.rint(lengths * self.rate))
        return np.minimum(self.most(sequence_length), wanted).astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class SpecialIds:
    """The vocabulary as masking and laying out see it.

    size: tokens in the vocabulary
    special_ids: those never masked and never drawn: [PAD] [UNK] [CLS] [SEP] [MASK] and every [unusedN]

    Raises InputError where nothing is left to draw from.
    """

    size: int
    pad_id: int
    cls_id: int
    sep_id: int
    mask_id: int
    special_ids: tuple[int, ...]

    def __post_init__(self) -> None:
        if not {self.pad_id, self.cls_id, self.sep_id, self.mask_id} <= set(self.special_ids):
            raise InputError("[PAD], [CLS], [SEP] and [MASK] must be among the vocabulary's special ids")
        if not all(0 <= special < self.size for special in self.special_ids):
            raise InputError(f"a special id lies outside the vocabulary of {self.size} tokens")
        if not len(self.replaceable):
            raise InputError(f"all {self.size} tokens of the vocabulary are special; none is left to mask")

    @classmethod
    def of(cls, vocabulary: "Vocabulary") -> "SpecialIds":
        """Those of a vocabulary."""
        return cls(
            size=vocabulary.size,
            pad_id=vocabulary.pad_id,
            cls_id=vocabulary.cls_id,
            sep_id=vocabulary.sep_id,
            mask_id=vocabulary.mask_id,
            special_ids=tuple(vocabulary.special_ids),
        )

    @cached_property
    def is_special(self) -> NDArray[np.bool_]:
        """For each id of the vocabulary, whether it is special."""
        table = np.zeros(self.size, np.bool_)
        table[list(self.special_ids)] = True
        return table

    @cached_property
    def replaceable(self) -> NDArray[np.int32]:
        """The ids that replacements are drawn from, ascending."""
        return np.flatnonzero(~self.is_special).astype(np.int32)


@dataclass(frozen=True, kw_only=True)
class Masked:
    """Masked sequences.

    tokens: int32 (T), what the model sees
    places: int64 (M), indices into `tokens` of what it must guess, ascending
    labels: int32 (M), what stood there
    counts: int64 (B), how many of them each sequence has
    short: int64 (B), how many fewer than wanted, for want of candidates
    """

    tokens: NDArray[np.int32]
    places: NDArray[np.int64]
    labels: NDArray[np.int32]
    counts: NDArray[np.int64]
    short: NDArray[np.int64]


def mask_keys(
    *, seed: int, phase: int, epochs: NDArray[np.integer], samples: NDArray[np.int64]
) -> NDArray[np.uint64]:
    """A key for each sequence, from the run's seed and the sequence's identity (phase, epoch, sample)."""
    keys = np.empty(len(samples), np.uint64)
    for epoch in np.unique(epochs):
        those = epochs == epoch
        keys[those] = draw(key(_MASK, seed, phase, int(epoch)), samples[those])
    return keys


def mask_tokens(
    tokens: NDArray[Any],
    starts: NDArray[Any],
    keys: NDArray[np.uint64],
    config: MaskingConfig,
    special: SpecialIds,
    sequence_length: int,
) -> Masked:
    """Mask sequences laid end to end; `tokens` is left as it is.

    tokens: T ids, special tokens included, none of them padding; sequences of up to 65,535
    starts: B + 1, where each sequence begins, and T
    keys: B, as `mask_keys` makes them
    sequence_length: of the phase; decides the most predictions
    """
    starts = starts.astype(np.int64, copy=False)
    lengths = np.diff(starts)
    wanted = config.predictions(lengths, sequence_length)
    rows, places = _choose(tokens, starts, lengths, wanted, keys, special)
    places += starts[rows]
    places.sort()
    counts = np.bincount(rows, minlength=len(lengths))
    seen = tokens.astype(np.int32)
    labels = seen[places]
    seen[places] = _replace(labels, keys[rows], places - starts[rows], config, special)
    return Masked(tokens=seen, places=places, labels=labels, counts=counts, short=wanted - counts)


def _choose(
    tokens: NDArray[Any],
    starts: NDArray[np.int64],
    lengths: NDArray[np.int64],
    wanted: NDArray[np.int64],
    keys: NDArray[np.uint64],
    special: SpecialIds,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each chosen token its sequence (ascending) and its place in it: those of the smallest draws."""
    if not len(lengths):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    barred = np.flatnonzero(special.is_special[tokens])
    barred_rows = np.searchsorted(starts, barred, side="right") - 1
    barred -= starts[barred_rows]
    width = int(lengths.max())
    steps = np.arange(1, width + 1, dtype=np.uint64) * _GOLDEN
    place = np.arange(width, dtype=np.uint64)
    streams = keys ^ _CHOOSE
    group = max(1, _WORDS // max(1, width))
    chosen_rows, chosen_places = [], []
    for first in range(0, len(lengths), group):
        part = slice(first, first + group)
        # A splitmix64 stream per sequence: state = key + place · golden, then the finaliser.
        words = _mix_in_place(np.add(streams[part, None], steps))
        words &= _LOWER
        words >>= _PLACE_BITS
        words <<= _PLACE_BITS
        words |= place
        low, high = np.searchsorted(barred_rows, [first, first + len(words)])
        words[barred_rows[low:high] - first, barred[low:high]] |= _BARRED
        if lengths[part].min() < width:
            words[place >= lengths[part, None].astype(np.uint64)] = _BARRED
        words.sort(axis=1)
        words = words[:, : int(wanted[part].max())]
        taken = np.arange(words.shape[1]) < wanted[part, None]
        taken &= words < _BARRED
        chosen_rows.append(np.nonzero(taken)[0] + first)
        chosen_places.append((words[taken] & _PLACE).astype(np.int64))
    return np.concatenate(chosen_rows), np.concatenate(chosen_places)


def _mix_in_place(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """`counter_random.mix64` into `words`: fresh pages for its temporaries would cost eight times the arithmetic."""
    shifted = np.empty_like(words)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        np.right_shift(words, np.uint64(shift), out=shifted)
        np.bitwise_xor(words, shifted, out=words)
        if factor != 1:
            np.multiply(words, np.uint64(factor), out=words)
    return words


def _replace(
    labels: NDArray[np.int32],
    keys: NDArray[np.uint64],
    places: NDArray[np.int64],
    config: MaskingConfig,
    special: SpecialIds,
) -> NDArray[np.int32]:
    """What the model sees in place of `labels`."""
    steps = (places.astype(np.uint64) + np.uint64(1)) * _GOLDEN
    action = unit(mix64((keys ^ _ACT) + steps))
    seen = np.where(action < config.mask, np.int32(special.mask_id), labels)
    random = (action >= config.mask) & (action < config.mask + config.random)
    # The upper 32 bits times the count, shifted back: uniform to within count / 2^32.
    bits = mix64((keys[random] ^ _REPLACE) + steps[random]) >> np.uint64(32)
    drawn = (bits * np.uint64(len(special.replaceable))) >> np.uint64(32)
    seen[random] = special.replaceable[drawn.astype(np.int64)]
    return seen
