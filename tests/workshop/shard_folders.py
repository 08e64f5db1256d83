"""Shard folders, and others made of them: of fewer or other tars, of an older format."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from pipeline.corpus.manifest import INDEX, MANIFEST, read_manifest, write_manifest
from pipeline.corpus.shard_table import ShardTable
from pipeline.corpus.sharding import ShardConfig, run
from pipeline.corpus.shards import ShardInfo


def shard_small(corpus: Path, output: Path, **more: Any) -> Path:
    """Shards of a small corpus, pairs of up to 64 tokens, a tenth of the documents held out; the folder."""
    given: dict[str, Any] = {"max_seq_length": 64, "workers": 1, "validation_fraction": 0.1} | more
    run(ShardConfig(corpus=(str(corpus),), output=str(output), **given))
    return output


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
