"""One rank's training, from joining the others to leaving them.

In: a checked plan, a place among the ranks. Out: `RUN/` with `recipe.yaml`, `metrics.jsonl`, `checkpoints/`.
What always holds: one process a folder trains; the first rank chooses the checkpoint that all resume from; a
rank that loses another ends and says so.
"""

from pathlib import Path

from pipeline.errors import RunFailed
from pipeline.progress import say
from pipeline.tracking.run_page import ONE_NODE
from pipeline.tracking.tracker import Tracker, node_name, open_tracker
from pipeline.training.checkpoints import newest_whole, refuse_foreign
from pipeline.training.engine import join_world, leave_world
from pipeline.training.loop import Training, checkpoint_at
from pipeline.training.metrics import open_log
from pipeline.training.plan import Plan
from pipeline.training.record import run_record
from pipeline.training.run_folder import open_folder
from pipeline.training.signals import watching
from pipeline.training.world import (
    World,
    device_of,
    is_lost_peer,
    on_first_rank,
    share_threads,
    sum_over_ranks,
)


def train(plan: Plan, world: World, *, trusted: bool) -> None:
    """Train or resume a plan's run as one of its ranks.

    trusted: resume from a checkpoint although another user owns it

    Raises Stopped after a signal, RunFailed when the machine fails.
    """
    run_path = Path(plan.recipe.run)
    share_threads(world)
    join_world(world)
    device = device_of(world)
    try:
        # Held until the end: nobody else trains in this folder.
        folder = on_first_rank(
            world,
            device,
            lambda: open_folder(plan.recipe, plan.history, plan.vocabulary, plan.settings, world),
        )
        training = Training(plan, world, checkpoint_at(run_path, _resumed_step(run_path, world, trusted)))
        if world.is_first:
            _announce(plan, training.step)
        with (
            watching() as request,
            open_log(run_path, after=training.step, is_first=world.is_first) as log,
            _tracker(plan, world),
        ):
            training.run(log, request)
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


def _announce(plan: Plan, step: int) -> None:
    if step:
        say(f"resuming {plan.recipe.run} after step {step} of {plan.recipe.steps}")
    if plan.history.changes_now:
        say(f"warning: the data changes {plan.history.sentences[-1]}")
    for line in plan.notes:
        say(line)


def _tracker(plan: Plan, world: World) -> Tracker:
    """The first rank's sends what the run has on record; the first of each node watches it."""
    return open_tracker(
        plan.recipe.tracking,
        Path(plan.recipe.run),
        run_record(plan),
        is_first=world.is_first,
        samples=world.local_rank == 0,
        node=ONE_NODE if world.size == world.local_size else node_name(),
    )
