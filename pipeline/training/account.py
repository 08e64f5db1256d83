"""What a run says of a step, and of a checkpoint: the names of `metrics.jsonl` and `checkpoint.json`.

In: sums over a step, a plan, where the run stands. Out: plain values. What always holds: nothing is computed here that
training depends on.

Example:
    log.append(step_metrics(standing, sums, objective, …))
"""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline import lineage, storage
from pipeline.objectives import Objective
from pipeline.tracking.server_run import TRACKING
from pipeline.training.checkpoints import CheckpointInfo
from pipeline.training.engine import Engine
from pipeline.training.plan import Plan
from pipeline.training.schedule import learning_rate
from pipeline.training.standing import Standing
from pipeline.training.step import StepSums
from pipeline.training.world import World


@dataclass(frozen=True, kw_only=True)
class Course:
    """How a step went, besides what was learned.

    epoch: of the phase's data, gone through when it was done
    seconds: that it took; saving_seconds: that it was held up before by a checkpoint
    matmul_rate: floating-point operations a second that all ranks' devices do of large matrix products (`matrix_rate`)
    lost: pairs of the step that damaged blocks held
    ranks: how many took it
    """

    epoch: float
    seconds: float
    saving_seconds: float
    matmul_rate: float
    lost: int
    ranks: int


def step_metrics(
    standing: Standing, sums: StepSums, objective: Objective, *, rate: float, norm: float, course: Course
) -> dict[str, Any]:
    """A line of `metrics.jsonl` (the design's names).

    rate: the learning rate; norm: of the gradient, before clipping
    """
    seconds = course.seconds
    metrics = {
        "step": standing.step,
        "epoch": round(course.epoch, 6),
        "samples": standing.samples,
        "tokens": standing.tokens,
        "loss": sums.loss,
        **objective.figures(
            token={"loss": sums.token_loss, "accuracy": sums.token_accuracy},
            pair={"loss": sums.pair_loss, "accuracy": sums.pair_accuracy},
        ),
        "learning_rate": rate,
        "gradient_norm": norm,
        "sequences_per_second": sums.sequences / seconds,
        "tokens_per_second": sums.tokens / seconds,
        # The model's operations a second, of those that the devices were measured to do.
        "mfu": sums.flops / seconds / course.matmul_rate,
        "matmul_flops_per_second": course.matmul_rate,
        "data_wait_share": min(1.0, sums.wait_seconds / course.ranks / seconds),
        # Seconds since 1970: a step that a tracking server gets late still lands at its time.
        "time": round(time.time(), 3),
        "samples_lost": course.lost,
    }
    if course.saving_seconds:
        metrics["saving_seconds"] = course.saving_seconds
    if standing.branch:
        metrics["branch"] = standing.branch
    return metrics


def checkpoint_info(plan: Plan, engine: Engine, standing: Standing, world: World) -> CheckpointInfo:
    """What a checkpoint says of the run, its files not yet listed."""
    recipe = plan.recipe
    phase = recipe.phase_of(standing.step)
    done = standing.step - plan.first_step(phase)
    return CheckpointInfo(
        step=standing.step,
        samples=standing.samples,
        tokens=standing.tokens,
        held_out=standing.held_out,
        world_size=world.size,
        zero_stage=engine.stage,
        deepspeed=plan.settings.values,
        recipe=recipe.as_dict(),
        model=asdict(plan.model),
        vocabulary=plan.sources[0][0].manifest.vocabulary,
        shards=list(plan.history.shards),
        data_changes=list(plan.history.data_changes),
        position={"phase": phase, "step": done + standing.moved(phase)},
        learning_rate=learning_rate(
            recipe.phases[recipe.phase_of(standing.step - 1)], _last_step(plan, standing)
        ),
        branch=standing.branch,
        moves=[dict(move) for move in standing.moves],
        recent_losses=list(standing.recent_losses),
        skipped_in_a_row=standing.skipped_in_a_row,
        tracking=_tracking(Path(recipe.run)) if world.is_first else {},
        versions=lineage.library_versions("torch", "deepspeed"),
    )


def _tracking(run: Path) -> dict[str, Any]:
    path = str(run / TRACKING)
    return dict(storage.read_json(path)) if storage.exists(path) else {}


def _last_step(plan: Plan, standing: Standing) -> int:
    """The last step done, counted from its phase's first."""
    return standing.step - 1 - plan.first_step(plan.recipe.phase_of(standing.step - 1))
