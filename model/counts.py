"""How large a network is, and how much a training step computes.

In: a configuration, and the lengths of the sequences trained on. Out: parameters, and floating-point
operations (FLOPs). What always holds: only real tokens count, so padding or a bucket's tail never makes a run
look faster; an addition and a multiplication are two operations.

    >>> step_flops(preset("base", vocab_size=30522), np.full(256, 128), masked=256 * 19) / 1e12   # teraFLOPs
    17.86...
"""

import numpy as np
from numpy.typing import ArrayLike

from model.config import ModelConfig


def parameter_count(config: ModelConfig) -> int:
    """Trainable parameters; the decoder's weights are the word embeddings' and count once."""
    hidden, inner = config.hidden_size, config.intermediate_size
    norm = 2 * hidden
    dense = hidden * hidden + hidden
    embeddings = (config.vocab_size + config.max_positions + config.type_vocab_size) * hidden + norm
    attention = 4 * dense + norm  # query, key, value, output
    feed_forward = (hidden * inner + inner) + (inner * hidden + hidden) + norm
    pooler = dense
    mlm_head = dense + norm + config.vocab_size  # the decoder's bias
    nsp_head = 2 * hidden + 2
    return embeddings + config.layers * (attention + feed_forward) + pooler + mlm_head + nsp_head


def step_flops(config: ModelConfig, sequence_lengths: ArrayLike, masked: int) -> int:
    """FLOPs of one forward and backward over sequences of these lengths with `masked` masked tokens in all.

    Matrix products only: look-ups in the embeddings count 0, and element-wise work (LayerNorm, GELU, softmax,
    dropout, the optimizer) is left out, as is usual for a model's FLOP utilisation (MFU; Chowdhery et al.
    2022, arXiv 2204.02311, appendix B). A product of (a × b) and (b × c) is 2abc.
    """
    lengths = np.asarray(sequence_lengths, dtype=np.int64)
    hidden, inner = config.hidden_size, config.intermediate_size
    tokens, sequences = int(lengths.sum()), lengths.size
    # query, key, value, output: four H × H products a token; feed-forward: H × I and I × H.
    dense = tokens * (4 * 2 * hidden * hidden + 2 * 2 * hidden * inner)
    # Scores and weighted values: each 2 · length² · D a head, and heads × D is H.
    attention = 2 * 2 * int(np.square(lengths).sum()) * hidden
    pooler_and_nsp = sequences * (2 * hidden * hidden + 2 * hidden * 2)
    # The transform (H × H) and the decoder (H × V), at masked positions alone.
    mlm = masked * (2 * hidden * hidden + 2 * hidden * config.vocab_size)
    forward = config.layers * (dense + attention) + pooler_and_nsp + mlm
    # Backward makes two products of each forward one: for the gradient of its input and of its weights.
    return 3 * forward
