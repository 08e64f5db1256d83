"""Attention on CPUs: sequences of about one length are computed together, and little is kept for the backward pass.

In: queries, keys and values of T tokens; where each sequence starts. Out: T context vectors, zeros in the tail. What
always holds: it is softmax over each sequence alone; a sequence is padded by less than `_NARROWEST` allows, and of all
that has the scores' size only the probabilities are kept, which say by their sign what dropout has left out.

How: sorted by length, sequences are cut into bands, each padded to its longest and small enough for a core's cache. One
selection of rows gathers a tensor's heads side by side, which pads and transposes at once, and one more brings all
contexts back; their gradients go the other ways. torch's own attention has no fast form with dropout on CPUs: it makes
three tensors of the scores' size, of padded sequences, and keeps them.

    >>> bands = lay_bands(tokens=8, starts=[0, 3, 7], heads=2)
    >>> attend_banded(query_TND, key_TND, value_TND, bands, dropout=0.1, causal=False).shape
    torch.Size([8, 2, 64])

Shapes: T tokens, tail included · N heads · D size of a head · B sequences of a band · S the longest of it · R rows of
all bands, B · N · S each · G = B · N · P = R + 1, with a row of zeros.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.counts import SCORES_AT_ONCE
from model.dropout import kept, scale_of_kept

# A band ends where the next sequence is shorter than this share of its longest.
_NARROWEST = 0.8


@dataclass(frozen=True, kw_only=True)
class Band:
    """Sequences computed together.

    rows: where its rows lie among all
    is_token_BS: whether a slot holds a token, as 1 or 0; None where all do
    """

    rows: slice
    sequences: int
    longest: int
    is_token_BS: Tensor | None


@dataclass(frozen=True, kw_only=True)
class Bands:
    """All sequences of a micro-batch.

    source_R: of each row of the bands, the row of the T · N that it is a copy of; any at all where no token stands
    row_TN: (T · N) the other way; R for the tail
    """

    bands: tuple[Band, ...]
    source_R: Tensor
    row_TN: Tensor


def lay_bands(*, tokens: int, starts: Sequence[int], heads: int) -> Bands:
    """Bands for sequences that begin at `starts`, whose last is where the last one ends."""
    starts_B, lengths_B = np.asarray(starts[:-1]), np.diff(starts)
    by_length, head_N = np.argsort(-lengths_B, kind="stable"), np.arange(heads)
    bands: list[Band] = []
    sources: list[np.ndarray] = [np.empty(0, dtype=np.int64)]
    row_TN = np.full((tokens, heads), -1)
    rows = 0
    while len(by_length) and (longest := int(lengths_B[by_length[0]])):
        found = by_length[: max(1, SCORES_AT_ONCE // (heads * longest**2))]
        chosen = found[lengths_B[found] >= _NARROWEST * longest]
        by_length = by_length[len(chosen) :]
        step_S = np.arange(longest)
        token_BS = np.minimum(starts_B[chosen, None] + step_S, tokens - 1)
        is_token_BS = step_S < lengths_B[chosen, None]
        source_BNS = token_BS[:, None] * heads + head_N[:, None]
        row_BNS = rows + np.arange(source_BNS.size).reshape(source_BNS.shape)
        row_TN[token_BS[is_token_BS]] = row_BNS.transpose(0, 2, 1)[is_token_BS]
        sources.append(source_BNS.reshape(-1))
        bands.append(
            Band(
                rows=slice(rows, rows + source_BNS.size),
                sequences=len(chosen),
                longest=longest,
                is_token_BS=None if is_token_BS.all() else torch.from_numpy(is_token_BS.astype(np.float32)),
            )
        )
        rows += source_BNS.size
    row_TN[row_TN < 0] = rows
    return Bands(
        bands=tuple(bands),
        source_R=torch.from_numpy(np.concatenate(sources)),
        row_TN=torch.from_numpy(row_TN.reshape(-1)),
    )


def attend_banded(
    query_TND: Tensor, key_TND: Tensor, value_TND: Tensor, bands: Bands, *, dropout: float, causal: bool
) -> Tensor:
    """context_TND; see `model.attention.attend`. Half precisions are computed in fp32."""
    inputs = (query_TND, key_TND, value_TND)
    with_gradient = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)
    context: Tensor = _BandedAttention.apply(*inputs, bands, dropout, causal, with_gradient)
    return context


class _BandedAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query_TND: Tensor,
        key_TND: Tensor,
        value_TND: Tensor,
        bands: Bands,
        dropout: float,
        causal: bool,
        with_gradient: bool,
    ) -> Tensor:
        query_RD, key_RD, value_RD = _inputs(query_TND, key_TND, value_TND, bands, dropout)
        context_PD = _empty_rows(query_RD)
        all_shares = []
        for band in bands.bands:
            query_GSD, key_GSD, value_GSD = (_of(band, rows) for rows in (query_RD, key_RD, value_RD))
            scores_GSS = torch.bmm(query_GSD, key_GSD.transpose(1, 2))
            _hide(scores_GSS, band, causal)
            shares_GSS = torch.softmax(scores_GSS, dim=-1)
            left_GSS = shares_GSS
            if dropout:
                # The others get a minus.
                shares_GSS.mul_(kept(shares_GSS, dropout).mul_(2).sub_(1))
                left_GSS = torch.clamp(shares_GSS, min=0, out=scores_GSS)
            torch.bmm(left_GSS, value_GSD, out=_of(band, context_PD))
            if with_gradient:
                all_shares.append(shares_GSS)
        if with_gradient:
            ctx.save_for_backward(query_TND, key_TND, value_TND, *all_shares)
            ctx.bands, ctx.dropout = bands, dropout
        return _tokens(context_PD, bands, query_TND)

    @staticmethod
    def backward(ctx: Any, by_context_TND: Tensor) -> tuple[Tensor | None, ...]:
        query_TND, key_TND, value_TND, *all_shares = ctx.saved_tensors
        bands, dropout = ctx.bands, ctx.dropout
        query_RD, key_RD, value_RD = _inputs(query_TND, key_TND, value_TND, bands, dropout)
        by_context_RD = _rows(by_context_TND, bands)
        by_query_PD, by_key_PD, by_value_PD = (_empty_rows(query_RD) for _ in range(3))
        for band, shares_GSS in zip(bands.bands, all_shares, strict=True):
            query_GSD, key_GSD, value_GSD = (_of(band, rows) for rows in (query_RD, key_RD, value_RD))
            by_context_GSD = _of(band, by_context_RD)
            if band.is_token_BS is not None:
                by_context_BNSD = by_context_GSD.view(band.sequences, -1, *by_context_GSD.shape[1:])
                by_context_BNSD.mul_(band.is_token_BS[:, None, :, None])
            left_GSS = shares_GSS.clamp(min=0) if dropout else shares_GSS
            torch.bmm(left_GSS.transpose(1, 2), by_context_GSD, out=_of(band, by_value_PD))
            by_shares_GSS = torch.bmm(by_context_GSD, value_GSD.transpose(1, 2))
            if dropout:
                by_shares_GSS.mul_(torch.gt(shares_GSS, 0, out=left_GSS))
                shares_GSS = torch.abs(shares_GSS, out=left_GSS)
            by_scores_GSS = torch._softmax_backward_data(by_shares_GSS, shares_GSS, -1, shares_GSS.dtype)
            torch.bmm(by_scores_GSS, key_GSD, out=_of(band, by_query_PD))
            torch.bmm(by_scores_GSS.transpose(1, 2), query_GSD, out=_of(band, by_key_PD))
        by_query_PD.mul_(_scale(query_TND))
        by_value_PD.mul_(scale_of_kept(dropout))
        by_inputs = (_tokens(by, bands, query_TND) for by in (by_query_PD, by_key_PD, by_value_PD))
        return (*by_inputs, None, None, None, None)


def _inputs(
    query_TND: Tensor, key_TND: Tensor, value_TND: Tensor, bands: Bands, dropout: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of queries, keys and values, with what scores and what is left of probabilities are multiplied by."""
    query_RD = _rows(query_TND, bands).mul_(_scale(query_TND))
    return query_RD, _rows(key_TND, bands), _rows(value_TND, bands).mul_(scale_of_kept(dropout))


def _scale(query_TND: Tensor) -> float:
    return float(query_TND.shape[-1]) ** -0.5


def _rows(states_TND: Tensor, bands: Bands) -> Tensor:
    rows_RD = states_TND.reshape(-1, states_TND.shape[-1]).index_select(0, bands.source_R)
    return rows_RD.to(torch.promote_types(rows_RD.dtype, torch.float32))


def _empty_rows(like_RD: Tensor) -> Tensor:
    rows_PD = like_RD.new_empty((like_RD.shape[0] + 1, like_RD.shape[1]))
    rows_PD[-1] = 0
    return rows_PD


def _of(band: Band, rows_RD: Tensor) -> Tensor:
    """A band's rows, GSD."""
    return rows_RD[band.rows].view(-1, band.longest, rows_RD.shape[1])


def _tokens(rows_PD: Tensor, bands: Bands, like_TND: Tensor) -> Tensor:
    return rows_PD.index_select(0, bands.row_TN).view(like_TND.shape).to(like_TND.dtype)


def _hide(scores_GSS: Tensor, band: Band, causal: bool) -> None:
    """Leave no share to slots without a token, nor, where that is asked, to those on the right."""
    if causal:
        # They lie on the right of all tokens, so nothing else need be hidden.
        size = band.longest
        scores_GSS += torch.full((size, size), -torch.inf, dtype=scores_GSS.dtype).triu_(1)
    elif band.is_token_BS is not None:
        bias_BS = torch.zeros_like(band.is_token_BS).masked_fill_(band.is_token_BS == 0, -torch.inf)
        scores_GSS.view(band.sequences, -1, *scores_GSS.shape[1:]).add_(bias_BS[:, None, None, :])
