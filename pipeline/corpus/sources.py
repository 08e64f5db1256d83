"""The sources of a corpus: parts with names, options and weights of their own.

In: `Source`s, or a corpus without a name, which is the only one then. Out: their splits, what their files are, and
bundles, each of a single source.
What always holds: sources stand in the order of their names, which numbers them, so that the order in which they are
given decides nothing; a file in two sources is read for each; a spill's name tells its source and how that is read.

Example:
    sources = all_sources((Source(name="books", corpus=("books/",), weight=2.0),))
    found = find_sources(sources, notice=say)
    describe_sources(found)  # {'files': 4, …, 'sources': {'books': {'files': 4, …}}}
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from pipeline.corpus.bundles import Bundle, gather_bundles
from pipeline.corpus.file_identity import CorpusFile, bundle_identity, describe, look_at
from pipeline.corpus.readers import ReadOptions
from pipeline.corpus.sentences import check_language
from pipeline.corpus.splits import Split, find_splits
from pipeline.corpus.weights import check_weight
from pipeline.corpus.words import check_words, library_of
from pipeline.errors import InputError

_MOST_SOURCES = 1 << 16  # runs keep a source's number in two bytes


@dataclass(frozen=True, kw_only=True)
class Source:
    """A part of a corpus, and what is made of it."""

    corpus: tuple[str, ...]
    """Files, folders, globs or URIs."""

    name: str = ""
    """What counts and errors call it; empty for a corpus that is not cut into sources."""

    weight: float = 1.0
    """Sets of pairs that a document gives, on average: 2 for two, 0.5 for one of every other document."""

    language: str = "en"
    """Whose rules end a sentence (ISO 639-1)."""

    words: bool = False
    """Whether a library finds the words of a language written without spaces."""

    read: ReadOptions = field(default_factory=ReadOptions)
    """How the files are to be understood."""

    def __post_init__(self) -> None:
        check_weight(self.weight)
        check_language(self.language)

    def check_words(self) -> None:
        """Raise InputError where its words are asked for, and can't be found here."""
        try:
            if self.words:
                check_words(self.language)
        except InputError as error:
            raise InputError(f"source {self.name}: {error}" if self.name else str(error)) from None

    @property
    def settings(self) -> dict[str, Any]:
        """What decides what is made of the source's text; where that lies does not."""
        return {
            "weight": float(self.weight),
            "language": self.language,
            "words": library_of(self.language) if self.words else None,
            "sentences": self.read.sentences,
            "text_key": self.read.text_key,
            "invalid_utf8": self.read.invalid_utf8,
            **self.read.filters.settings,
        }


def all_sources(sources: Sequence[Source], **unnamed: Any) -> tuple[Source, ...]:
    """The sources in their order: those given, by name, or the one that `unnamed` makes, the fields of a `Source`.

    Raises InputError where there are both, a source has no name, or two have the same.
    """
    if not sources:
        return (Source(**unnamed),)
    if unnamed.get("corpus"):
        raise InputError(
            f"the corpus is named twice, by CORPUS ({' '.join(unnamed['corpus'])}) and by --sources; put all of it "
            "into the file of --sources, or leave that out"
        )
    if len(sources) > _MOST_SOURCES:
        raise InputError(f"{len(sources):,} sources are given; {_MOST_SOURCES:,} at most")
    names = [source.name for source in sources]
    if "" in names:
        raise InputError(f"a source of {' '.join(sources[names.index('')].corpus)} has no name; give it one")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"two sources are named {twice!r}; give each a name of its own")
    return tuple(sorted(sources, key=lambda source: source.name))


@dataclass(frozen=True, kw_only=True)
class FoundSource:
    """A source and the splits of its files; `number`: its place among all."""

    number: int
    source: Source
    splits: tuple[Split, ...]

    @cached_property
    def files(self) -> dict[str, CorpusFile]:
        """What its files are, by path; looked at when first asked for. Raises InputError where one can't be read."""
        return look_at(self.splits)


def find_sources(
    sources: Sequence[Source], *, notice: Callable[[str], None] | None = None
) -> list[FoundSource]:
    """The splits of all sources. Raises InputError as `find_splits` does, with the name of the source."""
    return [
        FoundSource(number=number, source=source, splits=_splits(source, notice))
        for number, source in enumerate(sources)
    ]


def _splits(source: Source, notice: Callable[[str], None] | None) -> tuple[Split, ...]:
    try:
        splits = find_splits(source.corpus, source.read.format, notice=notice)
    except InputError as error:
        raise InputError(f"source {source.name}: {error}" if source.name else str(error)) from None
    return tuple(replace(split, source=source.name) for split in splits) if source.name else tuple(splits)


def specs_of(sources: Sequence[Source]) -> list[str]:
    """What names the text of all of them, as the user wrote it."""
    return [spec for source in sources for spec in source.corpus]


def titles_of(sources: Sequence[Source]) -> str:
    """What errors call them all together."""
    names = [source.name for source in sources]
    return f"corpus of sources {', '.join(names)}" if any(names) else f"corpus {' '.join(specs_of(sources))}"


def describe_sources(found: Sequence[FoundSource]) -> dict[str, Any]:
    """What `describe` says of the files of all sources, and where these have names, of those of each.

    A file in two sources counts twice.
    """
    whole = describe({(each.number, path): file for each in found for path, file in each.files.items()})
    apart = {each.source.name: describe(each.files) for each in found if each.source.name}
    return whole | ({"sources": apart} if apart else {})


@dataclass(frozen=True, kw_only=True)
class SourceBundle:
    """A bundle, the source that it is of, and its spill's name."""

    stem: str
    number: int
    source: Source
    bundle: Bundle


def bundle_sources(found: Sequence[FoundSource], piece: int) -> list[SourceBundle]:
    """All splits in bundles of up to `piece` bytes, each with a name for its spill.

    A name stays the same while the bundle's files and its source's name and settings do; equal bundles are numbered.
    """
    seen: Counter[str] = Counter()
    bundles = []
    for each in found:
        # Without a name, what is asked for stands in the plan and is the same for all.
        owner = [each.source.name, each.source.settings] if each.source.name else None
        for bundle in gather_bundles(each.splits, piece):
            identity = bundle_identity(bundle, each.files, owner)
            stem = f"spill-{identity}-{seen[identity]}"
            bundles.append(SourceBundle(stem=stem, number=each.number, source=each.source, bundle=bundle))
            seen[identity] += 1
    return bundles
