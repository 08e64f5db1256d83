"""A folder of shards as MLflow names data sets: with a digest, a source and counts.

In: a shard folder and its manifest. Out: plain values, one data set for training and one of held-out pairs. What always
holds: the digest is the hash of the pairs; no password of a URI is among the values.

Example:
    describe("SHARDS/128", manifest, phases=[0])[0]["digest"]  # '4efd1455…'
"""

import json
import os
from collections.abc import Sequence
from typing import Any

from pipeline import storage
from pipeline.corpus.manifest import Manifest
from pipeline.corpus.shards import Split
from pipeline.tracking.run_page import without_secrets

_CONTEXT: dict[Split, str] = {"train": "training", "validation": "evaluation"}
# The columns of a block, in MLflow's words.
_SCHEMA = {
    "tokens": "array",
    "a_length": "integer",
    "random_next": "boolean",
    "document_a": "long",
    "document_b": "long",
}


def describe(
    folder: str, manifest: Manifest, *, phases: Sequence[int], weight: float = 1.0
) -> list[dict[str, Any]]:
    """The data sets of a shard folder that some phases read.

    weight: in proportion to the phase's other folders
    """
    columns = [{"type": kind, "name": name, "required": True} for name, kind in _SCHEMA.items()]
    found = []
    for split, context in _CONTEXT.items():
        if not manifest.pairs(split):
            continue
        found.append(
            {
                "name": f"{without_secrets(folder)} {split}",
                "digest": manifest.hash,
                "source_type": "local" if storage.local_path(folder) is not None else "uri",
                "source": json.dumps({"uri": _address(folder)}),
                "schema": json.dumps({"mlflow_colspec": columns}),
                "profile": json.dumps(profile(manifest, split) | {"weight": weight}),
                "tags": {
                    "mlflow.data.context": context,
                    "bertpipe.phases": ", ".join(map(str, phases)),
                },
            }
        )
    return found


def profile(manifest: Manifest, split: Split) -> dict[str, float]:
    """Counts of one side: tars, bytes, pairs, tokens, the share of random next sentences."""
    table = manifest.of_split(split)
    pairs = table.total("pairs")
    return {
        "shards": len(table),
        "bytes": table.total("bytes"),
        "pairs": pairs,
        "tokens": table.total("tokens"),
        "random_share": round(table.total("random_next") / max(1, pairs), 6),
        "sequence_length": manifest.max_seq_length,
    }


def _address(folder: str) -> str:
    local = storage.local_path(folder)
    return without_secrets(folder) if local is None else os.path.abspath(local)
