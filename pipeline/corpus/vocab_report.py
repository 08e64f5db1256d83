"""The stage `bertpipe vocab --report`: how well any vocabulary covers any text.

In: a vocabulary's folder (ours, Google's, `vocab.txt` alone) and a corpus. Out: on standard output the report of
`coverage`, as a table or as JSON. What always holds: all of the corpus is measured, by the weights of its sources;
nothing is written.

Example:
    run(ReportConfig(corpus=("corpus/", "papers/"), vocabulary="GOOGLE"))
"""

import json
from dataclasses import dataclass, field
from typing import Any

from pipeline.corpus.counting import count_corpus
from pipeline.corpus.coverage import measure, table
from pipeline.corpus.readers import ReadOptions
from pipeline.corpus.sources import Source, all_sources, find_sources, titles_of
from pipeline.corpus.vocabulary import load_vocabulary
from pipeline.errors import InputError
from pipeline.progress import say


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Which vocabulary to measure, on which text."""

    corpus: tuple[str, ...] = ()
    """Files, folders, globs or URIs; each is a source of the report."""

    sources: tuple[Source, ...] = ()
    """Instead of `corpus`: its parts, with a weight and a `read` of their own."""

    vocabulary: str
    """The vocabulary's folder."""

    cased: bool | None = None
    """Whether a vocabulary that doesn't say so itself keeps upper case and accents; None: it doesn't."""

    workers: int | None = None
    """Processes that read and count; None: one a core, as far as each has 16 MB to read."""

    json: bool = False
    """Print one JSON object instead of the table."""

    read: ReadOptions = field(default_factory=ReadOptions)
    """How the corpus's files are to be understood."""

    def __post_init__(self) -> None:
        _ = self.all_sources

    @property
    def all_sources(self) -> tuple[Source, ...]:
        """The sources in their order; a corpus without any is the only one."""
        return all_sources(self.sources, corpus=self.corpus, read=self.read)


def run(config: ReportConfig) -> dict[str, Any]:
    """Print the report; returns it as the JSON form has it.

    Raises InputError where the vocabulary is none, or the corpus is missing, unreadable or empty.
    """
    vocabulary = load_vocabulary(config.vocabulary, config.cased)
    found = find_sources(config.all_sources, notice=say)
    with count_corpus(found, held_out=1, workers=config.workers) as counts:
        for notice in counts.invalid_notices():
            say(notice)
        if not counts.whole.corpus.documents:
            raise InputError(f"the {titles_of(config.all_sources)} holds no text; name files that do")
        report = measure(vocabulary, counts.held_out)
    casing = "cased" if vocabulary.cased else "uncased"
    stated = {
        "vocabulary": {
            "folder": config.vocabulary,
            "hash": vocabulary.hash,
            "size": vocabulary.size,
            "cased": vocabulary.cased,
        },
        "corpus": counts.identity,
        "coverage": report.as_dict(),
    }
    if config.json:
        print(json.dumps(stated, indent=1, ensure_ascii=False))
    else:
        print(f"{config.vocabulary}: {vocabulary.size:,} tokens, {casing}, hash {vocabulary.hash}")
        print("\n".join(table(report)))
    return stated
