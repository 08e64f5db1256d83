"""Files as plain bytes, whether they are compressed or not.

In: a path; what follows its name's last dot says how it is compressed (.gz, .zst, .bz2, .xz). Out: a stream of
plain bytes; of a file that isn't compressed also a range of them. What always holds: every member or frame of a file
made of several is read, or the file is refused; one that is cut short, damaged, or compressed otherwise than its name
says is an error that names it. Damage is seen where the format keeps a checksum (.gz, .bz2, .xz, and .zst as the
`zstd` command writes it).

Example:
    with open_plain("corpus/wiki.txt.zst") as stream:
        stream.read(1 << 20)
"""

import bz2
import gzip
import io
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any, cast

import pyarrow as pa

from pipeline import storage
from pipeline.errors import InputError, first_line

_MEMBER_BYTES = 1 << 18  # of compressed bytes, read at once

# How a file of each kind begins; none of these is UTF-8, or begins a text that anyone would write.
_MAGIC = {
    ".gz": re.compile(rb"\x1f\x8b"),
    ".zst": re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"),  # a frame, or one to be skipped
    ".bz2": re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"),  # a block, or the end of an empty file
    ".xz": re.compile(rb"\xfd7zXZ\x00"),
}
_OTHERS = {
    "a Parquet file; name it .parquet": re.compile(rb"PAR1\x15"),
    "a zip archive; unpack it": re.compile(rb"PK\x03\x04"),
}
_MAGIC_BYTES = 10

SUFFIXES = tuple(_MAGIC)

# Plain bytes of a compressed one, measured on English and on four other languages as text and as JSON Lines, with
# each program's own level: 2.1 (Chinese) to 2.8 by gzip and zstd, 2.6 to 3.8 by bzip2 and xz. Hindi, whose letters
# take three bytes that are much alike, comes to 4.2 to 7.3.
_EXPANSION = {".gz": 2.7, ".zst": 2.8, ".bz2": 3.5, ".xz": 3.5}

ByteRange = tuple[int, int]
"""A range of a file's bytes: the first, and one past the last."""


def bare_name(name: str) -> str:
    """A file's name without what says that it is compressed."""
    suffix = _suffix(name)
    return name.removesuffix(suffix) if suffix else name


def _suffix(name: str) -> str | None:
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), None)


def is_compressed(path: str) -> bool:
    """Whether the file's name says so."""
    return _suffix(storage.last_name(path).lower()) is not None


def plain_bytes(path: str, file_bytes: int) -> int:
    """The plain bytes of a file of so many; where it is compressed, about how many those mostly are."""
    suffix = _suffix(storage.last_name(path).lower())
    return file_bytes if suffix is None else round(file_bytes * _EXPANSION[suffix])


@contextmanager
def open_plain(path: str, byte_range: ByteRange | None = None) -> Iterator[IO[bytes]]:
    """The plain bytes of the file at `path`, as a stream with `read(size)`; without a range, of all of it.

    The stream of a file that isn't compressed, read without a range, can `seek`, too.
    byte_range: of a file that isn't compressed
    Raises InputError where the file can't be read, is cut short or damaged, or isn't what its name says.
    """
    name = storage.last_name(path).lower()
    suffix = _suffix(name)
    try:
        with storage.open_read(path) as raw:
            head = raw.read(_MAGIC_BYTES)
            raw.seek(0)
            _check_head(path, suffix, head)
            if byte_range is not None:
                assert suffix is None, f"a range of {path}, which is compressed"
                yield cast(IO[bytes], _Range(raw, byte_range))
            else:
                yield _decompressed(raw, suffix)
    except EOFError as error:
        raise InputError(f"{path} ends too early; copy or compress it anew") from error
    except (zlib.error, lzma.LZMAError, pa.ArrowException, OSError) as error:
        reason = getattr(error, "strerror", None)
        detail = first_line(error)
        # The system's own errors have a number; those of a decompressor don't.
        if reason or suffix is None:
            raise InputError(f"cannot read {path}: {reason or detail}") from error
        if "Truncated" in detail:  # Arrow's word
            raise InputError(f"{path} ends too early; copy or compress it anew") from error
        raise InputError(f"{path} is damaged ({detail}); copy or compress it anew") from error


def _check_head(path: str, suffix: str | None, head: bytes) -> None:
    found = next((known for known, magic in _MAGIC.items() if magic.match(head)), None)
    if found == suffix:
        if found is None:
            for what, magic in _OTHERS.items():
                if magic.match(head):
                    raise InputError(f"{path} is {what}")
        return
    if found is not None:
        said = f"not with {suffix[1:]} as its name says" if suffix else "and its name doesn't say so"
        raise InputError(f"{path} is compressed with {found[1:]}, {said}; let its name end in {found}")
    if len(head) < _MAGIC_BYTES:  # shorter than any whole file
        raise EOFError
    raise InputError(f"{path} is not compressed with {cast(str, suffix)[1:]}; take {suffix} off its name")


def _decompressed(raw: IO[bytes], suffix: str | None) -> IO[bytes]:
    if suffix == ".gz":
        return cast(IO[bytes], gzip.GzipFile(fileobj=raw))
    if suffix == ".zst":
        return cast(IO[bytes], pa.input_stream(_arrow_file(raw), compression="zstd"))
    if suffix == ".bz2":
        return cast(IO[bytes], _Members(raw, bz2.BZ2Decompressor, padding=b""))
    if suffix == ".xz":
        return cast(IO[bytes], _Members(raw, lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ), padding=b"\0"))
    return raw


def _arrow_file(raw: IO[bytes]) -> Any:
    return raw if isinstance(raw, pa.NativeFile) else pa.PythonFile(raw, mode="r")


class _Range:
    """A range of a stream's bytes."""

    def __init__(self, raw: IO[bytes], byte_range: ByteRange) -> None:
        self._raw, (first, last) = raw, byte_range
        self._left = last - first
        raw.seek(first)

    def read(self, size: int) -> bytes:
        """Up to `size` bytes, none at the range's end. Raises EOFError where the file has become shorter."""
        data = self._raw.read(min(size, self._left))
        if self._left and not data:
            raise EOFError
        self._left -= len(data)
        return data


class _Members(io.RawIOBase):
    """All members of a .bz2 or .xz file, one after the other.

    The library's own files take a member whose beginning is damaged for the end of the file, in silence.
    padding: the bytes that may stand between members
    """

    def __init__(self, raw: IO[bytes], new: Callable[[], Any], padding: bytes) -> None:
        self._raw, self._new, self._padding = raw, new, padding
        self._member: Any = None
        self._fed = b""

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes, none at the end. Raises EOFError where a member is cut short."""
        while True:
            if self._member is None:
                self._fed = self._fed.lstrip(self._padding) or self._raw.read(_MEMBER_BYTES)
                if not self._fed:
                    return b""
                if not self._fed.lstrip(self._padding):
                    self._fed = b""
                    continue
                self._fed = self._fed.lstrip(self._padding)
                self._member = self._new()
            elif self._member.needs_input and not self._fed:
                self._fed = self._raw.read(_MEMBER_BYTES)
                if not self._fed:
                    raise EOFError
            data, self._fed = cast(bytes, self._member.decompress(self._fed, size)), b""
            if self._member.eof:
                self._fed, self._member = self._member.unused_data, None
            if data:
                return data
