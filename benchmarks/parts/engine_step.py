"""The step of a run of `recipes/large.yaml`, on one rank, with another network and other pairs.

In: a network's shape, micro-batches. Out: steps of the real engine. What always holds: a step is what a run's is: bf16
weights with fp32 master weights and moments, ZeRO 1, clipping, the recipe's AdamW, gradients summed in fp32; the
micro-batch travels to the device in it, and the host reads the step's figures and norm.

Example:
    side = EngineStep(preset("large", vocab_size=30522), "cuda", seed=1)
    side.take(micro_batch, 0)
"""

from pathlib import Path

import torch
import torch.distributed as dist

from model.bert import BertForPretraining
from model.config import ModelConfig
from pipeline.batches.loader import StepBatches
from pipeline.batches.microbatch import MicroBatch
from pipeline.recipe import read_recipe
from pipeline.training.engine import Engine
from pipeline.training.joining import join_world
from pipeline.training.optimizer import make_optimizer
from pipeline.training.settings import read_settings
from pipeline.training.step import Turn, forward_and_backward
from pipeline.training.uncompiled import without_compiler
from pipeline.training.world import World, device_of, sum_over_ranks

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "large.yaml"
RATE = 1e-4


class EngineStep:
    """An engine, and the steps it takes."""

    def __init__(self, shape: ModelConfig, device: str, *, seed: int) -> None:
        world = World.alone()
        if device_of(world).partition(":")[0] != device.partition(":")[0]:
            raise SystemExit(
                f"the engine trains on {device_of(world)} here, not on {device}; leave it out of --sides"
            )
        if not dist.is_initialized():
            join_world(world)
        recipe, self._shape, self._seed = read_recipe(str(RECIPE)), shape, seed
        torch.manual_seed(seed)
        network = BertForPretraining(shape).train()
        with without_compiler():
            self._engine = Engine(
                network,
                make_optimizer("adamw", network, recipe),
                read_settings(recipe.deepspeed),
                precision=recipe.precision,
                micro_batch=1,
                accumulation=1,
                gradient_clipping=recipe.gradient_clipping,
                world=world,
            )

    def take(self, pairs: MicroBatch, number: int) -> float:
        """A step on one micro-batch; its loss."""
        own = StepBatches(
            step=number,
            micro_batches=(pairs,),
            masked=pairs.masked,
            labelled=pairs.labelled,
            lost=0,
            wait_seconds=0.0,
        )
        turn = Turn(batches=own, masked=pairs.masked, labelled=pairs.labelled, lost=0)
        figures = forward_and_backward(
            self._engine, turn, model=self._shape, dropout_key=(self._seed, number, 0), alive=lambda: None
        )
        mlm, nsp, *_ = sum_over_ranks(figures, self._engine.device)
        self._engine.step(RATE)
        return mlm / pairs.masked + nsp / pairs.labelled

    def close(self) -> None:
        """Let go of the engine's memory."""
        self._engine.close()
