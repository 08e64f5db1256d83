"""Attention of a device beside the plain formula in fp64: contexts, gradients, dropout.

In: a device, a precision, a head's size. Out: the largest error, as a share of the largest value; infinity where
something is no number, or the tail has a gradient. What always holds: what is compared with is computed on the CPU, of
the same rounded inputs.

Example:
    without_dropout("cuda", torch.bfloat16)  # 0.004
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from model.attention import Layout, attend, lay_out

LENGTHS = (128, 3, 77, 1, 128, 50)
HEADS, TAIL = 4, 5


def formula(
    states: Tensor, starts: Sequence[int], *, causal: bool, left: Sequence[Tensor] | None = None
) -> Tensor:
    """Softmax over each sequence alone, in the precision of `states`.

    left: for each sequence what its probabilities are multiplied by, a number a head, query and key
    """
    context = torch.zeros_like(states[0])
    for number, (start, end) in enumerate(pairwise(starts)):
        query, key, value = (one[start:end].transpose(0, 1) for one in states)
        scores = query @ key.transpose(1, 2) / query.shape[-1] ** 0.5
        if causal:
            scores = scores + torch.full_like(scores[0], -torch.inf).triu(1)
        shares = scores.softmax(-1) if left is None else scores.softmax(-1) * left[number]
        context[start:end] = (shares @ value).transpose(0, 1)
    return context


def without_dropout(device: str, precision: torch.dtype, *, size: int = 64, causal: bool = False) -> float:
    """The error of contexts and gradients of sequences of many lengths."""
    starts, layout = _laid(LENGTHS, device, precision, size)
    exact = torch.randn(3, starts[-1] + TAIL, HEADS, size).to(precision).double().requires_grad_()
    states = exact.detach().to(device, precision).requires_grad_()
    context = attend(*states, layout, dropout=0.0, causal=causal)
    return _error(states, context, exact, formula(exact, starts, causal=causal), starts[-1])


def with_dropout(device: str, precision: torch.dtype, *, size: int = 64, causal: bool = False) -> float:
    """The error of contexts and gradients under the very mask that was drawn.

    Values are rows of the identity, so a context shows which probabilities were left.
    """
    rate, lengths = 0.1, (size, size // 2 + 3, 5, size)
    starts, layout = _laid(lengths, device, precision, size)
    exact = torch.randn(3, starts[-1] + TAIL, HEADS, size)
    exact[2] = 0
    for start, end in pairwise(starts):
        exact[2, start:end] = torch.eye(size)[: end - start, None]
    exact = exact.to(precision).double().requires_grad_()
    states = exact.detach().to(device, precision).requires_grad_()
    context = attend(*states, layout, dropout=rate, causal=causal)
    shown = context.detach().cpu().double()
    left = [
        (shown[start:end, :, : end - start].transpose(0, 1) != 0) / (1 - rate)
        for start, end in pairwise(starts)
    ]
    return _error(states, context, exact, formula(exact, starts, causal=causal, left=left), starts[-1])


def share_left(device: str, precision: torch.dtype) -> float:
    """How far the share of probabilities that are left is from what was asked for."""
    length, rate = 64, 0.25
    starts, layout = _laid((length,) * 8, device, precision, length)
    flat = torch.zeros(starts[-1] + TAIL, HEADS, length, dtype=precision, device=device)
    value = flat.clone()
    value[: starts[-1]] = torch.eye(length, device=device).to(precision).repeat(8, 1)[:, None]
    probabilities = attend(flat, flat, value, layout, dropout=rate)[: starts[-1]]
    kept = probabilities != 0
    scale = float((probabilities[kept].float() * length * (1 - rate) - 1).abs().max())
    return max(abs(float(kept.float().mean()) / (1 - rate) - 1), scale)


def _laid(lengths: Sequence[int], device: str, precision: torch.dtype, size: int) -> tuple[list[int], Layout]:
    """Where sequences of these lengths begin and end, and how attention has them; torch is seeded."""
    torch.manual_seed(1)
    starts = [0, *torch.tensor(lengths).cumsum(0).tolist()]
    layout = lay_out(
        tokens=starts[-1] + TAIL,
        sequence_starts_B1=torch.tensor(starts, dtype=torch.int32, device=device),
        longest=max(lengths),
        heads=HEADS,
        head_size=size,
        precision=precision,
    )
    return starts, layout


def _error(states: Tensor, context: Tensor, exact: Tensor, expected: Tensor, end: int) -> float:
    """The largest error of a context and its gradients; the tail begins at `end`."""
    weights = torch.randn(context.shape).to(context.dtype)
    weights[end:] = 0
    (found,) = torch.autograd.grad((context * weights.to(context.device)).sum(), states)
    (wanted,) = torch.autograd.grad((expected * weights.double()).sum(), exact)
    if not torch.isfinite(found).all() or not torch.all(found[:, end:] == 0):
        return float("inf")
    expected, wanted = expected.detach(), wanted.detach()
    pairs = [(context.detach()[:end], expected[:end])]
    # Each of the three by itself: what is wrong in the smallest does not hide behind the largest.
    pairs += zip(found, wanted, strict=True)
    return max(float((one.cpu().double() - other).abs().max() / other.abs().max()) for one, other in pairs)
