"""A rank that trains a few odd-shaped tensors through the engine, at one ZeRO stage after the other.

`python optimizer_ranks.py FOLDER RANK RANKS PORT`: FOLDER/asked.json lists what to train; the first rank writes
FOLDER/found-<number>.pt for each. A step's gradient is given (`gradient_of`), so that a formula needs no network.
"""

import json
from pathlib import Path
from typing import Any

import torch

from pipeline.recipe import Recipe, recipe_from
from pipeline.training.engine import Engine
from pipeline.training.joining import join_world, leave_world
from pipeline.training.optimizer import make_optimizer
from pipeline.training.settings import ZeroSettings, read_settings
from pipeline.training.uncompiled import without_compiler
from pipeline.training.world import World
from workshop.engines import save
from workshop.started_ranks import asked_for

STEPS = 10
RATE = 0.01
CLIPPING = 3.0
# What no number of ranks divides, what is smaller than a partition, and what is as long as all the rest together.
SHAPES = {
    "long.weight": (37, 5),
    "square.weight": (3, 3),
    "zero.weight": (4, 3),
    "one.weight": (1, 1),
    "long.bias": (37,),
    "norm.weight": (5,),
}


class Tensors(torch.nn.Module):
    """Parameters whose gradients are what it is called with."""

    def __init__(self) -> None:
        super().__init__()
        for name, start in starting_weights().items():
            self.register_parameter(name.replace(".", "_"), torch.nn.Parameter(start))

    def forward(self, *gradients: torch.Tensor) -> torch.Tensor:
        both = zip(self.parameters(), gradients, strict=True)
        return torch.stack([(p.float() * gradient).sum() for p, gradient in both]).sum()


def starting_weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    # Representable in bf16, which halves begin as.
    return {
        name: torch.randn(shape, generator=generator).bfloat16().float() * (name != "zero.weight")
        for name, shape in SHAPES.items()
    }


def gradient_of(step: int, rank: int) -> list[torch.Tensor]:
    """A rank's part of a step's gradient, of very different lengths."""
    generator = torch.Generator().manual_seed(1000 * step + rank)
    return [
        torch.randn(shape, generator=generator) * 10.0 ** (index - 2)
        for index, shape in enumerate(SHAPES.values())
    ]


def _engine(asked: dict[str, Any], recipe: Recipe, world: World) -> Engine:
    network = Tensors()
    name = recipe.phases[0].optimizer
    settings = read_settings(asked["deepspeed"])
    # Two tensors to a sub-group, and no tensor left whole.
    small = {"stage3_param_persistence_threshold": 1, "sub_group_size": 60} if settings.stage == 3 else {}
    zero = settings.values["zero_optimization"] | small
    settings = ZeroSettings(path=settings.path, values=settings.values | {"zero_optimization": zero})
    with without_compiler():
        return Engine(
            network,
            make_optimizer(name, network, recipe),
            settings,
            precision=asked.get("precision", "fp32"),
            micro_batch=1,
            accumulation=1,
            gradient_clipping=CLIPPING,
            world=world,
        )


def main(folder: Path, world: World) -> None:
    join_world(world)
    for number, asked in enumerate(json.loads((folder / "asked.json").read_text())):
        phase = {"shards": "S", "sequence_length": 64, "global_batch": 8, "micro_batch": 8, "steps": STEPS}
        phase |= {"learning_rate": RATE, "optimizer": asked["optimizer"]}
        recipe = recipe_from({"run": "R", "phases": [phase]} | asked.get("recipe", {}), "asked")
        weights = []
        for resumed in (False, True):
            engine = _engine(asked, recipe, world)
            if resumed:
                engine.load(folder / str(number))
            for step in range(STEPS // 2 if resumed else 0, STEPS):
                if step == STEPS // 2 and not resumed:
                    save(engine, folder / str(number))
                engine.backward(engine.network(*gradient_of(step, world.rank)), last=True)
                engine.step(RATE)
            weights.append(engine.fp32_weights())
            engine.close()
        if world.is_first:
            torch.save(weights, folder / f"found-{number}.pt")
    leave_world()


if __name__ == "__main__":
    main(*asked_for())
