"""The same network under the names of Hugging Face `transformers`, both ways.

In: a `state_dict` or a configuration of ours, or of theirs. Out: the other's. A network with a pairs' head is their
`BertForPreTraining`; one without is their `BertForMaskedLM`, or, where it is causal, their `BertLMHeadModel` as a
decoder. What always holds: `from_hf(to_hf(state))` is `state`, tensor for tensor, nothing copied; a name too many or
too few is a `ValueError` that names it. `transformers` itself is not needed.

    >>> hf_model.load_state_dict(to_hf(model.state_dict()))
    >>> model.load_state_dict(from_hf(hf_model.state_dict()))
"""

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from model.config import ACTIVATIONS, ModelConfig

if TYPE_CHECKING:
    from torch import Tensor

# Ours → theirs; a layer's names stand once, with {} for its number. Each is a module with weight or bias.
_MODULES = {
    "bert.embeddings.word": "bert.embeddings.word_embeddings",
    "bert.embeddings.position": "bert.embeddings.position_embeddings",
    "bert.embeddings.segment": "bert.embeddings.token_type_embeddings",
    "bert.embeddings.norm": "bert.embeddings.LayerNorm",
    "bert.layers.{}.attention.query": "bert.encoder.layer.{}.attention.self.query",
    "bert.layers.{}.attention.key": "bert.encoder.layer.{}.attention.self.key",
    "bert.layers.{}.attention.value": "bert.encoder.layer.{}.attention.self.value",
    "bert.layers.{}.attention.output": "bert.encoder.layer.{}.attention.output.dense",
    "bert.layers.{}.attention_norm": "bert.encoder.layer.{}.attention.output.LayerNorm",
    "bert.layers.{}.feed_forward.expand": "bert.encoder.layer.{}.intermediate.dense",
    "bert.layers.{}.feed_forward.contract": "bert.encoder.layer.{}.output.dense",
    "bert.layers.{}.feed_forward_norm": "bert.encoder.layer.{}.output.LayerNorm",
    "bert.pooler.dense": "bert.pooler.dense",
    "mlm_head.dense": "cls.predictions.transform.dense",
    "mlm_head.norm": "cls.predictions.transform.LayerNorm",
    "mlm_head": "cls.predictions",  # its own bias: the decoder's
    "nsp_head.dense": "cls.seq_relationship",
}
# What comes with a pairs' head and goes with it.
_OF_PAIRS = ("bert.pooler.dense", "nsp_head.dense")
_WITHOUT_BIAS = ("bert.embeddings.word", "bert.embeddings.position", "bert.embeddings.segment")
_WITHOUT_WEIGHT = ("mlm_head",)

# Theirs alone. The decoder's entries repeat what is tied; the buffers count positions and hold no weights.
_TIED = {
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}
_BUFFERS = ("bert.embeddings.position_ids", "bert.embeddings.token_type_ids")

# The classes that have neither pooler nor pairs' head.
_WITHOUT_PAIRS = {"BertForMaskedLM", "BertLMHeadModel"}

_CONFIG_FIELDS = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "max_positions": "max_position_embeddings",
    "type_vocab_size": "type_vocab_size",
    "hidden_dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "initializer_range": "initializer_range",
    "layer_norm_eps": "layer_norm_eps",
    "activation": "hidden_act",
}


def to_hf(state: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """Our state under the names of `architecture`'s class, tied decoder entries included (the same tensors).

    Before writing safetensors, drop the entries that `tied_names` lists: shared memory is refused there.
    """
    names = _names(_layers(state, r"bert\.layers\.(\d+)\."), pair_head=_has_any(state, _OF_PAIRS))
    _refuse_differences("bertpipe", state, names)
    renamed = {theirs: state[ours] for ours, theirs in names.items()}
    return renamed | {copy: renamed[source] for copy, source in _TIED.items()}


def from_hf(state: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """A state of one of their three classes under our names; the tied decoder's entries and buffers may be missing.

    Raises `ValueError` on missing and unexpected names, and where the decoder is not tied to the embeddings.
    """
    pair_head = _has_any(state, [_MODULES[ours] for ours in _OF_PAIRS])
    names = _names(_layers(state, r"bert\.encoder\.layer\.(\d+)\."), pair_head=pair_head)
    weights = {name: tensor for name, tensor in state.items() if name not in _TIED and name not in _BUFFERS}
    _refuse_differences("transformers", weights, names.values())
    for copy, source in _TIED.items():
        if copy in state and not (state[copy] is state[source] or state[copy].equal(state[source])):
            raise ValueError(f"{copy} differs from {source}: bertpipe's decoder is tied to it")
    return {ours: weights[theirs] for ours, theirs in names.items()}


def tied_names() -> tuple[str, ...]:
    """The names in `to_hf`'s result that repeat another entry."""
    return tuple(_TIED)


def architecture(config: ModelConfig) -> str:
    """The class of `transformers` that computes this network."""
    if config.pair_head:
        return "BertForPreTraining"
    return "BertLMHeadModel" if config.causal else "BertForMaskedLM"


def hf_config(config: ModelConfig, *, pad_token_id: int = 0) -> dict[str, Any]:
    """What `config.json` of a model folder says; `transformers.BertConfig(**…)` takes it too."""
    shape = {theirs: getattr(config, ours) for ours, theirs in _CONFIG_FIELDS.items()}
    return {
        "architectures": [architecture(config)],
        "model_type": "bert",
        **shape,
        "pad_token_id": pad_token_id,
        "tie_word_embeddings": True,
        "is_decoder": config.causal,
    }


def from_hf_config(hf: Mapping[str, Any]) -> ModelConfig:
    """Our configuration of a Hugging Face BERT; raises `ValueError` on what this network doesn't compute.

    A pairs' head is taken to be there unless a class without one is named, or the network is a decoder.
    """
    missing = [theirs for theirs in _CONFIG_FIELDS.values() if theirs not in hf]
    if missing:
        raise ValueError(f"the Hugging Face configuration lacks {', '.join(missing)}")
    classes, causal = set(hf.get("architectures") or ()), bool(hf.get("is_decoder"))
    demands = {
        "model_type": ("bert",),
        "hidden_act": ACTIVATIONS,
        "position_embedding_type": ("absolute",),
        "tie_word_embeddings": (True,),
        "is_decoder": (False, True) if classes <= _WITHOUT_PAIRS else (False,),
        "add_cross_attention": (False,),
    }
    for key, accepted in demands.items():
        if key in hf and hf[key] not in accepted:
            wanted = " or ".join(repr(value) for value in accepted)
            raise ValueError(f"the Hugging Face configuration has {key} {hf[key]!r}: bertpipe needs {wanted}")
    shape = {ours: hf[theirs] for ours, theirs in _CONFIG_FIELDS.items()}
    has_pairs = not causal and not (classes and classes <= _WITHOUT_PAIRS)
    return ModelConfig(**shape, pair_head=has_pairs, causal=causal)


def _has_any(state: "Mapping[str, Tensor]", modules: Iterable[str]) -> bool:
    beginnings = tuple(f"{module}." for module in modules)
    return any(name.startswith(beginnings) for name in state)


def _names(layers: int, *, pair_head: bool) -> dict[str, str]:
    names: dict[str, str] = {}
    for ours, theirs in _MODULES.items():
        if ours in _OF_PAIRS and not pair_head:
            continue
        for number in range(layers) if "{}" in ours else (0,):
            for kind in _kinds(ours):
                names[f"{ours}.{kind}".format(number)] = f"{theirs}.{kind}".format(number)
    return names


def _kinds(module: str) -> tuple[str, ...]:
    if module in _WITHOUT_BIAS:
        return ("weight",)
    return ("bias",) if module in _WITHOUT_WEIGHT else ("weight", "bias")


def _layers(state: "Mapping[str, Tensor]", pattern: str) -> int:
    numbers = [int(match[1]) for name in state if (match := re.match(pattern, name))]
    return max(numbers, default=0) + 1


def _refuse_differences(whose: str, state: "Mapping[str, Tensor]", expected: Iterable[str]) -> None:
    expected = set(expected)
    missing, unexpected = sorted(expected - state.keys()), sorted(state.keys() - expected)
    if missing or unexpected:
        found = {"missing": missing, "unexpected": unexpected}
        parts = "; ".join(f"{label} {', '.join(names)}" for label, names in found.items() if names)
        raise ValueError(f"not the weights of a {whose} BERT for pretraining: {parts}")
