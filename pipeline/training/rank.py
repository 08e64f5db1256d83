"""One rank's training, from joining the others to leaving them.

In: a checked plan, a place among the ranks. Out: `RUN/` with `recipe.yaml`, `metrics.jsonl`, `checkpoints/`.
What always holds: one process a folder trains; the first rank chooses the checkpoint that all resume from; a
rank that loses another ends and says so.
"""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from pipeline.errors import BertpipeError, RunFailed, first_line
from pipeline.progress import say
from pipeline.tracking.run_page import ONE_NODE
from pipeline.tracking.tracker import Tracker, node_name, open_tracker
from pipeline.training.heartbeat import beating
from pipeline.training.joining import join_world, leave_world
from pipeline.training.loop import Training
from pipeline.training.metrics import open_log
from pipeline.training.plan import Plan
from pipeline.training.record import run_record
from pipeline.training.run_folder import RunFolder, note_end, open_folder
from pipeline.training.signals import watching
from pipeline.training.start import resumed_step
from pipeline.training.step_profile import open_profile
from pipeline.training.watchdog import Watchdog
from pipeline.training.world import (
    World,
    device_of,
    is_lost_peer,
    on_first_rank,
    share_threads,
)


def train(plan: Plan, world: World, *, trusted: bool, profiled: bool) -> None:
    """Train or resume a plan's run as one of its ranks.

    trusted: resume from a checkpoint although another user owns it
    profiled: watch some steps and write `RUN/profile/`

    Raises Stopped after a signal, RunFailed when the machine fails.
    """
    run_path = Path(plan.recipe.run)
    share_threads(world)
    join_world(world)
    device = device_of(world)
    try:
        folder = on_first_rank(
            world,
            device,
            lambda: open_folder(plan.recipe, plan.history, plan.vocabulary, plan.settings, world),
        )
        # The folder is held until the end: nobody else trains in it.
        with _holding(folder, world), beating(run_path, world) as pulse:
            step = resumed_step(run_path, world, trusted=trusted)
            watchdog = Watchdog(run_path, world, seconds=plan.recipe.guards.stall_seconds)
            profile = open_profile(plan, world, device, asked=profiled, steps_left=plan.recipe.steps - step)
            training = Training(plan, world, watchdog, pulse, profile, step=step, trusted=trusted)
            if world.is_first:
                _announce(plan, step)
            with (
                watching() as request,
                watchdog,
                open_log(run_path, after=step, is_first=world.is_first) as log,
                _tracker(plan, world),
                closing(profile),
            ):
                training.run(log, request)
    except RuntimeError as error:
        if lost := _lost_peer(error, world):
            raise lost from error
        raise
    finally:
        leave_world()


@contextmanager
def _holding(folder: RunFolder | None, world: World) -> Iterator[None]:
    """Note in the folder how the block ended, then let go of it; the ranks but the first hold none."""
    code, said = 1, ""
    try:
        yield
        code = 0
    except BaseException as error:
        known = _lost_peer(error, world) or error
        code = known.exit_code if isinstance(known, BertpipeError) else 1
        said = first_line(known)
        raise
    finally:
        if folder is not None:
            note_end(folder.path, code, said)
            folder.lock.close()


def _lost_peer(error: BaseException, world: World) -> RunFailed | None:
    """What a collective's error says where another rank is gone; None for other errors."""
    if world.size == 1 or not isinstance(error, RuntimeError) or not is_lost_peer(error):
        return None
    return RunFailed(f"rank {world.rank} lost another rank: {first_line(error)}")


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
