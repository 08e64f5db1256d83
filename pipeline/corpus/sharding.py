"""The stage `bertpipe shard`: corpus → sentence-pair shards, by map, shuffle and reduce.

In: a corpus, whole or in sources, and a vocabulary (without one, it is trained on the same first). Out: a folder with
`train-*.tar`, `val-*.tar`, `vocab/`, `index.arrow` and `manifest.json`.
What always holds: the tars' bytes are a function of the corpus's content, the vocabulary, the settings and
the libraries' versions, not of workers, files' names and order, or restarts; whatever kills the command, the
same command continues; a folder made otherwise is refused and not touched; memory is bounded by a partition.

The road: *map* each bundle of splits to a spill (`mapper`, `shuffling`), count the distinct documents (`census`),
which cuts the hashes into partitions, and *reduce* each partition to a shard (`reducer`, `reducing`).

Example:
    manifest = run(ShardConfig(corpus=("corpus/",), output="SHARDS", vocab="VOCAB", workers=4))
"""

import os
import time
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from pipeline import storage
from pipeline.corpus import census, tally, vocab
from pipeline.corpus.agreement import check_finished, check_plan, check_whole, identity
from pipeline.corpus.disk import disk_notice
from pipeline.corpus.executor import open_executor, run_tasks
from pipeline.corpus.file_identity import refuse_overlap
from pipeline.corpus.manifest import Manifest, read_manifest, write_manifest
from pipeline.corpus.mapper import MapTask, Spill, read_spill
from pipeline.corpus.pairs import PairOptions
from pipeline.corpus.pieces import piece_bytes
from pipeline.corpus.reducer import Reduced
from pipeline.corpus.reducing import Maker, read_finished, reduce_left, wanted_from
from pipeline.corpus.runs import Run
from pipeline.corpus.sentences import rules_notice
from pipeline.corpus.shard_config import ShardConfig
from pipeline.corpus.shard_table import ShardTable
from pipeline.corpus.shards import PREFIXES
from pipeline.corpus.shuffling import RunAll, map_bundles, merge_spills
from pipeline.corpus.sources import (
    FoundSource,
    SourceBundle,
    bundle_sources,
    describe_sources,
    find_sources,
    specs_of,
)
from pipeline.corpus.text_size import expected_text_bytes
from pipeline.corpus.vocabulary import Vocabulary, load_vocabulary, save_vocabulary
from pipeline.corpus.work_folder import WorkFolder, is_finished, remove_leftovers
from pipeline.errors import InputError
from pipeline.lineage import hash_json, library_versions
from pipeline.processes import available_cores
from pipeline.progress import say, summarise

__all__ = ["ShardConfig", "run"]

VOCABULARY_FOLDER = "vocab"
# About 35,000 pairs of 128 tokens: a reduce task of a second or two, in 100 MB.
_SHARD_BYTES = 16 << 20
# A process takes half a second to start, and a second to learn the words it will meet again: it is started of
# itself only where it has so much to do.
_WORKER_BYTES = 8 << 20


def run(config: ShardConfig) -> Manifest:
    """Make the shards, or continue making them; finished ones from equal input are returned as they are.

    Raises InputError where the corpus or vocabulary is missing, unreadable or too small, or the folder holds
    something else (then nothing is touched, or the folder is left as it was found); RunFailed where the
    machine failed (then the same command continues).
    """
    given = load_vocabulary(config.vocab, config.cased) if config.vocab is not None else None
    # Where a vocabulary is trained first, that stage says what was left out.
    found = find_sources(config.all_sources, notice=say if given is not None else None)
    refuse_overlap(specs_of(config.all_sources), config.output)
    files = describe_sources(found)
    if is_finished(config.output):
        return _finished(config, given, files)
    began = time.monotonic()
    with WorkFolder(config.output) as work:
        if is_finished(config.output):  # by another command, while this one was looking at the corpus
            return _finished(config, given, files)
        versions = library_versions(*config.word_packages)
        check_plan(config.output, work.path, config.settings, given, files, versions)
        vocabulary = _vocabulary(config, work.path, given)
        bundles = bundle_sources(found, piece_bytes(files["file_bytes"]))
        workers = _workers(config, len(bundles), files["file_bytes"])
        _say_first(config, found, vocabulary, resumed=work.resumed)
        tasks = _map_tasks(config, work.path, vocabulary, bundles)
        maker = _maker(config, work.path, vocabulary, tasks)
        with open_executor(workers) as executor:
            run_all = partial(run_tasks, executor, workers=workers)
            wanted = _wanted_from(config, tasks, maker)
            spills = map_bundles(tasks, run_all, wanted_from=wanted)
            runs = merge_spills(work.path, spills, run_all, wanted_from=wanted)
            reduced = _reduce(config, maker, spills, runs, run_all)
        manifest = _manifest(config, vocabulary, spills, reduced, files)
        _remove_strays(config.output, manifest)
        write_manifest(config.output, manifest)
        work.finish()
    seconds = time.monotonic() - began
    lines = tally.summary(manifest, seconds=seconds, continued=work.resumed)
    summarise(lines, tally.facts(manifest, seconds=seconds, continued=work.resumed))
    return manifest


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


def _finished(config: ShardConfig, given: Vocabulary | None, files: dict[str, Any]) -> Manifest:
    """The manifest of finished shards, where this command would make the same."""
    manifest = read_manifest(config.output)
    check_finished(config.output, manifest, config.settings, given, files)
    check_whole(config.output, manifest, os.path.join(config.output, VOCABULARY_FOLDER))
    remove_leftovers(config.output)
    say(f"{config.output} holds these shards already: {tally.headline(manifest)}")
    return manifest


def _vocabulary(config: ShardConfig, work: str, given: Vocabulary | None) -> Vocabulary:
    """The vocabulary as it stands in the shard folder, copied or trained there."""
    folder = os.path.join(config.output, VOCABULARY_FOLDER)
    mark = os.path.join(work, "vocabulary.json")
    if os.path.exists(mark):
        return load_vocabulary(folder)
    if given is not None:
        save_vocabulary(given, folder)
        vocabulary = given
    else:
        say(f"training a vocabulary of {config.vocab_size:,} tokens")
        vocabulary = _trained(config, folder)
    storage.write_json(mark, identity(vocabulary))
    return vocabulary


def _trained(config: ShardConfig, folder: str) -> Vocabulary:
    try:
        return vocab.run(
            vocab.VocabConfig(
                corpus=config.corpus,
                sources=config.sources,
                output=folder,
                size=config.vocab_size,
                cased=bool(config.cased),
                read=config.read,
            )
        )
    except vocab.ImpossibleSize as error:
        raise InputError(
            f"{error} (size is --vocab-size here; for the rest, train it with bertpipe vocab and give --vocab)"
        ) from error


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


def _maker(config: ShardConfig, work: str, vocabulary: Vocabulary, tasks: Sequence[MapTask]) -> Maker:
    return Maker(
        output=config.output,
        work=work,
        options=PairOptions(
            max_seq_length=config.max_seq_length,
            short_seq_prob=config.short_seq_prob,
            seed=config.seed,
            copies=config.dupe_factor,
        ),
        made_from=hash_json([config.settings, vocabulary.hash, sorted(task.stem for task in tasks)]),
    )


def _wanted_from(config: ShardConfig, tasks: Sequence[MapTask], maker: Maker) -> int:
    """The lowest hash that a shard which an earlier attempt left to be made may hold; 0 where there was none."""
    spills = [read_spill(maker.work, task.stem) for task in tasks]
    known = census.read_census(maker.work, maker.made_from)
    if known is None or None in spills:
        return 0
    plans = _plans(config, known, [spill for spill in spills if spill is not None])
    return wanted_from(plans, read_finished(plans, maker))


def _reduce(
    config: ShardConfig, maker: Maker, spills: Sequence[Spill], runs: Sequence[Run], run_all: RunAll
) -> list[Reduced]:
    """All shards, in order; refuses a corpus of fewer than two documents."""
    counted = census.read_census(maker.work, maker.made_from)
    if counted is None:
        came = sum(run.documents for spill in spills for run in spill.runs)
        fraction = config.validation_fraction
        counted = census.take_census(
            maker.work, runs, came=came, validation_fraction=fraction, seed=config.seed
        )
        _refuse_few(counted, spills)
        census.write_census(maker.work, counted, maker.made_from)
    plans = _plans(config, counted, spills)
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
    config: ShardConfig, counted: census.Census, spills: Sequence[Spill]
) -> list[census.PartitionPlan]:
    weights = [source.weight for source in config.all_sources]
    text_bytes = sum(spill.fingerprint.bytes * weights[spill.source] for spill in spills)
    asked = config.shards or max(1, round(text_bytes * config.dupe_factor / _SHARD_BYTES))
    return census.plan_partitions(counted, asked=asked)


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


def _manifest(
    config: ShardConfig,
    vocabulary: Vocabulary,
    spills: list[Spill],
    reduced: list[Reduced],
    files: dict[str, Any],
) -> Manifest:
    names = [source.name for source in config.all_sources] if config.sources else []
    corpus, counts = tally.tally(spills, reduced, dupe_factor=config.dupe_factor, sources=names)
    return Manifest(
        settings=config.settings,
        vocabulary=identity(vocabulary),
        corpus=corpus | files,
        counts=counts,
        versions=library_versions(*config.word_packages),
        shards=ShardTable.of([each.shard for each in reduced]),
    )


def _remove_strays(output: str, manifest: Manifest) -> None:
    """Remove tars of an earlier attempt whose corpus, and so whose number of shards, was another."""
    names = set(manifest.shards.names())
    ours = tuple(f"{prefix}-" for prefix in PREFIXES.values())
    for name in os.listdir(output):
        if name.startswith(ours) and name.endswith(".tar") and name not in names:
            storage.remove(os.path.join(output, name))
