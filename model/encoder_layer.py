"""A layer of the encoder: attention, then feed-forward, each added to what it read.

In: hidden states of T tokens laid end to end, and where their sequences stand. Out: the next layer's hidden states.
What always holds: a sequence's states depend on no other's.

Shapes: T tokens, tail included · H hidden_size · N heads · D size of a head.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from model.attention import Layout, attend
from model.config import ModelConfig
from model.dropout import Dropout
from model.feed_forward import feed_forward
from model.rotation import Rotation, rotate


def layer_norm(config: ModelConfig) -> nn.LayerNorm:
    """Layer normalisation (Ba et al. 2016, arXiv 1607.06450) over a token's vector."""
    return nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps, bias=config.bias)


def attend_again(*inputs: Any, **how: Any) -> Tensor:
    """`attend`, keeping nothing but its inputs for the backward pass."""
    context_TND: Tensor = checkpoint(attend, *inputs, use_reentrant=False, **how)
    return context_TND


class SelfAttention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017 §3.2), bidirectional (Devlin et al. 2018 §3) or causal."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads, self.head_size, self.causal = config.heads, config.head_size, config.causal
        self.attention_dropout = config.attention_dropout
        # Set anew where its intermediate results are not to be kept, or a compiler is to leave it alone.
        self.attend: Callable[..., Tensor] = attend
        # Three matrices, not a fused one: as fast here (H = 128, 256, 768), and LAMB's trust ratios stay
        # those of the published tensors.
        self.query = nn.Linear(config.hidden_size, config.hidden_size, bias=config.bias)
        self.key = nn.Linear(config.hidden_size, config.hidden_size, bias=config.bias)
        self.value = nn.Linear(config.hidden_size, config.hidden_size, bias=config.bias)
        self.output = nn.Linear(config.hidden_size, config.hidden_size, bias=config.bias)

    def forward(self, hidden_TH: Tensor, layout: Layout, turn: Rotation | None) -> Tensor:
        """What attention adds to hidden_TH, before dropout."""
        by_head = (-1, self.heads, self.head_size)
        query_TND, key_TND = self.query(hidden_TH).view(by_head), self.key(hidden_TH).view(by_head)
        if turn is not None:
            query_TND, key_TND = rotate(query_TND, turn), rotate(key_TND, turn)
        context_TND = self.attend(
            query_TND,
            key_TND,
            self.value(hidden_TH).view(by_head),
            layout,
            dropout=self.attention_dropout if self.training else 0.0,
            causal=self.causal,
        )
        added_TH: Tensor = self.output(context_TND.flatten(1))
        return added_TH


class EncoderLayer(nn.Module):
    """Attention, then feed-forward; LayerNorm after each sum (post-LN), as in Vaswani et al. 2017 §3.1."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention = SelfAttention(config)
        self.attention_norm = layer_norm(config)
        self.feed_forward = feed_forward(config)
        self.feed_forward_norm = layer_norm(config)
        self.dropout = Dropout(config.hidden_dropout)

    def forward(self, hidden_TH: Tensor, layout: Layout, turn: Rotation | None) -> Tensor:
        """The next layer's hidden_TH."""
        hidden_TH = self.attention_norm(hidden_TH + self.dropout(self.attention(hidden_TH, layout, turn)))
        next_TH: Tensor = self.feed_forward_norm(hidden_TH + self.dropout(self.feed_forward(hidden_TH)))
        return next_TH


class PreNormEncoderLayer(EncoderLayer):
    """The same halves, each behind its LayerNorm, on a path from layer to layer that nothing normalises (pre-LN).

    Xiong et al. 2020, arXiv 2002.04745, figure 1b: gradients are even over the layers from the first step on.
    """

    def forward(self, hidden_TH: Tensor, layout: Layout, turn: Rotation | None) -> Tensor:
        """The next layer's hidden_TH."""
        added_TH = self.attention(self.attention_norm(hidden_TH), layout, turn)
        hidden_TH = hidden_TH + self.dropout(added_TH)
        next_TH: Tensor = hidden_TH + self.dropout(self.feed_forward(self.feed_forward_norm(hidden_TH)))
        return next_TH


ENCODER_LAYERS = {"post": EncoderLayer, "pre": PreNormEncoderLayer}
