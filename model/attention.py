"""Self-attention over sequences laid end to end, without padding.

In: queries, keys and values of T tokens, and where each of the B sequences starts. Out: T context vectors.
What always holds: a token attends to its own sequence alone, and where that is asked (`causal`) to no token on its
right; the tokens past the last sequence (the tail that rounds a micro-batch up to a bucket) get zeros and change
nothing; no value is read back from an accelerator.

How: sequences are moved to a padded (B, S) grid of slots, PyTorch's `scaled_dot_product_attention` runs on
the grid, and the slots move back. Only attention sees the grid; every other layer computes real tokens only.
The indices for that are made once a forward (`lay_out`) and shared by all layers. PyTorch's `varlen_attn`
needs no grid, but is CUDA's alone and has no attention dropout, which BERT trains with.

    >>> layout = lay_out(tokens=8, sequence_starts_B1=torch.tensor([0, 3, 7]), longest=4)  # a tail of one
    >>> attend(query_TND, key_TND, value_TND, layout, dropout=0.1).shape
    torch.Size([8, 2, 64])

Shapes: T tokens, tail included · B sequences · B1 = B + 1 · S longest sequence · N heads · D size of a head
· 1 a broadcast axis.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Between T tokens and B × S slots.

    token_of_slot: (B · S) the token that stands in a slot; in slots past a sequence's end, any token at all.
    slot_of_token: (T) the slot of a token; any slot for the tail.
    real_B11S: whether a slot's key may be attended to.
    tail_T11: whether a token is of the tail.
    """

    token_of_slot: Tensor
    slot_of_token: Tensor
    real_B11S: Tensor
    tail_T11: Tensor


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where the sequences of a micro-batch stand; `grid` is None where slots and tokens are the same."""

    sequence_starts_B1: Tensor
    longest: int
    grid: Grid | None

    @property
    def sequences(self) -> int:
        """B, empty sequences included."""
        return self.sequence_starts_B1.shape[0] - 1


def lay_out(*, tokens: int, sequence_starts_B1: Tensor, longest: int) -> Layout:
    """The layout of `tokens` tokens whose sequence b is [sequence_starts[b], sequence_starts[b + 1]).

    `longest` is the longest sequence's length as a host integer: reading it from the device would make the
    host wait. Raises `ValueError` where it is too small (checked where that needs no waiting: on the CPU).
    """
    starts_B, ends_B = sequence_starts_B1[:-1], sequence_starts_B1[1:]
    lengths_B = ends_B - starts_B
    if sequence_starts_B1.device.type == "cpu" and not torch.compiler.is_compiling():
        if int(lengths_B.max()) > longest or int(ends_B[-1]) > tokens:
            raise ValueError(
                f"sequences of up to {int(lengths_B.max())} tokens ending at {int(ends_B[-1])} do not fit "
                f"longest={longest} and tokens={tokens}"
            )
        if int(lengths_B.min()) == longest:
            return Layout(sequence_starts_B1=sequence_starts_B1, longest=longest, grid=None)

    device, sequences = sequence_starts_B1.device, lengths_B.shape[0]
    step_S = torch.arange(longest, device=device)
    # Slots past a sequence's end take the tokens that follow it, not all the same one: the gradient of this
    # selection is a sum over slots (of zeros there), and a GPU would queue at a token that many slots share.
    token_BS = (starts_B[:, None] + step_S).clamp(max=tokens - 1)
    token_T = torch.arange(tokens, device=device, dtype=sequence_starts_B1.dtype)
    sequence_T = torch.searchsorted(ends_B.contiguous(), token_T, right=True)  # B for the tail
    slot_T = sequence_T * longest + (token_T - sequence_starts_B1[sequence_T])
    # An empty sequence keeps one key: a softmax over none is 0 / 0, which not every backend of
    # scaled_dot_product_attention guards against, and a gradient that is not a number spreads.
    real_BS = step_S < lengths_B.clamp(min=1)[:, None]
    return Layout(
        sequence_starts_B1=sequence_starts_B1,
        longest=longest,
        grid=Grid(
            token_of_slot=token_BS.reshape(-1).long(),
            slot_of_token=slot_T.clamp(max=sequences * longest - 1),
            real_B11S=real_BS[:, None, None, :],
            tail_T11=(sequence_T == sequences)[:, None, None],
        ),
    )


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
    tokens, heads, size = query_TND.shape
    grid, slots = layout.grid, layout.sequences * layout.longest

    def pad(states_TND: Tensor) -> Tensor:
        # index_select: 2.4 times faster here, with its gradient, than copying into zeros by index.
        rows = states_TND[:slots] if grid is None else states_TND.index_select(0, grid.token_of_slot)
        return rows.view(layout.sequences, layout.longest, heads, size).transpose(1, 2)

    context_BNSD = functional.scaled_dot_product_attention(
        pad(query_TND),
        pad(key_TND),
        pad(value_TND),
        # The slots past a sequence's end lie on the right of all its tokens, so a causal one needs no other mask.
        attn_mask=None if grid is None or causal else grid.real_B11S,
        dropout_p=dropout,
        is_causal=causal,
    )
    context = context_BNSD.transpose(1, 2).reshape(slots, heads, size)
    if grid is None:
        return functional.pad(context, (0, 0, 0, 0, 0, tokens - slots)) if tokens > slots else context
    return context.index_select(0, grid.slot_of_token).masked_fill(grid.tail_T11, 0.0)
