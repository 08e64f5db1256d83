"""How well a vocabulary covers a text: what is [UNK], and into how many pieces words fall.

In: a vocabulary and counted text, apart by group. Out: a `Report`: figures of all of it, by source and by script, as a
table for a person or plain values for a machine. What always holds: the pieces are those of the tokeniser itself; the
figures are sums over words, so they depend on the text alone.

A word is what BERT's pre-tokeniser cuts: punctuation marks and Chinese characters are words of their own. Pieces a word
is what Rust et al. 2021 (arXiv 2012.15613) call fertility, and one minus the whole words is their proportion of
continued words (but that an [UNK] isn't whole): both tell across languages how well a model will do. Read them beside
the unknown words, which are one piece each.

Example:
    report = measure(vocabulary, counts.held_out)
    print("\\n".join(table(report)))
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from pipeline.corpus.counting import GroupCounts
from pipeline.corpus.vocabulary import Vocabulary
from pipeline.corpus.word_counts import word_splitter

_CACHED_WORDS = 1 << 18
_MOST_ROWS = 20  # of the table; plain values have all
_LABEL = 32  # characters of a row's name


@dataclass(kw_only=True)
class Coverage:
    """A vocabulary on some text.

    tokens: pieces of words and [UNK]s
    unknown: words that are [UNK], each of which is one token
    whole: words that are one piece, and known
    """

    documents: int = 0
    words: int = 0
    tokens: int = 0
    unknown: int = 0
    whole: int = 0

    def merge(self, other: "Coverage") -> None:
        """Count in another text's."""
        self.documents += other.documents
        self.words += other.words
        self.tokens += other.tokens
        self.unknown += other.unknown
        self.whole += other.whole

    @property
    def pieces_a_word(self) -> float:
        """Tokens for each word."""
        return self.tokens / max(1, self.words)

    @property
    def unknown_words(self) -> float:
        """Share of the words that are [UNK]."""
        return self.unknown / max(1, self.words)

    @property
    def unknown_tokens(self) -> float:
        """Share of the tokens that are [UNK]."""
        return self.unknown / max(1, self.tokens)

    @property
    def whole_words(self) -> float:
        """Share of the words that are one piece."""
        return self.whole / max(1, self.words)

    def as_dict(self) -> dict[str, Any]:
        """Plain values: what was counted, and the shares that follow from it."""
        counted = {"documents": self.documents, "words": self.words, "tokens": self.tokens}
        names = ("pieces_a_word", "unknown_words", "unknown_tokens", "whole_words")
        return counted | {name: round(getattr(self, name), 6) for name in names}


@dataclass(kw_only=True)
class Report:
    """A vocabulary on a text and on its parts; each part is named by a source or a script."""

    all: Coverage = field(default_factory=Coverage)
    sources: dict[str, Coverage] = field(default_factory=lambda: defaultdict(Coverage))
    scripts: dict[str, Coverage] = field(default_factory=lambda: defaultdict(Coverage))

    def as_dict(self, *, sources: bool = True) -> dict[str, Any]:
        """Plain values; without `sources`, whose names say where the text lies, a function of the text alone."""
        parts = {"scripts": self.scripts} | ({"sources": self.sources} if sources else {})
        return {"all": self.all.as_dict()} | {
            name: {key: part[key].as_dict() for key in sorted(part)} for name, part in sorted(parts.items())
        }


def measure(vocabulary: Vocabulary, counts: GroupCounts) -> Report:
    """What the vocabulary makes of the text that `counts` holds."""
    split = word_splitter(vocabulary.cased)
    model, unknown_id = vocabulary.tokenizer.model, vocabulary.unk_id

    @lru_cache(_CACHED_WORDS)
    def spelled(word: str) -> tuple[int, bool]:
        ids = [token.id for token in model.tokenize(word)]
        return len(ids), ids == [unknown_id]

    report = Report()
    for group, documents in counts.documents.items():
        coverage = Coverage(documents=documents)
        for string, count in counts.of(group):
            for word in split(string):
                pieces, unknown = spelled(word)
                coverage.words += count
                coverage.tokens += count * pieces
                coverage.unknown += count * unknown
                coverage.whole += count * (pieces == 1 and not unknown)
        for part in (report.all, report.sources[group.source], report.scripts[group.script]):
            part.merge(coverage)
    return report


def table(report: Report, before: Report | None = None) -> list[str]:
    """The report's lines: all of the text, then its sources and scripts where there are several.

    before: another vocabulary's on the same text; its line on all of it comes first
    """
    rows = [("before", before.all)] if before is not None else []
    rows.append(("all" if before is None else "now", report.all))
    for parts in (report.sources, report.scripts):
        if len(parts) > 1:
            rows += _largest(parts)
    head = ("", "documents", "words", "[UNK] words", "[UNK] tokens", "pieces a word", "whole words")
    return ["  ".join([f"{head[0]:<{_LABEL}}", *head[1:]])] + [
        "  ".join(
            [
                f"{_shortened(label):<{_LABEL}}",
                f"{row.documents:>{len(head[1])},}",
                f"{row.words:>{len(head[2])},}",
                f"{row.unknown_words:>{len(head[3])}.2%}",
                f"{row.unknown_tokens:>{len(head[4])}.2%}",
                f"{row.pieces_a_word:>{len(head[5])}.3f}",
                f"{row.whole_words:>{len(head[6])}.1%}",
            ]
        )
        for label, row in rows
    ]


def _largest(parts: Mapping[str, Coverage]) -> list[tuple[str, Coverage]]:
    """The parts with most words, and the others as one."""
    ordered = sorted(parts.items(), key=lambda part: (-part[1].words, part[0]))
    shown, others = ordered[:_MOST_ROWS], ordered[_MOST_ROWS:]
    if others:
        rest = Coverage()
        for _, coverage in others:
            rest.merge(coverage)
        shown.append((f"{len(others):,} others", rest))
    return shown


def _shortened(label: str) -> str:
    return label if len(label) <= _LABEL else f"…{label[1 - _LABEL :]}"
