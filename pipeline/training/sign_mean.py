"""The mean of a tensor over the ranks, sent at one bit an element.

In: each rank's tensor. Out: about their mean, the same on every rank to the last bit. What always holds: what one
call leaves out, the next ones bring (error feedback): over many calls the sum of what came out differs from the sum
of what went in by one call's error at most, not by one for each; a rank sends about 2/32 of what an all-reduce in
fp32 would (a bit an element each way, and a scale for each block of them).

A block of elements becomes their signs and the mean of their absolute values, which of all scales leaves the least
error. Each rank collects a share of the elements from all others, means it, and sends it on, compressed again: Tang
et al. 2021 (1-bit Adam, arXiv 2102.02888, §4), with a scale a block (Zheng et al. 2019, arXiv 1905.10936) where
theirs is one a tensor.

Example:
    mean = SignMean(elements, ranks, exchange, gather)(own)
"""

from collections.abc import Callable

import torch
from torch import Tensor

# Elements with one scale: 32 bits more for 1,024.
BLOCK = 1024


class SignMean:
    """The compressed mean of tensors of one length, and what compression still owes.

    exchange: a tensor's first axis dealt to the ranks; returns what they dealt to this one
    gather: every rank's tensor, end to end along the first axis
    """

    def __init__(
        self,
        elements: int,
        ranks: int,
        exchange: Callable[[Tensor], Tensor],
        gather: Callable[[Tensor], Tensor],
        device: str = "cpu",
    ) -> None:
        blocks = -(-elements // (BLOCK * ranks))
        self._elements, self._exchange, self._gather = elements, exchange, gather
        # Of what this rank sent of its own, and of its share of the mean.
        self.own_error = torch.zeros(ranks, blocks, BLOCK, device=device)
        self.share_error = torch.zeros(blocks, BLOCK, device=device)

    def __call__(self, values_E: Tensor) -> Tensor:
        """About the mean over the ranks; every rank calls it."""
        self.own_error.view(-1)[: self._elements] += values_E
        # What fills up the last share is nobody's, and owes nothing.
        self.own_error.view(-1)[self._elements :] = 0
        bits, scales = _compress(self.own_error)
        share = _spread(self._exchange(bits), self._exchange(scales)).mean(0)
        self.share_error += share
        bits, scales = _compress(self.share_error)
        return _spread(self._gather(bits), self._gather(scales)).view(-1)[: self._elements]


def _compress(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Signs, eight in a byte, and scales of blocks along the last axis; `blocks` keeps what they leave out."""
    scales = blocks.abs().mean(-1, keepdim=True)
    positive = blocks >= 0
    blocks -= torch.where(positive, scales, -scales)
    eights = positive.view(*blocks.shape[:-1], -1, 8).to(torch.uint8)
    return (eights << _places(blocks)).sum(-1, dtype=torch.uint8), scales


def _spread(bits: Tensor, scales: Tensor) -> Tensor:
    positive = (bits.unsqueeze(-1) >> _places(bits)).bitwise_and_(1).bool().view(*bits.shape[:-1], -1)
    return torch.where(positive, scales, -scales)


def _places(like: Tensor) -> Tensor:
    return torch.arange(8, dtype=torch.uint8, device=like.device)
