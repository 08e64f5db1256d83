"""`bertpipe pretrain`: a recipe to a run folder with checkpoints.

In: a recipe's path and overrides, and the ranks to start or to join. Out: `RUN/` with `recipe.yaml`,
`metrics.jsonl`, `checkpoints/`. What always holds: a run that cannot succeed is refused before its first
step and before anything is written; killed anywhere, the same command continues from the last checkpoint, to
the last bit (same ranks, threads and micro-batch); all ranks stop at the same step.

Example:
    bertpipe pretrain recipes/tiny.yaml --ranks 2 run=RUNS/try phases.0.steps=12
"""

import os
from collections.abc import Sequence

from pipeline.errors import Echo, InputError
from pipeline.processes import die_with_parent
from pipeline.recipe import read_recipe
from pipeline.training.launch import PARENT, launch
from pipeline.training.plan import make_plan
from pipeline.training.world import World, check_address, check_devices, local_devices, read_world


def run(
    path: str,
    overrides: Sequence[str],
    ranks: int | None,
    *,
    trusted: bool = False,
    may_change_data: bool = False,
    profiled: bool = False,
) -> None:
    """Train or resume the recipe's run; see the module's promises.

    trusted: resume from a checkpoint although another user owns it
    may_change_data: resume although shards, seed or batches are others than before
    profiled: write where some steps' time and memory goes to `RUN/profile/`

    Raises InputError on what cannot be trained, Stopped after a signal, RunFailed when the machine fails.
    """
    if PARENT in os.environ:
        die_with_parent(int(os.environ[PARENT]))
    world = read_world(os.environ)
    try:
        _run(path, overrides, ranks, world, trusted, may_change_data, profiled)
    except InputError as error:
        if world is None or world.is_first:
            raise
        if world.local_rank:
            raise Echo(error.exit_code) from None
        # A node of its own may see something else: a disk that isn't mounted there.
        raise InputError(f"rank {world.rank}: {error}") from None


def _run(
    path: str,
    overrides: Sequence[str],
    ranks: int | None,
    world: World | None,
    trusted: bool,
    may_change_data: bool,
    profiled: bool,
) -> None:
    recipe = read_recipe(path, overrides)
    if ranks is not None and ranks < 1:
        raise InputError(f"--ranks is {ranks}; it must be at least 1")
    if world is not None and ranks not in (None, world.size):
        raise InputError(f"--ranks is {ranks}, but the launcher started {world.size}; leave --ranks out")
    if world is not None:
        check_address(world)
        check_devices(world)
    size = world.size if world else ranks or local_devices() or 1
    if world is None and 0 < local_devices() < size:
        raise InputError(
            f"--ranks is {size} and this node has {local_devices()} GPU(s); start one rank a GPU, "
            "or hide the GPUs with CUDA_VISIBLE_DEVICES= to train on the CPU"
        )
    plan = make_plan(recipe, size, may_change_data=may_change_data)
    if world is None and size > 1:
        flags = {
            "--trust-checkpoint": trusted, "--allow-data-change": may_change_data, "--profile": profiled,
        }  # fmt: skip
        launch(["pretrain", *(flag for flag, given in flags.items() if given), path, *overrides], size)
    else:
        # Here alone: a launcher, and a recipe that is refused, need not wait for torch.
        from pipeline.training.rank import train

        train(plan, world or World.alone(), trusted=trusted, profiled=profiled)
