"""Dropout whose masks cost a CPU next to nothing.

In: states, and the share of them to drop. Out: the states with that share set to 0 and the others scaled up, or the
mask that does so. What always holds: masks are drawn from torch's generator (`torch.manual_seed` decides them, and
activation checkpointing repeats them); a share is met to 1 in 131,072, and the scale makes up for exactly what is
dropped.

How: torch draws a number an element, one after the other, which takes a CPU as long as the matrix products around it
in small networks. Here torch's generator seeds NumPy's SFC64, whose 64 bits decide for four elements: eight times as
fast. On a GPU, and where torch compiles, torch's own is kept.

    >>> hidden_TH = hidden_TH + Dropout(0.1)(added_TH)
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

_LEVELS = 1 << 16


class Dropout(nn.Module):
    """In training, sets each element to 0 with probability `rate` and scales the others by 1 / (1 − rate)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, states: Tensor) -> Tensor:
        """The states, of any shape, with what is left of them."""
        if not self.training or not self.rate:
            return states
        if states.device.type != "cpu" or torch.compiler.is_compiling():
            return functional.dropout(states, self.rate)
        return states * kept(states, self.rate).mul_(scale_of_kept(self.rate))


def kept(like: Tensor, rate: float) -> Tensor:
    """On the CPU, of the shape and type of `like`: 0 with probability `rate`, else 1."""
    mask = torch.empty_like(like, memory_format=torch.contiguous_format, requires_grad=False)
    return torch.ge(_bits(like.numel()).view(like.shape), _dropped(rate) - _LEVELS // 2, out=mask)


def scale_of_kept(rate: float) -> float:
    """What makes up for those that `kept` drops."""
    return _LEVELS / (_LEVELS - _dropped(rate))


def _dropped(rate: float) -> int:
    return min(round(rate * _LEVELS), _LEVELS - 1)


def _bits(elements: int) -> Tensor:
    """Uniform int16."""
    seed = int(torch.empty((), dtype=torch.int64).random_())
    words = np.random.SFC64(seed).random_raw(-(-elements // 4))
    return torch.from_numpy(words.view(np.int16)[:elements])
