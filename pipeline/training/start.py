"""An engine at the step where training goes on: a new one, a checkpoint's, or the next phase's.

In: a plan, this rank's place, maybe a checkpoint. Out: an `Engine` whose weights and optimizer state are those of
that step, bit for bit, also where other ranks, another ZeRO stage or another DeepSpeed configuration wrote the
checkpoint (see `elastic`). What always holds: a phase that takes another optimizer than the one before begins with
the weights and fresh optimizer state, in a run that goes straight on as in one that is resumed there, since both come
through the checkpoint at the switch.

Example:
    engine = start(plan, world, checkpoint=None)
"""

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import counter_random
from pipeline.progress import say
from pipeline.training import elastic
from pipeline.training.checkpoints import (
    FOLDER,
    CheckpointInfo,
    name_of,
    newest_whole,
    read_checkpoint,
    read_weights,
    refuse_foreign,
)
from pipeline.training.engine import Engine
from pipeline.training.ops import load_needed
from pipeline.training.optimizer import make_optimizer
from pipeline.training.plan import Plan
from pipeline.training.settings import ZeroSettings
from pipeline.training.world import World, device_of, on_first_rank, sum_over_ranks

if TYPE_CHECKING:
    import torch

_WEIGHTS = int.from_bytes(b"weights")


def seed_weights(seed: int) -> None:
    """Have the network that is made next begin with the weights of a run with this seed."""
    import torch

    torch.manual_seed(counter_random.key(_WEIGHTS, seed) >> 1)


def resumed_step(run: Path, world: World, *, trusted: bool) -> int:
    """The step to go on after: that of the newest whole checkpoint, 0 without one; every rank calls it.

    The first rank chooses for all: a shared disk may show others something else.
    """

    def choose() -> int:
        found = newest_whole(run)
        if found is None:
            return 0
        folder, info = found
        refuse_foreign(folder, trusted=trusted)
        return info.step

    chosen = on_first_rank(world, device_of(world), choose)
    (step,) = sum_over_ranks([float(chosen or 0)], device_of(world))
    return int(step)


def checkpoint_at(run: Path, step: int) -> Path | None:
    """The checkpoint of `step`; None for step 0, where there is none yet."""
    return run / FOLDER / name_of(step) if step else None


def start(plan: Plan, world: World, checkpoint: Path | None) -> Engine:
    """The engine for the step after `checkpoint`, or for the run's first; every rank calls it."""
    if checkpoint is None:
        return _engine(plan, world, phase=0)
    info = read_checkpoint(checkpoint)
    step = info.step
    next_phase = plan.recipe.phase_of(step)
    if plan.switches_optimizer(step):
        return _engine(plan, world, phase=next_phase, weights=read_weights(checkpoint))
    engine = _engine(plan, world, phase=next_phase)
    changes = elastic.changes(info, plan.settings, world.size)
    if changes and world.is_first:
        converting = ": converting the optimizer's state" if info.zero_stage else ""
        say(f"resuming {plan.recipe.run} after step {step} {' '.join(changes)}{converting}")
    if changes and elastic.is_divided(info, plan.settings):
        elastic.load_elsewhere(engine, checkpoint, info, _plain_order(plan, next_phase, info), world)
    else:
        engine.load(checkpoint)
    return engine


def _plain_order(plan: Plan, phase: int, info: CheckpointInfo) -> list[str]:
    """The weights' names in the order in which stage 0's optimizer numbers them."""
    import torch

    from model.bert import BertForPretraining

    with torch.device("meta"):
        network = BertForPretraining(plan.model)
    names = {parameter: name for name, parameter in network.named_parameters()}
    optimizer = _optimizer(plan, network, phase, ZeroSettings(path="", values=info.deepspeed))
    return [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]


def _optimizer(
    plan: Plan, network: "torch.nn.Module", phase: int, settings: ZeroSettings
) -> "torch.optim.Optimizer":
    recipe = plan.recipe
    return make_optimizer(recipe.phases[phase].optimizer, network, recipe, cpu_adam=settings.wants_cpu_adam)


def _engine(
    plan: Plan, world: World, *, phase: int, weights: "dict[str, torch.Tensor] | None" = None
) -> Engine:

    from model.bert import BertForPretraining
    from pipeline.training.uncompiled import without_compiler

    recipe = plan.recipe
    load_needed(plan.settings)
    # The same weights on every rank.
    seed_weights(recipe.seed)
    network = BertForPretraining(plan.model, recompute=recipe.activation_checkpointing)
    if recipe.compile:
        network.compile_layers()
    if weights is not None:
        network.load_state_dict(weights)
    with without_compiler():
        engine = Engine(
            network,
            _optimizer(plan, network, phase, plan.settings),
            plan.settings,
            precision=recipe.precision,
            # One engine serves all phases with its optimizer: only the largest counts matter to DeepSpeed.
            micro_batch=max(each.micro_batch for each in recipe.phases),
            accumulation=max(
                each.global_batch // world.size // each.micro_batch or 1 for each in recipe.phases
            ),
            gradient_clipping=recipe.gradient_clipping,
            world=world,
        )
    if weights is not None and recipe.precision != "fp32":
        engine.put_fp32_weights(weights)
    return engine
