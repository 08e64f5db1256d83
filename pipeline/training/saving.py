"""Writing checkpoints: whole or not at all, all ranks together, while training goes on.

In: an engine, and what is to be said of the run so far. Out: a folder under `RUN/checkpoints/` (see `checkpoints`),
`latest` pointing to it, those that are kept no longer deleted. What always holds: written to a temporary name, synced,
committed by one rename; each rank writes and hashes its own part, from a copy where training goes on meanwhile; a disk
that refuses, on any rank, ends in one RunFailed on all of them and costs no older checkpoint.

Example:
    trouble = saver.save(engine, info, wait=False)
    …
    trouble = saver.settle()
"""

import dataclasses
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from model.config import ModelConfig
from pipeline import storage
from pipeline.corpus.vocabulary import Vocabulary, save_vocabulary
from pipeline.errors import BertpipeError, Echo, RunFailed, first_line
from pipeline.policies import CheckpointPolicy
from pipeline.training.checkpoints import (
    FOLDER,
    LATEST,
    PROBE,
    VOCABULARY,
    WEIGHTS,
    CheckpointInfo,
    name_of,
    write_info,
)
from pipeline.training.engine import Engine
from pipeline.training.host_memory import host_memory
from pipeline.training.keeping import discard, point, prune, remove
from pipeline.training.probe import engine_logits
from pipeline.training.state_files import Copies, size_of, write_state, write_tensors
from pipeline.training.world import World, is_lost_peer, on_first_rank, sum_over_ranks

# A rank's word that its part is on disk, with sizes and hashes; the first rank gathers and deletes them.
_PART = ".part-{rank:05d}.json"
_SECONDS_BETWEEN_LOOKS = 0.02
# Network disks show what another node has written after some seconds.
_SECONDS_FOR_A_SHARED_DISK = 120.0
# A copy is made where this many times its size is free: training's own demand goes up and down.
_ROOM = 1.5
_NICENESS = 10

Files = dict[str, list[Any]]


class Saver:
    """Writes the checkpoints of one run, one at a time; every rank has one and calls its methods alike."""

    def __init__(
        self,
        run: Path,
        *,
        config: ModelConfig,
        vocabulary: Vocabulary,
        policy: CheckpointPolicy,
        world: World,
    ) -> None:
        self._checkpoints = run / FOLDER
        self._config, self._vocabulary, self._policy, self._world = config, vocabulary, policy, world
        self._device = "cpu"
        self._job: _Job | None = None
        # Overwritten by the next checkpoint's, when this one's are on disk.
        self._copies = Copies()

    def save(self, engine: Engine, info: CheckpointInfo, *, wait: bool) -> Exception | None:
        """Write the checkpoint of `info.step`, or begin to; `settle` must have been called for the one before.

        wait: have it on disk before returning
        Returns what is to be raised where it has failed already.
        """
        assert self._job is None
        self._device = engine.device
        final = self._checkpoints / name_of(info.step)
        temporary = self._checkpoints / f".{name_of(info.step)}.tmp"

        def begin() -> None:
            with refused_writes(final):
                self._checkpoints.mkdir(exist_ok=True)
                remove(temporary)
                temporary.mkdir()

        try:
            on_first_rank(self._world, self._device, begin)
        except BertpipeError as error:  # on all ranks
            return error
        with refused_writes(final):
            states = engine.states(temporary)
        weights = engine.fp32_weights()
        tensors = {WEIGHTS: weights, PROBE: engine_logits(engine, weights, self._config)} if weights else {}
        background = self._policy.asynchronous and not wait and self._have_room(states)
        if background:
            states = self._copies.of(states)
        else:
            self._copies = Copies()

        def write() -> None:
            with refused_writes(final):
                files = {str(path.relative_to(temporary)): write_state(path, state) for path, state in states}
                files |= {name: write_tensors(temporary / name, part) for name, part in tensors.items()}
                storage.write_json(str(temporary / _PART.format(rank=self._world.rank)), files)

        def commit(job: _Job) -> None:
            with refused_writes(final):
                if (files := self._gather(temporary, job)) is None:
                    return
                save_vocabulary(self._vocabulary, str(temporary / VOCABULARY))
                _commit(temporary, final, info, files)
                point(self._checkpoints, LATEST, final.name)
                prune(self._checkpoints, final, self._policy)

        self._job = _Job(temporary, write, commit if self._world.is_first else None)
        self._job.begin(background=background)
        return None if background else self.settle()

    def _have_room(self, states: Any) -> bool:
        """Whether every rank's node has room for copies; all ranks agree."""
        available = host_memory().available
        needed = (_ROOM * size_of(states) - self._copies.size) * self._world.local_size
        short = 0 < available < needed
        return not any(sum_over_ranks([float(short)], self._device))

    @property
    def is_writing(self) -> bool:
        """Whether this rank is still at work on a checkpoint."""
        return self._job is not None and self._job.is_busy

    @property
    def troubled(self) -> bool:
        """Whether this rank's part of the checkpoint that is being written has failed."""
        return self._job is not None and self._job.failure is not None

    def settle(self) -> Exception | None:
        """Wait until the last checkpoint is committed, or has failed: then what each rank is to raise."""
        job, self._job = self._job, None
        if job is None:  # on all ranks, or on none
            return None
        job.wait_for_write()
        (failed,) = sum_over_ranks([float(job.failure is not None)], self._device)
        job.finish(abandoned=bool(failed))
        (failed,) = sum_over_ranks([float(job.failure is not None)], self._device)
        if not failed:
            return None
        # No rank writes there any more.
        if self._world.is_first:
            remove(job.temporary)
        return job.failure or Echo(RunFailed.exit_code)

    def _gather(self, temporary: Path, job: "_Job") -> Files | None:
        """What all ranks have written, when all have; None where one of them has failed.

        Raises RunFailed where a rank says that it has written and nothing of it is to be seen here.
        """
        files: Files = {}
        for rank in range(self._world.size):
            part = temporary / _PART.format(rank=rank)
            while not part.exists():
                if job.abandoned.wait(_SECONDS_BETWEEN_LOOKS):
                    return None
                if job.is_overdue():
                    raise RunFailed(
                        f"{temporary} holds nothing of rank {rank}; the run folder must lie on a disk that all "
                        "nodes share"
                    )
            files |= storage.read_json(str(part))
            part.unlink()
        return files


class _Job:
    """A checkpoint on its way: this rank's writing, then the commit where this rank does it."""

    def __init__(
        self, temporary: Path, write: Callable[[], None], commit: "Callable[[_Job], None] | None"
    ) -> None:
        self.temporary = temporary
        self.failure: Exception | None = None
        self.abandoned = threading.Event()
        # Let go of when done: they hold copies of a rank's whole state.
        self._write: Callable[[], None] | None = write
        self._commit = commit
        self._written = threading.Event()
        # When all ranks were known to have written (monotonic seconds).
        self._all_written: float | None = None
        self._thread: threading.Thread | None = None

    def begin(self, *, background: bool) -> None:
        """Write, here or in a thread."""
        if background:
            self._thread = threading.Thread(target=self._run, name="checkpoint", daemon=True)
            self._thread.start()
        else:
            self._write_part()

    @property
    def is_busy(self) -> bool:
        """Whether its thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def wait_for_write(self) -> None:
        """Until this rank's part is on disk, or has failed."""
        self._written.wait()

    def finish(self, *, abandoned: bool) -> None:
        """Have it committed, unless another rank has failed; called when all ranks have written."""
        self._all_written = time.monotonic()
        if abandoned:
            self.abandoned.set()
        if self._thread is not None:
            self._thread.join()
        elif not abandoned:
            self._commit_all()

    def is_overdue(self) -> bool:
        """Whether what all ranks have written should long be seen by all."""
        return (
            self._all_written is not None
            and time.monotonic() - self._all_written > _SECONDS_FOR_A_SHARED_DISK
        )

    def _run(self) -> None:
        with suppress(OSError):
            # Linux counts each thread's niceness by itself: training's own come first.
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
        self._write_part()
        self._commit_all()

    def _write_part(self) -> None:
        if self._write is not None:
            self._try(self._write)
        self._write = None
        self._written.set()

    def _commit_all(self) -> None:
        commit, self._commit = self._commit, None
        if commit is not None and self.failure is None:
            self._try(lambda: commit(self))

    def _try(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # raised where the ranks agree on it
            self.failure = error


@contextmanager
def refused_writes(final: Path) -> Iterator[None]:
    """Turn what a disk's refusal looks like into a RunFailed that names the checkpoint and the remedy."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        # torch reports a full disk as a RuntimeError of its zip writer; a rank that is gone is no disk's fault.
        if is_lost_peer(error):
            raise
        reason = first_line(error)
        raise RunFailed(
            f"cannot write the checkpoint {final}: {reason}; free some room and run the same command again"
        ) from error


def _commit(temporary: Path, final: Path, info: CheckpointInfo, files: Files) -> None:
    # DeepSpeed's own exporters, which can't tie the decoder; weights.safetensors is the export.
    for script in temporary.rglob("zero_to_*.py"):
        script.unlink()
    # Beside what the ranks have hashed: the vocabulary, and what DeepSpeed copies itself (state that lies on NVMe).
    for path in sorted(temporary.rglob("*")):
        name = str(path.relative_to(temporary))
        if path.is_file() and name not in files:
            with path.open("rb") as file:
                os.fsync(file.fileno())
            files[name] = [path.stat().st_size, storage.hash_file(str(path))]
    write_info(temporary, dataclasses.replace(info, files=dict(sorted(files.items()))))
    discard(final)
    os.rename(temporary, final)
    storage.sync_folder(str(final.parent))
