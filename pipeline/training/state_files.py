"""A rank's part of a checkpoint: state copied out of training's way, and written with its hash.

In: what DeepSpeed would write, or tensors. Out: files on disk, each with its size and hash, taken while it is written.
What always holds: a copy shares no memory with what training goes on to change; DeepSpeed's own loader and converters
read the files.

Example:
    write_state(path, copy_of(state))  # (1234, "9f2c…")
"""

import copy
import os
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import xxhash

if TYPE_CHECKING:
    import torch


def copy_of(state: Any) -> Any:
    """The same in the host's memory, nothing of it shared with `state`."""
    import torch

    copies: dict[int, torch.Tensor] = {}

    def copied(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return _copied_tensor(value, copies)
        if isinstance(value, dict):
            # Whatever kind of dict, with what it knows besides its keys.
            twin = copy.copy(value)
            twin.update((key, copied(item)) for key, item in value.items())
            return twin
        if type(value) in (list, tuple):
            return type(value)(copied(item) for item in value)
        return copy.deepcopy(value)

    return copied(state)


def _copied_tensor(value: "torch.Tensor", copies: "dict[int, torch.Tensor]") -> "torch.Tensor":
    """Through its whole storage, once: ZeRO's weights are views of a few flat ones, and files keep that."""
    import torch

    storage = value.untyped_storage()
    key = storage.data_ptr()
    if key not in copies:
        flat = torch.empty(0, dtype=torch.uint8, device=value.device).set_(storage)
        copies[key] = flat.to("cpu", copy=True)
    kept = torch.empty(0, dtype=value.dtype)
    return kept.set_(copies[key].untyped_storage(), value.storage_offset(), value.shape, value.stride())


def size_of(state: Any) -> int:
    """Bytes of the tensors in a state, about what a copy and its file take."""
    import torch

    storages: dict[int, int] = {}

    def add(value: Any) -> None:
        if isinstance(value, torch.Tensor):
            storages[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        elif isinstance(value, dict):
            for item in value.values():
                add(item)
        elif isinstance(value, list | tuple):
            for item in value:
                add(item)

    add(state)
    return sum(storages.values())


class HashingFile:
    """A new file that knows the size and hash of what was written to it; on disk when it is closed."""

    def __init__(self, path: Path) -> None:
        # Unbuffered: tensors come in pieces far larger than any buffer.
        self._file: IO[bytes] = path.open("wb", buffering=0)
        self._hash, self._size = xxhash.xxh3_128(), 0

    def write(self, data: Any) -> int:
        """All of `data`, however much the disk takes at once."""
        view = memoryview(data).cast("B")
        self._hash.update(view)
        self._size += len(view)
        done = 0
        while done < len(view):
            done += self._file.write(view[done:])
        return done

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> list[Any]:
        """Size in bytes and hash of the file, which is on disk now."""
        os.fsync(self._file.fileno())
        self._file.close()
        return [self._size, self._hash.hexdigest()]


def write_state(path: Path, state: Any) -> list[Any]:
    """Write what DeepSpeed would write at `path`, as it would; returns size in bytes and hash."""
    import torch

    file = HashingFile(path)
    torch.save(state, cast(IO[bytes], file))
    return file.close()


def tensor_bytes(tensors: "dict[str, torch.Tensor]", metadata: dict[str, str] | None = None) -> bytes:
    """A safetensors file's content (the library's own writer has an error type of its own for a full disk)."""
    from safetensors.torch import save

    return save(tensors, metadata)


def write_tensors(path: Path, tensors: "dict[str, torch.Tensor]") -> list[Any]:
    """Write a safetensors file; returns size in bytes and hash. Raises OSError where the disk refuses."""
    file = HashingFile(path)
    file.write(tensor_bytes(tensors))
    return file.close()
