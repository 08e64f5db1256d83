"""Whole weights and optimizer states put into an engine, of which each rank keeps its part.

In: a DeepSpeed engine as it was made, and `WholeStates`. Out: the engine as if it had come to that state itself.
What always holds: every element is copied, none computed (the weights that are computed with are rounded from the
fp32 ones as a step does); decay and other constants of the optimizer's groups stay the recipe's; any division of the
weights into groups will do.

DeepSpeed has readers of its universal checkpoints, too. They read only what the same stage wrote; at stage 3 they
give all groups the first one's weight decay and one step count, which each group then counts on, and want that
count of an optimizer that has none; at stages 1 and 2 they fail on a rank that holds nothing of a group.
"""

import math
from typing import TYPE_CHECKING, Any

from pipeline.training.universal import WEIGHTS, WholeStates

if TYPE_CHECKING:
    import torch


def put_states(engine: Any, states: WholeStates) -> None:
    """Set DeepSpeed's engine to `states`, at any ZeRO stage; every rank calls it."""
    import torch

    stage = engine.zero_optimization_stage()
    with torch.no_grad():
        if stage == 0:
            _put_whole(engine, states)
        elif stage == 3:
            _put_divided_weights(engine.optimizer, states)
        else:
            _put_divided_groups(engine.optimizer, states)
    if engine.fp16_enabled():
        for name, value in states.scaler.items():
            setattr(engine.optimizer, name, value)


def _put_whole(engine: Any, states: WholeStates) -> None:
    """Stage 0: the optimizer is ours, and holds the network's own weights."""
    names = {parameter: name for name, parameter in engine.module.named_parameters()}
    optimizer = engine.optimizer
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            for key, value in states(names[parameter]).items():
                if key == WEIGHTS:
                    parameter.copy_(value.view_as(parameter))
                elif _is_divided(value):
                    optimizer.state[parameter][key] = _to(parameter, value.view_as(parameter))
                else:
                    optimizer.state[parameter][key] = _count(optimizer, parameter, value)


def _put_divided_groups(zero: Any, states: WholeStates) -> None:
    """Stages 1 and 2: a group's weights laid end to end, of which a rank has one stretch."""
    import torch

    # bf16 at stage 1 has a class of its own.
    groups = zero.bf16_groups if hasattr(zero, "bf16_groups") else zero.bit16_groups
    for group, parameters in zip(zero.optimizer.param_groups, groups, strict=True):
        (stretch,) = group["params"]
        state = zero.optimizer.state[stretch]
        for parameter in parameters:
            here = parameter._hp_mapping
            # A rank that holds only padding of a group counts its steps, too.
            if here is None and state:
                continue
            for key, value in states(zero.param_names[parameter]).items():
                if not _is_divided(value):
                    state.setdefault(key, _count(zero.optimizer, stretch, value))
                    continue
                if key != WEIGHTS and key not in state:
                    state[key] = torch.zeros_like(stretch)
                if here is not None:
                    start, length = here.lp_fragment_address.start, here.lp_fragment_address.numel
                    address = here.hp_fragment_address
                    whole = stretch if key == WEIGHTS else state[key]
                    part = whole.data.narrow(0, address.start, address.numel)
                    part.copy_(value.reshape(-1).narrow(0, start, length))
    zero.update_lp_params()


def _put_divided_weights(zero: Any, states: WholeStates) -> None:
    """Stage 3: each weight in equal stretches, one a rank, the last ones padded."""
    import torch

    zero.checkpoint_event_prologue()
    for index, (stretch, parameters) in enumerate(
        zip(zero.fp32_partitioned_groups_flat, zero.fp16_groups, strict=True)
    ):
        state, offset = zero.optimizer.state[stretch], 0
        stretch.data.zero_()
        for parameter in parameters:
            length = math.ceil(parameter.ds_numel / zero._get_param_partition_world_size(parameter))
            start = length * zero._get_param_partition_rank(parameter)
            for key, value in states(zero.param_names[parameter]).items():
                if not _is_divided(value):
                    state.setdefault(key, _count(zero.optimizer, stretch, value))
                    continue
                if key != WEIGHTS and key not in state:
                    state[key] = torch.zeros_like(stretch)
                whole = stretch if key == WEIGHTS else state[key]
                part = value.reshape(-1)[start : start + length]
                whole.data.narrow(0, offset, part.numel()).copy_(part)
            offset += length
        computed = zero.fp16_partitioned_groups_flat[index]
        computed.data.copy_(stretch.data)
        parts = zero.fp16_partitioned_groups[index]
        for part, whole in zip(parts, zero.unflatten(computed, parts), strict=True):
            part.data = whole.data
    zero.checkpoint_event_epilogue()


def _is_divided(value: Any) -> bool:
    """Whether it is a tensor of the weight's elements, rather than a count of steps."""
    return bool(getattr(value, "ndim", 0))


def _to(parameter: "torch.Tensor", value: "torch.Tensor") -> "torch.Tensor":
    import torch

    return torch.empty_like(parameter).copy_(value)


def _count(optimizer: Any, parameter: "torch.Tensor", value: Any) -> Any:
    """A count of steps of its own for each tensor, as the optimizer keeps it: torch's in a tensor beside the weights.

    DeepSpeed's own Adam for offloaded state, which may take over from torch's and the other way round, has a number.
    """
    import torch

    if isinstance(optimizer, torch.optim.AdamW):
        return torch.tensor(float(value), dtype=torch.float32, device=parameter.device)
    if hasattr(optimizer, "ds_opt_adam"):
        return int(value)
    return value.clone() if torch.is_tensor(value) else value
