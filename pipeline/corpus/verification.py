"""Shards held against their manifest and the format's laws, block by block.

In: a shard folder and its manifest. Out: what is wrong with it, a line a problem; nothing is changed.
What always holds: every byte of every tar is read; no pairs at all is a problem too. Memory is bounded by a
block and the documents' hashes (8 bytes each).

Example:
    problems = verify("SHARDS", read_manifest("SHARDS"))
"""

import os
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pipeline import storage
from pipeline.corpus.manifest import Manifest
from pipeline.corpus.pairs import SPECIAL_TOKENS
from pipeline.corpus.shard_table import Count
from pipeline.corpus.shards import SPLITS, Block, ShardInfo, read_block
from pipeline.errors import RunFailed
from pipeline.progress import Progress

_Hashes = NDArray[np.uint64]


def verify(folder: str, manifest: Manifest) -> list[str]:
    """All problems found; an empty list says that the shards are what their manifest says."""
    problems = list(_folder_problems(folder, manifest))
    documents: dict[str, list[_Hashes]] = {split: [] for split in SPLITS}
    with Progress("verifying", total=len(manifest.shards), unit="shards") as progress:
        for shard in manifest.shards:
            found, seen = _shard_problems(folder, shard, manifest)
            problems += found
            documents[shard.split].append(seen)
            progress.advance(note=shard.name)
    training, held_out = (np.concatenate([np.zeros(0, np.uint64), *documents[split]]) for split in SPLITS)
    if len(both := np.intersect1d(training, held_out)):
        problems.append(
            f"{len(both)} documents are in training and in held-out shards (first: {both[0]:016x})"
        )
    return problems


def _folder_problems(folder: str, manifest: Manifest) -> Iterator[str]:
    if not manifest.shards.total("pairs"):
        yield "the manifest names no pairs; an empty result is none"
    counted: tuple[Count, ...] = ("pairs", "tokens", "random_next")
    for what in counted:
        stated, summed = manifest.counts.get(what), manifest.shards.total(what)
        if stated != summed:
            yield f"the manifest counts {stated} {what}, its shards {summed}"
    known = set(manifest.shards.names())
    for path in storage.list_files(folder):
        name = os.path.basename(path)
        if name.endswith(".tar") and name not in known:
            yield f"{name} is not in the manifest"


def _shard_problems(folder: str, shard: ShardInfo, manifest: Manifest) -> tuple[list[str], _Hashes]:
    """What is wrong with a tar, and the hashes of all documents in it."""
    path = storage.join(folder, shard.name)
    try:
        if (found := storage.hash_file(path)) != shard.hash:
            problems = [f"{shard.name} has the hash {found}, its manifest says {shard.hash}"]
        else:
            problems = []
    except OSError as error:
        return [f"{shard.name} cannot be read: {error.strerror or error}"], np.zeros(0, np.uint64)
    pairs = tokens = random_next = 0
    documents = np.zeros(0, np.uint64)
    for index, expected in enumerate(shard.block_pairs):
        try:
            block = read_block(folder, shard, index)
        except RunFailed as error:
            problems.append(str(error))
            continue
        where = f"{shard.name} block {index}"
        if len(block) != expected:
            problems.append(f"{where} holds {len(block)} pairs, its manifest says {expected}")
        problems += [f"{where}: {problem}" for problem in _block_problems(block, manifest)]
        pairs, tokens = pairs + len(block), tokens + len(block.tokens)
        random_next += int(block.random_next.sum())
        documents = np.unique(np.concatenate([documents, block.document_a, block.document_b]))
    if not problems and (pairs, tokens, random_next) != (shard.pairs, shard.tokens, shard.random_next):
        problems.append(
            f"{shard.name} holds {pairs} pairs, {tokens} tokens, {random_next} random-next, its manifest says "
            f"{shard.pairs}, {shard.tokens}, {shard.random_next}"
        )
    return problems, documents


def _block_problems(block: Block, manifest: Manifest) -> Iterator[str]:
    vocabulary_size = int(manifest.vocabulary["size"])
    if len(block.tokens) and (largest := int(block.tokens.max())) >= vocabulary_size:
        yield f"token id {largest} is beyond the vocabulary's {vocabulary_size} tokens"
    same = block.document_a == block.document_b
    longest = manifest.max_seq_length - SPECIAL_TOKENS
    if (block.continues is not None) != bool(manifest.settings.get("words")):
        yield f"has {'no ' if block.continues is None else ''}words, its manifest says otherwise"
    elif block.continues is not None and len(block):
        firsts = np.concatenate([block.offsets[:-1], block.offsets[:-1] + block.a_lengths])
        if count := int(block.continues[firsts[firsts < len(block.tokens)]].sum()):
            yield f"{count} segments begin inside a word"
    for wrong, what in (
        (block.lengths > longest, f"are longer than {longest} tokens"),
        (block.a_lengths == 0, "have an empty segment A"),
        (block.a_lengths >= block.lengths, "have an empty segment B"),
        (same & block.random_next, "are random-next within one document"),
        (~same & ~block.random_next, "are actual-next of two documents"),
    ):
        if count := int(wrong.sum()):
            yield f"{count} pairs {what} (first: row {int(np.argmax(wrong))})"
