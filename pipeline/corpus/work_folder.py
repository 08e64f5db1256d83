"""The shard folder while it is being made: one command at a time, and left as it was found after bad input.

In: the output's path. Out: a locked `OUTPUT/.work/` for plan, spills and marks, gone once all is done.
What always holds: two commands never write one folder, nor add to it; an input error leaves the folder as it was
found (a new one is gone again); any other end leaves the work done so far, for the same command to continue; a folder
with anything else in it is never written to.

Example:
    with WorkFolder("SHARDS") as work:
        ...  # spills and marks in work.path, shards in work.output
        work.finish()
"""

import fcntl
import os
import shutil
from contextlib import suppress
from types import TracebackType
from typing import IO, Self

from pipeline import storage
from pipeline.corpus.manifest import MANIFEST
from pipeline.errors import InputError, RunFailed

_WORK = ".work"
_ADDING = ".append"
_LOCK = "lock"


class WorkFolder:
    """The work folder inside `output`, held by this process from entering to leaving.

    adding: whether `output` holds finished shards, to which others are added
    """

    def __init__(self, output: str, *, adding: bool = False) -> None:
        self.output, self._adding = output, adding
        self.path = os.path.join(output, _ADDING if adding else _WORK)
        self._topmost: str | None = None
        self.resumed = False
        self._lock: IO[str] | None = None

    def __enter__(self) -> Self:
        self._topmost = _first_missing(self.output)
        self.resumed = os.path.isdir(self.path)
        if not self._adding and os.path.isdir(self.output) and not self.resumed and os.listdir(self.output):
            raise InputError(
                f"{self.output} is not empty and holds no shards; name a new folder, or empty this one"
            )
        storage.make_folder(self.path)
        self._lock = self._locked()
        _remove_temporaries(self.output)
        return self

    def finish(self) -> None:
        """All is done: remove the work folder."""
        self._remove(self.path)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, InputError) and not self.resumed:
            self._undo()
        assert self._lock is not None
        self._lock.close()

    def _locked(self) -> IO[str]:
        path = os.path.join(self.path, _LOCK)
        while True:
            try:
                file = open(path, "a+", encoding="utf-8")  # noqa: SIM115 - held until the stage ends
            except FileNotFoundError:  # another command finished just now and took its folder along
                storage.make_folder(self.path)
                continue
            except OSError as error:
                raise InputError(f"cannot write to {self.output}: {error.strerror}") from error
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                holder = file.read().strip() or "unknown"
                file.close()
                raise RunFailed(
                    f"{self.output} is being written by another bertpipe shard (process {holder}); wait for "
                    "it, or name another folder"
                ) from None
            except OSError:
                return file  # a file system without locks
            if os.path.exists(path) and os.path.samestat(os.fstat(file.fileno()), os.stat(path)):
                _sign(file, path)
                return file
            file.close()

    def _remove(self, folder: str) -> None:
        """Remove a folder in which the lock's file lies; the lock is let go of."""
        shutil.rmtree(folder, ignore_errors=True)
        assert self._lock is not None
        # NFS keeps a file that is removed while open, under another name, and with it its folder.
        self._lock.close()
        shutil.rmtree(self.path, ignore_errors=True)

    def _undo(self) -> None:
        if self._adding:
            self._remove(self.path)
            return
        if self._topmost is None:
            # The folder was there, and empty.
            for name in os.listdir(self.output):
                path = os.path.join(self.output, name)
                if path != self.path:
                    shutil.rmtree(path) if os.path.isdir(path) else os.remove(path)
            self._remove(self.path)
            return
        self._remove(self.output)
        folder, topmost = os.path.abspath(self.output), os.path.abspath(self._topmost)
        with suppress(OSError):  # of a folder that isn't empty: something else was put there
            if os.path.isdir(folder):
                os.rmdir(folder)
            while folder != topmost:
                folder = os.path.dirname(folder)
                os.rmdir(folder)


def _sign(file: IO[str], path: str) -> None:
    """Write into the lock's file who holds it."""
    try:
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
    except OSError as error:
        with suppress(OSError):  # closing tries to write once more
            file.close()
        raise RunFailed(f"cannot write {path}: {error.strerror}; free some space and run again") from error


def is_finished(output: str) -> bool:
    """Whether the folder holds a manifest, the mark of whole shards."""
    return os.path.exists(os.path.join(output, MANIFEST))


def remove_leftovers(output: str) -> None:
    """Remove the work folder of a run that was killed between its manifest and its tidying up."""
    shutil.rmtree(os.path.join(output, _WORK), ignore_errors=True)


def _first_missing(path: str) -> str | None:
    """The topmost folder on the way to `path` that does not exist; None where all of them do."""
    missing, folder = None, os.path.abspath(path)
    while not os.path.exists(folder):
        missing, folder = folder, os.path.dirname(folder)
    return missing


def _remove_temporaries(output: str) -> None:
    """Remove what writers that were killed left half-written."""
    for path in storage.list_files(output):
        if path.endswith(".tmp"):
            storage.remove(path)
