"""A fixed small input and what a network answers to it: the proof that weights survived a journey.

In: a network, or an engine. Out: fp32 logits. What always holds: the input is a function of the network's
configuration alone, so an engine's answer at the time of a checkpoint can be held against any later copy of its
weights (law 9).
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from model.config import ModelConfig
from pipeline import counter_random

if TYPE_CHECKING:
    import torch

    from pipeline.training.engine import Engine

_KEY = counter_random.key(0x50524F4245)
_LENGTHS = (24, 17)
_MASKED = 4


def probe_input(config: ModelConfig) -> dict[str, Any]:
    """Two sequences of unlike length, as numpy arrays by the network's argument names, and `probed_P`."""
    lengths = [min(length, config.max_positions) for length in _LENGTHS]
    total = sum(lengths)
    tokens = counter_random.draw(_KEY, np.arange(total)) % np.uint64(config.vocab_size)
    positions = np.concatenate([np.arange(length) for length in lengths])
    halves = np.concatenate([np.arange(length) >= length // 2 for length in lengths])
    return {
        "tokens_T": tokens.astype(np.int64),
        "segments_T": (halves & (config.type_vocab_size > 1)).astype(np.int64),
        "positions_T": positions,
        "sequence_starts_B1": np.cumsum([0, *lengths]).astype(np.int32),
        "longest": max(lengths),
        "probed_P": np.linspace(1, total - 1, _MASKED).astype(np.int64),
    }


def probe_logits(network: Any, config: ModelConfig, device: str = "cpu") -> "dict[str, torch.Tensor]":
    """The network's fp32 answers, dropout off: `mlm_PV` and, with a pairs' head, `nsp_B2`; its mode is put back."""
    import torch

    given = {
        name: torch.as_tensor(value, device=device) if isinstance(value, np.ndarray) else value
        for name, value in probe_input(config).items()
    }
    probed_P = given.pop("probed_P")
    training = network.training
    network.eval()
    with torch.no_grad():
        hidden_TH, pooled_BH = network.encode(**given)
        answer = {"mlm_PV": network.mlm_logits(hidden_TH, probed_P).float().cpu().contiguous()}
        if config.pair_head:
            answer["nsp_B2"] = network.nsp_logits(pooled_BH).float().cpu().contiguous()
    network.train(training)
    return answer


def engine_logits(
    engine: "Engine", weights: "dict[str, torch.Tensor]", config: ModelConfig
) -> "dict[str, torch.Tensor]":
    """What the engine answers, in fp32; called by the first rank alone.

    weights: the engine's own, gathered; a copy of the network answers with them where no rank holds all of it in
        fp32 (ZeRO 3, half precisions)
    """
    if engine.whole_network is not None:
        return probe_logits(engine.whole_network, config, engine.device)
    import torch

    from model.bert import BertForPretraining

    with torch.device("meta"):
        copy = BertForPretraining(config)
    copy.load_state_dict(weights, assign=True)
    return probe_logits(copy, config)
