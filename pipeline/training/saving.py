"""Writing checkpoints: a folder that appears whole, by one rename.

In: an engine at the end of a step, on every rank. Out: `RUN/checkpoints/step-00000100/` and the link `latest`
(see `checkpoints` for what they hold). What always holds: a folder without a leading dot is whole; `latest`
never points at nothing; a disk that refuses, on any rank, ends in one RunFailed and costs no older checkpoint.
"""

import dataclasses
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from model.config import ModelConfig
from pipeline import storage
from pipeline.corpus.vocabulary import Vocabulary, save_vocabulary
from pipeline.errors import RunFailed
from pipeline.training.checkpoints import (
    FOLDER,
    LATEST,
    PROBE,
    VOCABULARY,
    WEIGHTS,
    CheckpointInfo,
    name_of,
    newest_first,
    write_info,
)
from pipeline.training.engine import TAG, Engine
from pipeline.training.probe import engine_logits
from pipeline.training.world import World, is_lost_peer, on_first_rank

if TYPE_CHECKING:
    import torch


def save_checkpoint(
    run: Path,
    engine: Engine,
    info: CheckpointInfo,
    *,
    config: ModelConfig,
    vocabulary: Vocabulary,
    keep_last: int,
    world: World,
) -> Path:
    """Write the checkpoint of `info.step`; every rank calls it. Returns its folder.

    Raises RunFailed where the disk refuses; older checkpoints stay as they were.
    """
    checkpoints = run / FOLDER
    final = checkpoints / name_of(info.step)
    device = engine.device
    temporary = checkpoints / f".{name_of(info.step)}.tmp"

    def begin() -> None:
        with refused_writes(final):
            checkpoints.mkdir(exist_ok=True)
            _remove(temporary)
            temporary.mkdir()

    def finish() -> None:
        with refused_writes(final):
            write_tensors(temporary / WEIGHTS, weights)
            write_tensors(temporary / PROBE, engine_logits(engine, weights, config))
            save_vocabulary(vocabulary, str(temporary / VOCABULARY))
            _commit(temporary, final, info)
            _point_latest(checkpoints, final.name)
            _prune(checkpoints, final, keep_last)

    on_first_rank(world, device, begin)
    try:
        with refused_writes(final):
            engine.save(temporary)
        weights = engine.fp32_weights()
        on_first_rank(world, device, finish)
    except RunFailed:
        if world.is_first:
            _remove(temporary)
        raise
    return final


@contextmanager
def refused_writes(final: Path) -> Iterator[None]:
    """Turn what a disk's refusal looks like into a RunFailed that names the checkpoint and the remedy."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        # torch reports a full disk as a RuntimeError of its zip writer; a rank that is gone is no disk's fault.
        if is_lost_peer(error):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise RunFailed(
            f"cannot write the checkpoint {final}: {reason}; free some room and run the same command again"
        ) from error


def write_tensors(
    path: Path, tensors: "dict[str, torch.Tensor]", metadata: dict[str, str] | None = None
) -> None:
    """A safetensors file, whole or not at all.

    Raises RunFailed where the disk refuses (safetensors' own writer has an error type of its own for that).
    """
    from safetensors.torch import save

    data = save(tensors, metadata)
    storage.write_whole(str(path), lambda stream: _write(stream, data))


def _write(stream: IO[bytes], data: bytes) -> None:
    stream.write(data)


def _commit(temporary: Path, final: Path, info: CheckpointInfo) -> None:
    parts = len(list((temporary / TAG).glob("*_optim_states.pt")))
    if info.zero_stage > 0 and parts != info.world_size:
        raise RunFailed(
            f"{temporary} holds the optimizer's parts of {parts} of {info.world_size} ranks; "
            "the run folder must lie on a disk that all nodes share"
        )
    # DeepSpeed's own exporters, which can't tie the decoder; weights.safetensors is the export.
    for script in (temporary / TAG).parent.rglob("zero_to_*.py"):
        script.unlink()
    files: dict[str, list[Any]] = {}
    for path in sorted(temporary.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
            files[str(path.relative_to(temporary))] = [path.stat().st_size, storage.hash_file(str(path))]
    write_info(temporary, dataclasses.replace(info, files=files))
    _discard(final)
    os.rename(temporary, final)
    storage.sync_folder(str(final.parent))


def _point_latest(checkpoints: Path, name: str) -> None:
    link = checkpoints / f".{LATEST}.tmp"
    link.unlink(missing_ok=True)
    link.symlink_to(name)
    os.replace(link, checkpoints / LATEST)


def _prune(checkpoints: Path, newest: Path, keep_last: int) -> None:
    """Keep `newest` and those before it, `keep_last` in all.

    Later steps can only be damaged ones that were passed over: the run has gone on without them.
    """
    there = newest_first(checkpoints)
    kept = [folder for folder in there if folder.name <= newest.name][:keep_last]
    for old in there:
        if old not in kept:
            _discard(old)
    for leftover in checkpoints.glob(".step-*"):
        _remove(leftover)


def _discard(folder: Path) -> None:
    """Delete a whole folder; renamed first, so that half of it never stands under a whole one's name."""
    if folder.exists():
        doomed = folder.with_name(f".{folder.name}.old")
        _remove(doomed)
        os.rename(folder, doomed)
        _remove(doomed)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
