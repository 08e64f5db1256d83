"""How a process of bertpipe's ends: with its own exit code, whatever torch's threads are doing.

In: an exit code. Out: the process's end, its exit handlers run and its output flushed. What always holds: a
rank that has done its work is not reported as a failed one.
"""

import atexit
import os
import sys
from contextlib import suppress
from typing import NoReturn

_at_once = False


def end_at_once() -> None:
    """Have `end` leave Python as it stands: called by a process that joins others through torch.

    A thread of gloo's may let go of its last tensor when Python has been taken apart already, which aborts the
    process (pytorch #179291): with each rank on half a core, one rank in ten.
    """
    global _at_once
    _at_once = True


def end(code: int) -> NoReturn:
    """End this process."""
    if not _at_once:
        sys.exit(code)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        # Its reader may be gone.
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
