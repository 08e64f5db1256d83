"""The stage `bertpipe vocab --report`: how well any vocabulary covers any text.

In: a vocabulary's folder (ours, Google's, `vocab.txt` alone) and a corpus. Out: on standard output the report of
`coverage`, as a table or as JSON. What always holds: all of the corpus is measured; nothing is written.

Example:
    run(ReportConfig(corpus=("corpus/", "papers/"), vocabulary="GOOGLE"))
"""

import json
from dataclasses import dataclass, field
from typing import Any

from pipeline.corpus.counting import count_corpus
from pipeline.corpus.coverage import measure, table
from pipeline.corpus.readers import ReadOptions
from pipeline.corpus.splits import find_splits
from pipeline.corpus.vocabulary import load_vocabulary
from pipeline.errors import InputError
from pipeline.progress import say


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Which vocabulary to measure, on which text."""

    corpus: tuple[str, ...]
    """Files, folders, globs or URIs; each is a source of the report."""

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


def run(config: ReportConfig) -> dict[str, Any]:
    """Print the report; returns it as the JSON form has it.

    Raises InputError where the vocabulary is none, or the corpus is missing, unreadable or empty.
    """
    vocabulary = load_vocabulary(config.vocabulary, config.cased)
    splits = find_splits(config.corpus, config.read.format, notice=say)
    with count_corpus(splits, config.read, held_out=1, workers=config.workers) as counts:
        for notice in counts.invalid_notices():
            say(notice)
        if not counts.corpus.documents:
            raise InputError(f"the corpus {' '.join(config.corpus)} holds no text; name files that do")
        report = measure(vocabulary, counts.held_out)
    casing = "cased" if vocabulary.cased else "uncased"
    stated = {
        "vocabulary": {
            "folder": config.vocabulary,
            "hash": vocabulary.hash,
            "size": vocabulary.size,
            "cased": vocabulary.cased,
        },
        "corpus": counts.corpus.as_dict(),
        "coverage": report.as_dict(),
    }
    if config.json:
        print(json.dumps(stated, indent=1, ensure_ascii=False))
    else:
        print(f"{config.vocabulary}: {vocabulary.size:,} tokens, {casing}, hash {vocabulary.hash}")
        print("\n".join(table(report)))
    return stated
