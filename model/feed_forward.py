"""A layer's second half: each token's vector made wide, activated, and made narrow again.

In: hidden states of T tokens. Out: what the layer adds to them. What always holds: a token's result depends on that
token alone.

    >>> feed_forward(config)(hidden_TH).shape == hidden_TH.shape
    True

Shapes: T tokens · H hidden_size · I intermediate_size.
"""

from torch import Tensor, nn
from torch.nn import functional

from model.config import ModelConfig
from model.heads import ACTIVATION_FUNCTIONS


class FeedForward(nn.Module):
    """Position-wise feed-forward layer (Vaswani et al. 2017 §3.3), with GELU (Devlin et al. 2018 §A.2)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.expand = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.bias)
        self.contract = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.bias)
        self.activation = ACTIVATION_FUNCTIONS[config.plain_activation]

    def forward(self, hidden_TH: Tensor) -> Tensor:
        """What the layer adds to hidden_TH, before dropout."""
        added_TH: Tensor = self.contract(self.activation(self.expand(hidden_TH)))
        return added_TH


class GatedFeedForward(nn.Module):
    """GEGLU (Shazeer 2020, arXiv 2002.05202, §2): GELU of one product of the input gates another.

    The two are one matrix, the gate's rows first. At the same intermediate_size it has half as many parameters again
    as `FeedForward`; two thirds of that size make them equal, which is what the paper compares.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.expand = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=config.bias)
        self.contract = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.bias)

    def forward(self, hidden_TH: Tensor) -> Tensor:
        """What the layer adds to hidden_TH, before dropout."""
        gate_TI, value_TI = self.expand(hidden_TH).chunk(2, dim=-1)
        added_TH: Tensor = self.contract(functional.gelu(gate_TI) * value_TI)
        return added_TH


def feed_forward(config: ModelConfig) -> FeedForward | GatedFeedForward:
    """The one that the configuration's activation asks for."""
    return GatedFeedForward(config) if config.gated else FeedForward(config)
