"""Shard folders made into others: of fewer or other tars, of an older format."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from pipeline.corpus.manifest import INDEX, MANIFEST, read_manifest, write_manifest
from pipeline.corpus.shard_table import ShardTable
from pipeline.corpus.shards import ShardInfo


def list_other_shards(folder: Path, change: Callable[[Sequence[ShardInfo]], Sequence[ShardInfo]]) -> None:
    """Let the folder's manifest and index list `change(its tars)`."""
    manifest = read_manifest(str(folder))
    write_manifest(str(folder), replace(manifest, shards=ShardTable.of(change(list(manifest.shards)))))


def make_format_1(folder: Path) -> None:
    """Write the folder's manifest as format 1 had it: the tars listed in the JSON, no index."""
    manifest = read_manifest(str(folder))
    shards = [asdict(shard) for shard in manifest.shards]
    (folder / MANIFEST).write_text(json.dumps(manifest.stated() | {"format_version": 1, "shards": shards}))
    (folder / INDEX).unlink(missing_ok=True)
