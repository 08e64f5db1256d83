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

from pipeline import counter_random
from pipeline.errors import InputError
from pipeline.processes import die_with_parent
from pipeline.progress import say
from pipeline.recipe import read_recipe
from pipeline.training.checkpoints import newest_whole
from pipeline.training.engine import Engine, join_world, leave_world
from pipeline.training.launch import PARENT, launch
from pipeline.training.loop import Training, checkpoint_at
from pipeline.training.metrics import open_log
from pipeline.training.optimizer import make_optimizer
from pipeline.training.plan import Plan, make_plan
from pipeline.training.run_folder import RECIPE, open_folder
from pipeline.training.signals import watching
from pipeline.training.tracking import RunRecord, open_tracker
from pipeline.training.world import World, device_of, local_devices, read_world, share_threads, sum_over_ranks

_WEIGHTS = int.from_bytes(b"weights")


def run(path: str, overrides: Sequence[str], ranks: int | None) -> None:
    """Train or resume the recipe's run; see the module's promises.

    Raises InputError on what cannot be trained, Stopped after a signal, RunFailed when the machine fails.
    """
    if PARENT in os.environ:
        die_with_parent(int(os.environ[PARENT]))
    recipe = read_recipe(path, overrides)
    world = read_world(os.environ)
    if ranks is not None and ranks < 1:
        raise InputError(f"--ranks is {ranks}; it must be at least 1")
    if world is not None and ranks not in (None, world.size):
        raise InputError(f"--ranks is {ranks}, but the launcher started {world.size}; leave --ranks out")
    size = world.size if world else ranks or local_devices() or 1
    plan = make_plan(recipe, size)
    if world is None and size > 1:
        launch(["pretrain", path, *overrides], size)
    else:
        train(plan, world or World.alone())


def train(plan: Plan, world: World) -> None:
    """One rank's training, from joining the others to leaving them."""
    run_path = Path(plan.recipe.run)
    share_threads(world)
    join_world(world)
    try:
        # Held until the end: nobody else trains in this folder.
        folder = open_folder(plan.recipe, plan.manifests, world) if world.is_first else None
        engine = _make_engine(plan, world)
        training = Training(plan, world, engine, checkpoint_at(run_path, _resumed_step(run_path, world)))
        if world.is_first and training.step:
            say(f"resuming {run_path} after step {training.step} of {plan.recipe.steps}")
        with (
            watching() as request,
            open_log(run_path, after=training.step, is_first=world.is_first) as log,
            open_tracker(
                plan.recipe.tracking, run_path, _record(plan), log.kept, is_first=world.is_first
            ) as tracker,
        ):
            training.run(log, tracker, request)
        if folder is not None:
            folder.lock.close()
    finally:
        leave_world()


def _resumed_step(run_path: Path, world: World) -> int:
    """The step to go on after. The first rank chooses for all: a shared disk may show others something else."""
    found = newest_whole(run_path) if world.is_first else None
    (step,) = sum_over_ranks([float(found[1].step) if found else 0.0], device_of(world))
    return int(step)


def _make_engine(plan: Plan, world: World) -> Engine:
    import torch

    from model.bert import BertForPretraining

    # The same weights on every rank.
    torch.manual_seed(counter_random.key(_WEIGHTS, plan.recipe.seed) >> 1)
    network = BertForPretraining(plan.model)
    first = plan.recipe.phases[0]
    return Engine(
        network,
        make_optimizer(network, plan.recipe.adamw, first.learning_rate),
        plan.settings,
        micro_batch=first.micro_batch,
        gradient_clipping=plan.recipe.gradient_clipping,
        world=world,
    )


def _record(plan: Plan) -> RunRecord:
    tags = {f"bertpipe.shards.{index}": manifest.hash for index, manifest in enumerate(plan.manifests)}
    tags["bertpipe.vocabulary"] = plan.vocabulary.hash
    tags["bertpipe.corpus"] = str(plan.manifests[0].corpus.get("fingerprint"))
    run_path = Path(plan.recipe.run)
    return RunRecord(
        parameters=plan.recipe.as_dict(),
        tags=tags,
        artefacts=(run_path / RECIPE, Path(plan.recipe.phases[0].shards) / "vocab"),
    )
