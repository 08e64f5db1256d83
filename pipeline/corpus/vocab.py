"""The stage `bertpipe vocab`: corpus → WordPiece vocabulary.

In: a corpus. Out: a folder with `vocab.txt`, `tokenizer.json` and `lineage.json`.
What always holds: equal corpus content and settings give equal bytes, on every run, for any number of
threads and in any order of files; `vocab.txt` has exactly `size` lines or is not written at all.

Ids as in Google's files: [PAD] is 0, then [unused0] …, [UNK], [CLS], [SEP], [MASK], then the alphabet, the
alphabet as continuations (`##a`), and what the trainer merges, most frequent pair first.

Example:
    run(VocabConfig(corpus=("corpus/",), output="VOCAB", size=8192))
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from pipeline import storage
from pipeline.corpus.alphabet import choose_alphabet
from pipeline.corpus.readers import ReadOptions
from pipeline.corpus.sources import Source, all_sources
from pipeline.corpus.vocab_making import learned_settings, make_vocabulary
from pipeline.corpus.vocab_training import ImpossibleSize, train
from pipeline.corpus.vocabulary import SPECIALS, Vocabulary, load_vocabulary, save_vocabulary
from pipeline.errors import InputError

__all__ = ["ImpossibleSize", "VocabConfig", "Vocabulary", "load_vocabulary", "run", "save_vocabulary"]


@dataclass(frozen=True, kw_only=True)
class VocabConfig:
    """What vocabulary to make, of which text."""

    corpus: tuple[str, ...] = ()
    """Files, folders, globs or URIs."""

    sources: tuple[Source, ...] = ()
    """Instead of `corpus`: its parts, with a weight and a `read` of their own."""

    output: str
    """The folder to write."""

    size: int = 30522
    """Tokens, special and unused ones included; 30,522 as in Devlin et al.'s English models."""

    cased: bool = False
    """Keep upper case and accents."""

    min_frequency: int = 2
    """Occurrences that a pair of pieces needs to be merged."""

    unused: int = 99
    """[unusedN] tokens, places for words added later; 99 puts [CLS] at Google's 101."""

    max_bytes: int | None = None
    """UTF-8 bytes of text to learn from: whole documents, those with the lowest content hashes, which is a
    uniform draw that no order of files changes. All of the corpus is read to find them. None: all, but for
    what is held out to be measured on (see `counting`)."""

    coverage: float = 0.9995
    """Share of the text's characters that the alphabet covers at least; words with others are [UNK]. The 1,000
    most frequent are kept in any case: all of a European language's, a third of what Chinese needs."""

    limit_alphabet: int | None = None
    """Characters kept, the most frequent, whatever they cover; None: as `coverage` says."""

    workers: int | None = None
    """Processes that read and count; None: one a core, as far as each has 16 MB to read. Decides no byte."""

    read: ReadOptions = field(default_factory=ReadOptions)
    """How the corpus's files are to be understood."""

    def __post_init__(self) -> None:
        if not self.output:
            raise InputError("output is empty; name the folder to write")
        storage.check_name(self.output)
        _ = self.all_sources
        least = {"min_frequency": 1, "unused": 0, "limit_alphabet": 1, "max_bytes": 1, "workers": 1}
        for name, minimum in least.items():
            value = getattr(self, name)
            if value is not None and value < minimum:
                raise InputError(f"{name} is {value}; it must be {minimum} or more")
        if not 0 < self.coverage <= 1:
            raise InputError(f"coverage is {self.coverage}; it must be above 0, and 1 at most")
        if self.size <= len(self.reserved):
            raise ImpossibleSize(
                f"size is {self.size}; {self.unused} unused and {len(SPECIALS)} special tokens alone take "
                f"{len(self.reserved)}, so give a larger size or fewer unused"
            )

    @property
    def reserved(self) -> tuple[str, ...]:
        """The tokens that come first: the special ones, and the places for words added later."""
        pad, *others = SPECIALS
        return (pad, *(f"[unused{index}]" for index in range(self.unused)), *others)

    @property
    def all_sources(self) -> tuple[Source, ...]:
        """The sources in their order; a corpus without any is the only one."""
        return all_sources(self.sources, corpus=self.corpus, read=self.read)

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the result beside the corpus's content; where that lies does not."""
        elsewhere = ("corpus", "sources", "output", "workers", "read")
        chosen = {name: value for name, value in asdict(self).items() if name not in elsewhere}
        return chosen | learned_settings(self.all_sources)


def run(config: VocabConfig) -> Vocabulary:
    """Train the vocabulary and write it; see `make_vocabulary`.

    Raises InputError where the corpus is missing, unreadable or empty, allows no vocabulary of that size, or
    the output folder holds another vocabulary; then nothing is written.
    """
    return make_vocabulary(
        sources=config.all_sources,
        output=config.output,
        max_bytes=config.max_bytes,
        cased=config.cased,
        settings=config.settings,
        workers=config.workers,
        learn=partial(_learn, config),
    )


def _learn(config: VocabConfig, words: Counter[str]) -> tuple[tuple[str, ...], dict[str, Any]]:
    alphabet, coverage = choose_alphabet(words, coverage=config.coverage, limit=config.limit_alphabet)
    return _train(config, words, alphabet), {"alphabet": coverage}


def _train(config: VocabConfig, words: Counter[str], alphabet: Sequence[str]) -> tuple[str, ...]:
    known = frozenset(alphabet)
    items = [(word, count) for word, count in words.items() if known.issuperset(word)]
    continuations = sorted({f"##{character}" for word, _ in items for character in word[1:]})
    first = [*config.reserved, *alphabet, *continuations]
    if config.size < len(first):
        raise ImpossibleSize(
            f"size is {config.size}; special tokens and an alphabet of {len(alphabet)} characters, "
            f"{len(continuations)} of them also inside words, take {len(first)}, so give that or more, or keep fewer "
            "characters (--limit-alphabet)"
        )
    tokens = train(items, first, size=config.size, min_frequency=config.min_frequency)
    if len(tokens) < config.size:
        raise ImpossibleSize(
            f"size is {config.size}; this corpus allows {len(tokens)} at most with min_frequency "
            f"{config.min_frequency}, so give that size, a lower min_frequency or more text"
        )
    return tokens
