"""Merging: many small runs → fewer large ones, where a shard would otherwise be gathered from thousands of files.

In: the runs of all spills. Out: runs of parts of the hashes, each merged from a group of spills'. What always holds:
what a range of hashes holds is the same before and after; a merge with a mark is whole, and only then its inputs may
go; memory is bounded by a group's part; the time of a whole stage stays linear in the corpus, for a shard reads one
file a group.

Up to 256 runs of a range (15 GB of text and more) nothing is merged.

Example:
    tasks = merge_plan("SHARDS/.work", runs)
    for task in tasks:
        merge_runs(task)
    merged = [run for task in tasks for run in read_merged(task)]
"""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from pipeline import storage
from pipeline.corpus.runs import Range, Run, hash_ranges, overlap, read_range, read_runs, write_runs
from pipeline.lineage import hash_json

# Opening a run takes 0.2 ms, twice for each shard: so many take a tenth of the time in which one is made.
_MOST_RUNS = 256
# A group's eighth of the hashes is merged in memory: 128 MB of tokens, three times over.
_GROUP = 32
_PARTS = 8


@dataclass(frozen=True, kw_only=True)
class MergeTask:
    """What a worker needs to merge one part of a group; `hashes`: the part."""

    folder: str
    stem: str
    runs: tuple[Run, ...]
    hashes: Range

    @property
    def made_from(self) -> str:
        """What decides the result."""
        return hash_json([[run.name, run.bytes] for run in self.runs])


def merge_plan(folder: str, runs: Sequence[Run], *, most: int = _MOST_RUNS) -> list[MergeTask]:
    """The merges to make; none where no more than `most` runs hold a hash."""
    batches: list[list[Run]] = []
    for run in runs:  # those of one batch of documents follow one another, from the lowest hash on
        if run.hashes[0] == 0:
            batches.append([])
        batches[-1].append(run)
    if len(batches) <= most:
        return []
    groups = [batches[start : start + _GROUP] for start in range(0, len(batches), _GROUP)]
    return [
        MergeTask(
            folder=folder,
            stem=f"merge-{number:05d}-{part}",
            runs=tuple(run for batch in group for run in batch if overlap(run.hashes, hashes)),
            hashes=hashes,
        )
        for number, group in enumerate(groups)
        for part, hashes in enumerate(hash_ranges(_PARTS))
    ]


def merge_runs(task: MergeTask) -> str:
    """Merge the runs of a task; returns its name. Raises RunFailed where the disk refuses or a run is gone."""
    documents = read_range(task.folder, task.runs, task.hashes)
    merged = write_runs(task.folder, task.stem, documents, task.hashes)
    mark = {"made_from": task.made_from, "runs": [asdict(run) for run in merged]}
    storage.write_json(_mark(task), mark)
    return task.stem


def read_merged(task: MergeTask) -> tuple[Run, ...] | None:
    """The runs that a finished merge wrote, whether they are still there or not; None where it isn't finished."""
    if not os.path.exists(_mark(task)):
        return None
    mark = storage.read_json(_mark(task))
    return read_runs(mark["runs"]) if mark["made_from"] == task.made_from else None


def _mark(task: MergeTask) -> str:
    return os.path.join(task.folder, f"{task.stem}.json")
