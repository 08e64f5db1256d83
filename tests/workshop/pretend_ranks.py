"""Threads that stand for ranks, and the messages between them."""

import threading
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class Ranks:
    """What `torch.distributed` does for processes; each rank's thread calls it equally often."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._barrier = threading.Barrier(count, timeout=20)
        self._given: dict[int, Any] = {}

    def _all(self, rank: int, value: Any) -> list[Any]:
        self._given[rank] = value
        self._barrier.wait()
        values = [self._given[each] for each in range(self.count)]
        self._barrier.wait()
        return values

    def sum(self, rank: int, values: list[float]) -> list[float]:
        return [sum(column) for column in zip(*self._all(rank, values), strict=True)]

    def mean(self, rank: int, tensor: Tensor) -> Tensor:
        return torch.stack(self._all(rank, tensor.clone())).mean(0)

    def exchange(self, rank: int, tensor: Tensor) -> Tensor:
        return torch.stack([dealt[rank] for dealt in self._all(rank, tensor.clone())])

    def gather(self, rank: int, tensor: Tensor) -> Tensor:
        return torch.cat(self._all(rank, tensor.clone()))


def as_ranks(count: int, work: Callable[[int, Ranks], T]) -> list[T]:
    """What each rank's `work(rank, ranks)` returns."""
    ranks, found = Ranks(count), {}
    failures: list[BaseException] = []

    def guarded(rank: int) -> None:
        try:
            found[rank] = work(rank, ranks)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(rank,)) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures
    return [found[rank] for rank in range(count)]
