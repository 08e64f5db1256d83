"""From a corpus to a vocabulary's folder: the frame in which one is trained or extended.

In: the corpus's sources, and a function from counts of words to tokens. Out: the folder with `vocab.txt`,
`tokenizer.json` and `lineage.json`, and on standard error how well the vocabulary covers text that it hasn't seen.
What always holds: equal corpus content and settings give equal bytes, lineage included, so nothing is recorded of
where files lie; a vocabulary that is there already is returned as it is, another is never overwritten; nothing is
written before all is known.

Example:
    make_vocabulary(sources=all_sources((), corpus=("corpus/",)), output="VOCAB", max_bytes=None, cased=False,
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
from pipeline.corpus.seen import Seen
from pipeline.corpus.sources import FoundSource, Source, find_sources, specs_of, titles_of
from pipeline.corpus.vocab_folder import ARTEFACT, standing_vocabulary
from pipeline.corpus.vocabulary import Vocabulary, save_vocabulary
from pipeline.errors import InputError
from pipeline.lineage import library_versions
from pipeline.progress import say

Learn = Callable[[Counter[str]], tuple[tuple[str, ...], dict[str, Any]]]
"""Counts of BERT's words → the tokens, and what the lineage records beside them."""


def make_vocabulary(
    *,
    sources: Sequence[Source],
    output: str,
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
    refuse_overlap(specs_of(sources), output)
    standing_vocabulary(output, settings)
    found = find_sources(sources, notice=say)
    with count_corpus(found, max_bytes=max_bytes, workers=workers) as counts:
        whole = counts.whole
        for notice in counts.invalid_notices():
            say(notice)
        if not whole.corpus.documents:
            raise InputError(f"the {titles_of(sources)} holds no text; name files that do")
        if not whole.kept:
            raise InputError(_nothing_left(whole))
        _say_sources(sources, counts)
        if standing := standing_vocabulary(output, settings, counts.identity):
            say(f"{output} holds this vocabulary already")
            return standing
        if not cased and (lost := marks_notice(whole.letters.lost())):
            say(lost)
        tokens, record = learn(counts.words(cased=cased))
        vocabulary = Vocabulary(tokens=tokens, cased=cased)
        reports = _measured([vocabulary] + ([before] if before is not None else []), counts, found)
        lineage = {
            "artefact": ARTEFACT,
            "settings": settings,
            "corpus": counts.identity,
            "invalid_utf8": {name: whole.invalid[name] for name in ("replaced", "skipped")},
            "vocabulary": {"hash": vocabulary.hash, "size": vocabulary.size, "cased": vocabulary.cased},
            **record,
            "coverage_report": _recorded(counts.unseen, reports, named=bool(counts.by_name)),
            "versions": library_versions(),
            **_became(counts),
        }
        save_vocabulary(vocabulary, output, lineage)
        _say_coverage(counts.unseen, reports)
    return vocabulary


def learned_settings(sources: Sequence[Source]) -> dict[str, Any]:
    """What the sources themselves put into a vocabulary's settings."""
    # How files are read shows in the corpus's fingerprint; what filters and weights make of it does not.
    own = {
        source.name: {"weight": float(source.weight), **source.read.filters.settings}
        for source in sources
        if source.name
    }
    return {"sources": own} if own else sources[0].read.filters.settings


def _nothing_left(whole: Seen) -> str:
    documents = f"all {whole.corpus.documents:,} documents of the corpus"
    if not whole.left_out:
        return f"the filters drop {documents}; ask for less with --filter"
    return f"filters and weights leave {documents} out; ask for less, or give larger weights"


def _say_sources(sources: Sequence[Source], counts: Counts) -> None:
    """What became of the documents of each source."""
    for source, seen in zip(sources, counts.sources, strict=True):
        title = f"{source.name}: " if source.name else ""
        if title:
            left_out = f", {seen.left_out:,} left out by weight {source.weight:g}" if seen.left_out else ""
            say(f"source {title}{seen.kept:,} documents{left_out}")
        limits = source.read.filters.settings.get("filters", {})
        for name, said in describe(as_plain(seen.filters), limits).items():
            say(f"filter {title}{name}: {said}")


def _became(counts: Counts) -> dict[str, Any]:
    """What the lineage records of filters and weights."""
    if counts.by_name:
        return {"sources": {name: seen.as_dict() for name, seen in counts.by_name.items()}}
    filters = as_plain(counts.whole.filters)
    return {"filters": filters} if filters else {}


def _measured(
    vocabularies: Sequence[Vocabulary], counts: Counts, found: Sequence[FoundSource]
) -> list[Report]:
    """Each vocabulary on the text held out; on all of a corpus too small to hold any out, which is read again."""
    if counts.unseen:
        return [measure(vocabulary, counts.held_out) for vocabulary in vocabularies]
    with count_corpus(found, held_out=1) as whole:
        return [measure(vocabulary, whole.held_out) for vocabulary in vocabularies]


def _recorded(unseen: bool, reports: Sequence[Report], *, named: bool) -> dict[str, Any]:
    # Without names of their own, sources are told by where the text lies, and that must change no byte.
    after, *before = (report.as_dict(sources=named) for report in reports)
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
