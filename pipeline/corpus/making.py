"""Making shards: map, merge, census and reduce, one after the other, as far as each isn't done.

In: the settings, a locked work folder, the vocabulary, the sources found, and what the folder holds already. Out: the
finished shards, with spills and the list of documents that the manifest is written from. What always holds: nothing but
tars is written outside the work folder; a step that is marked is not repeated.

Example:
    made = make_shards(config, work, vocabulary, find_sources(config.all_sources), FRESH)
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from pipeline.corpus import census, tally
from pipeline.corpus.disk import disk_notice
from pipeline.corpus.document_list import KnownDocuments
from pipeline.corpus.executor import open_executor, run_tasks
from pipeline.corpus.mapper import MapTask, Spill, read_spill
from pipeline.corpus.pairs import PairOptions
from pipeline.corpus.pieces import piece_bytes
from pipeline.corpus.reducer import Reduced
from pipeline.corpus.reducing import Maker, read_finished, reduce_left, wanted_from
from pipeline.corpus.runs import Run
from pipeline.corpus.sentences import rules_notice
from pipeline.corpus.shard_config import ShardConfig
from pipeline.corpus.shards import Split as Side
from pipeline.corpus.shuffling import RunAll, map_bundles, merge_spills
from pipeline.corpus.sources import FoundSource, SourceBundle, bundle_sources, describe_sources
from pipeline.corpus.text_size import expected_text_bytes
from pipeline.corpus.vocabulary import Vocabulary
from pipeline.corpus.work_folder import WorkFolder
from pipeline.errors import InputError
from pipeline.lineage import hash_json
from pipeline.processes import available_cores
from pipeline.progress import say

VOCABULARY_FOLDER = "vocab"
# About 35,000 pairs of 128 tokens: a reduce task of a second or two, in 100 MB.
_SHARD_BYTES = 16 << 20
# A process takes half a second to start, and a second to learn the words it will meet again: it is started of
# itself only where it has so much to do.
_WORKER_BYTES = 8 << 20


@dataclass(frozen=True, kw_only=True)
class Addition:
    """What the folder holds already: documents that are repetitions here, the next tars' numbers, its identity."""

    known: str | None = None
    numbered_from: Mapping[Side, int] = field(default_factory=dict)
    to: str | None = None


FRESH = Addition()


@dataclass(frozen=True, kw_only=True)
class Made:
    """Spills, finished shards, and the file that lists their documents."""

    spills: list[Spill]
    reduced: list[Reduced]
    documents: str


def make_shards(
    config: ShardConfig,
    work: WorkFolder,
    vocabulary: Vocabulary,
    found: Sequence[FoundSource],
    addition: Addition,
) -> Made:
    """Map, merge, count and reduce, as far as it isn't done. Raises as `run` does."""
    file_bytes = describe_sources(found)["file_bytes"]
    bundles = bundle_sources(found, piece_bytes(file_bytes))
    workers = _workers(config, len(bundles), file_bytes)
    _say_first(config, found, vocabulary, resumed=work.resumed)
    tasks = _map_tasks(config, work.path, vocabulary, bundles)
    maker = _maker(config, work.path, vocabulary, tasks, addition)
    with open_executor(workers) as executor:
        run_all = partial(run_tasks, executor, workers=workers)
        wanted = _wanted_from(config, tasks, maker, addition)
        spills = map_bundles(tasks, run_all, wanted_from=wanted)
        runs = merge_spills(work.path, spills, run_all, wanted_from=wanted)
        reduced = _reduce(config, maker, spills, runs, run_all, addition)
    return Made(spills=spills, reduced=reduced, documents=census.documents_file(work.path))


def _say_first(
    config: ShardConfig, found: Sequence[FoundSource], vocabulary: Vocabulary, *, resumed: bool
) -> None:
    """What a person should know before it begins: languages without rules, and the disk it takes."""
    segmented = {source.language for source in config.all_sources if source.read.sentences == "paragraphs"}
    for language in sorted(segmented):
        if rules := rules_notice(language):
            say(rules)
    if resumed:
        return
    sizes = [(expected_text_bytes(each.splits, each.source.read), each.source.weight) for each in found]
    spilled = sum(round(size * min(1.0, weight)) for size, weight in sizes)
    copies = config.dupe_factor * sum(size * weight for size, weight in sizes) / max(1, spilled)
    if notice := disk_notice(config.output, spilled, copies=copies, wide=vocabulary.size > 1 << 16):
        say(notice)


def _workers(config: ShardConfig, map_tasks: int, file_bytes: int) -> int:
    """Processes worth their start."""
    wanted = config.workers or min(available_cores(), file_bytes // _WORKER_BYTES)
    most_tasks = max(map_tasks, config.shards or file_bytes // _SHARD_BYTES)
    return max(1, min(wanted, most_tasks))


def _map_tasks(
    config: ShardConfig, work: str, vocabulary: Vocabulary, bundles: Iterable[SourceBundle]
) -> list[MapTask]:
    return [
        MapTask(
            splits=each.bundle,
            source=each.number,
            weight=each.source.weight,
            seed=config.seed,
            read=each.source.read,
            language=each.source.language,
            words=config.any_words,
            by_library=each.source.words,
            vocabulary=os.path.join(config.output, VOCABULARY_FOLDER),
            vocabulary_hash=vocabulary.hash,
            folder=work,
            stem=each.stem,
        )
        for each in bundles
    ]


def _maker(
    config: ShardConfig, work: str, vocabulary: Vocabulary, tasks: Sequence[MapTask], addition: Addition
) -> Maker:
    made_from = [config.settings, vocabulary.hash, sorted(task.stem for task in tasks)]
    return Maker(
        output=config.output,
        work=work,
        options=PairOptions(
            max_seq_length=config.max_seq_length,
            short_seq_prob=config.short_seq_prob,
            seed=config.seed,
            copies=config.dupe_factor,
        ),
        made_from=hash_json(made_from if addition.to is None else [*made_from, addition.to]),
        known=addition.known,
    )


def _wanted_from(config: ShardConfig, tasks: Sequence[MapTask], maker: Maker, addition: Addition) -> int:
    """The lowest hash that a shard which an earlier attempt left to be made may hold; 0 where there was none."""
    spills = [read_spill(maker.work, task.stem) for task in tasks]
    known = census.read_census(maker.work, maker.made_from)
    if known is None or None in spills:
        return 0
    plans = _plans(config, known, [spill for spill in spills if spill is not None], addition)
    return wanted_from(plans, read_finished(plans, maker))


def _reduce(
    config: ShardConfig,
    maker: Maker,
    spills: Sequence[Spill],
    runs: Sequence[Run],
    run_all: RunAll,
    addition: Addition,
) -> list[Reduced]:
    """All shards, in order; refuses a corpus of fewer than two documents, unless all were known before."""
    counted = census.read_census(maker.work, maker.made_from)
    if counted is None:
        came = sum(run.documents for spill in spills for run in spill.runs)
        fraction = config.validation_fraction
        counted = census.take_census(
            maker.work,
            runs,
            came=came,
            validation_fraction=fraction,
            seed=config.seed,
            known=KnownDocuments(addition.known),
        )
        if came and not counted.documents:
            return []
        _refuse_few(counted, spills)
        census.write_census(maker.work, counted, maker.made_from)
    plans = _plans(config, counted, spills, addition)
    training = sum(plan.split == "train" for plan in plans)
    if config.shards is not None and training < config.shards:
        say(
            f"{config.shards} shards asked for, {training} made: each needs {census.LEAST_DOCUMENTS} "
            f"documents of the {counted.documents - counted.held_out:,} to train on"
        )
    if config.validation_fraction and not counted.held_out:
        say(f"no validation shard: {counted.documents} documents are too few to hold two out")
    tally.check_known(spills)
    return reduce_left(plans, read_finished(plans, maker), runs, maker, run_all)


def _plans(
    config: ShardConfig, counted: census.Census, spills: Sequence[Spill], addition: Addition
) -> list[census.PartitionPlan]:
    weights = [source.weight for source in config.all_sources]
    text_bytes = sum(spill.fingerprint.bytes * weights[spill.source] for spill in spills)
    asked = config.shards or max(1, round(text_bytes * config.dupe_factor / _SHARD_BYTES))
    return census.plan_partitions(counted, asked=asked, numbered_from=addition.numbered_from)


def _refuse_few(counted: census.Census, spills: Sequence[Spill]) -> None:
    if counted.documents >= 2:
        return
    empty = sum(spill.empty for spill in spills)
    no_utf8 = sum(spill.skipped for spill in spills)
    skipped = f", {no_utf8} skipped as no UTF-8" if no_utf8 else ""
    if filtered := sum(each.dropped for spill in spills for each in spill.filters.values()):
        skipped += f", {filtered} by filters"
    if left_out := sum(spill.left_out for spill in spills):
        skipped += f", {left_out} left out by weight"
    raise InputError(
        f"the corpus holds {counted.documents} distinct documents with text ({counted.duplicates} "
        f"repetitions and {empty} empty ones dropped{skipped}); give two or more, with a blank line between "
        "documents, since a random next segment comes from another document"
    )
