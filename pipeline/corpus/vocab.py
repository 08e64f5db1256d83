"""The stage `bertpipe vocab`: corpus → WordPiece vocabulary.

In: text files. Out: a folder with `vocab.txt`, `tokenizer.json` and `lineage.json`.
What always holds: equal corpus content and settings give equal bytes, on every run, for any number of
threads and in any order of files; `vocab.txt` has exactly `size` lines or is not written at all.

Ids as in Google's files: [PAD] is 0, then [unused0] …, [UNK], [CLS], [SEP], [MASK], then the alphabet, the
alphabet as continuations (`##a`), and what the trainer merges, most frequent pair first.

The trainer of `tokenizers` numbers the `##` characters in the order of a hash table that changes with every
process and breaks ties by those numbers (its issue #1794). So it is handed the special tokens and both
alphabets, sorted, as its special tokens: then every number is fixed before it starts. The tokeniser that is
kept is built anew from the resulting list, since those characters must not stay special in it.

Example:
    run(VocabConfig(corpus=("corpus/",), output="VOCAB", size=8192))
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from pipeline import storage
from pipeline.corpus.alphabet import choose_alphabet
from pipeline.corpus.casing import Letters, marks_notice
from pipeline.corpus.documents import Fingerprint, utf8_length
from pipeline.corpus.filter_counts import as_plain, describe
from pipeline.corpus.filters import Filtering, open_filtering
from pipeline.corpus.readers import ReadOptions, read_documents
from pipeline.corpus.sources import refuse_overlap
from pipeline.corpus.splits import Split, find_splits
from pipeline.corpus.vocabulary import (
    LINEAGE_FILE,
    SPECIALS,
    TOKENIZER_FILE,
    VOCABULARY_FILE,
    Vocabulary,
    load_vocabulary,
    save_vocabulary,
)
from pipeline.corpus.word_counts import RawCounts, bert_words
from pipeline.errors import InputError
from pipeline.lineage import difference, library_versions
from pipeline.progress import Progress, say

__all__ = ["ImpossibleSize", "VocabConfig", "Vocabulary", "load_vocabulary", "run", "save_vocabulary"]

# The trainer takes counts as repetitions, 7 million a second, and adds them in 32 bits. Larger counts are
# scaled down to this many occurrences, which touches only words rarer than one in 200 million.
_OCCURRENCES = 200_000_000
_REPETITIONS = 1000  # occurrences handed over at once
_ARTEFACT = "vocabulary"  # what our lineage says that the folder is


class ImpossibleSize(InputError):
    """The corpus, or the settings, allow no vocabulary of that size."""


@dataclass(frozen=True, kw_only=True)
class VocabConfig:
    """What vocabulary to make, of which text."""

    corpus: tuple[str, ...]
    """Files, folders, globs or URIs."""

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
    uniform draw that no order of files changes. All of the corpus is read to find them. None: all."""

    coverage: float = 0.9995
    """Share of the text's characters that the alphabet covers at least; words with others are [UNK]. The 1,000
    most frequent are kept in any case: all of a European language's, a third of what Chinese needs."""

    limit_alphabet: int | None = None
    """Characters kept, the most frequent, whatever they cover; None: as `coverage` says."""

    read: ReadOptions = field(default_factory=ReadOptions)
    """How the corpus's files are to be understood."""

    def __post_init__(self) -> None:
        if not self.output:
            raise InputError("output is empty; name the folder to write")
        storage.check_name(self.output)
        for name, minimum in {"min_frequency": 1, "unused": 0, "limit_alphabet": 1, "max_bytes": 1}.items():
            value = getattr(self, name)
            if value is not None and value < minimum:
                raise InputError(f"{name} is {value}; it must be {minimum} or more")
        if not 0 < self.coverage <= 1:
            raise InputError(f"coverage is {self.coverage}; it must be above 0, and 1 at most")
        if self.size <= len(self._reserved):
            raise ImpossibleSize(
                f"size is {self.size}; {self.unused} unused and {len(SPECIALS)} special tokens alone take "
                f"{len(self._reserved)}, so give a larger size or fewer unused"
            )

    @property
    def _reserved(self) -> tuple[str, ...]:
        pad, *others = SPECIALS
        return (pad, *(f"[unused{index}]" for index in range(self.unused)), *others)

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the result beside the corpus's content; where that lies does not."""
        elsewhere = ("corpus", "output", "read")
        chosen = {name: value for name, value in asdict(self).items() if name not in elsewhere}
        # How the files are read shows in the corpus's fingerprint; what filters leave of it does not.
        return chosen | self.read.filters.settings


def run(config: VocabConfig) -> Vocabulary:
    """Train the vocabulary and write it; one that is there already from equal input is returned as it is.

    Raises InputError where the corpus is missing, unreadable or empty, allows no vocabulary of that size, or
    the output folder holds another vocabulary; then nothing is written.
    """
    refuse_overlap(config.corpus, config.output)
    _refuse_other(config, None)
    splits = find_splits(config.corpus, config.read.format, notice=say)
    reading = _Reading(filtering=open_filtering(config.read.filters))
    words, letters = _count_words(config, splits, reading)
    corpus, invalid = reading.corpus, reading.invalid
    filters = as_plain(reading.filtering.counts) if reading.filtering is not None else {}
    for what, count in sorted(invalid.items()):
        say(f"{what} as no UTF-8: {count:,} document{'s' if count > 1 else ''}")
    if not corpus.documents:
        raise InputError(f"the corpus {' '.join(config.corpus)} holds no text; name files that do")
    if not reading.kept:
        raise InputError(
            f"the filters drop all {corpus.documents:,} documents of the corpus; ask for less with --filter"
        )
    for name, said in describe(filters, config.settings.get("filters", {})).items():
        say(f"filter {name}: {said}")
    if found := _refuse_other(config, corpus):
        say(f"{config.output} holds this vocabulary already")
        return found
    if not config.cased and (notice := marks_notice(letters.lost())):
        say(notice)
    alphabet, coverage = choose_alphabet(words, coverage=config.coverage, limit=config.limit_alphabet)
    vocabulary = Vocabulary(tokens=_train(config, words, alphabet), cased=config.cased)
    lineage = {
        "artefact": _ARTEFACT,
        "settings": config.settings,
        "corpus": corpus.as_dict(),
        "invalid_utf8": {name: invalid[name] for name in ("replaced", "skipped")},
        "vocabulary": {"hash": vocabulary.hash, "size": vocabulary.size, "cased": vocabulary.cased},
        "alphabet": coverage,
        "versions": library_versions(),
        **({"filters": filters} if filters else {}),
    }
    save_vocabulary(vocabulary, config.output, lineage)
    return vocabulary


def _refuse_other(config: VocabConfig, corpus: Fingerprint | None) -> Vocabulary | None:
    """The vocabulary that stands in the output folder, where it was made from the same input."""
    folder = config.output
    if storage.exists(folder) and not storage.is_folder(folder):
        raise InputError(f"{folder} is a file; name a folder to write")
    remedy = "name another output or delete it"
    path = storage.join(folder, LINEAGE_FILE)
    held = [
        name
        for name in (VOCABULARY_FILE, TOKENIZER_FILE, LINEAGE_FILE)
        if storage.exists(storage.join(folder, name))
    ]
    if not held:
        return None
    if LINEAGE_FILE not in held:  # a tokenizer.json alone, for instance, is some model's of Hugging Face
        raise InputError(f"{folder} holds a {held[0]} of unknown origin (no {LINEAGE_FILE}); {remedy}")
    theirs = storage.read_json(path)
    if VOCABULARY_FILE not in held and isinstance(theirs, dict) and theirs.get("artefact") == _ARTEFACT:
        return None  # a run was killed before its last file
    try:
        differences = difference(config.settings, theirs["settings"])
        if corpus is not None:
            differences += difference(corpus.as_dict(), theirs["corpus"])
        recorded = theirs["vocabulary"]["hash"]
    except (KeyError, TypeError, AttributeError):
        raise InputError(f"{path} is no lineage of a vocabulary; {remedy}") from None
    if differences:
        raise InputError(f"{folder} holds another vocabulary ({'; '.join(differences)}); {remedy}")
    found = load_vocabulary(folder)
    if found.hash != recorded:
        raise InputError(
            f"{folder} holds a vocabulary that was changed (hash {found.hash}, made as {recorded}); {remedy}"
        )
    return found


@dataclass(kw_only=True)
class _Reading:
    """What is counted while the corpus is read; `kept`: documents that filters, where some are on, let through."""

    filtering: Filtering | None
    corpus: Fingerprint = field(default_factory=Fingerprint)
    invalid: Counter[str] = field(default_factory=Counter)
    kept: int = 0


def _count_words(
    config: VocabConfig, splits: Sequence[Split], reading: _Reading
) -> tuple[Counter[str], Letters]:
    """The words and the letters of what filters leave of the corpus; counts into `reading`."""
    lengths, letters = Counter[int](), Letters()
    with RawCounts() as raw:
        for high, text in _texts(config, splits, "reading", reading):
            letters.add(text)
            if config.max_bytes is None:
                raw.add(text)
            else:
                lengths[_bin(high)] += utf8_length(text)
        if config.max_bytes is not None and reading.kept:
            chosen = _lowest_bins(lengths, config.max_bytes)
            again = _Reading(filtering=open_filtering(config.read.filters))
            for high, text in _texts(config, splits, "counting", again):
                if _bin(high) in chosen:
                    raw.add(text)
        return bert_words(raw.sorted_items(), cased=config.cased), letters


def _texts(
    config: VocabConfig, splits: Sequence[Split], title: str, reading: _Reading
) -> Iterator[tuple[int, str]]:
    """The upper half of each document's hash, and its text, both as filters leave it."""
    with Progress(title, total=len(splits), unit="splits") as progress:
        for split in splits:
            for document in read_documents(split, config.read):
                if document.invalid is not None:
                    reading.invalid[document.invalid] += 1
                if not document.text:
                    continue
                identity = reading.corpus.add(document.text)
                if reading.filtering is not None:
                    kept = reading.filtering.take(document, identity)
                    if kept is None:
                        continue
                    document, identity = kept
                reading.kept += 1
                yield identity[0], document.text
            progress.advance(note=split.path)


def _bin(high: int) -> int:
    # 65,536 ranges of the hash: choosing whole ones keeps memory fixed whatever the number of documents,
    # and misses `max_bytes` by less than a range, 1/65,536 of the corpus (or a document).
    return high >> 48


def _lowest_bins(lengths: Counter[int], max_bytes: int) -> frozenset[int]:
    chosen: list[int] = []
    left = max_bytes
    for number in sorted(lengths):
        left -= lengths[number]
        if left < 0:
            break
        chosen.append(number)
    if not chosen:
        least = lengths[min(lengths)]
        raise InputError(f"max_bytes is {max_bytes}; the first documents drawn take {least}, so give more")
    return frozenset(chosen)


def _train(config: VocabConfig, words: Counter[str], alphabet: Sequence[str]) -> tuple[str, ...]:
    known = frozenset(alphabet)
    items = [(word, count) for word, count in words.items() if known.issuperset(word)]
    continuations = sorted({f"##{character}" for word, _ in items for character in word[1:]})
    first = [*config._reserved, *alphabet, *continuations]
    if config.size < len(first):
        raise ImpossibleSize(
            f"size is {config.size}; special tokens and an alphabet of {len(alphabet)} characters, "
            f"{len(continuations)} of them also inside words, take {len(first)}, so give that or more, or keep fewer "
            "characters (--limit-alphabet)"
        )
    items, min_frequency = _scaled(items, config.min_frequency)
    learner = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.WordPieceTrainer(
        vocab_size=config.size, min_frequency=min_frequency, special_tokens=first, show_progress=False
    )
    learner.train_from_iterator(_repeated(items), trainer)
    ids = learner.get_vocab(with_added_tokens=True)
    tokens = tuple(sorted(ids, key=ids.__getitem__))
    if len(tokens) < config.size:
        raise ImpossibleSize(
            f"size is {config.size}; this corpus allows {len(tokens)} at most with min_frequency "
            f"{config.min_frequency}, so give that size, a lower min_frequency or more text"
        )
    return tokens


def _scaled(items: list[tuple[str, int]], min_frequency: int) -> tuple[list[tuple[str, int]], int]:
    total = sum(count for _, count in items)
    if total <= _OCCURRENCES:
        return items, min_frequency

    def scale(count: int) -> int:
        return (2 * count * _OCCURRENCES + total) // (2 * total)  # to the nearest, in whole numbers

    scaled = [(word, scale(count)) for word, count in items]
    return [item for item in scaled if item[1]], max(1, scale(min_frequency))


def _repeated(items: Sequence[tuple[str, int]]) -> Iterator[str]:
    for word, count in items:
        for start in range(0, count, _REPETITIONS):
            yield f"{word} " * min(_REPETITIONS, count - start)
