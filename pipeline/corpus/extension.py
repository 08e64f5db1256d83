"""The stage `bertpipe vocab --extend`: a vocabulary and a corpus → the vocabulary, made to fit that corpus.

In: a vocabulary's folder, and a corpus of some domain. Out: a folder with `vocab.txt`, `tokenizer.json` and
`lineage.json`. What always holds: every token keeps its id, special ones included, only that [unusedN] slots are
filled, in the order of their ids; what is appended stands behind all old ids; a word that was one piece still is. Equal
content, vocabulary and settings give equal bytes.

So an embedding that was trained with the old vocabulary fits the new one, row by row; only the filled slots' rows, and
those that are appended, have yet to be trained. A word that the old vocabulary could spell, the new one can, too, if
that vocabulary has each of its own characters as a piece, as Google's and ours do.

Example:
    run(ExtendConfig(corpus=("papers/",), vocabulary="GOOGLE", output="VOCAB"))
"""

from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pipeline import storage
from pipeline.corpus.piece_choice import choose_pieces
from pipeline.corpus.readers import ReadOptions
from pipeline.corpus.sources import Source, all_sources
from pipeline.corpus.vocab_making import learned_settings, make_vocabulary
from pipeline.corpus.vocab_training import ImpossibleSize
from pipeline.corpus.vocabulary import Vocabulary, load_vocabulary
from pipeline.errors import InputError
from pipeline.progress import say

_SHOWN = 12  # of the added pieces, those that save most


@dataclass(frozen=True, kw_only=True)
class ExtendConfig:
    """Which vocabulary to extend, for which text."""

    corpus: tuple[str, ...] = ()
    """Files, folders, globs or URIs."""

    sources: tuple[Source, ...] = ()
    """Instead of `corpus`: its parts, with a weight and a `read` of their own."""

    vocabulary: str
    """The folder of the vocabulary that is extended; `vocab.txt` alone will do."""

    output: str
    """The folder to write."""

    size: int | None = None
    """Tokens of the new vocabulary; None: as many as the old one's, so only its unused slots are filled."""

    cased: bool | None = None
    """Whether a vocabulary that doesn't say so itself keeps upper case and accents; None: it doesn't."""

    min_frequency: int = 2
    """Pieces that an added one has to save on the text, and how often its parts have to stand side by side."""

    max_bytes: int | None = None
    """UTF-8 bytes of text to learn from; see `VocabConfig`."""

    workers: int | None = None
    """Processes that count; see `VocabConfig`."""

    read: ReadOptions = field(default_factory=ReadOptions)
    """How the corpus's files are to be understood."""

    def __post_init__(self) -> None:
        if not self.output:
            raise InputError("output is empty; name the folder to write")
        storage.check_name(self.output)
        for name in ("min_frequency", "max_bytes", "workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}; it must be 1 or more")
        _ = self.all_sources

    @property
    def all_sources(self) -> tuple[Source, ...]:
        """The sources in their order; a corpus without any is the only one."""
        return all_sources(self.sources, corpus=self.corpus, read=self.read)


def run(config: ExtendConfig) -> Vocabulary:
    """Extend the vocabulary and write it; see `make_vocabulary`.

    Raises InputError where the vocabulary has no room and no larger size is asked for, the size is less than the old
    one or more than the corpus allows, the corpus is missing, unreadable or empty or gives no piece to add, or the
    output folder holds another vocabulary; then nothing is written.
    """
    old = load_vocabulary(config.vocabulary, config.cased)
    size = old.size if config.size is None else config.size
    if size < old.size:
        raise ImpossibleSize(
            f"size is {size}; {config.vocabulary} has {old.size} tokens, which keep their ids, so give more, or leave "
            "the size out to fill its unused slots alone"
        )
    if size == old.size and not old.unused_ids:
        raise ImpossibleSize(
            f"{config.vocabulary} has no [unusedN] slot left to fill; give a --size over its {old.size} to append "
            "pieces"
        )
    return make_vocabulary(
        sources=config.all_sources,
        output=config.output,
        max_bytes=config.max_bytes,
        cased=old.cased,
        settings={
            "extends": old.hash,
            "size": size,
            "cased": old.cased,
            "min_frequency": config.min_frequency,
            "max_bytes": config.max_bytes,
            **learned_settings(config.all_sources),
        },
        workers=config.workers,
        learn=partial(_learn, config, old, size),
        before=old,
    )


def _learn(
    config: ExtendConfig, old: Vocabulary, size: int, words: Counter[str]
) -> tuple[tuple[str, ...], dict[str, Any]]:
    known = frozenset(old.tokens).difference(old.tokens[index] for index in old.special_ids)
    slots, appended = old.unused_ids, size - old.size
    chosen = choose_pieces(
        {word: count for word, count in words.items() if word not in known},
        known,
        places=len(slots) + appended,
        least_gain=config.min_frequency,
    )
    pieces = [piece.token for piece in chosen]
    if not pieces:
        raise InputError(
            f"{config.vocabulary} covers this corpus as it is: no piece would save {config.min_frequency} or more "
            "(min_frequency); name text of another domain"
        )
    if appended and len(pieces) < len(slots) + appended:
        raise ImpossibleSize(
            f"size is {size}; this corpus allows {old.size + max(0, len(pieces) - len(slots))} at most with "
            f"min_frequency {config.min_frequency}, so give that size, a lower min_frequency or more text"
        )
    tokens = list(old.tokens)
    for slot, piece in zip(slots, pieces, strict=False):  # there may be fewer of either
        tokens[slot] = piece
    tokens += pieces[len(slots) :]
    filled = min(len(slots), len(pieces))
    say(
        f"filled {filled:,} of {len(slots):,} unused slots and appended {appended:,} pieces: "
        f"{', '.join(pieces[:_SHOWN])}{', …' if len(pieces) > _SHOWN else ''}"
    )
    extended = {"hash": old.hash, "size": old.size, "slots_filled": filled, "pieces_appended": appended}
    return tuple(tokens), {"extended": extended}
