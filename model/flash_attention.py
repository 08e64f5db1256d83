"""Attention on CUDA in half precision: torch's flash kernel for sequences laid end to end.

In: queries, keys and values of T tokens; where each sequence starts. Out: T context vectors; those of the tail mean
nothing, and their gradients are 0. What always holds: a token attends to its own sequence alone; nothing is padded, no
scores are kept, no value is read back from the device.

How: `torch.nn.attention.varlen` has no dropout, which BERT trains with; the operation below it has, and its gradient.
The tail is one more sequence: left out, its rows would be whatever lay in memory, and might not be numbers.
The kernel draws dropout from 8 bits a probability: asked for 0.1 it drops 26 of 256, 10.2 %, and scales what is left
by the 1 / 0.9 that it was asked for.

    >>> ends = lay_ends(tokens=8, sequence_starts_B1=torch.tensor([0, 3, 7], device="cuda"), longest=4)
    >>> attend_flash(query_TND, key_TND, value_TND, ends, dropout=0.1, causal=False).shape
    torch.Size([8, 2, 64])

Shapes: T tokens, tail included · B1 = B sequences + 1 · B2 = B1 + 1 · N heads · D size of a head.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

# The longest tail that is computed to its end, should no sequence be as long; a bucket of tokens leaves a shorter one.
LONGEST_TAIL = 128
# What the kernel takes, and the compute capability from which on it is made (8.0: Ampere).
_PRECISIONS = (torch.bfloat16, torch.float16)
_MOST_HEAD_SIZE = 256
_CAPABILITY = (8, 0)


@dataclass(frozen=True, kw_only=True)
class Ends:
    """Where sequences, and the tail as the last one, begin and end.

    starts_B2: int32
    longest: the most tokens of one
    """

    starts_B2: Tensor
    longest: int


def has_kernel(device: torch.device, precision: torch.dtype, head_size: int) -> bool:
    """Whether there is a flash kernel for heads of this size on a device that is no CPU; asks the device nothing."""
    if precision not in _PRECISIONS or head_size > _MOST_HEAD_SIZE or head_size % 8:
        return False
    # What torch has known of each device since it first used one.
    return device.type != "cuda" or torch.cuda.get_device_capability(device) >= _CAPABILITY


def lay_ends(*, tokens: int, sequence_starts_B1: Tensor, longest: int) -> Ends:
    """The ends of sequences of at most `longest` tokens, with a tail of at most 128, or `longest`."""
    end = sequence_starts_B1.new_full((1,), tokens)
    starts_B2 = torch.cat((sequence_starts_B1, end)).to(torch.int32)
    return Ends(starts_B2=starts_B2, longest=max(longest, min(LONGEST_TAIL, tokens)))


def attend_flash(
    query_TND: Tensor, key_TND: Tensor, value_TND: Tensor, ends: Ends, *, dropout: float, causal: bool
) -> Tensor:
    """context_TND; see `model.attention.attend`."""
    context_TND: Tensor = torch.ops.aten._flash_attention_forward(
        query_TND,
        key_TND,
        value_TND,
        ends.starts_B2,
        ends.starts_B2,
        ends.longest,
        ends.longest,
        dropout,
        causal,
        False,
    )[0]
    return context_TND
