"""Child processes that never outlive the one that started them.

In: nothing. Out: when the parent dies, by `kill -9` too, this process ends. What always holds: no orphaned
worker keeps a core, a lock or a port.
"""

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from multiprocessing.connection import wait

_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int | None = None) -> None:
    """Have the kernel kill this process once its parent is gone.

    parent: the parent's process id as the parent knew it; closes the race in which it died before this
    call. A no-op where the system isn't Linux.
    """
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if parent is not None and os.getppid() != parent:
        os._exit(1)


def die_with_starter() -> None:
    """End this process once the one that started it through `multiprocessing` is gone.

    A fork server lives as long as its workers, each of which holds its pipe, so that neither would notice the
    starter's death: a thread waits for the starter's own pipe to close.
    """
    starter = multiprocessing.parent_process()
    if starter is None:
        return

    def watch() -> None:
        wait([starter.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="die-with-starter", daemon=True).start()


def enter_worker(parent: int) -> None:
    """Initialise a pool's worker: it dies with its parent and leaves Ctrl-C to it.

    parent: the process id of this process's parent, which under a fork server isn't the process that asked
    for the worker: that one is watched too.
    """
    die_with_parent(parent)
    die_with_starter()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # One process a core is the plan: threads inside a worker would only fight over it.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def available_cores() -> int:
    """The cores this process may use (its affinity, not the machine's count)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
