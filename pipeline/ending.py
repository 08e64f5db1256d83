"""How a process of bertpipe's ends: with its own exit code, whatever torch's threads are doing.

In: a command line to run. Out: the process's end, its exit handlers run and its output flushed. What always
holds: a rank that has done its work is not reported as a failed one.
"""

import atexit
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

_at_once = False
# A traceback's, unless the command ends by itself.
_code = 1


def end_at_once() -> None:
    """Have Python left as it stands when all exit handlers have run: called by who joins others through torch.

    A thread of gloo's may let go of its last tensor when Python has been taken apart already, which aborts the
    process (pytorch #179291): two ranks that share one core did so in one run of five.
    """
    global _at_once
    _at_once = True


def run_to_the_end(command: Callable[[], Any]) -> Any:
    """Run `command`, which raises SystemExit; called before anything else registers an exit handler."""
    global _code
    # The first to be registered is the last to run.
    atexit.register(_leave)
    try:
        return command()
    except SystemExit as ended:
        _code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        raise


def _leave() -> None:
    if not _at_once:
        return
    for stream in (sys.stdout, sys.stderr):
        # Its reader may be gone.
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(_code)
