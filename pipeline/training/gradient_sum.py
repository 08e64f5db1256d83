"""Gradients summed over the ranks while the backward pass still goes on.

In: parameters, where each one's gradient lies, a size of buckets. Out: gradients that are the sums over the ranks. What
always holds: nothing is sent but in a step's last micro-batch; every rank sends the same buckets in the same order,
whatever order its gradients come in; the result is the same to the last bit whether it overlaps or not.

A bucket is sent once all its gradients are there, and the backward pass goes on meanwhile: parameters are taken from
the last to the first, which is about the order in which a backward pass comes to them (Li et al. 2020, PyTorch
Distributed, arXiv 2006.15704, §3.2.3). DeepSpeed 0.19.8 has that for some of its stages alone: at stage 0, and at stage
1 in bf16 with fp32 sums, it sends all gradients after the backward pass, in a copy of all of them.

Example:
    gradients = GradientSum(list(network.parameters()), own_gradient, elements=32_000_000, dtype=torch.bfloat16, …)
    gradients.begin(); loss.backward(); gradients.finish()
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


class GradientSum:
    """Sums gradients over the ranks, bucket by bucket.

    gradient_of: a parameter's gradient, summed over a step's micro-batches, once its part of a backward pass is done
    elements: of a bucket, at most, unless one parameter has more
    dtype: in which they are sent
    begin_sum: begins to sum a tensor over the ranks in place; returns what waits for it. None: there are no others
    overlaps: whether buckets are sent during the backward pass, or all after it
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        gradient_of: Callable[[Tensor], Tensor],
        *,
        elements: int,
        dtype: torch.dtype,
        begin_sum: Callable[[Tensor], Callable[[], Any]] | None,
        overlaps: bool,
    ) -> None:
        self._gradient_of, self._dtype, self._begin_sum = gradient_of, dtype, begin_sum
        self._buckets = in_buckets(parameters, elements)
        self._bucket_of = {each: number for number, bucket in enumerate(self._buckets) for each in bucket}
        self._missing: list[int] = []
        self._under_way: list[tuple[list[Tensor], list[Tensor], Callable[[], Any]]] = []
        self._hooks: list[Any] = []
        if overlaps and begin_sum is not None:
            # After DeepSpeed's own, which adds a micro-batch's gradient to the step's.
            self._hooks = [each.register_post_accumulate_grad_hook(self._arrived) for each in parameters]

    def begin(self) -> None:
        """The next backward pass is a step's last: its gradients may be sent."""
        self._missing = [len(bucket) for bucket in self._buckets]

    def finish(self) -> None:
        """Send what hasn't been, and wait until the gradients are the sums of all ranks'."""
        self._missing = []
        if self._begin_sum is None:
            for bucket in self._buckets:
                for parameter in bucket:
                    self._gradient_of(parameter)  # is there, as with more ranks
            return
        while len(self._under_way) < len(self._buckets):
            self._send()
        for gradients, sums, wait in self._under_way:
            wait()
            torch._foreach_copy_(gradients, sums)
        self._under_way = []

    def close(self) -> None:
        """Let go of the parameters."""
        for hook in self._hooks:
            hook.remove()

    def _arrived(self, parameter: Tensor) -> None:
        if not self._missing:
            return
        self._missing[self._bucket_of[parameter]] -= 1
        # In their own order alone: ranks whose messages crossed would sum one's bucket with another's.
        while len(self._under_way) < len(self._buckets) and not self._missing[len(self._under_way)]:
            self._send()

    @torch.no_grad()
    def _send(self) -> None:
        assert self._begin_sum is not None
        gradients = [self._gradient_of(each) for each in self._buckets[len(self._under_way)]]
        sizes = [each.numel() for each in gradients]
        flat = torch.empty(sum(sizes), dtype=self._dtype, device=gradients[0].device)
        parts = zip(flat.split(sizes), gradients, strict=True)
        sent = [part.view(gradient.shape) for part, gradient in parts]
        torch._foreach_copy_(sent, gradients)
        self._under_way.append((gradients, sent, self._begin_sum(flat)))


def in_buckets(parameters: Sequence[Tensor], elements: int) -> list[list[Tensor]]:
    """Parameters from the last to the first, in runs of at most so many elements, or of one parameter."""
    buckets: list[list[Tensor]] = []
    room = 0
    for parameter in reversed(parameters):
        if not buckets or parameter.numel() > room:
            buckets.append([])
            room = elements
        buckets[-1].append(parameter)
        room -= parameter.numel()
    return buckets


def own_gradient(parameter: Tensor) -> Tensor:
    """A parameter's `.grad`; zeros where a step has given it none, as other ranks may have."""
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad
