"""Errors meant for a user's eyes: one line that names the value and the remedy.

In: what went wrong. Out: an exception that `pipeline.cli` prints without a traceback, and the exit
code that goes with it. Anything else that escapes is a defect of bertpipe's and keeps its traceback.

Example:
    raise InputError("corpus/missing.txt does not exist; name files, folders or globs that do")
"""


class BertpipeError(Exception):
    """Base of all errors shown to a user; `exit_code` is the process's."""

    exit_code = 1


class InputError(BertpipeError):
    """The user's input is wrong: a file, a flag, a recipe. Exit code 2."""

    exit_code = 2


class RunFailed(BertpipeError):
    """The input is right and the machine failed: a disk, a worker, a server. Exit code 1."""


class Echo(BertpipeError):
    """What another process has explained already: nothing is printed, the exit code is its."""

    def __init__(self, exit_code: int) -> None:
        super().__init__("")
        self.exit_code = exit_code


class Stopped(BertpipeError):
    """A signal ended the command in good order. Exit code 128 + its number, as a shell reports it."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


def first_line(error: BaseException) -> str:
    """What an error of somebody else's says, in one line; its kind, where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]
