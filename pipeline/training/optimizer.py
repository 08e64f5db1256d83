"""The optimizer object that DeepSpeed is handed.

In: a network, the optimizer's name and a recipe's constants. Out: an optimizer in two groups. What always holds:
biases and LayerNorm are not decayed, as in the published training; each works element by element, so ZeRO may
cut its tensors anywhere, but `lamb`, which is told where they were cut (`fragments`); nothing is compiled, unless the
JSON asks for DeepSpeed's own CPU Adam.
"""

from typing import TYPE_CHECKING, Any

from pipeline.phase import ONE_BIT
from pipeline.recipe import Recipe

if TYPE_CHECKING:
    import torch


def make_optimizer(
    name: str, network: "torch.nn.Module", recipe: Recipe, *, cpu_adam: bool = False
) -> "torch.optim.Optimizer":
    """The optimizer `name` over `network`, decaying matrices and embeddings only.

    cpu_adam: take DeepSpeed's compiled Adam for offloaded state in place of torch's
    """
    import torch

    from pipeline.training.bert_adam import BertAdam
    from pipeline.training.engine import deepspeed_cpu_adam
    from pipeline.training.lamb import Lamb
    from pipeline.training.onebit import OneBit
    from pipeline.training.uncompiled import AdamW as TorchAdamW

    decayed: list[torch.nn.Parameter] = []
    kept: list[torch.nn.Parameter] = []
    for parameter_name, parameter in network.named_parameters():
        (kept if is_kept(parameter_name, parameter) else decayed).append(parameter)
    constants = recipe.lamb if name in ("lamb", "onebit_lamb") else recipe.adamw
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": constants.weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]
    # The rate is set before each step; see `schedule`.
    common: dict[str, Any] = {
        "lr": 0.0,
        "betas": (constants.beta1, constants.beta2),
        "eps": constants.epsilon,
    }
    if name in ONE_BIT:
        assert recipe.onebit.freeze_step is not None
        groups[0]["adapts"] = name == "onebit_lamb"
        return OneBit(groups, freeze_step=recipe.onebit.freeze_step, **common)
    if name == "lamb":
        groups[1]["adapts"] = False
        return Lamb(groups, bias_correction=recipe.lamb.bias_correction, **common)
    if name == "bert_adam":
        return BertAdam(groups, **common)
    if cpu_adam:
        return deepspeed_cpu_adam()(groups, adamw_mode=True, **common)
    return TorchAdamW(groups, fused=True, **common)


def is_kept(name: str, parameter: "torch.nn.Parameter") -> bool:
    """Whether weight decay leaves `parameter` alone: every bias and LayerNorm is a vector, no matrix is."""
    return parameter.dim() < 2 or name.endswith(".bias")
