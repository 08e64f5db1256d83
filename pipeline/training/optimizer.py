"""The optimizer object that DeepSpeed is handed.

In: a network and AdamW's constants. Out: `torch.optim.AdamW` in two groups. What always holds: biases and
LayerNorm are not decayed, as in the published training; DeepSpeed's own JSON optimizers are not used (they
compile for 80–90 s on a CPU).
"""

from typing import TYPE_CHECKING

from pipeline.recipe import AdamW

if TYPE_CHECKING:
    import torch


def make_optimizer(
    network: "torch.nn.Module", constants: AdamW, learning_rate: float
) -> "torch.optim.Optimizer":
    """AdamW over `network`, decaying matrices and embeddings only."""
    import torch

    decayed: list[torch.nn.Parameter] = []
    kept: list[torch.nn.Parameter] = []
    for name, parameter in network.named_parameters():
        (kept if is_kept(name, parameter) else decayed).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": constants.weight_decay},
            {"params": kept, "weight_decay": 0.0},
        ],
        lr=learning_rate,
        betas=(constants.beta1, constants.beta2),
        eps=constants.epsilon,
        fused=True,
    )


def is_kept(name: str, parameter: "torch.nn.Parameter") -> bool:
    """Whether weight decay leaves `parameter` alone: every bias and LayerNorm is a vector, no matrix is."""
    return parameter.dim() < 2 or name.endswith(".bias")
