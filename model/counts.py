"""How large a network is, how much a training step computes, and how much it keeps in memory meanwhile.

In: a configuration, and the lengths of the sequences trained on. Out: parameters, floating-point operations
(FLOPs), and bytes. What always holds: only real tokens count, so padding or a bucket's tail never makes a run
look faster; an addition and a multiplication are two operations; bytes are those of a micro-batch whose sequences
all have the full length.

    >>> step_flops(preset("base", vocab_size=30522), np.full(256, 128), masked=256 * 19) / 1e12   # teraFLOPs
    17.86...
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from model.config import ModelConfig

# Elements of the logits over the vocabulary that the loss makes at once. On a CPU 32 MB of them are still in its cache
# from one operation to the next, and fewer make more passes over the weights' gradient; a GPU wants a large matrix
# product.
LOGITS_AT_ONCE = {"cpu": 1 << 23, "cuda": 1 << 26}
# Scores of attention that a CPU computes at once, unless one sequence has more: what a core's cache holds.
SCORES_AT_ONCE = 1 << 19


def parameter_count(config: ModelConfig) -> int:
    """Trainable parameters; the decoder's weights are the word embeddings' and count once."""
    hidden, inner, expanded = config.hidden_size, config.intermediate_size, _expanded(config)
    biases = int(config.bias)
    norm = hidden + biases * hidden
    dense = hidden * hidden + biases * hidden
    positions = config.max_positions if config.position == "learned" else 0
    embeddings = (config.vocab_size + positions + config.type_vocab_size) * hidden + norm
    attention = 4 * dense + norm  # query, key, value, output
    feed_forward = hidden * (expanded + inner) + biases * (expanded + hidden) + norm
    final_norm = norm if config.norm == "pre" else 0
    mlm_head = dense + norm + config.vocab_size  # the decoder's bias, which is always there
    pooler_and_nsp = hidden * hidden + hidden + 2 * hidden + 2 if config.pair_head else 0
    layers = config.layers * (attention + feed_forward) + final_norm
    return embeddings + layers + mlm_head + pooler_and_nsp


def _expanded(config: ModelConfig) -> int:
    """What a token's vector is expanded to in the feed-forward layer: a gate and what it gates, or the latter alone."""
    return (2 if config.gated else 1) * config.intermediate_size


def step_flops(config: ModelConfig, sequence_lengths: ArrayLike, masked: int) -> int:
    """FLOPs of one forward and backward over sequences of these lengths with `masked` masked tokens in all.

    Matrix products only: look-ups in the embeddings count 0, and element-wise work (LayerNorm, GELU, softmax,
    rotation, dropout, the optimizer) is left out, as is usual for a model's FLOP utilisation (MFU; Chowdhery et al.
    2022, arXiv 2204.02311, appendix B). A product of (a × b) and (b × c) is 2abc. Attention to the left alone
    counts as attention to all, as there.
    """
    lengths = np.asarray(sequence_lengths, dtype=np.int64)
    hidden, inner = config.hidden_size, config.intermediate_size
    tokens, sequences = int(lengths.sum()), lengths.size
    # query, key, value, output: four H × H products a token; feed-forward: H × I, twice where it is gated, and I × H.
    dense = tokens * (4 * 2 * hidden * hidden + 2 * hidden * (_expanded(config) + inner))
    # Scores and weighted values: each 2 · length² · D a head, and heads × D is H.
    attention = 2 * 2 * int(np.square(lengths).sum()) * hidden
    pooler_and_nsp = sequences * (2 * hidden * hidden + 2 * hidden * 2) if config.pair_head else 0
    # The transform (H × H) and the decoder (H × V), at masked positions alone.
    mlm = masked * (2 * hidden * hidden + 2 * hidden * config.vocab_size)
    forward = config.layers * (dense + attention) + pooler_and_nsp + mlm
    # Backward makes two products of each forward one: for the gradient of its input and of its weights.
    return 3 * forward


@dataclass(frozen=True, kw_only=True)
class ActivationBytes:
    """What a forward keeps for its backward, and what comes on top while that runs.

    layers: kept by embeddings and encoder layers
    heads: kept by the two heads, the gradient of the decoder's weights included
    forward, backward: the most that the pass makes and drops again beside what is kept then
    """

    layers: int
    heads: int
    forward: int
    backward: int

    @property
    def kept(self) -> int:
        """All that the forward keeps."""
        return self.layers + self.heads

    @property
    def peak(self) -> int:
        """The most that there is at once."""
        return self.kept + max(self.forward, self.backward)


def activation_bytes(
    config: ModelConfig,
    *,
    sequences: int,
    length: int,
    masked: int,
    element: int = 4,
    gpu: bool = False,
    flash: bool = False,
    recompute: str = "none",
) -> ActivationBytes:
    """Memory of the activations of one micro-batch of `BertForPretraining` in training.

    sequences, length: the micro-batch, each sequence `length` tokens long
    masked: tokens to be guessed in all
    element: bytes of an activation: 4 in fp32, 2 in bf16 and fp16
    gpu: on a GPU attention keeps no probabilities and a dropout mask takes a byte an element; on a CPU it keeps them,
        in fp32
    flash: whether a GPU's attention is the flash kernel, and keeps no grid
    recompute: one of `RECOMPUTED`

    Counted from what autograd saves (tests/model/test_counts.py), tensors that several operations save once.
    """
    hidden, inner, layers = config.hidden_size, config.intermediate_size, config.layers
    tokens = sequences * length
    states = tokens * hidden
    mask = (1 if gpu else element) if config.hidden_dropout else 0
    statistics = 2 * tokens * (4 if gpu else element)  # a LayerNorm's means and deviations
    # Query, key, value; on a CPU a probability a score, in fp32; on a GPU a log-sum-exp a row, and where the context
    # comes from a grid (fp32, GPUs before Ampere), that of the grid, too.
    scores = 4 * sequences * config.heads * length**2
    rows = (0 if flash else states * element) + tokens * config.heads * 4
    again = recompute == "attention"
    attention = 3 * states * element + (0 if again else rows if gpu else scores)
    wide = tokens * inner * element
    # Gated: the two products, the gate behind GELU, and the product of both. ReLU's backward needs its output alone,
    # which the next product keeps anyway.
    feed_forward = (4 if config.gated else 1 if config.activation == "relu" else 2) * wide
    # The context, and two LayerNorms' inputs and outputs, wherever they stand; two dropouts.
    layer = 5 * states * element + 2 * states * mask + attention + feed_forward + 2 * statistics
    # The sum, dropout's mask, the statistics; 8: tokens and segments. Positions are 4 more, or the cosines and sines of
    # half a head's size, which all layers share.
    positions = (4 if config.position == "learned" else 4 * config.head_size) * tokens
    embeddings = states * (element + mask) + statistics + 8 * tokens + positions
    # Each layer's output is the next one's input; the last one's is kept by the final LayerNorm, or by nobody.
    kept = layers * (states * element if recompute == "full" else layer)
    kept += states * element + statistics if config.norm == "pre" else 0
    # The transform: three vectors a masked token; the decoder: the gradients that its forward made; the pooler: two.
    decoder = (masked * hidden + config.vocab_size * (hidden + 1)) * element
    pooler = 2 * sequences * hidden * element if config.pair_head else 0
    heads = 3 * masked * hidden * element + decoder + pooler
    # The most at once: at the heads a chunk's logits and probabilities, in fp32; then, a layer at a time, the gradients
    # of the feed-forward layer or of attention, when the heads' share is free again. Found by watching a process's
    # memory.
    at_heads = 2 * 4 * min(masked * config.vocab_size, LOGITS_AT_ONCE["cuda" if gpu else "cpu"])
    # On a CPU queries, keys, values, the context's gradient and theirs, in rows, and a band's scores three times.
    band = 4 * max(SCORES_AT_ONCE, config.heads * length**2)
    in_attention = 4 * states * element if gpu else 7 * states * 4 + 3 * band
    in_layer = max((6 if config.gated else 4) * wide, in_attention) + 2 * states * element
    in_layer += layer if recompute == "full" else rows if again and gpu else scores if again else 0
    return ActivationBytes(
        layers=kept + embeddings, heads=heads, forward=at_heads, backward=max(0, in_layer - heads)
    )
