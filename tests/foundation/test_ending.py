"""A process ends with its own exit code, whatever happens while Python is taken apart."""

import subprocess
import sys

import pytest

_PROGRAM = """
import atexit, os, sys
from pipeline.ending import end, end_at_once

class Late:
    def __del__(self):
        os._exit(77)  # as a thread of torch's that aborts the process

late = Late()
atexit.register(print, "handlers run")
if {joined}:
    end_at_once()
print("before")
end({code})
"""


@pytest.mark.parametrize(("joined", "code", "found"), [(True, 0, 0), (True, 3, 3), (False, 0, 77)])
def test_who_has_joined_others_ends_before_python_is_taken_apart(joined: bool, code: int, found: int) -> None:
    program = _PROGRAM.format(joined=joined, code=code)
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (found, "")
    # What was printed is not lost, the handlers' own words included.
    assert not joined or ended.stdout == "before\nhandlers run\n"
