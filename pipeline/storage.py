"""The one door to files: local paths and `s3://`, `gs://`, `hdfs://` URIs, through `pyarrow.fs`.

In: a path as the user wrote it, always a `str`. Out: streams, listings, whole files.
What always holds: `write_whole` shows other readers either nothing or the whole file, also when the
process is killed or the disk fills up halfway.

Example:
    write_json("SHARDS/manifest.json", {"pairs": 3})
"""

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa
import xxhash
from pyarrow import fs

from pipeline.errors import InputError, RunFailed

_SCHEMES = ("s3", "gs", "gcs", "hdfs", "viewfs", "file", "mock")


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
    """`folder/name/…`, for paths and URIs alike."""
    return "/".join([folder.rstrip("/") or "/", *names]) if names else folder


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


def size(path: str) -> int:
    """The file's bytes."""
    if not is_uri(path):
        return os.path.getsize(path)
    filesystem, inner = _locate(path)
    return int(filesystem.get_file_info(inner).size)


def list_files(folder: str) -> list[str]:
    """Every file under `folder`, at any depth, sorted, spelled as `folder` is."""
    if not is_uri(folder):
        return sorted(str(path) for path in Path(folder).rglob("*") if path.is_file())
    filesystem, inner = _locate(folder)
    prefix = folder[: len(folder.rstrip("/")) - len(inner.rstrip("/"))]
    infos = filesystem.get_file_info(fs.FileSelector(inner, recursive=True))
    return sorted(prefix + info.path for info in infos if info.type == fs.FileType.File)


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
    temporary = f"{path}.{os.getpid()}.tmp"
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
        raise RunFailed(f"cannot write {path}: {error.strerror or _first_line(error)}") from error
    except BaseException:
        remove(temporary)
        raise


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
    write_whole(path, lambda stream: _write_all(stream, text.encode()))


def _write_all(stream: IO[bytes], data: bytes) -> None:
    stream.write(data)


def write_json(path: str, value: Any) -> None:
    """Write `value` as indented JSON with a final newline, whole or not at all."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


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
