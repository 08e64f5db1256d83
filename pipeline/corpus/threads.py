"""Something small done for each of many files, several of them at once.

In: a function of one file, and the files. Out: the results, in the order of the files. What always holds: what is
raised is what the first file in that order raises, however the threads run; after that, or Ctrl-C, no further file is
begun.

Looking at a file is waiting for a disk or a network, mostly: of 100,000 objects in a store, one after the other takes
an hour or two.

Example:
    sizes = in_threads(storage.size, paths)
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_THREADS = 16
# Handed to a thread at once: a task of its own for each of a million files would take a gigabyte.
_MOST_AT_ONCE = 64


def in_threads(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """`function` of each item, in their order. Raises what it raises of the first item at which it raises."""
    if len(items) < 2:
        return [function(item) for item in items]
    count = max(1, min(_MOST_AT_ONCE, len(items) // (4 * _THREADS)))
    groups = [items[start : start + count] for start in range(0, len(items), count)]
    ended = threading.Event()

    def done(group: Sequence[Item]) -> list[Result]:
        return [function(item) for item in group if not ended.is_set()]

    with ThreadPoolExecutor(min(_THREADS, len(groups))) as executor:
        try:
            return [result for results in executor.map(done, groups) for result in results]
        finally:
            ended.set()  # after an error, nobody waits for what is left
