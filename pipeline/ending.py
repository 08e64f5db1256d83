"""How a process of bertpipe's ends: with its own exit code, whatever torch's threads are doing.

In: a command line to run. Out: the process's end, its exit handlers run and its output flushed. What always
holds: a rank that has done its work is not reported as a failed one; a stream that was closed before Python began
swallows what is written to it.
"""

import atexit
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

_at_once = False
_code = 1


def end_at_once() -> None:
    """Have Python left as it stands when the exit handlers have run: called by who joins others through torch.

    A thread of gloo's may let go of its last tensor when Python has been taken apart already, which aborts the
    process (pytorch #179291): of two ranks that shared one core, one in ten.
    """
    global _at_once
    _at_once = True


def run_to_the_end(command: Callable[[], Any]) -> Any:
    """Run `command`, whose SystemExit names the exit code; called before stages register exit handlers."""
    global _code
    _open_closed_streams()
    # Registered first, it runs last. A traceback's code, unless the command ends by itself.
    atexit.register(_leave)
    _code = 1
    try:
        result = command()
    except SystemExit as ended:
        _code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        raise
    _code = 0
    return result


def _open_closed_streams() -> None:
    # Left closed, its number would go to the next file that is opened, which then got what a library writes there.
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115


def _leave() -> None:
    if not _at_once:
        return
    for stream in (sys.stdout, sys.stderr):
        # Its reader may be gone.
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(_code)
