"""The settings of `bertpipe shard`, and what they may be.

In: what the user asks for. Out: a `ShardConfig` that is possible. What always holds: an impossible value is
refused before anything is read; `settings` names all that decides the shards beside what they are made from.

Example:
    ShardConfig(corpus=("corpus/",), output="SHARDS", vocab="VOCAB", workers=4)
"""

from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline import storage
from pipeline.corpus.readers import ReadOptions
from pipeline.corpus.shards import LONGEST_SEQUENCE
from pipeline.corpus.sources import Source, all_sources
from pipeline.corpus.words import packages_of
from pipeline.errors import InputError


@dataclass(frozen=True, kw_only=True)
class ShardConfig:
    """What shards to make, of which text."""

    corpus: tuple[str, ...] = ()
    """Files, folders, globs or URIs."""

    sources: tuple[Source, ...] = ()
    """Instead of `corpus`: its parts, with a weight, and a `language`, `words` and `read` of their own."""

    output: str
    """The folder to write; new, empty, or one that this command began."""

    vocab: str | None = None
    """The vocabulary's folder; None: train one on the same corpus into `output/vocab`."""

    vocab_size: int = 30522
    """Tokens of the vocabulary to be trained; not used where one is given."""

    cased: bool | None = None
    """Whether upper case and accents count; None: as the vocabulary says, uncased where it doesn't."""

    max_seq_length: int = 128
    """Tokens of the longest sequence, its three special tokens included."""

    short_seq_prob: float = 0.1
    """Share of documents cut into shorter sequences, of uniformly drawn target length."""

    dupe_factor: int = 1
    """Sets of pairs that each document gives, cut and paired anew each time."""

    shards: int | None = None
    """Training shards wanted; None: one for each 16 MB of text, counted as often as it gives pairs. Fewer where
    one would have under 64 documents."""

    workers: int | None = None
    """Processes; None: one a core, as far as each has 4 MB of files to read. Decides no byte."""

    validation_fraction: float = 0.01
    """Share of documents held out; at least 64 of them where that is no more than a tenth. 0: none."""

    seed: int = 1
    """Of all that is drawn."""

    language: str = "en"
    """Whose rules end a sentence (ISO 639-1), where sentences are not given line by line."""

    words: bool = False
    """Whether a library finds the words of a language written without spaces, for masks that hide whole words."""

    read: ReadOptions = field(default_factory=ReadOptions)
    """How the corpus's files are to be understood."""

    def __post_init__(self) -> None:
        if not self.output:
            raise InputError("output is empty; name the folder to write")
        storage.check_name(self.output)
        if not 8 <= self.max_seq_length <= LONGEST_SEQUENCE:
            raise InputError(
                f"max_seq_length is {self.max_seq_length} tokens; it must be 8 to {LONGEST_SEQUENCE}"
            )
        if not 0 <= self.short_seq_prob <= 1:
            raise InputError(f"short_seq_prob is {self.short_seq_prob}; it must be 0 to 1")
        if not 0 <= self.validation_fraction <= 0.5:
            raise InputError(f"validation_fraction is {self.validation_fraction}; it must be 0 to 0.5")
        for name in ("dupe_factor", "shards", "workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} is {value}; it must be 1 or more")
        if self.seed < 0:
            raise InputError(f"seed is {self.seed}; it must be 0 or more")
        if storage.is_uri(self.output):
            raise InputError(
                f"{self.output}: shards are written to a local folder; copy them there afterwards"
            )
        for source in self.all_sources:
            source.check_words()

    @property
    def all_sources(self) -> tuple[Source, ...]:
        """The sources in their order; a corpus without any is the only one."""
        unnamed = {name: getattr(self, name) for name in ("corpus", "language", "words", "read")}
        return all_sources(self.sources, **unnamed)

    @property
    def source_names(self) -> list[str]:
        """The sources' names in their order; none where the corpus has no sources."""
        return [source.name for source in self.all_sources] if self.sources else []

    @property
    def any_words(self) -> bool:
        """Whether it is noted which tokens continue a word: of all documents, where a source asks for it."""
        return any(source.words for source in self.all_sources)

    @property
    def word_packages(self) -> tuple[str, ...]:
        """The packages whose release decides where words end; none where words are not wanted."""
        languages = sorted({source.language for source in self.all_sources if source.words})
        return tuple(name for language in languages for name in packages_of(language))

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the shards beside the corpus's and the vocabulary's content."""
        apart = (
            "corpus",
            "sources",
            "output",
            "vocab",
            "vocab_size",
            "cased",
            "workers",
            "read",
            "language",
            "words",
        )
        chosen = {name: value for name, value in asdict(self).items() if name not in apart}
        trained = {"size": self.vocab_size, "cased": bool(self.cased)} if self.vocab is None else None
        sources = {source.name: source.settings for source in self.all_sources}
        if not self.sources:
            # Without a name, the source's settings are the folder's.
            unnamed = {name: value for name, value in sources[""].items() if name != "weight"}
            return chosen | unnamed | {"trained_vocabulary": trained}
        libraries = sorted({each["words"] for each in sources.values() if each["words"] is not None})
        words = ", ".join(libraries) or None
        return chosen | {"words": words, "trained_vocabulary": trained, "sources": sources}
