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
from typing import Any

from pipeline import storage
from pipeline.corpus import tally, vocab
from pipeline.corpus.agreement import check_finished, check_plan, check_whole, identity
from pipeline.corpus.document_list import KnownDocuments, listed, merge_documents
from pipeline.corpus.file_identity import refuse_overlap
from pipeline.corpus.making import FRESH, VOCABULARY_FOLDER, Made, make_shards
from pipeline.corpus.manifest import Manifest, read_manifest, write_manifest
from pipeline.corpus.shard_config import ShardConfig
from pipeline.corpus.shard_table import ShardTable
from pipeline.corpus.shards import PREFIXES
from pipeline.corpus.sources import (
    describe_sources,
    find_sources,
    specs_of,
)
from pipeline.corpus.vocabulary import Vocabulary, load_vocabulary, save_vocabulary
from pipeline.corpus.work_folder import WorkFolder, is_finished, remove_leftovers
from pipeline.errors import InputError
from pipeline.lineage import library_versions
from pipeline.progress import say, summarise

__all__ = ["ShardConfig", "run"]

DOCUMENTS = "documents.bin"


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
        made = make_shards(config, work, vocabulary, found, FRESH)
        merge_documents(os.path.join(config.output, DOCUMENTS), KnownDocuments(made.documents))
        manifest = _manifest(config, vocabulary, made, files)
        remove_strays(config.output, manifest)
        write_manifest(config.output, manifest)
        work.finish()
    seconds = time.monotonic() - began
    lines = tally.summary(manifest, seconds=seconds, continued=work.resumed)
    summarise(lines, tally.facts(manifest, seconds=seconds, continued=work.resumed))
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


def _manifest(config: ShardConfig, vocabulary: Vocabulary, made: Made, files: dict[str, Any]) -> Manifest:
    corpus, counts = tally.tally(
        made.spills, made.reduced, dupe_factor=config.dupe_factor, sources=config.source_names
    )
    return Manifest(
        settings=config.settings,
        vocabulary=identity(vocabulary),
        corpus=corpus | files,
        counts=counts,
        versions=library_versions(*config.word_packages),
        shards=ShardTable.of([each.shard for each in made.reduced]),
        documents=listed(config.output, DOCUMENTS),
    )


def remove_strays(output: str, manifest: Manifest) -> None:
    """Remove tars of an earlier attempt whose corpus, and so whose number of shards, was another."""
    names = set(manifest.shards.names())
    ours = tuple(f"{prefix}-" for prefix in PREFIXES.values())
    for name in os.listdir(output):
        if name.startswith(ours) and name.endswith(".tar") and name not in names:
            storage.remove(os.path.join(output, name))
