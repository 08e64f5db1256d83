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
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.batches.choosing import Chosen, choose_tokens, choose_words
from pipeline.batches.mask_draws import ACT, GOLDEN, MASK, REPLACE
from pipeline.batches.random_order import mix_in_place
from pipeline.batches.spans import choose_spans
from pipeline.batches.special_ids import SpecialIds
from pipeline.configuration import at_least, one_of
from pipeline.counter_random import draw, key, mix64
from pipeline.errors import InputError

STRATEGIES = ("token", "whole_word", "span")


@dataclass(frozen=True, kw_only=True)
class MaskingConfig:
    """How tokens are masked (Devlin et al. 2018 §3.1: 15 %, of these 80 / 10 / 10).

    strategy: `token`, each token for itself; `whole_word`, all pieces of a word; `span`, words in a row; words are
        those that the shards know, where they do, and else a token and the `##` pieces behind it
    rate: share of a sequence's tokens that are to be guessed
    final_rate: the share at a phase's last step, where it changes steadily from step to step
    mask, random, keep: shares of those that become [MASK], become another token, stay; of a span's, all alike
    max_predictions: most a sequence; by default the larger rate · sequence_length, rounded up
    epochs: how many masks a pair is given in turn within a phase, 1 for always the same (static masking, as in
        Google's data, which had ten); by default a new one each epoch
    span_p, span_longest: span lengths in words, a geometric distribution of `span_p` cut at `span_longest`
        (Joshi et al. 2020 §3.1: 0.2 and 10, hence 3.8 words on average)

    Raises InputError where a share or rate is outside [0, 1], the three shares don't sum to 1, or a number is
    below 1.
    """

    strategy: str = "token"
    rate: float = 0.15
    final_rate: float | None = None
    mask: float = 0.8
    random: float = 0.1
    keep: float = 0.1
    max_predictions: int | None = None
    epochs: int | None = None
    span_p: float = 0.2
    span_longest: int = 10

    def __post_init__(self) -> None:
        one_of("strategy", self.strategy, STRATEGIES)
        rates = {"rate": self.rate, "final_rate": self.final_rate, "span_p": self.span_p}
        for name, rate in rates.items():
            if rate is not None and not 0 < rate <= 1:
                raise InputError(f"{name} is {rate}; it must be above 0 and at most 1")
        shares = {"mask": self.mask, "random": self.random, "keep": self.keep}
        for name, share in shares.items():
            if not 0 <= share <= 1:
                raise InputError(f"{name} is {share}; it must lie between 0 and 1")
        if not math.isclose(sum(shares.values()), 1, abs_tol=1e-6):
            listed = " + ".join(f"{name} {share}" for name, share in shares.items())
            raise InputError(f"masking's {listed} sum to {sum(shares.values()):g}; they must sum to 1")
        for name in ("max_predictions", "epochs", "span_longest"):
            if (value := getattr(self, name)) is not None:
                at_least(name, value, 1)

    def most(self, sequence_length: int) -> int:
        """The most tokens guessed in a sequence, in a phase of `sequence_length`."""
        if self.max_predictions is not None:
            return self.max_predictions
        largest = max(self.rate, self.last_rate)
        # 0.07 · 100 is 7.000000000000001 in binary; that is no reason for an eighth prediction.
        return max(1, math.ceil(round(largest * sequence_length, 9)))

    @property
    def last_rate(self) -> float:
        """The rate at a phase's last step, which held-out pairs are masked with too."""
        return self.rate if self.final_rate is None else self.final_rate

    def rate_at(self, step: int, steps: int | None) -> float:
        """The rate of a phase's step `step` (from 0) of `steps`, which may be None where the rate doesn't move."""
        if self.final_rate is None or steps is None:
            return self.rate
        return self.rate + (self.final_rate - self.rate) * min(1.0, step / max(1, steps - 1))

    def epoch_of(self, epochs: NDArray[np.int64]) -> NDArray[np.int64]:
        """The epoch whose mask a pair gets, for those in which pairs are read."""
        return epochs if self.epochs is None else epochs % self.epochs

    def predictions(self, lengths: NDArray[Any], sequence_length: int, rate: float) -> NDArray[np.int64]:
        """How many tokens of sequences of `lengths` (special tokens included) are to be guessed."""
        # rint rounds halves to even, as the round() of the published code does.
        wanted = np.maximum(1, np.rint(lengths * rate))
        return np.minimum(self.most(sequence_length), wanted).astype(np.int64)


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
        keys[those] = draw(key(MASK, seed, phase, int(epoch)), samples[those])
    return keys


def mask_tokens(
    tokens: NDArray[Any],
    starts: NDArray[Any],
    keys: NDArray[np.uint64],
    config: MaskingConfig,
    special: SpecialIds,
    sequence_length: int,
    rate: float | None = None,
    continues: NDArray[np.bool_] | None = None,
) -> Masked:
    """Mask sequences laid end to end; `tokens` is left as it is.

    tokens: T ids, special tokens included, none of them padding; sequences of up to 65,535
    starts: B + 1, where each sequence begins, and T
    keys: B, as `mask_keys` makes them
    sequence_length: of the phase; decides the most predictions
    rate: of the step; by default the configuration's first
    continues: T, tokens that continue the word before them; by default the vocabulary's `##` pieces
    """
    starts = starts.astype(np.int64, copy=False)
    lengths = np.diff(starts)
    wanted = config.predictions(lengths, sequence_length, config.rate if rate is None else rate)
    chosen = _choose(tokens, starts, wanted, keys, config, special, continues)
    seen = tokens.astype(np.int32)
    labels = seen.take(chosen.at)
    seen[chosen.at] = _replace(labels, keys.take(chosen.rows), chosen, config, special)
    return Masked(
        tokens=seen, places=chosen.at, labels=labels, counts=chosen.counts, short=wanted - chosen.counts
    )


def _choose(
    tokens: NDArray[Any],
    starts: NDArray[np.int64],
    wanted: NDArray[np.int64],
    keys: NDArray[np.uint64],
    config: MaskingConfig,
    special: SpecialIds,
    continues: NDArray[np.bool_] | None,
) -> Chosen:
    if config.strategy == "whole_word":
        return choose_words(tokens, starts, wanted, keys, special, continues)
    if config.strategy == "span":
        p, longest = config.span_p, config.span_longest
        return choose_spans(tokens, starts, wanted, keys, special, continues, p=p, longest=longest)
    return choose_tokens(tokens, starts, wanted, keys, special)


def _replace(
    labels: NDArray[np.int32],
    keys: NDArray[np.uint64],
    chosen: Chosen,
    config: MaskingConfig,
    special: SpecialIds,
) -> NDArray[np.int32]:
    """What the model sees in place of `labels`."""
    action = (chosen.deciders + 1).view(np.uint64)
    action *= GOLDEN
    action += keys ^ ACT
    mix_in_place(action)
    action >>= np.uint64(32)
    masked, others = (np.uint64(share * (1 << 32)) for share in (config.mask, config.mask + config.random))
    seen = np.where(action < masked, np.int32(special.mask_id), labels)
    # What lies below the first bound is, less it, very large.
    action -= masked
    random = np.flatnonzero(action < others - masked)
    steps = (chosen.places[random].astype(np.uint64) + np.uint64(1)) * GOLDEN
    # The upper 32 bits times the count, shifted back: uniform to within count / 2^32.
    bits = mix64((keys[random] ^ REPLACE) + steps) >> np.uint64(32)
    drawn = (bits * np.uint64(len(special.replaceable))) >> np.uint64(32)
    seen[random] = special.replaceable[drawn.astype(np.int64)]
    return seen
