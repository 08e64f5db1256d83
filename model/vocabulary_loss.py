"""Cross entropy over the vocabulary, a chunk of masked positions at a time.

In: hidden states of M masked positions, the decoder's weights and bias, labels. Out: the sum of the cross entropies and
the count of correct predictions. What always holds: the M × V logits stand at most once, in chunks,
and nothing of their size is kept for the backward pass; the gradients are those of the plain formula; a label of −100
counts nowhere, and labels that are all so, or none at all, give a loss of exactly 0 and gradients of 0.

How: the gradient of a sum of cross entropies is known as soon as its logits are (softmax − one-hot), so the forward
pass makes it, chunk by chunk, and the backward pass only scales it. The plain formula keeps the logits or their
logarithms, and makes as much again twice.

    >>> sum_, correct = vocabulary_loss(hidden_MH, word_embeddings_VH, bias_V, labels_M)

Shapes: M masked positions · H hidden_size · V vocab_size · C rows of a chunk.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from model.counts import LOGITS_AT_ONCE

IGNORED = -100  # the label of what has none: PyTorch's convention for cross entropy


def vocabulary_loss(
    hidden_MH: Tensor, weight_VH: Tensor, bias_V: Tensor, labels_M: Tensor
) -> tuple[Tensor, Tensor]:
    """Sum of the cross entropies, in nats and at least fp32, and count of correct predictions (int64)."""
    parts = (hidden_MH, weight_VH, bias_V)
    with_gradient = torch.is_grad_enabled() and any(part.requires_grad for part in parts)
    total, correct = _VocabularyLoss.apply(*parts, labels_M, with_gradient)
    return total, correct


class _VocabularyLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_MH: Tensor,
        weight_VH: Tensor,
        bias_V: Tensor,
        labels_M: Tensor,
        with_gradient: bool,
    ) -> tuple[Tensor, Tensor]:
        rows = max(1, LOGITS_AT_ONCE[hidden_MH.device.type] // weight_VH.shape[0])
        exact = torch.promote_types(hidden_MH.dtype, torch.float32)
        total = hidden_MH.new_zeros((), dtype=exact)
        correct = labels_M.new_zeros((), dtype=torch.int64)
        gradients = _Gradients(weight_VH, bias_V, exact)
        for hidden_CH, labels_C in zip(hidden_MH.split(rows), labels_M.split(rows), strict=True):
            logits_CV = functional.linear(hidden_CH, weight_VH, bias_V).to(exact)
            is_label_C, label_C1 = labels_C != IGNORED, labels_C.clamp(min=0)[:, None]
            label_logit_C = logits_CV.gather(1, label_C1)[:, 0]
            highest_C, found_C = logits_CV.max(dim=-1)
            correct += (found_C == labels_C).sum()
            shares_CV = torch.softmax(logits_CV, dim=-1)
            del logits_CV
            # The highest logit's share is 1 / Σ exp(logit − highest).
            log_sum_C = highest_C - shares_CV.gather(1, found_C[:, None])[:, 0].log()
            total += (log_sum_C - label_logit_C).masked_fill(~is_label_C, 0.0).sum()
            if with_gradient:
                shares_CV.scatter_add_(1, label_C1, shares_CV.new_full(label_C1.shape, -1.0))
                by_logits_CV = shares_CV.masked_fill_(~is_label_C[:, None], 0.0)
                gradients.add(by_logits_CV.to(hidden_MH.dtype), hidden_CH, weight_VH)
        ctx.mark_non_differentiable(correct)
        if with_gradient:
            ctx.save_for_backward(*gradients.of(hidden_MH))
        return total, correct

    @staticmethod
    def backward(ctx: Any, by_total: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        # Scaled where they stand: they were made for this, and a second backward pass is refused.
        return (*(by_part.mul_(by_total) for by_part in ctx.saved_tensors), None, None)


class _Gradients:
    """What the chunks give and add up to: the gradients of the sum by hidden states, weights and bias."""

    def __init__(self, weight_VH: Tensor, bias_V: Tensor, exact: torch.dtype) -> None:
        self._hidden: list[Tensor] = []
        self._weight: Tensor | None = None
        self._shape, self._exact = weight_VH.shape, exact
        self._bias = torch.zeros_like(bias_V, dtype=exact)

    def add(self, by_logits_CV: Tensor, hidden_CH: Tensor, weight_VH: Tensor) -> None:
        self._hidden.append(by_logits_CV @ weight_VH)
        self._bias += by_logits_CV.sum(dim=0, dtype=self._exact)
        by_weight_HV = by_logits_CV.t()
        if self._weight is None:
            self._weight = by_weight_HV @ hidden_CH
        elif hidden_CH.dtype == self._exact:
            self._weight.addmm_(by_weight_HV, hidden_CH)
        else:
            # bf16 would lose a little of the sum with every chunk.
            self._weight = self._weight.to(self._exact).add_(by_weight_HV @ hidden_CH)

    def of(self, hidden_MH: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of hidden states, weights and bias, in the precision of each."""
        dtype = hidden_MH.dtype
        hidden = torch.cat(self._hidden) if self._hidden else torch.zeros_like(hidden_MH)
        weight = hidden_MH.new_zeros(self._shape) if self._weight is None else self._weight.to(dtype)
        return hidden, weight, self._bias.to(dtype)
