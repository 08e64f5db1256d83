"""Law 10 for memory: a run that its devices can't hold is refused before its first step.

In: a recipe, its network, DeepSpeed settings, the ranks, and the memory that a rank has here. Out: nothing, a warning,
or an InputError that names need, what there is, and what would fit. What always holds: only a run is refused whose
estimate is above all that there is, no margin counted, so an estimate that is a little off refuses nothing that
would have run; nothing is allocated.

Example:
    refuse_what_does_not_fit(recipe, model, settings, ranks=8)
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass

from model.config import ModelConfig
from pipeline.errors import InputError
from pipeline.phase import Phase
from pipeline.progress import say
from pipeline.recipe import Recipe
from pipeline.training.host_memory import host_memory
from pipeline.training.launch import PARENT
from pipeline.training.memory import Estimate, estimate_phase, gib, largest_micro_batch
from pipeline.training.settings import ZeroSettings, check_precision, read_settings
from pipeline.training.world import local_devices, read_world

# The configurations that come with bertpipe, the fastest first: each divides more, or moves more, than the one before.
SHIPPED = ("zero0", "zero1", "zero2", "zero3", "zero2_offload", "zero3_offload")


@dataclass(frozen=True, kw_only=True)
class Room:
    """The memory that one rank has.

    device: bytes of its GPU; for a rank on a CPU, its share of the host's
    host: bytes of the host's memory that are its share
    gpu: whether it has a GPU
    """

    device: int
    host: int
    gpu: bool


def room_for_a_rank(ranks: int) -> Room:
    """What each rank has on this node, where a launcher started them or `ranks` would all be started here."""
    world = read_world(os.environ)
    local = world.local_size if world else ranks
    host = host_memory().available // max(1, local)
    if not local_devices():
        return Room(device=host, host=host, gpu=False)
    import torch

    # No context is made: mem_get_info would take half a GiB on a device for asking.
    sizes = [torch.cuda.get_device_properties(index).total_memory for index in range(local_devices())]
    return Room(device=min(sizes), host=host, gpu=True)


def refuse_what_does_not_fit(recipe: Recipe, model: ModelConfig, settings: ZeroSettings, ranks: int) -> None:
    """`check_memory` on this node; a warning is said once for the whole run.

    Raises InputError where a phase needs more memory than a rank has.
    """
    warning = check_memory(recipe, model, settings, ranks=ranks, room=room_for_a_rank(ranks))
    # Ranks that the command itself started come after it, and it has spoken.
    if warning and PARENT not in os.environ and ((world := read_world(os.environ)) is None or world.is_first):
        say(warning)


def check_memory(
    recipe: Recipe, model: ModelConfig, settings: ZeroSettings, *, ranks: int, room: Room
) -> str | None:
    """A warning where a phase leaves less than a tenth of the memory, else None.

    Raises InputError where a phase needs more than there is.
    """
    warning = None
    for index, phase in enumerate(recipe.phases):
        need = estimate_phase(recipe, phase, model, settings, ranks=ranks, gpu=room.gpu)
        for what, size, there in _demands(need, room):
            if not there:
                continue  # it could not be told
            if size > there:
                raise InputError(
                    f"phases.{index}: a rank would need {gib(size)} of {what} and {_has(room, what)}; "
                    f"{_remedy(recipe, phase, index, model, settings, ranks, room)}"
                )
            if size > 0.9 * there and warning is None:
                warning = (
                    f"phases.{index}: a rank needs about {gib(size)} of {what} and {_has(room, what)}; "
                    "should it run out, lower micro_batch or set activation_checkpointing=full"
                )
    return warning


def _demands(need: Estimate, room: Room) -> Iterator[tuple[str, int, int]]:
    """(what, bytes needed, bytes there)."""
    if room.gpu:
        yield "GPU memory", need.device, room.device
        yield "host memory", need.host, room.host
    else:
        # What a process takes before the network is taken already, or soon is: free memory is what is compared.
        yield "memory", need.on_one - need.context, room.host


def _has(room: Room, what: str) -> str:
    return f"its GPU has {gib(room.device)}" if what == "GPU memory" else f"its share is {gib(room.host)}"


def _remedy(
    recipe: Recipe,
    phase: Phase,
    index: int,
    model: ModelConfig,
    settings: ZeroSettings,
    ranks: int,
    room: Room,
) -> str:
    """The changes that would make it fit, the least first."""

    def fitting(with_settings: ZeroSettings, *, recompute: str | None = None) -> int | None:
        return largest_micro_batch(
            recipe,
            phase,
            model,
            with_settings,
            ranks=ranks,
            gpu=room.gpu,
            memory=room.device,
            recompute=recompute,
        )

    remedies = []
    if size := fitting(settings):
        remedies.append(f"set phases.{index}.micro_batch={min(size, phase.micro_batch)}")
    if recipe.activation_checkpointing != "full" and (size := fitting(settings, recompute="full")):
        also = f" with micro_batch={size}" if size < phase.micro_batch else ""
        remedies.append(f"activation_checkpointing=full{also}")
    if not remedies:
        for name in SHIPPED:
            other = read_settings(name)
            try:
                check_precision(other, recipe.precision, int(room.gpu))
            except InputError:
                continue
            if size := fitting(other, recompute="full"):
                with_ = f"activation_checkpointing=full and phases.{index}.micro_batch={size}"
                remedies.append(f"set deepspeed={name} with {with_}")
                break
    return ", or ".join(remedies) or "take more ranks, larger devices, or a smaller model"
