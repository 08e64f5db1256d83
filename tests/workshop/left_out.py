"""Take and leave out updates under each configuration, on one rank; prints by configuration what was found, as JSON."""

import json
from typing import Any

import torch

from model.bert import BertForPretraining
from model.config import preset
from pipeline.recipe import recipe_from
from pipeline.training.engine import Engine
from pipeline.training.joining import join_world, leave_world
from pipeline.training.optimizer import make_optimizer
from pipeline.training.probe import probe_input
from pipeline.training.settings import read_settings
from pipeline.training.state_files import Copies
from pipeline.training.world import World
from workshop.recipes import small_recipe

CONFIGURATIONS = [
    (name, precision, "adamw")
    for name in ("zero0", "zero1", "zero2", "zero3", "zero2_offload", "zero3_offload")
    for precision in ("fp32", "bf16")
    if (name, precision) != ("zero0", "bf16")
] + [(name, "fp32", "lamb") for name in ("zero0", "zero1", "zero3")]
RECIPE = recipe_from(small_recipe("run", "shards"), "small")
CONFIG = preset("tiny", vocab_size=100, hidden_size=64, intermediate_size=128)


def backward(engine: Engine, factor: float) -> None:
    given = {
        name: value if isinstance(value, int) else torch.as_tensor(value)
        for name, value in probe_input(CONFIG).items()
    }
    probed = given.pop("probed_P")
    sums = engine.network(
        **given,
        masked_positions_M=probed,
        masked_labels_M=torch.arange(len(probed)),
        next_labels_B=torch.tensor([0, 1]),
    )
    engine.backward(sums.mlm_sum * factor, last=True)


def state(engine: Engine) -> dict[str, Any]:
    return {"weights": engine.fp32_weights(), "optimizer": Copies().of(engine._engine.optimizer.state_dict())}


def same(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, torch.Tensor):
        return torch.equal(ours, theirs)
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(same(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, list | tuple):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    # The rate is set for each step; objects are DeepSpeed's own.
    return isinstance(ours, float) or type(ours) is type(theirs)


def look(name: str, precision: str, optimizer: str, world: World) -> dict[str, Any]:
    torch.manual_seed(0)
    network = BertForPretraining(CONFIG)
    settings = read_settings(name)
    engine = Engine(
        network,
        make_optimizer(optimizer, network, RECIPE, cpu_adam=settings.wants_cpu_adam),
        settings,
        precision=precision,
        micro_batch=2,
        accumulation=1,
        gradient_clipping=1.0,
        world=world,
    )
    found: dict[str, Any] = {}
    for _ in range(2):
        backward(engine, 1.0)
        found["norm"] = engine.step(1e-2)
    before = state(engine)
    backward(engine, 3.0)
    found["norm of one left out"] = engine.step(1e-2, update=False)
    found["left out"] = same(before, state(engine))
    for kind in ("nan", "inf"):
        backward(engine, float(kind))
        found[f"norm of {kind}"] = str(engine.step(1e-2))
        found[kind] = same(before, state(engine))
    backward(engine, 1.0)
    found["norm after"] = engine.step(1e-2)
    found["moves again"] = not same(before["weights"], engine.fp32_weights())
    engine.close()
    return found


def main() -> None:
    world = World.alone()
    join_world(world)
    found = {" ".join(configuration): look(*configuration, world) for configuration in CONFIGURATIONS}
    print(json.dumps(found))
    leave_world()


if __name__ == "__main__":
    main()
