"""The stage `bertpipe shard`: corpus → sentence-pair shards, by map, shuffle and reduce.

In: text files and a vocabulary (without one, it is trained on the same corpus first). Out: a folder with
`train-*.tar`, `val-*.tar`, `vocab/`, `index.arrow` and `manifest.json`.
What always holds: the tars' bytes are a function of the corpus's content, the vocabulary, the settings and
the libraries' versions, not of workers, files' names and order, or restarts; whatever kills the command, the
same command continues; a folder made otherwise is refused and not touched; memory is bounded by a partition.

The road: *map* each split to a spill (`mapper`), count the distinct documents (`census`), which cuts the
hashes into partitions, and *reduce* each partition to a shard (`reducer`).

Example:
    manifest = run(ShardConfig(corpus=("corpus/",), output="SHARDS", vocab="VOCAB", workers=4))
"""

import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from pipeline import storage
from pipeline.corpus import census, sources, tally, vocab
from pipeline.corpus.agreement import check_finished, check_plan, check_whole, identity
from pipeline.corpus.executor import open_executor, run_tasks
from pipeline.corpus.manifest import Manifest, read_manifest, write_manifest
from pipeline.corpus.mapper import MapTask, Spill, map_split, read_spill
from pipeline.corpus.pairs import PairOptions
from pipeline.corpus.reducer import Reduced, ReduceTask, read_reduced, reduce_partition
from pipeline.corpus.sentences import rules_notice
from pipeline.corpus.shard_config import ShardConfig
from pipeline.corpus.shard_table import ShardTable
from pipeline.corpus.shards import PREFIXES
from pipeline.corpus.splits import Split, find_splits
from pipeline.corpus.vocabulary import Vocabulary, load_vocabulary, save_vocabulary
from pipeline.corpus.work_folder import WorkFolder, is_finished, remove_leftovers
from pipeline.errors import InputError
from pipeline.lineage import hash_json, library_versions
from pipeline.processes import available_cores
from pipeline.progress import Progress, say

__all__ = ["ShardConfig", "run"]

VOCABULARY_FOLDER = "vocab"
# About 35,000 pairs of 128 tokens: a reduce task of a second or two, in 100 MB.
_SHARD_BYTES = 16 << 20
# A process takes two to three seconds to start (the tokeniser; torch, which webdataset imports): it is
# started of itself only where it has so much to do.
_WORKER_BYTES = 4 << 20


def run(config: ShardConfig) -> Manifest:
    """Make the shards, or continue making them; finished ones from equal input are returned as they are.

    Raises InputError where the corpus or vocabulary is missing, unreadable or too small, or the folder holds
    something else (then nothing is touched, or the folder is left as it was found); RunFailed where the
    machine failed (then the same command continues).
    """
    given = load_vocabulary(config.vocab, config.cased) if config.vocab is not None else None
    # Where a vocabulary is trained first, that stage says what was left out.
    splits = find_splits(config.corpus, config.read.format, notice=say if given is not None else None)
    sources.refuse_overlap(config.corpus, config.output)
    found = sources.look_at(splits)
    files = sources.describe(found)
    if is_finished(config.output):
        return _finished(config, given, files)
    began = time.monotonic()
    with WorkFolder(config.output) as work:
        if is_finished(config.output):  # by another command, while this one was looking at the corpus
            return _finished(config, given, files)
        versions = library_versions(*config.word_packages)
        check_plan(config.output, work.path, config.settings, given, files, versions)
        vocabulary = _vocabulary(config, work.path, given)
        workers = _workers(config, splits, files["file_bytes"])
        if config.read.sentences == "paragraphs" and (notice := rules_notice(config.language)):
            say(notice)
        with open_executor(workers) as executor:
            tasks = partial(run_tasks, executor, workers=workers)
            spills = _map(config, work.path, vocabulary, list(sources.stems(splits, found)), tasks)
            plans = _census(config, work.path, spills)
            tally.check_known(spills)
            reduced = _reduce(config, work.path, vocabulary, spills, plans, tasks)
        manifest = _manifest(config, vocabulary, spills, reduced, files)
        _remove_strays(config.output, manifest)
        write_manifest(config.output, manifest)
        work.finish()
    for line in tally.summary(manifest, seconds=time.monotonic() - began, continued=work.resumed):
        say(line)
    return manifest


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


def _workers(config: ShardConfig, splits: list[Split], file_bytes: int) -> int:
    """Processes worth their start."""
    wanted = config.workers or min(available_cores(), file_bytes // _WORKER_BYTES)
    most_tasks = max(len(splits), config.shards or file_bytes // _SHARD_BYTES)
    return max(1, min(wanted, most_tasks))


def _map(
    config: ShardConfig,
    work: str,
    vocabulary: Vocabulary,
    named: list[tuple[str, Split]],
    run_all: Callable[..., Any],
) -> list[Spill]:
    """The spills of all splits, sorted by name; only those not yet there are made."""
    tasks = [
        MapTask(
            split=split,
            read=config.read,
            language=config.language,
            words=config.words,
            vocabulary=os.path.join(config.output, VOCABULARY_FOLDER),
            vocabulary_hash=vocabulary.hash,
            folder=work,
            stem=stem,
        )
        for stem, split in named
    ]
    found = {task.stem: read_spill(work, task.stem) for task in tasks}
    spills = [spill for spill in found.values() if spill is not None]
    left = [task for task in tasks if found[task.stem] is None]
    if spills:
        say(f"continuing: {len(spills)} of {len(tasks)} splits are tokenised already")
    began, documents, size = time.monotonic(), 0, 0
    with Progress("tokenising", total=len(left), unit="splits") as progress:
        for spill in run_all(map_split, left):
            spills.append(spill)
            documents += spill.fingerprint.documents
            size += spill.fingerprint.bytes
            rate = size / 1e6 / (time.monotonic() - began)
            progress.advance(note=f"{documents:,} documents, {rate:.2f} MB/s")
    return sorted(spills, key=lambda spill: spill.stem)


def _census(config: ShardConfig, work: str, spills: list[Spill]) -> list[census.PartitionPlan]:
    """The partitions; refuses a corpus of fewer than two documents."""
    runs = [run for spill in spills for run in spill.runs]
    counted = census.take_census(work, runs, validation_fraction=config.validation_fraction, seed=config.seed)
    if counted.documents < 2:
        empty = sum(spill.empty for spill in spills)
        no_utf8 = sum(spill.skipped for spill in spills)
        skipped = f", {no_utf8} skipped as no UTF-8" if no_utf8 else ""
        if filtered := sum(each.dropped for spill in spills for each in spill.filters.values()):
            skipped += f", {filtered} by filters"
        raise InputError(
            f"the corpus holds {counted.documents} distinct documents with text ({counted.duplicates} "
            f"repetitions and {empty} empty ones dropped{skipped}); give two or more, with a blank line between "
            "documents, since a random next segment comes from another document"
        )
    text_bytes = sum(spill.fingerprint.bytes for spill in spills)
    asked = config.shards or max(1, round(text_bytes * config.dupe_factor / _SHARD_BYTES))
    plans = census.plan_partitions(counted, asked=asked)
    training = sum(plan.split == "train" for plan in plans)
    if config.shards is not None and training < config.shards:
        say(
            f"{config.shards} shards asked for, {training} made: each needs {census.LEAST_DOCUMENTS} "
            f"documents of the {counted.documents - counted.held_out:,} to train on"
        )
    if config.validation_fraction and not counted.held_out:
        say(f"no validation shard: {counted.documents} documents are too few to hold two out")
    return plans


def _reduce(
    config: ShardConfig,
    work: str,
    vocabulary: Vocabulary,
    spills: list[Spill],
    plans: list[census.PartitionPlan],
    run_all: Callable[..., Any],
) -> list[Reduced]:
    """All shards in the order of `plans`; only those not yet there are made."""
    made_from = [config.settings, vocabulary.hash, [spill.stem for spill in spills], len(plans)]
    tasks = [
        ReduceTask(
            output=config.output,
            work=work,
            runs=tuple(run for spill in spills for run in spill.runs),
            plan=plan,
            options=PairOptions(
                max_seq_length=config.max_seq_length,
                short_seq_prob=config.short_seq_prob,
                seed=config.seed,
                copies=config.dupe_factor,
            ),
            made_from=hash_json(made_from),
        )
        for plan in plans
    ]
    found = {task.plan.name: read_reduced(task) for task in tasks}
    done = {name: reduced for name, reduced in found.items() if reduced is not None}
    left = [task for task in tasks if task.plan.name not in done]
    pairs = 0
    with Progress("pairing", total=len(left), unit="shards") as progress:
        for reduced in run_all(reduce_partition, left):
            done[reduced.shard.name] = reduced
            pairs += reduced.shard.pairs
            progress.advance(note=f"{pairs:,} pairs")
    return [done[plan.name] for plan in plans]


def _manifest(
    config: ShardConfig,
    vocabulary: Vocabulary,
    spills: list[Spill],
    reduced: list[Reduced],
    files: dict[str, Any],
) -> Manifest:
    corpus, counts = tally.tally(spills, reduced, dupe_factor=config.dupe_factor)
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
