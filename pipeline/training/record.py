"""What a training tells of itself once: parameters, lineage, data sets, and the stages before it.

In: a checked plan. Out: a `RunRecord`. What always holds: it reads what the plan has read, and the lineage of the
vocabulary; nothing is written.

Example:
    open_tracker(plan.recipe.tracking, run, run_record(plan), is_first=True)
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline import storage
from pipeline.batches.sources import Source
from pipeline.corpus.vocabulary import LINEAGE_FILE
from pipeline.errors import BertpipeError
from pipeline.tracking.datasets import describe
from pipeline.tracking.record import RunRecord, StageRecord
from pipeline.tracking.stages import shard_record, vocab_record
from pipeline.training.plan import Plan
from pipeline.training.run_folder import ENVIRONMENT, RECIPE, VOCABULARY


def run_record(plan: Plan) -> RunRecord:
    """What is told of the plan's run."""
    tags = {f"bertpipe.shards.{index}": shards for index, shards in enumerate(plan.history.shards)}
    tags["bertpipe.vocabulary"] = plan.vocabulary.hash
    manifests = [source.manifest for sources in plan.sources for source in sources]
    corpora = dict.fromkeys(str(manifest.corpus.get("fingerprint")) for manifest in manifests)
    tags["bertpipe.corpus"] = " + ".join(corpora)
    if plan.history.data_changes:
        tags["bertpipe.data_changes"] = " | ".join(plan.history.sentences)
    run_path = Path(plan.recipe.run)
    folders = _folders(plan)
    return RunRecord(
        parameters=plan.recipe.as_dict(),
        tags=tags,
        artefacts=tuple(str((run_path / name).absolute()) for name in (RECIPE, ENVIRONMENT, VOCABULARY)),
        datasets=tuple(
            dataset
            for folder, (source, phases) in folders.items()
            for dataset in describe(folder, source.manifest, phases=phases, weight=source.weight)
        ),
        shards=tuple(_absolute(folder) for folder in folders),
        stages=tuple(_stages(plan, folders)),
    )


def _folders(plan: Plan) -> dict[str, tuple[Source, list[int]]]:
    """Each folder of shards, and the phases that read it."""
    found: dict[str, tuple[Source, list[int]]] = {}
    for index, sources in enumerate(plan.sources):
        for source in sources:
            found.setdefault(source.folder, (source, []))[1].append(index)
    return found


def _stages(plan: Plan, folders: dict[str, tuple[Source, list[int]]]) -> Iterator[StageRecord]:
    """What made the vocabulary and the shards, as far as they say so themselves."""
    first = next(iter(folders))
    yield vocab_record(
        plan.vocabulary.hash, _lineage(first), size=plan.vocabulary.size, cased=plan.vocabulary.cased
    )
    for folder, (source, _) in folders.items():
        yield shard_record(folder, source.manifest)


def _lineage(shards: str) -> dict[str, Any]:
    """What the vocabulary beside the shards was made from; empty where it was made elsewhere."""
    path = storage.join(shards, VOCABULARY, LINEAGE_FILE)
    try:
        found = storage.read_json(path) if storage.exists(path) else {}
    except BertpipeError:
        return {}
    return found if isinstance(found, dict) else {}


def _absolute(folder: str) -> str:
    local = storage.local_path(folder)
    return folder if local is None else str(Path(local).absolute())
