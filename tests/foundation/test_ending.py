"""A process ends with its own exit code, whatever happens while Python is taken apart."""

import subprocess
import sys

import pytest

_PROGRAM = """
import atexit, os, sys
from pipeline.ending import end_at_once, run_to_the_end

class Late:
    def __del__(self):
        os._exit(77)  # as a thread of torch's that aborts the process

def command():
    atexit.register(print, "handlers run")
    if {joined}:
        end_at_once()
    print("before")
    {end}

late = Late()
run_to_the_end(command)
"""


@pytest.mark.parametrize(
    ("end", "code"),
    [("sys.exit()", 0), ("sys.exit(3)", 3), ("sys.exit('why')", 1), ("raise ValueError", 1), ("pass", 0)],
)
def test_who_has_joined_others_ends_before_python_is_taken_apart(end: str, code: int) -> None:
    for joined, found in ((True, code), (False, 77)):
        program = _PROGRAM.format(joined=joined, end=end)
        ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        assert ended.returncode == found, ended.stderr
        # What was printed is not lost, the handlers' own words included.
        assert not joined or ended.stdout == "before\nhandlers run\n"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_stream_that_was_closed_changes_nothing(closed: str) -> None:
    program = _PROGRAM.format(joined=True, end="print('more', file=sys.stderr); sys.stderr.isatty()")
    command = ["bash", "-c", f'{sys.executable} -c "$0" {closed}', program]
    assert subprocess.run(command, check=False).returncode == 0
