"""Shards → a rank's micro-batches, step by step, through PyTorch's DataLoader.

In: shard folders with their manifests, the numbers of a recipe's phase, rank and world size. Out: for each
step all of the rank's micro-batches, with the count of their labels: the loss is normalised over the whole
step (law 5), so that count must be known before the first backward.
What always holds: a step's samples and masks depend on (manifest, seed, phase, lanes, global batch, objective,
masking, step) only; a loader that starts at step s gives what one that ran there would, at no cost in s; every rank
gets equally many micro-batches; a worker that dies ends in one RunFailed.

Example:
    source = Source(folder="SHARDS", manifest=read_manifest("SHARDS"))
    with TrainLoader(sources=[source], seed=1, phase=0, lanes=64, global_batch=256,
                     micro_batch=64, sequence_length=128, masking=MaskingConfig(),
                     special=SpecialIds.of(vocabulary), workers=1, start_step=500) as loader:
        for step in loader: ...
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.util import Finalize
from types import TracebackType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from pipeline.batches.assembly import Assembly
from pipeline.batches.handover import Chunks, Message, Ring, as_it_is, fork_server, start_worker
from pipeline.batches.masking import MaskingConfig
from pipeline.batches.microbatch import BUCKETS, Buckets, MicroBatch, unpack
from pipeline.batches.phase_order import phase_order
from pipeline.batches.share import Share
from pipeline.batches.sources import Source
from pipeline.batches.special_ids import SpecialIds
from pipeline.errors import InputError, RunFailed
from pipeline.objectives import MLM_NSP, Objective


@dataclass(frozen=True, kw_only=True)
class StepBatches:
    """One step's work of one rank.

    masked, labelled, lost: tokens to be guessed, next labels and lost pairs over all micro-batches of this rank
    wait_seconds: how long the trainer waited for them
    """

    step: int
    micro_batches: tuple[MicroBatch, ...]
    masked: int
    labelled: int
    lost: int
    wait_seconds: float

    @property
    def sequences(self) -> int:
        """Sequences that count: one a pair, or what the pairs gave as text."""
        return sum(micro_batch.sequences for micro_batch in self.micro_batches)

    @property
    def tokens(self) -> int:
        """Tokens of this rank's sequences."""
        return sum(micro_batch.tokens for micro_batch in self.micro_batches)


class TrainLoader:
    """A rank's steps from `start_step` on, in order; steps count from the phase's first. Iterate over it once.

    sources: shard folders; of several, each step takes what their weights say
    lanes, global_batch, micro_batch, sequence_length: as in the recipe
    workers: processes that read and mask; 0 does it in the trainer. `share.readers` is how many there are:
        the most, up to `workers`, that divide both the rank's lanes and its micro-batches
    prefetch: micro-batches that a worker prepares ahead; at least a whole step's are
    stop_step: the first step that is not made (None: without end)
    objective: which layout, and what is asked
    steps: the phase's; needed where the masking rate moves over them
    damage: what a block that cannot be read does: `error`, or `skip` (its pairs become lost ones)

    Raises InputError where the numbers don't fit the manifest or one another (before any worker starts).
    """

    def __init__(
        self,
        *,
        sources: Sequence[Source],
        seed: int,
        phase: int,
        lanes: int,
        global_batch: int,
        micro_batch: int,
        sequence_length: int,
        masking: MaskingConfig,
        special: SpecialIds,
        objective: Objective = MLM_NSP,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
        prefetch: int = 8,
        start_step: int = 0,
        stop_step: int | None = None,
        steps: int | None = None,
        damage: str = "error",
        buckets: Buckets = BUCKETS,
    ) -> None:
        if masking.final_rate is not None and steps is None:
            raise InputError("masking.final_rate is set; give the phase's steps, over which the rate moves")
        self.plan = phase_order(
            sources,
            seed=seed,
            phase=phase,
            lanes=lanes,
            global_batch=global_batch,
            sequence_length=sequence_length,
        )
        self.share = Share(
            plan=self.plan, rank=rank, world_size=world_size, micro_batch=micro_batch, workers=workers
        )
        self._assembly = Assembly(
            folders=tuple((source.folder, source.manifest.of_split("train")) for source in sources),
            share=self.share,
            masking=masking,
            special=special,
            sequence_length=sequence_length,
            objective=objective,
            buckets=buckets,
            start_step=start_step,
            stop_step=stop_step,
            steps=steps,
            damage=damage,
        )
        self._workers = workers
        self._prefetch = prefetch
        self._running: Any = None
        self._end_workers: Any = None

    def __enter__(self) -> "TrainLoader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the workers."""
        end, self._end_workers, self._running = self._end_workers, None, None
        if end is not None:
            end()

    @property
    def worker_processes(self) -> list[int]:
        """The process ids of the running workers."""
        return [process.pid for process in self._running._workers] if self._running is not None else []

    def __iter__(self) -> Iterator[StepBatches]:
        chunks = self._from_workers() if self._workers else self._assembly.chunks(reader=0)
        readers, step = self.share.readers, self._assembly.start_step
        while step != self._assembly.stop_step:
            began = time.perf_counter()
            by_reader: list[list[MicroBatch]] = [[] for _ in range(readers)]
            for number in range(self._assembly.chunks_a_step * readers):
                by_reader[number % readers] += unpack(next(chunks))
            # Worker w made micro-batches w, w + readers, …
            micro_batches = tuple(batch for together in zip(*by_reader, strict=True) for batch in together)
            yield StepBatches(
                step=step,
                micro_batches=micro_batches,
                masked=sum(batch.masked for batch in micro_batches),
                labelled=sum(batch.labelled for batch in micro_batches),
                lost=sum(batch.lost for batch in micro_batches),
                wait_seconds=time.perf_counter() - began,
            )
            step += 1

    def _from_workers(self) -> Iterator[NDArray[np.uint8]]:
        context = fork_server()
        readers = self.share.readers
        # The step's last chunk is handed over with the whole step, so the next step's are to be ready then.
        ahead = max(
            -(-self._prefetch // self._assembly.micro_batches_a_chunk), self._assembly.chunks_a_step + 1
        )
        # The DataLoader asks a worker for chunk i + ahead before it hands over chunk i, hence one slot more,
        # and one to spare.
        rings = [Ring(ahead + 2, self._assembly.largest_chunk, context) for _ in range(readers)]
        loader: DataLoader[Message] = DataLoader(
            Chunks(self._assembly, rings),
            batch_size=None,
            collate_fn=as_it_is,
            num_workers=readers,
            prefetch_factor=ahead,
            worker_init_fn=start_worker,
            multiprocessing_context=context,
            # Without one of its own the DataLoader draws from the trainer's, and dropout would change.
            generator=torch.Generator(),
        )
        messages = self._running = iter(loader)
        # Also where nobody closes this loader: before multiprocessing, at the interpreter's exit, sends workers
        # the SIGTERM that they are deaf to, and waits for them without end.
        self._end_workers = Finalize(self, _end_workers, (messages,), exitpriority=10)
        turn = 0
        while True:
            message = self._next(messages)
            if isinstance(message, str):
                self.close()
                raise RunFailed(message)
            yield rings[turn % readers].get(*message)
            turn += 1

    def _next(self, messages: Iterator[Message]) -> Message:
        try:
            return next(messages)
        except RuntimeError as error:
            if "exited unexpectedly" not in str(error):
                raise
            self.close()
            raise RunFailed(
                f"a loader worker was killed ({_first_line(error)}), by hand or for want of memory; "
                "run the same command again: it continues from the last checkpoint"
            ) from error


def _end_workers(running: Any) -> None:
    running._shutdown_workers()  # what its __del__ calls, but now
    for process in running._workers:
        process.kill()  # where one still reads; it holds nothing that could be lost


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
