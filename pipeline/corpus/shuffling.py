"""Map and merge: all bundles of the corpus → the runs that shards are made from, and no step twice.

In: map tasks. Out: their spills, and the runs that hold all their documents. What always holds: what is marked and
whole is kept; what is gone and still wanted is made anew, which gives the same bytes; a run is removed once
everything that reads it is marked.

Example:
    spills = map_bundles(tasks, run_all, wanted_from=0)
    runs = merge_spills("SHARDS/.work", spills, run_all, wanted_from=0)
"""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from pipeline import storage
from pipeline.corpus import tally
from pipeline.corpus.mapper import MapTask, Spill, map_splits, read_spill
from pipeline.corpus.merging import MergeTask, merge_plan, merge_runs, read_merged
from pipeline.corpus.runs import Run
from pipeline.progress import Progress, say

RunAll = Callable[[Callable[[Any], Any], Iterable[Any]], Iterator[Any]]
"""`run_tasks` with its executor: the results of a function of each task, in the order in which they end."""


def map_bundles(tasks: Sequence[MapTask], run_all: RunAll, *, wanted_from: int) -> list[Spill]:
    """The spills of all bundles, sorted by name; only those not yet there are made.

    wanted_from: of runs, those that hold no hash from here on are not wanted any more
    """
    found = [read_spill(task.folder, task.stem) for task in tasks]
    marked = _sorted(spill for spill in found if spill is not None)
    lost = _lost(tasks[0].folder, marked, wanted_from if len(marked) == len(tasks) else None)
    spills = [spill for spill in marked if spill.stem not in lost]
    kept = {spill.stem for spill in spills}
    left = [task for task in tasks if task.stem not in kept]
    if spills:
        say(f"continuing: {len(spills)} of {len(tasks)} bundles are tokenised already")
    sizes = {task.stem: task.bytes / 1e6 for task in left}
    began, new = time.monotonic(), list[Spill]()
    with Progress("tokenising", total=sum(sizes.values()), unit="MB") as progress:
        for spill in run_all(map_splits, left):
            new.append(spill)
            note, figures = tally.mapped(new, time.monotonic() - began)
            progress.advance(sizes[spill.stem], note=note, **figures)
    spills += new
    return _sorted(spills)


def _sorted(spills: Iterable[Spill]) -> list[Spill]:
    """In the order in which they are merged, which is not that of paths or of who was ready first."""
    return sorted(spills, key=lambda spill: spill.stem)


def _lost(folder: str, spills: Sequence[Spill], wanted_from: int | None) -> set[str]:
    """The names of spills of which a run is gone that is still wanted; where `wanted_from` is None, all are."""
    runs = _runs(spills)
    wanted = {run.name for run in runs if wanted_from is None or run.hashes[1] > wanted_from}
    if wanted_from is not None and (tasks := merge_plan(folder, runs)):
        wanted = {run.name for task in tasks if not _is_merged(task, wanted_from) for run in task.runs}
    return {
        spill.stem
        for spill in spills
        if any(run.name in wanted and not run.is_whole(folder) for run in spill.runs)
    }


def merge_spills(folder: str, spills: Sequence[Spill], run_all: RunAll, *, wanted_from: int) -> list[Run]:
    """The runs to make shards from: those of the spills, or where they are very many, merged ones."""
    runs = _runs(spills)
    tasks = merge_plan(folder, runs)
    if not tasks:
        return runs
    left = {task.stem: task for task in tasks if not _is_merged(task, wanted_from)}
    readers = Counter(run.name for task in left.values() for run in task.runs)
    for run in runs:
        if not readers[run.name]:
            storage.remove(os.path.join(folder, run.name))
    with Progress("merging", total=len(left), unit="parts") as progress:
        for stem in run_all(merge_runs, list(left.values())):
            for run in left[stem].runs:
                readers[run.name] -= 1
                if not readers[run.name]:
                    storage.remove(os.path.join(folder, run.name))
            progress.advance()
    return [run for task in tasks for run in read_merged(task) or ()]


def _is_merged(task: MergeTask, wanted_from: int) -> bool:
    merged = read_merged(task)
    if merged is None:
        return False
    return all(run.is_whole(task.folder) for run in merged if run.hashes[1] > wanted_from)


def _runs(spills: Sequence[Spill]) -> list[Run]:
    return [run for spill in spills for run in spill.runs]


class Freeing:
    """Removes runs as what they hold has become shards."""

    def __init__(self, folder: str, runs: Sequence[Run]) -> None:
        self._folder = folder
        self._left = sorted(runs, key=lambda run: -run.hashes[1])

    def below(self, wanted_from: int) -> None:
        """Remove the runs that hold no hash from `wanted_from` on."""
        while self._left and self._left[-1].hashes[1] <= wanted_from:
            storage.remove(os.path.join(self._folder, self._left.pop().name))
