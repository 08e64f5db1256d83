"""Bytes too large to copy into every process that reads them.

In: a file's path or URI, or a buffer. Out: an Arrow buffer over its bytes.
What always holds: of a local file no process holds a copy, all share the system's page cache; a URI is read
once, into memory that has no name on any disk and goes with its process; what is sent to another process of
this machine is a place to map, not the bytes. (A buffer given as such is sent by value, as is a URI's on
systems without `memfd_create`.) A file that changed on the way is refused there.

Example:
    shared = SharedBytes.of_file("SHARDS/index.arrow")
    pickle.loads(pickle.dumps(shared)).buffer.size      # a few hundred bytes were sent
"""

import os
from typing import IO, Any

import pyarrow as pa

from pipeline import storage
from pipeline.errors import RunFailed

_CHUNK = 1 << 22


class SharedBytes:
    """See the module; `name` is the file's, for messages."""

    def __init__(self, buffer: pa.Buffer, name: str = "memory") -> None:
        self.name = name
        self._buffer: pa.Buffer | None = buffer
        self._place: str | None = None
        self._state: tuple[int, int] | None = None
        self._held: IO[bytes] | None = None

    @classmethod
    def of_file(cls, path: str) -> "SharedBytes":
        """The bytes of the file at `path`. Raises OSError where it can't be read."""
        place, held = storage.local_path(path), None
        if place is None:
            if not hasattr(os, "memfd_create"):
                with storage.open_read(path) as stream:
                    return cls(pa.py_buffer(stream.read()), path)
            held = _in_memory(path)
            place = f"/proc/{os.getpid()}/fd/{held.fileno()}"
        shared = cls(_mapped(place), path)
        shared._place, shared._state, shared._held = place, _state(place), held
        return shared

    @property
    def buffer(self) -> pa.Buffer:
        """The bytes. Raises RunFailed where the file is gone or another by now."""
        if self._buffer is None:
            assert self._place is not None
            try:
                # Looked at before and after: what is mapped then is what was meant.
                same = self._state == _state(self._place)
                self._buffer = _mapped(self._place)
                same = same and self._state == _state(self._place)
            except OSError as error:
                raise RunFailed(
                    f"cannot read {self.name}: {error.strerror or error}; restore it from its source"
                ) from error
            if not same:
                raise RunFailed(f"{self.name} has changed since this process was started; run again")
        return self._buffer

    def __getstate__(self) -> dict[str, Any]:
        if self._place is None:
            assert self._buffer is not None
            return self.__dict__
        # What keeps memory without a name alive stays with the process that made it, which outlives its workers.
        return self.__dict__ | {"_buffer": None, "_held": None}


def _mapped(place: str) -> pa.Buffer:
    with pa.memory_map(place) as file:
        return file.read_buffer()


def _state(place: str) -> tuple[int, int]:
    status = os.stat(place)
    return status.st_size, status.st_mtime_ns


def _in_memory(path: str) -> IO[bytes]:
    """A file in memory, without a name, with the bytes of `path`."""
    held = os.fdopen(os.memfd_create("bertpipe"), "w+b")
    with storage.open_read(path) as stream:
        while chunk := stream.read(_CHUNK):
            held.write(chunk)
    held.flush()
    return held
