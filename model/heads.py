"""The heads of the two pretraining objectives (Devlin et al. 2018 §3.1).

In: hidden states of the masked positions, and pooled states of the sequences. Out: logits; and, from logits
and labels, the sum of the cross entropies and the count of correct predictions. What always holds: a label of
−100 counts nowhere; a head runs on zero labels that count, or on none at all, with a loss of exactly 0 and
gradients of 0; the word embeddings are the decoder's weights (tied), so they're handed in and never copied.

    >>> logits_MV = MlmHead(config)(hidden_MH, word_embeddings_VH)
    >>> sum_, correct = sums(logits_MV, labels_M)

Shapes: M masked positions · B sequences · H hidden_size · V vocab_size · K classes.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.config import ModelConfig
from model.vocabulary_loss import IGNORED, vocabulary_loss

ACTIVATION_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "gelu_pytorch_tanh": lambda states: functional.gelu(states, approximate="tanh"),
    "relu": functional.relu,
}


class MlmHead(nn.Module):
    """Task 1, masked LM: the word at a masked position, from its hidden state.

    As in the published code: a dense layer with activation and LayerNorm, then the embedding matrix as
    decoder, with a bias of its own.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size, bias=config.bias)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps, bias=config.bias)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.activation = ACTIVATION_FUNCTIONS[config.plain_activation]

    def forward(
        self, hidden_MH: Tensor, word_embeddings_VH: Tensor, labels_M: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Sum of the cross entropies over the vocabulary, and count of correct predictions; see `sums`."""
        return vocabulary_loss(self._transformed(hidden_MH), word_embeddings_VH, self.bias, labels_M)

    def logits(self, hidden_MH: Tensor, word_embeddings_VH: Tensor) -> Tensor:
        """Logits over the vocabulary, logits_MV."""
        return functional.linear(self._transformed(hidden_MH), word_embeddings_VH, self.bias)

    def _transformed(self, hidden_MH: Tensor) -> Tensor:
        transformed_MH: Tensor = self.norm(self.activation(self.dense(hidden_MH)))
        return transformed_MH


class NspHead(nn.Module):
    """Task 2, next sentence prediction: class 1 is BERT's "B is random", class 0 "B follows A".

    The same head learns the order of sentences (Lan et al. 2019): class 1 is then "swapped", class 0 "in order".
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, 2)

    def forward(self, pooled_BH: Tensor) -> Tensor:
        """Logits of the two classes, logits_B2."""
        logits_B2: Tensor = self.dense(pooled_BH)
        return logits_B2


def sums(logits_MK: Tensor, labels_M: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of the cross entropies, in nats, and count of correct predictions, over labels other than −100.

    Sums, because only the caller knows the global batch's count to divide by. At least fp32 inside: a sum of
    thousands of bf16 terms would keep two digits.
    """
    logits_MK = logits_MK.to(torch.promote_types(logits_MK.dtype, torch.float32))
    loss = functional.cross_entropy(logits_MK, labels_M, ignore_index=IGNORED, reduction="sum")
    return loss, (logits_MK.detach().argmax(dim=-1) == labels_M).sum()
