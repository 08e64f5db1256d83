"""LAMB: Adam whose step in each tensor is as long as the tensor itself, times the rate.

In: parameters and constants; under ZeRO also where each tensor's parts lie. Out: an optimizer that updates them. What
always holds: a tensor's trust ratio is that of the whole tensor, however ZeRO has cut it; norms are summed over the
ranks in one message a group of parameters that has ratios (ours: one a step); what fills up a partition counts in no
norm and is not touched; a step that is left out leaves everything as it was, bias correction included.

You et al. 2020, arXiv 1904.00962, algorithm 2, φ the identity:

    m ← β₁ m + (1 − β₁) g        v ← β₂ v + (1 − β₂) g²
    u = (m / (1 − β₁ᵗ)) / (√(v / (1 − β₂ᵗ)) + ε) + λ x
    x ← x − rate · (‖x‖ / ‖u‖) · u        (ratio 1 where either norm is 0)

As in the authors' code for BERT (`LAMBOptimizer` in google-research/albert, lamb_optimizer.py), what is not decayed,
biases and LayerNorm, has no ratio either (`exclude_from_layer_adaptation` is `exclude_from_weight_decay` there). That
code leaves out the bias correction, which the paper's algorithm has: `bias_correction=False` does the same.

Example:
    optimizer = Lamb([{"params": matrices}, {"params": biases, "weight_decay": 0.0, "adapts": False}], lr=1e-3)
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pipeline.training.fragments import Fragment

# On CPUs a norm in fp32 of more elements at once loses digits: 31 million were seen to be off by 2e-3, in pieces of
# this size by 2e-7. GPUs sum in pieces anyway.
_AT_ONCE = 1 << 16


class _Pieces(NamedTuple):
    """Views of what this rank updates, piece by piece of a tensor."""

    weights: list[Tensor]
    gradients: list[Tensor]
    means: list[Tensor]
    squares: list[Tensor]
    updates_done: list[float]
    tensors: list[int]


class Lamb(torch.optim.Optimizer):
    """LAMB with ratios for the groups of parameters that say `adapts`.

    betas: decay rates of the means of g and g²
    """

    def __init__(
        self,
        parameters: Iterable[Any],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        bias_correction: bool = True,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(parameters, defaults | {"bias_correction": bias_correction, "adapts": True})
        self._fragments: Mapping[Tensor, Sequence[Fragment]] | None = None
        self._sum: Callable[[list[float]], list[float]] = list
        self._tensors = 0

    def divide(
        self,
        fragments: Mapping[Tensor, Sequence[Fragment]],
        tensors: int,
        sum_over_ranks: Callable[[list[float]], list[float]],
    ) -> None:
        """Say that parameters are flat tensors now, each with fragments of the network's `tensors` tensors.

        sum_over_ranks: adds lists of equally many numbers; each rank's steps call it equally often
        """
        self._fragments, self._tensors, self._sum = fragments, tensors, sum_over_ranks

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient; under ZeRO, every rank calls it."""
        assert closure is None
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if parameters:
                self._update(group, self._pieces(parameters))

    def _pieces(self, parameters: Sequence[Tensor]) -> _Pieces:
        pieces = _Pieces([], [], [], [], [], [])
        for parameter in parameters:
            state = self.state[parameter]
            if "exp_avg" not in state:
                state["step"] = torch.zeros(())  # on the CPU, as torch's AdamW keeps it
                state["exp_avg"] = torch.zeros_like(parameter)
                state["exp_avg_sq"] = torch.zeros_like(parameter)
            # Not in place: read from a universal checkpoint at stage 3, all flat tensors share one count.
            state["step"] = state["step"] + 1
            assert parameter.grad is not None
            whole = (parameter.detach(), parameter.grad, state["exp_avg"], state["exp_avg_sq"])
            # Where nothing is cut, a parameter is a piece, and which one of all plays no part.
            cuts = [Fragment(0, 0, parameter.numel())]
            if self._fragments is not None:
                cuts = list(self._fragments.get(parameter, ()))
            for tensor, start, length in cuts:
                for kept, each in zip(pieces[:4], whole, strict=True):
                    kept.append(each.view(-1).narrow(0, start, length))
                pieces.updates_done.append(float(state["step"]))
                pieces.tensors.append(tensor)
        return pieces

    def _update(self, group: dict[str, Any], pieces: _Pieces) -> None:
        weights, gradients, means, squares, steps, _ = pieces
        updates: list[Tensor] = []
        if weights:
            beta1, beta2 = group["betas"]
            torch._foreach_lerp_(means, gradients, 1 - beta1)
            torch._foreach_mul_(squares, beta2)
            torch._foreach_addcmul_(squares, gradients, gradients, 1 - beta2)
            # In place from here on: one copy of the weights' size, no more.
            updates = list(torch._foreach_sqrt(squares))
            if group["bias_correction"]:
                torch._foreach_mul_(updates, [(1 - beta2**step) ** -0.5 for step in steps])
            torch._foreach_add_(updates, group["eps"])
            torch._foreach_reciprocal_(updates)
            torch._foreach_mul_(updates, means)
            if group["bias_correction"]:
                torch._foreach_mul_(updates, [1 / (1 - beta1**step) for step in steps])
            if group["weight_decay"]:
                torch._foreach_add_(updates, weights, alpha=group["weight_decay"])
        if group["adapts"]:
            # A rank with no part in the group's tensors takes part in the sum.
            ratios = self._ratios(weights, updates, pieces.tensors)
            if weights:
                torch._foreach_mul_(updates, ratios)
        if weights:
            torch._foreach_add_(weights, updates, alpha=-group["lr"])

    def _ratios(self, weights: list[Tensor], updates: list[Tensor], tensors: list[int]) -> list[float]:
        """‖x‖ / ‖u‖ of the tensor that each piece belongs to."""
        of_weights, of_updates = squared_norms(weights), squared_norms(updates)
        if self._fragments is not None:
            sums = [0.0] * (2 * self._tensors)
            for tensor, weight, update in zip(tensors, of_weights, of_updates, strict=True):
                sums[tensor], sums[self._tensors + tensor] = weight, update
            sums = self._sum(sums)
            of_weights = [sums[tensor] for tensor in tensors]
            of_updates = [sums[self._tensors + tensor] for tensor in tensors]
        both = zip(of_weights, of_updates, strict=True)
        return [(weight / update) ** 0.5 if weight > 0 and update > 0 else 1.0 for weight, update in both]


def squared_norms(tensors: list[Tensor]) -> list[float]:
    """‖t‖² of each, summed in float64; the device is waited for once."""
    if not tensors:
        return []
    on_cpu = tensors[0].device.type == "cpu"
    parts = [tensor.reshape(-1).split(_AT_ONCE) if on_cpu else (tensor,) for tensor in tensors]
    norms = torch.stack(torch._foreach_norm([part for each in parts for part in each])).double()
    squares = iter(norms.square().tolist())
    return [sum(next(squares) for _ in each) for each in parts]
