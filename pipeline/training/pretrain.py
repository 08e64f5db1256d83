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
from pathlib import Path

from pipeline.errors import Echo, InputError, RunFailed
from pipeline.processes import die_with_parent
from pipeline.progress import say
from pipeline.recipe import read_recipe
from pipeline.training.checkpoints import newest_whole, refuse_foreign
from pipeline.training.engine import join_world, leave_world
from pipeline.training.launch import PARENT, launch
from pipeline.training.loop import Training, checkpoint_at
from pipeline.training.metrics import open_log
from pipeline.training.plan import Plan, make_plan
from pipeline.training.run_folder import RECIPE, VOCABULARY, open_folder
from pipeline.training.signals import watching
from pipeline.training.tracking import RunRecord, open_tracker
from pipeline.training.world import (
    World,
    check_address,
    check_devices,
    device_of,
    is_lost_peer,
    local_devices,
    on_first_rank,
    read_world,
    share_threads,
    sum_over_ranks,
)


def run(path: str, overrides: Sequence[str], ranks: int | None, *, trusted: bool = False) -> None:
    """Train or resume the recipe's run; see the module's promises.

    trusted: resume from a checkpoint although another user owns it

    Raises InputError on what cannot be trained, Stopped after a signal, RunFailed when the machine fails.
    """
    if PARENT in os.environ:
        die_with_parent(int(os.environ[PARENT]))
    world = read_world(os.environ)
    try:
        _run(path, overrides, ranks, world, trusted)
    except InputError as error:
        if world is None or world.is_first:
            raise
        if world.local_rank:
            raise Echo(error.exit_code) from None
        # A node of its own may see something else: a disk that isn't mounted there.
        raise InputError(f"rank {world.rank}: {error}") from None


def _run(path: str, overrides: Sequence[str], ranks: int | None, world: World | None, trusted: bool) -> None:
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
    plan = make_plan(recipe, size)
    if world is None and size > 1:
        launch(["pretrain", *(["--trust-checkpoint"] if trusted else []), path, *overrides], size)
    else:
        train(plan, world or World.alone(), trusted=trusted)


def train(plan: Plan, world: World, *, trusted: bool) -> None:
    """One rank's training, from joining the others to leaving them."""
    run_path = Path(plan.recipe.run)
    share_threads(world)
    join_world(world)
    device = device_of(world)
    try:
        # Held until the end: nobody else trains in this folder.
        folder = on_first_rank(
            world,
            device,
            lambda: open_folder(plan.recipe, plan.manifests, plan.vocabulary, plan.settings, world),
        )
        training = Training(plan, world, checkpoint_at(run_path, _resumed_step(run_path, world, trusted)))
        if world.is_first and training.step:
            say(f"resuming {run_path} after step {training.step} of {plan.recipe.steps}")
        with (
            watching() as request,
            open_log(run_path, after=training.step, is_first=world.is_first) as log,
            open_tracker(plan.recipe.tracking, run_path, _record(plan), is_first=world.is_first) as tracker,
        ):
            training.run(log, tracker, request)
        if folder is not None:
            folder.lock.close()
    except RuntimeError as error:
        if world.size > 1 and is_lost_peer(error):
            reason = (str(error).splitlines() or ["no reason given"])[0]
            raise RunFailed(f"rank {world.rank} lost another rank: {reason}") from error
        raise
    finally:
        leave_world()


def _resumed_step(run_path: Path, world: World, trusted: bool) -> int:
    """The step to go on after. The first rank chooses for all: a shared disk may show others something else."""

    def choose() -> int:
        found = newest_whole(run_path)
        if found is None:
            return 0
        folder, info = found
        refuse_foreign(folder, trusted=trusted)
        return info.step

    chosen = on_first_rank(world, device_of(world), choose)
    (step,) = sum_over_ranks([float(chosen or 0)], device_of(world))
    return int(step)


def _record(plan: Plan) -> RunRecord:
    tags = {f"bertpipe.shards.{index}": manifest.hash for index, manifest in enumerate(plan.manifests)}
    tags["bertpipe.vocabulary"] = plan.vocabulary.hash
    tags["bertpipe.corpus"] = str(plan.manifests[0].corpus.get("fingerprint"))
    run_path = Path(plan.recipe.run)
    return RunRecord(
        parameters=plan.recipe.as_dict(),
        tags=tags,
        artefacts=(run_path / RECIPE, run_path / VOCABULARY),
    )
