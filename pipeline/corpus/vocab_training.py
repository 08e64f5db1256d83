"""The library's WordPiece trainer, made to repeat itself.

In: counts of words, and the tokens that are given. Out: those tokens, and behind them what the trainer merges, the most
frequent pair first. What always holds: equal counts give equal tokens, on every run and for any number of threads.

The trainer of `tokenizers` numbers the `##` characters in the order of a hash table that changes with every
process and breaks ties by those numbers (its issue #1794). So it is handed the special tokens and both
alphabets, sorted, as its special tokens: then every number is fixed before it starts. The tokeniser that is
kept is built anew from the resulting list, since those characters must not stay special in it.

Example:
    train([("cat", 3), ("cut", 2)], ["c", "##a", "##t", "##u"], size=6, min_frequency=1)
"""

from collections.abc import Iterator, Sequence

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from pipeline.errors import InputError

# The trainer takes counts as repetitions, 7 million a second, and adds them in 32 bits. Larger counts are
# scaled down to this many occurrences, which touches only words rarer than one in 200 million.
_OCCURRENCES = 200_000_000
_REPETITIONS = 1000  # occurrences handed over at once


class ImpossibleSize(InputError):
    """The corpus, or the settings, allow no vocabulary of that size."""


def train(
    items: Sequence[tuple[str, int]], first: Sequence[str], *, size: int, min_frequency: int
) -> tuple[str, ...]:
    """`first`, and the trained pieces behind them, up to `size` tokens; fewer where the words give no more.

    items: words and their counts
    first: tokens in their order, among them every character that begins a word, and as `##x` every other one
    min_frequency: occurrences that a pair of pieces needs to be merged
    """
    items, min_frequency = scaled(items, min_frequency)
    learner = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.WordPieceTrainer(
        vocab_size=size, min_frequency=min_frequency, special_tokens=list(first), show_progress=False
    )
    learner.train_from_iterator(_repeated(items), trainer)
    ids = learner.get_vocab(with_added_tokens=True)
    return tuple(sorted(ids, key=ids.__getitem__))


def scaled(items: Sequence[tuple[str, int]], min_frequency: int) -> tuple[Sequence[tuple[str, int]], int]:
    """The counts, and what is asked of a pair, as the trainer can take them."""
    total = sum(count for _, count in items)
    if total <= _OCCURRENCES:
        return items, min_frequency

    def scale(count: int) -> int:
        return (2 * count * _OCCURRENCES + total) // (2 * total)  # to the nearest, in whole numbers

    found = [(word, scale(count)) for word, count in items]
    return [item for item in found if item[1]], max(1, scale(min_frequency))


def _repeated(items: Sequence[tuple[str, int]]) -> Iterator[str]:
    for word, count in items:
        for start in range(0, count, _REPETITIONS):
            yield f"{word} " * min(_REPETITIONS, count - start)
