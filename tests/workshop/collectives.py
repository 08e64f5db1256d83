"""A rank that trains by one configuration after the other and notes what the ranks send each other.

`python collectives.py FOLDER RANK RANKS PORT`: FOLDER/asked.json names recipes of FOLDER, a whole training each; the
first rank writes FOLDER/found.json: by recipe and step, by part of the step, what was sent, in the order of sending.
What always holds: nothing passes unseen, since torch's dispatcher itself is asked: whatever is sent is an operator of
its name space c10d, whoever calls it and by whatever name.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pipeline.training import loop, pretrain, rank
from pipeline.training.engine import Engine
from pipeline.training.joining import join_world, leave_world
from pipeline.training.step import Rounds
from pipeline.training.world import World
from workshop.started_ranks import asked_for

# Between steps: evaluations, checkpoints, comparisons of weights.
BETWEEN = "between"
# What is sent while autograd computes gradients, of whichever micro-batch.
DURING = ", during the pass"


class Spy(TorchDispatchMode):
    """Notes each operator by which ranks send, while it is entered: "allreduce_ of 12 float64"."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[dict[str, list[str]]] = []
        self.parts: list[str] = [BETWEEN]

    def __torch_dispatch__(
        self, operator: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if operator.namespace == "c10d" and self.steps:
            tensors = [each for each in tree_leaves(args) if isinstance(each, torch.Tensor)]
            sent = max(tensors, key=torch.Tensor.numel, default=None)
            what = "" if sent is None else f" of {sent.numel()} {str(sent.dtype).removeprefix('torch.')}"
            name = operator._schema.name.removeprefix("c10d::")
            self.steps[-1].setdefault(self.parts[-1], []).append(name + what)
        return operator(*args, **(kwargs or {}))

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What is sent within the block is noted under `name`."""
        self.parts.append(name)
        try:
            yield
        finally:
            self.parts.pop()


def watch_parts(spy: Spy) -> None:
    """Have the training say which part of a step it is in."""

    def within(owner: Any, name: str, part: Callable[..., str]) -> None:
        own = getattr(owner, name)

        def noted(*given: Any, **named: Any) -> Any:
            with spy.part(part(*given, **named)):
                return own(*given, **named)

        setattr(owner, name, noted)

    def begin(training: Any, *given: Any, **named: Any) -> Any:
        spy.steps.append({})
        return step(training, *given, **named)

    step = loop.Training._step
    loop.Training._step = begin  # type: ignore[method-assign]
    within(loop, "forward_and_backward", lambda *_, **__: "forward")
    within(Engine, "backward", lambda *_, last: "last backward" if last else "backward")
    within(Engine, "step", lambda *_, **__: "update")
    within(torch.Tensor, "backward", lambda *_, **__: spy.parts[-1] + DURING)
    within(Rounds, "close", lambda *_: "round")


def main(folder: Path, world: World) -> None:
    join_world(world)
    # The ranks meet once, for all trainings.
    rank.join_world = lambda world: None
    rank.leave_world = lambda: None
    spy, found = Spy(), {}
    watch_parts(spy)
    for name in json.loads((folder / "asked.json").read_text()):
        spy.steps = []
        with spy:
            pretrain.run(str(folder / f"{name}.yaml"), [], world.size)
        found[name] = spy.steps
    if world.is_first:
        (folder / "found.json").write_text(json.dumps(found))
    leave_world()


if __name__ == "__main__":
    main(*asked_for())
