"""From a corpus to a vocabulary's folder: the frame in which one is trained or extended.

In: what the corpus is, how it is read, and a function from counts of words to tokens. Out: the folder with `vocab.txt`,
`tokenizer.json` and `lineage.json`, and on standard error how well the vocabulary covers text that it hasn't seen.
What always holds: equal corpus content and settings give equal bytes, lineage included, so nothing is recorded of
where files lie; a vocabulary that is there already is returned as it is, another is never overwritten; nothing is
written before all is known.

Example:
    make_vocabulary(corpus=("corpus/",), output="VOCAB", read=ReadOptions(), max_bytes=None, cased=False,
                    settings={"size": 8192}, learn=learn)
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from pipeline.corpus.casing import marks_notice
from pipeline.corpus.counting import Counts, count_corpus
from pipeline.corpus.coverage import Report, measure, table
from pipeline.corpus.file_identity import refuse_overlap
from pipeline.corpus.filter_counts import as_plain, describe
from pipeline.corpus.readers import ReadOptions
from pipeline.corpus.splits import Split, find_splits
from pipeline.corpus.vocab_folder import ARTEFACT, standing_vocabulary
from pipeline.corpus.vocabulary import Vocabulary, save_vocabulary
from pipeline.errors import InputError
from pipeline.lineage import library_versions
from pipeline.progress import say

Learn = Callable[[Counter[str]], tuple[tuple[str, ...], dict[str, Any]]]
"""Counts of BERT's words → the tokens, and what the lineage records beside them."""


def make_vocabulary(
    *,
    corpus: tuple[str, ...],
    output: str,
    read: ReadOptions,
    max_bytes: int | None,
    cased: bool,
    settings: dict[str, Any],
    learn: Learn,
    before: Vocabulary | None = None,
    workers: int | None = None,
) -> Vocabulary:
    """Learn the vocabulary and write it; one that is there already from equal input is returned as it is.

    settings: what decides the result beside the corpus's content
    before: the vocabulary that is extended, to be measured as well
    workers: processes that count; they change no byte
    Raises InputError where the corpus is missing, unreadable or empty, `learn` refuses, or the output folder holds
    another vocabulary; then nothing is written.
    """
    refuse_overlap(corpus, output)
    standing_vocabulary(output, settings)
    splits = find_splits(corpus, read.format, notice=say)
    with count_corpus(splits, read, max_bytes=max_bytes, workers=workers) as counts:
        for notice in counts.invalid_notices():
            say(notice)
        if not counts.corpus.documents:
            raise InputError(f"the corpus {' '.join(corpus)} holds no text; name files that do")
        if not counts.kept:
            raise InputError(
                f"the filters drop all {counts.corpus.documents:,} documents of the corpus; ask for less with --filter"
            )
        filters = as_plain(counts.filters)
        for name, said in describe(filters, settings.get("filters", {})).items():
            say(f"filter {name}: {said}")
        if found := standing_vocabulary(output, settings, counts.corpus.as_dict()):
            say(f"{output} holds this vocabulary already")
            return found
        if not cased and (lost := marks_notice(counts.letters.lost())):
            say(lost)
        tokens, record = learn(counts.words(cased=cased))
        vocabulary = Vocabulary(tokens=tokens, cased=cased)
        reports = _measured([vocabulary] + ([before] if before is not None else []), counts, splits, read)
        lineage = {
            "artefact": ARTEFACT,
            "settings": settings,
            "corpus": counts.corpus.as_dict(),
            "invalid_utf8": {name: counts.invalid[name] for name in ("replaced", "skipped")},
            "vocabulary": {"hash": vocabulary.hash, "size": vocabulary.size, "cased": vocabulary.cased},
            **record,
            "coverage_report": _recorded(counts.unseen, reports),
            "versions": library_versions(),
            **({"filters": filters} if filters else {}),
        }
        save_vocabulary(vocabulary, output, lineage)
        _say_coverage(counts.unseen, reports)
    return vocabulary


def _measured(
    vocabularies: Sequence[Vocabulary], counts: Counts, splits: Sequence[Split], read: ReadOptions
) -> list[Report]:
    """Each vocabulary on the text held out; on all of a corpus too small to hold any out, which is read again."""
    if counts.unseen:
        return [measure(vocabulary, counts.held_out) for vocabulary in vocabularies]
    with count_corpus(splits, read, held_out=1) as whole:
        return [measure(vocabulary, whole.held_out) for vocabulary in vocabularies]


def _recorded(unseen: bool, reports: Sequence[Report]) -> dict[str, Any]:
    # By script alone: a source's name says where the text lies, and that must change no byte.
    after, *before = (report.as_dict(sources=False) for report in reports)
    return {"text": "held out" if unseen else "corpus", **after} | ({"before": before[0]} if before else {})


def _say_coverage(unseen: bool, reports: Sequence[Report]) -> None:
    count = f"{reports[0].all.documents:,}"
    say(
        f"coverage of {count} documents held out, which nothing was learned from:"
        if unseen
        else f"coverage of the corpus itself, which it learned from ({count} documents are too few to hold some out):"
    )
    for line in table(*reports):
        say(line)
