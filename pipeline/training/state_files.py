"""A rank's part of a checkpoint: state copied out of training's way, and written with its hash.

In: what DeepSpeed would write, or tensors. Out: files on disk, each with its size and hash, taken while it is written.
What always holds: a copy shares no memory with what training goes on to change; DeepSpeed's own loader and converters
read the files.

Example:
    write_state(path, Copies().of(state))  # [1234, "9f2c…"]
"""

import copy
import json
import os
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import xxhash

if TYPE_CHECKING:
    import torch


class Copies:
    """Copies of states, one after the other in the same host memory: the second takes a tenth of the first's time."""

    def __init__(self) -> None:
        self._buffers: list[torch.Tensor] = []

    @property
    def size(self) -> int:
        """Bytes that are held."""
        return sum(buffer.nbytes for buffer in self._buffers)

    def of(self, state: Any) -> Any:
        """The same in the host's memory, nothing of it shared with `state`; the copy before it is overwritten."""
        import torch

        numbers: dict[int, int] = {}

        def copied(value: Any) -> Any:
            if isinstance(value, torch.Tensor):
                # Through its whole storage, once: ZeRO's weights are views of a few flat ones, and files keep that.
                storage = value.untyped_storage()
                if storage.data_ptr() not in numbers:
                    numbers[storage.data_ptr()] = self._put(len(numbers), storage)
                kept = self._buffers[numbers[storage.data_ptr()]].untyped_storage()
                own = torch.empty(0, dtype=value.dtype)
                return own.set_(kept, value.storage_offset(), value.shape, value.stride())
            if isinstance(value, dict):
                # Whatever kind of dict, with what it knows besides its keys.
                twin = copy.copy(value)
                twin.update((key, copied(item)) for key, item in value.items())
                return twin
            if type(value) in (list, tuple):
                return type(value)(copied(item) for item in value)
            return copy.deepcopy(value)

        return copied(state)

    def _put(self, number: int, storage: "torch.UntypedStorage") -> int:
        import torch

        flat = torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)
        if number == len(self._buffers):
            self._buffers.append(torch.empty(0, dtype=torch.uint8))
        if self._buffers[number].nbytes != flat.nbytes:
            self._buffers[number] = torch.empty(flat.nbytes, dtype=torch.uint8)
        self._buffers[number].copy_(flat)
        return number


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


def write_tensors(path: Path, tensors: "dict[str, torch.Tensor]") -> list[Any]:
    """Write fp32 tensors as a safetensors file; returns size in bytes and hash.

    Piece by piece: the library's own writer holds all of it twice and Python's lock meanwhile (seen: 1.6 s for 0.4 GB),
    in which training stands still. (https://huggingface.co/docs/safetensors, "Format")
    """
    header, end = {}, 0
    for name, tensor in tensors.items():
        header[name] = {
            "dtype": "F32",
            "shape": list(tensor.shape),
            "data_offsets": [end, end + tensor.nbytes],
        }
        end += tensor.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file = HashingFile(path)
    file.write(len(text).to_bytes(8, "little") + text)
    for tensor in tensors.values():
        if tensor.nbytes:
            file.write(tensor.contiguous().float().numpy())
    return file.close()
