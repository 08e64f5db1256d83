"""1-bit Adam and 1-bit LAMB: after a warm-up, ranks send each other one bit an element.

In: parameters and constants, on each rank its own gradient. Out: an optimizer that updates them, alike on every rank.
What always holds: the first `freeze_step` updates are Adam's or LAMB's own, of gradients that the ranks have averaged
in full; from then on the second moments stand still, gradients stay where they are (`compresses`), and the momentum
is what is averaged, by `SignMean`, in units of √v; an element that has had no gradient until then is decayed and
nothing else, since any step over a second moment of 0 is without bounds (positions that no sequence reaches, tokens
that no text has).

Tang et al. 2021, 1-bit Adam, arXiv 2102.02888, algorithm 1; Li et al. 2021, 1-bit LAMB, arXiv 2104.06069, algorithm
1 (which sends each tensor in a unit of its own, for the same reason as we each element). Neither corrects the
moments' bias, as their authors' code doesn't. Both came with DeepSpeed until it dropped them
(deepspeedai/DeepSpeed#8490, in the release that is pinned here); this is written anew, after the papers.

Under 1-bit LAMB a tensor's ratio can't be taken of a momentum in signs. It is the mean of the warm-up's ratios, times
how much the second moments that the momentum lets guess have moved since: at most `FACTORS`, and by `AT_ONCE` a step.

Example:
    optimizer = OneBit(groups, lr=1e-4, freeze_step=23000)
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from pipeline.training.lamb import squared_norms
from pipeline.training.sign_mean import SignMean

# Li et al. 2021 §5: β₃ of the ratios' mean, bounds of their factor, and its largest change a step.
RATIO_DECAY = 0.9
FACTORS = (0.5, 4.0)
AT_ONCE = 0.1
# A group's ratios in the warm-up: without bounds a zero-initialised tensor would set the mean for good.
RATIOS = (0.01, 10.0)


class OneBit(torch.optim.Optimizer):
    """1-bit Adam; 1-bit LAMB for the groups of parameters that say `adapts`.

    freeze_step: updates before compression begins
    """

    def __init__(
        self,
        parameters: Iterable[Any],
        lr: float,
        freeze_step: int,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(parameters, defaults | {"adapts": False})
        self._freeze_step = freeze_step
        self._make_mean: Callable[[int], SignMean] | None = None
        self._mean: SignMean | None = None

    def join(self, make_mean: Callable[[int], SignMean]) -> None:
        """Say how to average so many elements over the ranks; without, there are no others."""
        self._make_mean = make_mean

    @property
    def compresses(self) -> bool:
        """Whether the next update takes this rank's own gradient, and not the ranks' mean."""
        return self._updates >= self._freeze_step

    @property
    def _updates(self) -> int:
        first = self.state.get(self.param_groups[0]["params"][0]) or {}
        return int(first.get("step", 0))

    def errors(self) -> dict[str, Tensor]:
        """What compression owes on this rank: the one part of the state that differs between ranks."""
        if self._mean is None:
            return {}
        return {"own": self._mean.own_error, "share": self._mean.share_error}

    def put_errors(self, errors: dict[str, Tensor]) -> None:
        """Take up what `errors` gave, on the same rank of as many; others' are left out, which costs one step's bit."""
        mean = self._signs()
        for name, tensor in (("own", mean.own_error), ("share", mean.share_error)):
            if name in errors and errors[name].shape == tensor.shape:
                tensor.copy_(errors[name])

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter; every rank calls it equally often."""
        assert closure is None
        compresses = self.compresses
        for group in self.param_groups:
            for parameter in group["params"]:
                self._begin(parameter, group)
                self.state[parameter]["step"] = self.state[parameter]["step"] + 1
        if compresses:
            self._average_momentum()
        for group in self.param_groups:
            if compresses:
                self._update_frozen(group)
            else:
                self._update(group)

    def _begin(self, parameter: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if "exp_avg" in state:
            return
        state["step"] = torch.zeros(())
        state["exp_avg"] = torch.zeros_like(parameter)
        state["exp_avg_sq"] = torch.zeros_like(parameter)
        if group["adapts"]:
            state["ratio"], state["factor"] = torch.zeros(()), torch.ones(())

    def _update(self, group: dict[str, Any]) -> None:
        """The warm-up: Adam or LAMB, without bias correction."""
        weights, means, squares = self._of(group)
        gradients = [_gradient(parameter) for parameter in group["params"]]
        beta1, beta2 = group["betas"]
        torch._foreach_lerp_(means, gradients, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - beta2)
        updates = _directions(means, squares, weights, group)
        if group["adapts"]:
            ratios = []
            norms = zip(squared_norms(weights), squared_norms(updates), strict=True)
            for parameter, (weight, update) in zip(group["params"], norms, strict=True):
                ratio = 1.0
                if weight > 0 and update > 0:
                    ratio = min(max((weight / update) ** 0.5, RATIOS[0]), RATIOS[1])
                    state = self.state[parameter]
                    before = state["ratio"] if state["ratio"] else ratio
                    state["ratio"] = torch.as_tensor(RATIO_DECAY * before + (1 - RATIO_DECAY) * ratio)
                ratios.append(ratio)
            torch._foreach_mul_(updates, ratios)
        torch._foreach_add_(weights, updates, alpha=-group["lr"])

    def _average_momentum(self) -> None:
        """Each rank's momentum with its own gradient in it, then the mean over the ranks.

        It is sent in units of √v, which stands still: a block's elements are then about alike, whatever their tensors.
        """
        eps = self.param_groups[0]["eps"]
        parameters, means, squares = [], [], []
        for group in self.param_groups:
            own = self._of(group)
            gradients = [_gradient(parameter) for parameter in group["params"]]
            if group["adapts"]:
                self._remember(group, own[1])
            torch._foreach_lerp_(own[1], gradients, 1 - group["betas"][0])
            parameters += own[0]
            means += own[1]
            squares += own[2]
        scales = torch._foreach_sqrt(squares)
        for scale in scales:
            scale[scale > 0] += eps
        # 0 over 0 where there has never been a gradient.
        shares = zip(means, scales, strict=True)
        sent = [(mean / scale).nan_to_num_(0.0, 0.0, 0.0).flatten() for mean, scale in shares]
        parts = self._signs()(torch.cat(sent)).split([mean.numel() for mean in means])
        for mean, scale, part in zip(means, scales, parts, strict=True):
            torch.mul(part.view_as(mean), scale, out=mean)

    def _remember(self, group: dict[str, Any], means: list[Tensor]) -> None:
        """What the momentum was before this step, for `_factor`."""
        for parameter, mean in zip(group["params"], means, strict=True):
            state = self.state[parameter]
            if "fresh" not in state:
                state["fresh"] = state["exp_avg_sq"].clone()
            state["before"] = mean.clone()

    def _update_frozen(self, group: dict[str, Any]) -> None:
        weights, means, squares = self._of(group)
        updates = _directions(means, squares, weights, group)
        if group["adapts"]:
            ratios = [self._ratio(parameter, group) for parameter in group["params"]]
            torch._foreach_mul_(updates, ratios)
        torch._foreach_add_(weights, updates, alpha=-group["lr"])

    def _ratio(self, parameter: Tensor, group: dict[str, Any]) -> float:
        """The warm-up's mean ratio of a tensor, times what has become of its second moments."""
        state, (beta1, beta2) = self.state[parameter], group["betas"]
        gradient = (state["exp_avg"] - beta1 * state.pop("before")) / (1 - beta1)
        state["fresh"].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        frozen, fresh = state["exp_avg_sq"].sqrt(), state["fresh"].sqrt()
        moved = (frozen + group["eps"]) / (fresh + group["eps"])
        factor = float((moved * (frozen > 0)).max())
        last = float(state["factor"])
        factor = min(max(factor, FACTORS[0], last * (1 - AT_ONCE)), FACTORS[1], last * (1 + AT_ONCE))
        state["factor"] = torch.as_tensor(factor)
        return float(state["ratio"] or 1.0) * factor

    def _of(self, group: dict[str, Any]) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        states = [self.state[parameter] for parameter in group["params"]]
        weights = [parameter.detach() for parameter in group["params"]]
        return weights, [state["exp_avg"] for state in states], [state["exp_avg_sq"] for state in states]

    def _signs(self) -> SignMean:
        if self._mean is None:
            parameters = [parameter for group in self.param_groups for parameter in group["params"]]
            elements = sum(parameter.numel() for parameter in parameters)
            if self._make_mean is not None:
                self._mean = self._make_mean(elements)
            else:
                self._mean = SignMean(elements, 1, _itself, _itself, str(parameters[0].device))
        return self._mean


def _gradient(parameter: Tensor) -> Tensor:
    # The ranks' tensors must lie end to end alike, whichever of them have a gradient.
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def _directions(
    means: list[Tensor], squares: list[Tensor], weights: list[Tensor], group: dict[str, Any]
) -> list[Tensor]:
    """m / (√v + ε) + λ x."""
    scales = torch._foreach_sqrt(squares)
    torch._foreach_add_(scales, group["eps"])
    updates = list(torch._foreach_div(means, scales))
    if group["weight_decay"]:
        torch._foreach_add_(updates, weights, alpha=group["weight_decay"])
    return updates


def _itself(tensor: Tensor) -> Tensor:
    return tensor
