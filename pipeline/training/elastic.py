"""A run that goes on with other ranks, another ZeRO stage, or another DeepSpeed configuration than before.

In: a checkpoint, and an engine made for the ranks and the stage at hand. Out: the engine at the checkpoint's step.
What always holds: weights, the optimizer's moments and its step counts are the checkpointed ones to the last bit;
what is converted on the way lies in `RUN/checkpoints/.step-00000040.universal`, which no start takes up that has not
written it itself, and which is gone when the engine is loaded; only the first rank writes.

Example:
    if changes(info, settings, world.size):
        load_elsewhere(engine, checkpoint, info, names, world)
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from pipeline import lineage
from pipeline.errors import InputError, RunFailed, first_line
from pipeline.training.checkpoints import CheckpointInfo
from pipeline.training.engine import TAG, Engine
from pipeline.training.memory import gib
from pipeline.training.settings import ZeroSettings
from pipeline.training.universal import WholeStates, convert, plain_states, universal_states
from pipeline.training.world import World, on_first_rank, sum_over_ranks


def changes(info: CheckpointInfo, settings: ZeroSettings, ranks: int) -> list[str]:
    """What is other than it was where the checkpoint was written, in words; empty where nothing is."""
    found = []
    if ranks != info.world_size:
        found.append(f"on {_ranks(ranks)} (checkpointed by {info.world_size})")
    if settings.stage != info.zero_stage:
        found.append(f"with ZeRO {settings.stage} instead of {info.zero_stage}")
    elif lines := lineage.difference(settings.values, info.deepspeed or settings.values):
        found.append(f"with another DeepSpeed configuration ({'; '.join(lines[:3])})")
    return found


def _ranks(count: int) -> str:
    return "1 rank" if count == 1 else f"{count} ranks"


def is_divided(info: CheckpointInfo, settings: ZeroSettings) -> bool:
    """Whether ranks hold parts of the state, before or now: else any number of them loads what all of them hold."""
    return bool(info.zero_stage or settings.stage)


def refuse_fixed_parts(info: CheckpointInfo, settings: ZeroSettings, ranks: int) -> None:
    """Raise InputError where the state lies in parts that only the same ranks and configuration can take up."""
    if not is_divided(info, settings) or not changes(info, settings, ranks):
        return
    for values in (settings.values, info.deepspeed):
        if reason := ZeroSettings(path="", values=values).fixed_parts:
            raise InputError(
                f"step {info.step} was checkpointed by {_ranks(info.world_size)} at ZeRO {info.zero_stage}, and "
                f"{reason} goes on only with the same ranks and the same DeepSpeed configuration; resume with "
                f"--ranks {info.world_size} and that configuration"
            )


def load_elsewhere(
    engine: Engine, checkpoint: Path, info: CheckpointInfo, names: Sequence[str], world: World
) -> None:
    """Take up a checkpoint of other ranks or another stage, bit for bit; every rank calls it.

    names: the weights' names in the order of stage 0's optimizer, group by group

    Raises RunFailed where the disk refuses, or DeepSpeed's converter does.
    """
    if not info.zero_stage:
        engine.put_states(plain_states(checkpoint / TAG, names))
        return
    folder = checkpoint.with_name(f".{checkpoint.name}.universal")
    try:
        on_first_rank(world, engine.device, lambda: _convert(checkpoint, folder, info))
        engine.put_states(_read(folder, world))
        # Nobody takes away what another rank still reads.
        sum_over_ranks([0.0], engine.device)
    finally:
        if world.is_first:
            shutil.rmtree(folder, ignore_errors=True)


def _convert(checkpoint: Path, folder: Path, info: CheckpointInfo) -> None:
    remedy = (
        f"free some room, or resume with what wrote it, --ranks {info.world_size} at ZeRO {info.zero_stage}"
    )
    # What a start left that was killed here is of no use: nothing says that it is whole.
    shutil.rmtree(folder, ignore_errors=True)
    # The converter cuts each rank's part into the weights' own, then joins them.
    needed = 2 * sum(path.stat().st_size for path in (checkpoint / TAG).glob("*_optim_states.pt"))
    free = shutil.disk_usage(folder.parent).free
    if free < needed:
        raise RunFailed(
            f"to convert the optimizer's state of {checkpoint} takes {gib(needed)} of its disk for a while, and "
            f"{gib(free)} are free; {remedy}"
        )
    try:
        folder.mkdir()
        convert(checkpoint / TAG, folder)
    except (OSError, RuntimeError, AssertionError, LookupError, ValueError, TypeError) as error:
        # What a disk refuses, which torch reports as a RuntimeError, or what DeepSpeed can't make sense of.
        reason = getattr(error, "strerror", None) or first_line(error)
        raise RunFailed(
            f"cannot convert the optimizer's state of {checkpoint}: {reason}; {remedy}"
        ) from error


def _read(folder: Path, world: World) -> WholeStates:
    try:
        return universal_states(folder)
    except FileNotFoundError as error:
        raise RunFailed(
            f"rank {world.rank} finds no {folder}; the run folder must lie on a disk that all nodes share"
        ) from error
