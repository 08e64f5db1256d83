"""The stage `bertpipe shard --append`: more documents → more shards in a finished folder.

In: a finished folder, and a corpus with the settings that the folder was made with. Out: the folder with further tars,
a new index and manifest. What always holds: no byte of a tar that was there changes; documents that are in its shards,
trained on or held out, are repetitions and stay out; until the manifest is replaced, as the last step, the folder is
what it was, whatever happens; added twice, a corpus is there once.

What a run has trained on is another corpus than what it finds after this: it goes on with `--allow-data-change`.

Example:
    run(ShardConfig(corpus=("news/",), output="SHARDS"))
"""

import os
import re
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pipeline import storage
from pipeline.corpus import sharding, tally
from pipeline.corpus.agreement import check_plan, check_whole
from pipeline.corpus.document_list import (
    KnownDocuments,
    documents_of,
    listed,
    merge_documents,
    write_documents,
)
from pipeline.corpus.file_identity import refuse_overlap
from pipeline.corpus.making import VOCABULARY_FOLDER, Addition, Made, make_shards
from pipeline.corpus.manifest import INDEX, Manifest, index_file, read_manifest, write_manifest
from pipeline.corpus.shard_config import ShardConfig
from pipeline.corpus.shard_table import ShardTable
from pipeline.corpus.shards import PREFIXES, SPLITS
from pipeline.corpus.sources import describe_sources, find_sources, specs_of
from pipeline.corpus.vocabulary import load_vocabulary
from pipeline.corpus.work_folder import WorkFolder
from pipeline.errors import InputError
from pipeline.lineage import difference, library_versions
from pipeline.progress import say, summarise

# How files are read, and how many tars they make, may differ from one addition to the next; pairs and filters may not.
_MAY_DIFFER = ("shards", "language", "sentences", "text_key", "invalid_utf8", "trained_vocabulary", "sources")


_SUPERSEDED = re.compile(r"index(-\d+)?\.arrow|documents(-\d+)?\.bin")


def run(config: ShardConfig) -> Manifest:
    """Add the corpus's documents to the folder `config.output`, or continue adding them.

    Raises InputError where the folder is none or was made otherwise, or the corpus is missing, unreadable or too small
    (then the folder is what it was); RunFailed where the machine failed (then the same command continues).
    """
    output = config.output
    vocabulary_folder = os.path.join(output, VOCABULARY_FOLDER)
    check_whole(output, read_manifest(output), vocabulary_folder)
    vocabulary = load_vocabulary(vocabulary_folder)
    if (
        config.vocab is not None
        and (given := load_vocabulary(config.vocab, config.cased)).hash != vocabulary.hash
    ):
        raise InputError(
            f"{config.vocab} has the hash {given.hash}, the shards of {output} were made with {vocabulary.hash}; leave "
            "--vocab out to use theirs"
        )
    config = replace(config, vocab=vocabulary_folder, cased=None)
    found = find_sources(config.all_sources, notice=say)
    refuse_overlap(specs_of(config.all_sources), output)
    files = describe_sources(found)
    began = time.monotonic()
    with WorkFolder(output, adding=True) as work:
        before = read_manifest(output)  # another command may have added something meanwhile
        _check_settings(config, before)
        if _has(before, config, files):
            say(f"{output} holds these documents already: {tally.headline(before)}")
            _remove_superseded(output, before)
            work.finish()
            return before
        versions = library_versions(*config.word_packages)
        check_plan(output, work.path, config.settings, vocabulary, files, versions, adding=True)
        addition = Addition(
            known=_known(output, work.path, before), numbered_from=_numbered_from(before), to=before.hash
        )
        made = make_shards(config, work, vocabulary, found, addition)
        if not made.reduced:
            say(f"{output} holds all these documents already; nothing is added")
            work.finish()
            return before
        manifest = _finish(config, before, made, files, addition)
        work.finish()
    seconds = time.monotonic() - began
    added = manifest.parts[-1]["counts"] if manifest.parts else {}
    lines = [f"added      {added['documents']:,} documents, {added['pairs']:,} pairs; now there are"]
    lines += tally.summary(manifest, seconds=seconds, continued=True)
    summarise(lines, tally.facts(manifest, seconds=seconds, continued=work.resumed) | {"added": added})
    return manifest


def _check_settings(config: ShardConfig, manifest: Manifest) -> None:
    """Refuse where pairs would be made otherwise than the folder's."""
    ours, theirs = (
        {name: value for name, value in settings.items() if name not in _MAY_DIFFER}
        for settings in (config.settings, manifest.settings)
    )
    if differences := difference(ours, theirs):
        raise InputError(
            f"{config.output} holds shards made otherwise ({'; '.join(differences)}); give the same options to add "
            "to them, or name another folder"
        )


def _has(manifest: Manifest, config: ShardConfig, files: Mapping[str, Any]) -> bool:
    """Whether these very files, read in this way, are in the folder."""
    settings = {name: value for name, value in config.settings.items() if name != "trained_vocabulary"}
    for part in manifest.parts or [_part(manifest)]:
        theirs = {name: value for name, value in part["settings"].items() if name != "trained_vocabulary"}
        if theirs == settings and all(part["corpus"].get(name) == value for name, value in files.items()):
            return True
    return False


def _known(output: str, work: str, manifest: Manifest) -> str:
    """The file that lists the folder's documents; gathered from the tars where the folder has none."""
    if manifest.documents is not None:
        path = os.path.join(output, manifest.documents["file"])
        remedy = "restore it from its source"
        if not os.path.exists(path):
            raise InputError(f"{path} is missing, the manifest names it; {remedy}")
        if (found := storage.hash_file(path)) != manifest.documents["hash"]:
            raise InputError(
                f"{path} has the hash {found}, its manifest says {manifest.documents['hash']}; {remedy}"
            )
        return path
    path = os.path.join(work, "known.bin")
    if not os.path.exists(path):
        write_documents(path, [documents_of(output, manifest.shards)])
    return path


def _numbered_from(manifest: Manifest) -> dict[Any, int]:
    """The number of the next tar of each side."""
    return {
        split: 1 + max((_number(name, split) for name in manifest.of_split(split).names()), default=-1)
        for split in SPLITS
    }


def _number(name: str, split: Any) -> int:
    return int(name.removeprefix(f"{PREFIXES[split]}-").removesuffix(".tar"))


def _part(manifest: Manifest) -> dict[str, Any]:
    """What the manifest of a folder that nothing was added to says of what it was made from."""
    return {name: getattr(manifest, name) for name in ("settings", "corpus", "counts", "versions")}


def _finish(
    config: ShardConfig,
    before: Manifest,
    made: Made,
    files: dict[str, Any],
    addition: Addition,
) -> Manifest:
    """Replace the folder's manifest, and remove what only the old one named."""
    output, parts = config.output, before.parts or [_part(before)]
    corpus, counts = tally.tally(
        made.spills, made.reduced, dupe_factor=config.dupe_factor, sources=config.source_names
    )
    part = {
        "settings": config.settings,
        "corpus": corpus | files,
        "counts": counts,
        "versions": library_versions(*config.word_packages),
    }
    documents = f"documents-{len(parts)}.bin"
    merge_documents(
        os.path.join(output, documents), KnownDocuments(addition.known), KnownDocuments(made.documents)
    )
    shards = [*before.shards, *(each.shard for each in made.reduced)]
    manifest = Manifest(
        settings=before.settings,
        vocabulary=before.vocabulary,
        corpus=tally.merged_corpus(before.corpus, part["corpus"]),
        counts=tally.merged_counts(before.counts, counts),
        versions=before.versions,
        # The tars of a side are neighbours in the index.
        shards=ShardTable.of(sorted(shards, key=lambda shard: SPLITS.index(shard.split))),
        documents=listed(output, documents),
        parts=[*parts, part],
    )
    sharding.remove_strays(output, manifest)
    name, ending = os.path.splitext(INDEX)
    write_manifest(output, manifest, index=f"{name}-{len(parts)}{ending}")
    _remove_superseded(output, manifest)
    return manifest


def _remove_superseded(output: str, manifest: Manifest) -> None:
    """Remove indexes and lists of documents that the manifest doesn't name."""
    named = {index_file(output), manifest.documents["file"] if manifest.documents else None}
    for name in os.listdir(output):
        if _SUPERSEDED.fullmatch(name) and name not in named:
            storage.remove(os.path.join(output, name))
