"""Where tasks run: this process, or a pool of processes on this machine.

In: a number of workers. Out: a `concurrent.futures.Executor`, the interface that an engine across nodes
gives too. What always holds: results are handed over as they come, with a bounded number of tasks under way;
Ctrl-C, an error or the parent's death ends every worker at once; a worker that dies is one clear line.

Example:
    with open_executor(4) as executor:
        for result in run_tasks(executor, map_split, tasks, workers=4): ...
"""

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from types import TracebackType
from typing import Any, TypeVar

from pipeline.errors import RunFailed
from pipeline.processes import enter_worker

Task = TypeVar("Task")
Result = TypeVar("Result")

# Tasks handed to the executor beyond those that run, so that no worker waits for its next one.
_AHEAD = 2
_TOKENIZER_THREADS = "TOKENIZERS_PARALLELISM"


class SameProcess(Executor):
    """Runs each task in this process at the moment it is submitted.

    One worker costs no start-up then (0.7 s for a fresh process with pyarrow and tokenizers). It is one core,
    too, as a pool's worker is: the tokeniser's threads are off while a task runs.
    """

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        """Run the task now; what it raises is raised here, Ctrl-C included."""
        future: Future[Any] = Future()
        before = os.environ.get(_TOKENIZER_THREADS)
        os.environ[_TOKENIZER_THREADS] = "false"
        try:
            future.set_result(function(*args, **kwargs))
        finally:
            if before is None:
                del os.environ[_TOKENIZER_THREADS]
            else:
                os.environ[_TOKENIZER_THREADS] = before
        return future


class WorkerPool(ProcessPoolExecutor):
    """A process pool whose workers don't outlive an error or this process."""

    def __init__(self, workers: int) -> None:
        # Not fork: threads of pyarrow and tokenizers don't survive it. Not forkserver: the kernel's
        # promise to end a worker with its parent would name the server instead of this process.
        super().__init__(
            workers,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=enter_worker,
            initargs=(os.getpid(),),
        )
        self._others = set(multiprocessing.active_children())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            # Waiting for tasks whose results nobody wants would make Ctrl-C look dead.
            for process in set(multiprocessing.active_children()) - self._others:
                process.kill()
        self.shutdown(wait=True, cancel_futures=True)


def open_executor(workers: int) -> Executor:
    """An executor of `workers` processes, to be used as a context; of one: this process itself."""
    return SameProcess() if workers == 1 else WorkerPool(workers)


def run_tasks(
    executor: Executor, function: Callable[[Task], Result], tasks: Iterable[Task], *, workers: int
) -> Iterator[Result]:
    """`function` of each task, in the order in which they end.

    Raises what a task raised; RunFailed where a worker was killed.
    """
    waiting = iter(tasks)
    ahead = 1 if workers == 1 else workers * _AHEAD
    try:
        under_way = {executor.submit(function, task) for task in islice(waiting, ahead)}
        while under_way:
            done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
            under_way |= {executor.submit(function, task) for task in islice(waiting, len(done))}
    except BrokenProcessPool as error:
        raise RunFailed(
            "a worker process was killed, most often for want of memory; run the same command again, it "
            "continues (with fewer --workers it needs less)"
        ) from error
