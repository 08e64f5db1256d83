"""Rotary positions: queries and keys turned by their place (Su et al. 2021, RoFormer, arXiv 2104.09864).

In: a position a token, and queries or keys of N heads. Out: the same vectors, each pair of neighbouring numbers turned
in its plane by position × frequency. What always holds: lengths stay; the product of a turned query and a turned key
depends on how far apart they stand, not on where; there are no parameters; angles are computed in fp32 whatever the
network's precision, since bf16 can't tell position 511 from 512.

The pairs are (0, 1), (2, 3), …, as in the paper, in RoFormer and in `transformers`' class of that name; LLaMA's code
pairs the first half with the second, which is the same network with a head's numbers in another order.

    >>> turn = rotation(torch.arange(512), head_size=64)   # once a forward, shared by all layers
    >>> rotate(query_TND, turn).shape
    torch.Size([512, 12, 64])

Shapes: T tokens · N heads · D size of a head, even · F = D / 2 frequencies · 1 a broadcast axis.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

BASE = 10_000.0  # §3.2.2: the frequencies of Vaswani et al. 2017 §3.5, from 1 down to nearly 1 / BASE


@dataclass(frozen=True, kw_only=True)
class Rotation:
    """How far each token's vectors are turned, in fp32."""

    cos_T1F: Tensor
    sin_T1F: Tensor


def rotation(positions_T: Tensor, head_size: int) -> Rotation:
    """The angles of tokens at `positions_T` (any integer type), of heads of an even size."""
    # In fp64: a frequency's error grows with the position that it is multiplied by.
    exponents_F = torch.arange(0, head_size, 2, dtype=torch.float64, device=positions_T.device) / head_size
    frequencies_F = (BASE**-exponents_F).float()
    angles_T1F = positions_T.float()[:, None, None] * frequencies_F
    return Rotation(cos_T1F=angles_T1F.cos(), sin_T1F=angles_T1F.sin())


def rotate(states_TND: Tensor, turn: Rotation) -> Tensor:
    """Queries or keys, turned; in their own type."""
    even_TNF, odd_TNF = states_TND[..., 0::2], states_TND[..., 1::2]
    turned_TNF2 = torch.stack(
        (even_TNF * turn.cos_T1F - odd_TNF * turn.sin_T1F, odd_TNF * turn.cos_T1F + even_TNF * turn.sin_T1F),
        dim=-1,
    )
    return turned_TNF2.flatten(2).to(states_TND.dtype)
