"""The run folder: what a run is, so that the same command resumes it and no other one can.

In: a recipe and the manifests of its phases. Out: `RUN/recipe.yaml` (resolved), `RUN/lineage.json` (what it
trains on), `RUN/vocab/`, `RUN/environment.json` (where, with which versions and to what end,
one entry a start).
What always holds: one run trains in a folder at a time (see `lock`); a folder is never taken for a run of another
recipe or other shards.
"""

import dataclasses
import os
import platform
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipeline import storage
from pipeline.corpus.vocabulary import Vocabulary, save_vocabulary
from pipeline.errors import BertpipeError, InputError
from pipeline.lineage import library_versions
from pipeline.processes import available_cores
from pipeline.recipe import Recipe, read_recipe, recipe_from
from pipeline.tracking.git_state import code_and_folder
from pipeline.training import checkpoints, elastic, lock
from pipeline.training.heartbeat import RANKS, clear
from pipeline.training.preflight import check_resume
from pipeline.training.restarts import RESTARTS
from pipeline.training.settings import ZeroSettings
from pipeline.training.world import World

RECIPE = "recipe.yaml"
LINEAGE = "lineage.json"
ENVIRONMENT = "environment.json"
VOCABULARY = "vocab"


@dataclass(frozen=True, kw_only=True)
class History:
    """What a run reads and has read.

    shards: the identity of what each phase reads; of finished phases, of what they have read
    data_changes: where it went on with other data than before, the latest last: `step`, the last on the old data,
        and `changes`, `key: new here, old there`
    changes_now: whether the latest is this start's
    """

    shards: tuple[str, ...]
    data_changes: tuple[dict[str, Any], ...] = ()
    changes_now: bool = False

    @property
    def sentences(self) -> list[str]:
        """The changes as a person reads them."""
        return [
            f"after step {change['step']}: {'; '.join(change['changes'])}" for change in self.data_changes
        ]


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """An open run folder; keep it as long as the run trains."""

    path: Path
    lock: lock.RunLock


def with_known_lanes(recipe: Recipe, *, may_change_data: bool = False) -> Recipe:
    """The recipe with the lanes of the run it continues, where it names none itself.

    Their default follows from all phases' global batches, and a phase added to a run must not change the others'.
    """
    path = Path(recipe.run) / RECIPE
    if recipe.lanes is not None or storage.is_uri(recipe.run) or not path.exists():
        return recipe
    lanes = read_recipe(str(path)).resolved_lanes
    if may_change_data and any(phase.global_batch % lanes for phase in recipe.phases):
        return recipe
    try:
        return dataclasses.replace(recipe, lanes=lanes)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def check_folder(
    recipe: Recipe,
    shards: Sequence[str],
    vocabulary: str,
    ranks: int,
    settings: ZeroSettings,
    *,
    may_change_data: bool = False,
) -> History:
    """Raise InputError where the recipe's run folder belongs to something else; touches nothing.

    shards, vocabulary: hashes of what each phase reads, and of the vocabulary
    may_change_data: take up what has changed of the data instead of refusing it
    """
    if storage.is_uri(recipe.run):
        raise InputError(
            f"run: {recipe.run} is a URI; a run folder is local or on a disk that all nodes share"
        )
    run = Path(recipe.run)
    if run.exists() and not run.is_dir():
        raise InputError(f"run: {run} is a file; name a folder")
    if not (run / RECIPE).exists():
        if run.exists() and any(not _is_ours(path.name) for path in run.iterdir()):
            raise InputError(f"run: {run} holds other files and no {RECIPE}; name a new folder")
        return History(shards=tuple(shards))
    known = read_recipe(str(run / RECIPE))
    info = checkpoints.newest_readable(run)
    if info is None:
        check_resume(run, recipe, known, 0, shards, (), may_change_data=False)
        return History(shards=tuple(shards))
    # The checkpoint says what has been trained: a start may have changed the folder and ended before it trained.
    known = recipe_from(info.recipe, str(run / checkpoints.FOLDER))
    changes = check_resume(
        run, recipe, known, info.step, shards, info.shards, may_change_data=may_change_data
    )
    if info.vocabulary["hash"] != vocabulary:
        raise InputError(
            f"{run} was trained with vocabulary {info.vocabulary['hash']}, the shards were made with {vocabulary}; "
            "shard with the run's own, or choose another run folder"
        )
    elastic.refuse_fixed_parts(info, settings, ranks)
    finished = recipe.finished_phases(info.step)
    change = [{"step": info.step, "changes": changes}] if changes else []
    return History(
        shards=(*info.shards[:finished], *shards[finished:]),
        data_changes=(*info.data_changes, *change),
        changes_now=bool(changes),
    )


def _is_ours(name: str) -> bool:
    """Whether a start that was cut short may have left `name` in a run folder that has no recipe yet."""
    return name in (lock.LOCK, RANKS, RESTARTS, VOCABULARY) or name.startswith((LINEAGE, ENVIRONMENT, RECIPE))


def open_folder(
    recipe: Recipe,
    history: History,
    vocabulary: Vocabulary,
    settings: ZeroSettings,
    world: World,
) -> RunFolder:
    """Create or reopen the run folder and lock it; called by the first rank, after `check_folder`.

    Raises InputError where another process trains in it.
    """
    run = Path(recipe.run)
    storage.make_folder(str(run))
    held = lock.take(run)
    try:
        clear(run)
        _add_environment(run, world, settings)
        _write_what_it_is(run, recipe, history, vocabulary, settings)
    except BaseException:
        held.close()
        raise
    return RunFolder(path=run, lock=held)


def _write_what_it_is(
    run: Path, recipe: Recipe, history: History, vocabulary: Vocabulary, settings: ZeroSettings
) -> None:
    storage.write_json(
        str(run / LINEAGE),
        {
            "shards": list(history.shards),
            "vocabulary": {"hash": vocabulary.hash, "size": vocabulary.size, "cased": vocabulary.cased},
            "deepspeed": settings.values,
            "data_changes": list(history.data_changes),
        },
    )
    save_vocabulary(vocabulary, str(run / VOCABULARY))
    # Last: a folder that has its recipe has the rest.
    storage.write_text(
        str(run / RECIPE), yaml.safe_dump(recipe.as_dict(), sort_keys=False, allow_unicode=True)
    )


def _add_environment(run: Path, world: World, settings: ZeroSettings) -> None:
    path = str(run / ENVIRONMENT)
    starts: list[Any] = storage.read_json(path) if storage.exists(path) else []
    starts.append(
        {
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "host": platform.node(),
            "python": platform.python_version(),
            "system": platform.platform(),
            "cores": available_cores(),
            "ranks": world.size,
            "zero_stage": settings.stage,
            "user": os.environ.get("USER") or str(os.getuid()),
            "slurm_job": os.environ.get("SLURM_JOB_ID"),
            "versions": library_versions("torch", "deepspeed", "mlflow", "transformers"),
            "git": code_and_folder(),
        }
    )
    storage.write_json(path, starts)


def note_end(run: Path, code: int, said: str) -> None:
    """Say of the last start how it ended: its exit code, and in one line why; its owner calls it.

    A disk that takes no more leaves that unsaid.
    """
    path = str(run / ENVIRONMENT)
    with suppress(OSError, BertpipeError):
        *before, last = storage.read_json(path)
        ended = {"ended": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "exit_code": code, "said": said}
        storage.write_json(path, [*before, last | ended])
