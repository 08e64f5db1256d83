"""The one door to files: local paths and `s3://`, `gs://`, `hdfs://` URIs, through `pyarrow.fs`.

In: a path as the user wrote it, always a `str`. Out: streams, listings, whole files.
What always holds: `write_whole` shows other readers either nothing or the whole file, also when the
process is killed or the disk fills up halfway.

Example:
    write_json("SHARDS/manifest.json", {"pairs": 3})
"""

import errno
import glob
import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import IO, Any, NoReturn, cast
from urllib.parse import quote, urlsplit

import pyarrow as pa
import xxhash
from pyarrow import fs

from pipeline.errors import InputError, RunFailed

_SCHEMES = ("s3", "gs", "gcs", "hdfs", "viewfs", "file", "mock")


def check_name(path: str) -> None:
    """Raise InputError where `path` can't be written down: Linux takes any bytes for a name."""
    if not path.isascii() and path != path.encode(errors="replace").decode():
        raise InputError(f"{path!a} is no UTF-8; name another place")


def is_uri(path: str) -> bool:
    """Whether `path` names something outside the local file system's plain paths."""
    return "://" in path


def _locate(path: str) -> tuple[fs.FileSystem, str]:
    scheme = path.split("://", 1)[0]
    if scheme not in _SCHEMES:
        known = ", ".join(_SCHEMES[:-1])
        raise InputError(f"{path}: unknown scheme {scheme}://; known are {known} and plain paths")
    try:
        return cast(tuple[fs.FileSystem, str], fs.FileSystem.from_uri(path))
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path}: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def join(folder: str, *names: str) -> str:
    """`folder/name/…`, for paths and URIs alike; a URI's `?options` stay behind the names.

    Raises InputError where `folder` is empty, which would come out as the root of the file system.
    """
    if not folder:
        raise InputError("a folder's name is empty; name one, or '.' for this one")
    place, options = options_apart(folder)
    return "/".join([place.rstrip("/"), *names]) + options if names else folder


def options_apart(path: str) -> tuple[str, str]:
    """A URI before its `?options`, and those; a plain path is all place."""
    place, mark, options = path.partition("?") if is_uri(path) else (path, "", "")
    return place, mark + options


def last_name(path: str) -> str:
    """The name of the file or folder at `path`."""
    return options_apart(path)[0].rstrip("/").rsplit("/", 1)[-1]


def exists(path: str) -> bool:
    """Whether a file or folder stands at `path`."""
    if not is_uri(path):
        return os.path.exists(path)
    filesystem, inner = _locate(path)
    return bool(filesystem.get_file_info(inner).type != fs.FileType.NotFound)


def is_folder(path: str) -> bool:
    """Whether `path` is a folder."""
    if not is_uri(path):
        return os.path.isdir(path)
    filesystem, inner = _locate(path)
    return bool(filesystem.get_file_info(inner).type == fs.FileType.Directory)


def is_file(path: str) -> bool:
    """Whether `path` is a file that keeps its bytes: no folder, pipe or device."""
    if not is_uri(path):
        return os.path.isfile(path)
    filesystem, inner = _locate(path)
    return bool(filesystem.get_file_info(inner).type == fs.FileType.File)


def local_path(path: str) -> str | None:
    """The plain path of what `path` names, also where it is a `file://` URI; None where it lies elsewhere."""
    if not is_uri(path):
        return path
    return _locate(path)[1] if path.startswith("file://") else None


def size(path: str) -> int:
    """The file's bytes."""
    if not is_uri(path):
        return os.path.getsize(path)
    filesystem, inner = _locate(path)
    return int(filesystem.get_file_info(inner).size)


def list_files(folder: str, *, hidden: bool = True) -> list[str]:
    """Every file under `folder`, at any depth, sorted, spelled as `folder` is; linked folders are followed.

    A link to something that is gone is among them, for whoever needs it to stumble over.
    hidden: also those whose own or whose folder's name, below `folder`, starts with a dot.
    Raises InputError where a folder can't be read.
    """
    if not is_uri(folder):
        return sorted(_walk(folder, hidden))
    if (local := local_path(folder)) is not None:
        return sorted(_respell(folder, path) for path in _walk(local.rstrip("/") or "/", hidden))
    filesystem, inner = _locate(folder)
    inner = inner.rstrip("/")
    infos = filesystem.get_file_info(fs.FileSelector(inner, recursive=True))
    found = [info.path for info in infos if info.type == fs.FileType.File]
    return sorted(_respell(folder, path) for path in found if hidden or "/." not in path.removeprefix(inner))


def _walk(folder: str, hidden: bool) -> Iterator[str]:
    """The files under a plain folder, each folder once, whatever links lead to it."""

    def refuse(error: OSError) -> NoReturn:
        raise InputError(
            f"cannot read the folder {error.filename}: {error.strerror}; make it readable or leave it out"
        ) from error

    visited: set[tuple[int, int]] = set()
    for here, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        status = os.stat(here)
        if (status.st_dev, status.st_ino) in visited:  # a link to a folder above, mostly
            folders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if hidden or not name.startswith("."))
        for name in names:
            path = os.path.join(here, name)
            if (hidden or not name.startswith(".")) and (os.path.isfile(path) or not os.path.exists(path)):
                yield path


def _respell(folder: str, inner: str) -> str:
    """The URI of the file at `inner`, as its file system names it, with scheme and options of `folder`."""
    parts = urlsplit(folder)
    # Object stores count the bucket, which stands where a host does, as the path's first part.
    user, at, _ = parts.netloc.rpartition("@")
    authority = parts.netloc if inner.startswith("/") else user + at
    return f"{parts.scheme}://{authority}{quote(inner)}{options_apart(folder)[1]}"


def open_read(path: str) -> IO[bytes]:
    """A seekable binary stream of the file's bytes."""
    if not is_uri(path):
        return open(path, "rb")
    filesystem, inner = _locate(path)
    return cast(IO[bytes], filesystem.open_input_file(inner))


def make_folder(path: str) -> None:
    """Create `path` and its parents where they don't exist.

    Raises InputError where the file system refuses.
    """
    try:
        if is_uri(path):
            filesystem, inner = _locate(path)
            filesystem.create_dir(inner, recursive=True)
        else:
            os.makedirs(path, exist_ok=True)
    except OSError as error:
        reason = error.strerror or _first_line(error)
        raise InputError(f"cannot create the folder {path}: {reason}") from error


def write_whole(path: str, write: Callable[[IO[bytes]], None]) -> None:
    """Let `write` fill a file that stands at `path` only once it is whole and on disk.

    Raises RunFailed where the disk refuses (full, read-only), naming the path.
    """
    temporary = _beside(path, f".{os.getpid()}.tmp")
    try:
        if is_uri(path):
            # Leaving an Arrow stream publishes even a partial object, hence the temporary key.
            filesystem, inner = _locate(path)
            partial = _locate(temporary)[1]
            with filesystem.open_output_stream(partial) as stream:
                write(cast(IO[bytes], stream))
            filesystem.move(partial, inner)
            return
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        sync_folder(os.path.dirname(path) or ".")
    except OSError as error:
        remove(temporary)
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = "; free some and run the same command again" if full else ""
        raise RunFailed(f"cannot write {path}: {error.strerror or _first_line(error)}{remedy}") from error
    except BaseException:
        remove(temporary)
        raise


def _beside(path: str, ending: str) -> str:
    place, options = options_apart(path)
    return place + ending + options


def remove_temporaries(path: str) -> None:
    """Delete what killed calls of `write_whole(path, …)` left beside it."""
    if not is_uri(path):
        left = glob.glob(f"{glob.escape(path)}.*.tmp")
    else:
        filesystem, inner = _locate(path)
        folder = fs.FileSelector(inner.rpartition("/")[0] or "/", allow_not_found=True)
        infos = filesystem.get_file_info(folder)
        left = [
            _respell(path, info.path)
            for info in infos
            if info.path.startswith(f"{inner}.") and info.path.endswith(".tmp")
        ]
    for temporary in left:
        remove(temporary)


def sync_folder(path: str) -> None:
    """Make renames inside the local folder `path` survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: str) -> None:
    """Delete the file at `path`; it need not exist."""
    with suppress(OSError):
        if is_uri(path):
            filesystem, inner = _locate(path)
            filesystem.delete_file(inner)
        else:
            os.remove(path)


def write_text(path: str, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all."""
    write_bytes(path, text.encode())


def write_bytes(path: str, data: bytes) -> None:
    """Write `data`, whole or not at all."""
    write_whole(path, lambda stream: _write_all(stream, data))


def _write_all(stream: IO[bytes], data: bytes) -> None:
    stream.write(data)


def write_json(path: str, value: Any) -> None:
    """Write `value` as indented JSON with a final newline, whole or not at all."""
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """What `write_json` writes."""
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def read_json(path: str) -> Any:
    """The JSON value in `path`.

    Raises InputError where the file is missing or is no JSON.
    """
    try:
        with open_read(path) as stream:
            return json.loads(stream.read())
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no JSON: {_first_line(error)}") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or _first_line(error)}") from error


def hash_file(path: str) -> str:
    """The hexadecimal xxh3-128 of the file's bytes."""
    state = xxhash.xxh3_128()
    with open_read(path) as stream:
        while chunk := stream.read(1 << 20):
            state.update(chunk)
    return state.hexdigest()
