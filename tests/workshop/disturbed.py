"""`bertpipe` whose network, weights or ranks go wrong at given steps: guards are triggered by what they guard against.

    python tests/workshop/disturbed.py '{"poison": {"7": "nan", "20": 1000}, "flip": 6}' pretrain RECIPE …

poison: by step of the data (from 0): the loss and its gradient are multiplied by it, as data could do
flip: the step after which a bit of rank 1's weights is another, once
gradient: the step of the data whose gradient alone is infinite
"""

import json
import os
import sys
from typing import Any


def disturb(plan: dict[str, Any]) -> None:
    import torch

    from model import bert
    from pipeline.training import loop

    data_step = -1
    compute, forward = loop.forward_and_backward, bert.BertForPretraining.forward
    flips = [plan["flip"]] if "flip" in plan else []

    def forward_and_backward(engine: Any, turn: Any, **rest: Any) -> list[float]:
        nonlocal data_step
        data_step = turn.batches.step
        if data_step in flips and os.environ.get("RANK") == "1":
            flips.clear()
            with torch.no_grad():
                next(iter(engine.network.module.parameters())).view(torch.int32)[0, 0] ^= 1
        if data_step == plan.get("gradient"):
            weight = next(iter(engine.network.module.parameters()))
            handle = weight.register_hook(lambda gradient: gradient * float("inf"))
            try:
                return compute(engine, turn, **rest)
            finally:
                handle.remove()
        return compute(engine, turn, **rest)

    def poisoned(network: Any, *given: Any, **named: Any) -> Any:
        sums = forward(network, *given, **named)
        factor = plan.get("poison", {}).get(str(data_step)) if network.training else None
        return sums if factor is None else sums._replace(mlm_sum=sums.mlm_sum * float(factor))

    loop.forward_and_backward = forward_and_backward
    bert.BertForPretraining.forward = poisoned  # type: ignore[method-assign]


if __name__ == "__main__":
    from pipeline.cli import main

    disturb(json.loads(sys.argv.pop(1)))
    main()
