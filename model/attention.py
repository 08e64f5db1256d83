"""Self-attention over sequences laid end to end: one function, and the fastest kernel of the device behind it.

In: queries, keys and values of T tokens, and where each of the B sequences starts. Out: T context vectors. What always
holds: a token attends to its own sequence alone, and where that is asked (`causal`) to no token on its right; the
tokens past the last sequence (the tail that rounds a micro-batch up to a bucket) change nothing, and their own context
means nothing; no value is read back from an accelerator.

| device, precision | kernel | padding |
|---|---|---|
| CUDA since Ampere, bf16 or fp16 | `flash_attention`: torch's flash kernel with its dropout | none |
| CUDA otherwise | `grid_attention`: `scaled_dot_product_attention` | to the longest, in attention alone |
| CPU | `banded_attention`: our own | to the longest of about one length, in attention alone |

What can be known of a micro-batch beforehand is worked out once a forward (`lay_out`) and shared by all layers.

    >>> layout = lay_out(tokens=8, sequence_starts_B1=torch.tensor([0, 3, 7]), longest=4, heads=2)  # a tail of one
    >>> attend(query_TND, key_TND, value_TND, layout, dropout=0.1).shape
    torch.Size([8, 2, 64])

Shapes: T tokens, tail included · B1 = B sequences + 1 · N heads · D size of a head.
"""

from itertools import pairwise

import torch
from torch import Tensor

from model.banded_attention import Bands, attend_banded, lay_bands
from model.flash_attention import Ends, attend_flash, has_kernel, lay_ends
from model.grid_attention import Grid, attend_on_grid, lay_grid

# A micro-batch as the kernel wants it that is to compute it.
Layout = Bands | Grid | Ends


def lay_out(
    *,
    tokens: int,
    sequence_starts_B1: Tensor,
    longest: int,
    heads: int,
    head_size: int = 64,
    precision: torch.dtype = torch.float32,
) -> Layout:
    """The layout of `tokens` tokens whose sequence b is [sequence_starts[b], sequence_starts[b + 1]).

    `longest` is the longest sequence's length as a host integer: reading it from the device would make the
    host wait. Raises `ValueError` where it is too small (checked where that needs no waiting: on the CPU).
    """
    if sequence_starts_B1.device.type == "cpu":
        starts = sequence_starts_B1.tolist()
        most = max(end - start for start, end in pairwise(starts))
        if most > longest or starts[-1] > tokens:
            raise ValueError(
                f"sequences of up to {most} tokens ending at {starts[-1]} do not fit longest={longest} and "
                f"tokens={tokens}"
            )
        return lay_bands(tokens=tokens, starts=starts, heads=heads)
    if has_kernel(sequence_starts_B1.device, precision, head_size):
        return lay_ends(tokens=tokens, sequence_starts_B1=sequence_starts_B1, longest=longest)
    return lay_grid(tokens=tokens, sequence_starts_B1=sequence_starts_B1, longest=longest)


def attend(
    query_TND: Tensor,
    key_TND: Tensor,
    value_TND: Tensor,
    layout: Layout,
    dropout: float,
    *,
    causal: bool = False,
) -> Tensor:
    """Scaled dot-product attention inside each sequence (Devlin et al. 2018 §3; Vaswani et al. 2017 §3.2.1).

    `dropout` is the share of attention probabilities dropped now: 0 outside training. `causal`: to the left alone.
    Returns context_TND.
    """
    inputs = (query_TND, key_TND, value_TND)
    if isinstance(layout, Bands):
        return attend_banded(*inputs, layout, dropout=dropout, causal=causal)
    if isinstance(layout, Ends):
        return attend_flash(*inputs, layout, dropout=dropout, causal=causal)
    return attend_on_grid(*inputs, layout, dropout=dropout, causal=causal)
