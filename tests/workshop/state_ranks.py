"""A rank that trains a few weights, writes them, or takes them up elsewhere: `python state_ranks.py …` for each rank.

In: a job as JSON: this rank's world, a folder, cases to write and pairs of cases to take up. Out: in the folder, each
case's checkpoint and its state as DeepSpeed's own functions gather it, and what a pair's differs in. A case is
"<configuration> <precision> <optimizer>".
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch

from pipeline.recipe import recipe_from
from pipeline.training.checkpoints import CheckpointInfo
from pipeline.training.elastic import load_elsewhere
from pipeline.training.engine import Engine
from pipeline.training.joining import join_world, leave_world
from pipeline.training.optimizer import make_optimizer
from pipeline.training.settings import read_settings
from pipeline.training.uncompiled import AdamW as TorchAdamW
from pipeline.training.uncompiled import without_compiler
from pipeline.training.world import World
from workshop.engines import save
from workshop.recipes import small_recipe

STEPS = 3
RECIPE = recipe_from(small_recipe("run", "shards") | {"adamw": {"weight_decay": 0.1}}, "small")
RATE = 0.01


class Few(torch.nn.Module):
    """Weights of sizes that no number of ranks divides, one of them smaller than any."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(7, 5)
        self.norm = torch.nn.LayerNorm(5)
        self.last = torch.nn.Linear(5, 1)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.last(torch.tanh(self.norm(self.first(inputs))))
        return answer


def network() -> Few:
    torch.manual_seed(5)
    return Few()


def optimizer_over(few: Few, name: str) -> torch.optim.Optimizer:
    if name == "a group each":
        groups = [{"params": [each], "weight_decay": 0.1 * each.dim()} for each in few.parameters()]
        return TorchAdamW(groups, lr=0.0, fused=True)
    return make_optimizer(name, few, RECIPE)


def engine_of(case: str, world: World) -> Engine:
    configuration, precision, name = case.split(maxsplit=2)
    few = network()
    with without_compiler():
        return Engine(
            few,
            optimizer_over(few, name),
            read_settings(configuration),
            precision=precision,
            micro_batch=4,
            accumulation=1,
            gradient_clipping=1.0,
            world=world,
        )


def plain_order(case: str) -> list[str]:
    few = network()
    names = {parameter: name for name, parameter in few.named_parameters()}
    groups = optimizer_over(few, case.split(maxsplit=2)[2]).param_groups
    return [names[parameter] for group in groups for parameter in group["params"]]


def train(engine: Engine, step: int) -> None:
    """Every rank trains on the same, so that any number of them learns the same."""
    inputs = torch.randn(4, 7, generator=torch.Generator().manual_seed(step))
    answer = engine.network(inputs.to(next(iter(engine.network.parameters())).dtype))
    # Summed over the ranks, as the training's own is.
    world = engine._world.size
    engine.backward((answer.float() ** 2).mean() / world, last=True)
    engine.step(RATE)


def whole_state(engine: Engine) -> dict[str, Any]:
    """All weights and states, gathered by DeepSpeed's own functions, and the groups' constants by weight."""
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    inner, found = engine._engine, {}
    zero = inner.optimizer
    own = zero if engine.stage == 0 else zero.optimizer
    if engine.stage in (1, 2):
        # DeepSpeed links them after the first group of the first step, where the others have none yet.
        zero._hp_optimizer_states_linked = False
        zero._lazy_init_hp_params_optimizer_state()
    for name, parameter in inner.module.named_parameters():
        state: dict[str, Any] = {"computed": None, "fp32": None}
        if engine.stage == 0:
            state["fp32"] = parameter.detach()
        else:
            state["fp32"] = safe_get_full_fp32_param(parameter)
        for key in ("exp_avg", "exp_avg_sq"):
            state[key] = (
                own.state[parameter][key]
                if engine.stage == 0
                else safe_get_full_optimizer_state(parameter, key)
            )
        # What is computed with.
        if engine.stage < 3:
            state["computed"] = parameter.detach()
        found[name] = {key: value.cpu().clone() for key, value in state.items() if value is not None}
    steps = [float(state["step"]) for state in own.state.values() if "step" in state]
    objects = [
        id(state["step"]) for state in own.state.values() if isinstance(state.get("step"), torch.Tensor)
    ]
    found["steps"] = {"all": sorted(set(steps)), "shared": len(objects) != len(set(objects))}
    found["decays"] = [group["weight_decay"] for group in own.param_groups]
    return found


def differences(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """The names of what is not the same to the last bit."""
    found = [key for key in ("steps", "decays") if ours[key] != theirs[key]]
    for name in theirs.keys() - {"steps", "decays"}:
        for key in theirs[name].keys() & ours[name].keys():
            if not torch.equal(ours[name][key], theirs[name][key]):
                found.append(f"{name}.{key}")
        assert {"fp32", "exp_avg", "exp_avg_sq"} <= ours[name].keys()
    return sorted(found)


def write(case: str, folder: Path, world: World) -> None:
    engine = engine_of(case, world)
    for step in range(STEPS):
        train(engine, step)
    save(engine, folder / case)
    state = whole_state(engine)
    train(engine, STEPS)
    weights = engine.fp32_weights()
    if world.is_first:
        torch.save({"state": state, "after": weights}, folder / f"{case}.pt")
    engine.close()


def take_up(source: str, target: str, folder: Path, world: World) -> dict[str, Any]:
    engine = engine_of(target, world)
    info = CheckpointInfo(
        step=STEPS, samples=0, tokens=0, held_out={}, world_size=0, zero_stage=read_settings(source.split()[0]).stage,
        recipe={}, model={}, vocabulary={}, shards=[], versions={},
    )  # fmt: skip
    load_elsewhere(engine, folder / source, info, plain_order(source), world)
    state = whole_state(engine)
    train(engine, STEPS)
    weights = engine.fp32_weights()
    engine.close()
    if not world.is_first:
        return {}
    written = torch.load(folder / f"{source}.pt", weights_only=False)
    return {
        "differs": differences(state, written["state"]),
        "after": max(
            float((weights[name] - value).abs().max() / value.abs().max())
            for name, value in written["after"].items()
        ),
    }


def main() -> None:
    job = json.loads(sys.argv[1])
    world, folder = World(**job["world"]), Path(job["folder"])
    join_world(world)
    for case in job["write"]:
        write(case, folder, world)
    found = {f"{a} → {b}": take_up(a, b, folder, world) for a, b in job["pairs"]}
    if world.is_first:
        (folder / f"found-{world.size}.json").write_text(json.dumps(found))
    leave_world()


if __name__ == "__main__":
    main()
