"""An engine at the step where training goes on: a new one, a checkpoint's, or the next phase's.

In: a plan, this rank's place, maybe a checkpoint. Out: an `Engine` whose weights and optimizer state are those of
that step. What always holds: a phase that takes another optimizer than the one before begins with the weights and
fresh optimizer state, in a run that goes straight on as in one that is resumed there, since both come through the
checkpoint at the switch.

Example:
    engine = start(plan, world, checkpoint=None)
"""

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline import counter_random
from pipeline.training.checkpoints import read_checkpoint, read_weights
from pipeline.training.engine import Engine
from pipeline.training.ops import load_needed
from pipeline.training.optimizer import make_optimizer
from pipeline.training.plan import Plan
from pipeline.training.world import World

if TYPE_CHECKING:
    import torch

_WEIGHTS = int.from_bytes(b"weights")


def start(plan: Plan, world: World, checkpoint: Path | None) -> Engine:
    """The engine for the step after `checkpoint`, or for the run's first; every rank calls it."""
    if checkpoint is None:
        return _engine(plan, world, phase=0)
    step = read_checkpoint(checkpoint).step
    next_phase = plan.recipe.phase_of(step)
    if plan.switches_optimizer(step):
        return _engine(plan, world, phase=next_phase, weights=read_weights(checkpoint))
    engine = _engine(plan, world, phase=next_phase)
    engine.load(checkpoint)
    return engine


def _engine(
    plan: Plan, world: World, *, phase: int, weights: "dict[str, torch.Tensor] | None" = None
) -> Engine:
    import torch

    from model.bert import BertForPretraining
    from pipeline.training.uncompiled import without_compiler

    recipe = plan.recipe
    load_needed(plan.settings)
    # The same weights on every rank.
    torch.manual_seed(counter_random.key(_WEIGHTS, recipe.seed) >> 1)
    network = BertForPretraining(plan.model, recompute=recipe.activation_checkpointing == "full")
    if weights is not None:
        network.load_state_dict(weights)
    with without_compiler():
        engine = Engine(
            network,
            make_optimizer(
                recipe.phases[phase].optimizer, network, recipe, cpu_adam=plan.settings.wants_cpu_adam
            ),
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
