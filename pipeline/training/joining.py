"""Ranks that meet and part, with DeepSpeed loaded as no rank needs more of it.

In: a rank's place. Out: a process group over all ranks. What always holds: nothing is compiled at start
(`deepspeed_shm_comm` would be), nothing is printed on standard output; a rank that cannot meet the others says where it
tried.

Example:
    join_world(world)
    …
    leave_world()
"""

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from pipeline.ending import end_at_once
from pipeline.errors import InputError, RunFailed, first_line
from pipeline.training.settings import ZeroSettings
from pipeline.training.world import World, device_of, local_devices


def join_world(world: World) -> None:
    """Connect this process with the other ranks: NCCL on GPUs, gloo on CPUs. Called once a process."""
    os.environ.update(world.environment())
    end_at_once()
    load_deepspeed()
    import deepspeed
    import torch

    if local_devices():
        # DeepSpeed takes LOCAL_RANK for the device's number, which it isn't where each rank sees one device only.
        os.environ["LOCAL_RANK"] = device_of(world).partition(":")[2]
        torch.cuda.set_device(device_of(world))
    try:
        deepspeed.init_distributed(dist_backend="nccl" if local_devices() else "gloo", verbose=False)
    except RuntimeError as error:
        where = f"{world.address}:{world.port}"
        raise RunFailed(
            f"rank {world.rank} cannot meet the others at {where}: {first_line(error)}"
        ) from error


def load_deepspeed() -> None:
    """Import torch and DeepSpeed, without what no rank needs of them."""
    _hush()
    from pipeline.training.uncompiled import without_compiler

    with _without_mlflow(), without_compiler():
        import deepspeed
        import deepspeed.ops

    # What init_distributed asks before it compiles, for 40 s, an op that only inference uses. Asked itself,
    # DeepSpeed would try the compiler for each of its ops, on every rank.
    deepspeed.ops.__compatible_ops__ = {"deepspeed_shm_comm": False}
    _without_muon()


def _hush() -> None:
    """Before DeepSpeed is imported: no probing for accelerators that aren't there, no log on standard output."""
    if not local_devices():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    # DeepSpeed calls collectives by names that torch is about to change: nothing a user can do about.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    # DeepSpeed sets its logger's level at import; a filter stays.
    logging.getLogger("DeepSpeed").addFilter(lambda record: record.levelno >= logging.ERROR)


def check_zero(settings: ZeroSettings) -> None:
    """Hold a user's own JSON against DeepSpeed's own schema; the shipped ones are known to be good.

    Raises InputError naming what DeepSpeed doesn't take.
    """
    if settings.is_shipped:
        return
    _hush()
    with _without_mlflow():
        from deepspeed.runtime.zero.config import get_zero_config
    try:
        get_zero_config(settings.values)
    except ValueError as error:  # pydantic's, whose first line only counts
        said = " ".join(line.strip() for line in str(error).splitlines()[1:3])
        raise InputError(f"deepspeed: {settings.path}: {said or first_line(error)}") from error


@contextmanager
def _without_mlflow() -> Iterator[None]:
    """Keep DeepSpeed from importing MLflow for its autotuner, which a second of every rank's start went into."""
    unloaded = "mlflow" not in sys.modules
    if unloaded:
        sys.modules["mlflow"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if unloaded:
            del sys.modules["mlflow"]


def _without_muon() -> None:
    """Keep ZeRO from importing an optimizer that no recipe names, whose kernels torch's compiler would prepare.

    ZeRO only asks whether an optimizer is one; loading it took a fifth of a rank's start.
    """
    for name, content in (("muon_optimizer", "MuonWithAuxAdam"), ("original_muon", "muon_update")):
        placeholder = ModuleType(f"deepspeed.runtime.zero.muon.{name}")
        setattr(placeholder, content, type(content, (), {}))
        sys.modules.setdefault(placeholder.__name__, placeholder)


def leave_world() -> None:
    """Part from the other ranks, so that the process ends without torch's warnings."""
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()
