"""The same network under the names of Hugging Face `transformers`, both ways.

In: a `state_dict` or a configuration of ours, or of theirs. Out: the other's. Which of their classes it is, `norm`,
`position`, a pairs' head and causality decide (`hf_families` has the table). What always holds: `from_hf(to_hf(state))`
is `state`, tensor for tensor, less a pairs' head that no class holds, and with biases of zeros where the network has
none; a name too many or too few is a `ValueError` that names it. `transformers` itself is not needed.

    >>> hf_model.load_state_dict(to_hf(model.state_dict(), model.config))
    >>> model.load_state_dict(from_hf(hf_model.state_dict()))
"""

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from model.config import ModelConfig
from model.hf_families import BERT, FAMILIES, PAIRS, Family, family_of, held

if TYPE_CHECKING:
    from torch import Tensor

_POSITIONS = "bert.embeddings.position.weight"
_WITHOUT_BIAS = ("bert.embeddings.word", "bert.embeddings.position", "bert.embeddings.segment")
_WITHOUT_WEIGHT = ("mlm_head",)
# What has a bias in a network that is said to have none.
_ALWAYS_BIASED = ("mlm_head", *PAIRS)

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


def to_hf(
    state: "Mapping[str, Tensor]", config: ModelConfig, *, pad_token_id: int = 0
) -> "dict[str, Tensor]":
    """Our state under the names of `architecture`'s class, tied decoder entries included (the same tensors).

    pad_token_id: behind which some classes' positions begin; the one that `hf_config` was given

    Before writing safetensors, drop the entries that `tied_names` lists: shared memory is refused there. Raises
    `ValueError` where no class holds the network.
    """
    family = family_of(config)
    names = _names(family, config.layers, pair_head=held(config).pair_head)
    pairs = {f"{ours}.{kind}" for ours in PAIRS for kind in _kinds(ours)} if config.pair_head else set()
    absent = set() if config.bias else {ours for ours in names if _is_optional_bias(ours)}
    _refuse_differences("bertpipe", state, (names.keys() | pairs) - absent)
    whole = dict(state) | {bias: _zero_bias(state, bias) for bias in absent}
    if family.padding_positions:
        whole[_POSITIONS] = _rows_before(whole[_POSITIONS], pad_token_id + 1)
    renamed = {theirs: whole[ours] for ours, theirs in names.items()}
    if family.sinusoids:
        renamed[family.sinusoids] = _sinusoids(config.max_positions, config.head_size)
    return renamed | {copy: renamed[source] for copy, source in family.tied.items()}


def from_hf(state: "Mapping[str, Tensor]", *, pad_token_id: int = 0) -> "dict[str, Tensor]":
    """A state of one of their classes under our names; the tied decoder's entries and buffers may be missing.

    Raises `ValueError` on missing and unexpected names, where the decoder is not tied to the embeddings, and where
    sinusoids are not those of our positions.
    """
    family = next((each for each in FAMILIES if _has_any(state, [each.base])), BERT)
    pair_head = bool(family.with_pairs) and _has_any(state, PAIRS.values())
    names = _names(family, _layers(state, family), pair_head=pair_head)
    constants = {*family.tied, *family.buffers, *([family.sinusoids] if family.sinusoids else [])}
    weights = {name: tensor for name, tensor in state.items() if name not in constants}
    _refuse_differences("transformers", weights, names.values())
    for copy, source in family.tied.items():
        if copy in state and not (state[copy] is state[source] or state[copy].equal(state[source])):
            raise ValueError(f"{copy} differs from {source}: bertpipe's decoder is tied to it")
    if (found := state.get(family.sinusoids)) is not None and not _are_sinusoids(found):
        raise ValueError(f"{family.sinusoids} does not hold the sines and cosines of rotary positions")
    renamed = {ours: weights[theirs] for ours, theirs in names.items()}
    if family.padding_positions:
        renamed[_POSITIONS] = renamed[_POSITIONS][pad_token_id + 1 :]
    return renamed


def tied_names() -> tuple[str, ...]:
    """The names in `to_hf`'s result that repeat another entry, whatever the class."""
    return tuple(copy for family in FAMILIES for copy in family.tied)


def architecture(config: ModelConfig) -> str:
    """The class of `transformers` that computes this network, or all of it that `held` says.

    Raises `ValueError` where there is none.
    """
    return family_of(config).architecture(config)


def hf_config(config: ModelConfig, *, pad_token_id: int = 0) -> dict[str, Any]:
    """What `config.json` of a model folder says; the class's own configuration takes it too, as `BertConfig(**…)`.

    Raises `ValueError` where no class holds the network.
    """
    family = family_of(config)
    shape = {theirs: getattr(config, ours) for ours, theirs in _CONFIG_FIELDS.items()}
    if family.padding_positions:
        shape["max_position_embeddings"] += pad_token_id + 1
    return {
        "architectures": [family.architecture(config)],
        "model_type": family.model_type,
        **shape,
        "pad_token_id": pad_token_id,
        "tie_word_embeddings": True,
        "is_decoder": config.causal,
        **family.says,
    }


def from_hf_config(hf: Mapping[str, Any]) -> ModelConfig:
    """Our configuration of one of their networks; raises `ValueError` on what this network doesn't compute.

    A pairs' head is taken to be there where the family has one, unless a class without one is named, or the network
    is a decoder. Biases are always there, zeros or not.
    """
    types = {family.model_type: family for family in FAMILIES}
    _demand(hf, {"model_type": tuple(types)})
    family = types[hf.get("model_type", BERT.model_type)]
    needed = [*_CONFIG_FIELDS.values(), *(["pad_token_id"] if family.padding_positions else [])]
    missing = [theirs for theirs in needed if theirs not in hf]
    if missing:
        raise ValueError(f"the Hugging Face configuration lacks {', '.join(missing)}")
    classes, causal = set(hf.get("architectures") or ()), bool(hf.get("is_decoder"))
    known_without_pairs = classes <= {family.masked, family.causal}
    _demand(
        hf,
        {
            "hidden_act": family.activations,
            "position_embedding_type": ("absolute",),
            "embedding_size": (None, hf["hidden_size"]),
            "rotary_value": (False,),
            "tie_word_embeddings": (True,),
            "is_decoder": (False, True) if known_without_pairs else (False,),
            "add_cross_attention": (False,),
        },
    )
    shape = {ours: hf[theirs] for ours, theirs in _CONFIG_FIELDS.items()}
    if family.padding_positions:
        shape["max_positions"] -= hf["pad_token_id"] + 1
    has_pairs = bool(family.with_pairs) and not causal and not (classes and known_without_pairs)
    return ModelConfig(
        **shape, norm=family.norm, position=family.position, pair_head=has_pairs, causal=causal
    )


def _demand(hf: Mapping[str, Any], demands: Mapping[str, tuple[Any, ...]]) -> None:
    for key, accepted in demands.items():
        if key in hf and hf[key] not in accepted:
            wanted = " or ".join(repr(value) for value in accepted)
            raise ValueError(f"the Hugging Face configuration has {key} {hf[key]!r}: bertpipe needs {wanted}")


def _has_any(state: "Mapping[str, Tensor]", modules: Iterable[str]) -> bool:
    beginnings = tuple(f"{module}." for module in modules)
    return any(name.startswith(beginnings) for name in state)


def _names(family: Family, layers: int, *, pair_head: bool) -> dict[str, str]:
    """Ours → theirs, of every weight and bias."""
    names: dict[str, str] = {}
    for ours, theirs in family.modules.items():
        if ours in PAIRS and not pair_head:
            continue
        for number in range(layers) if "{}" in ours else (0,):
            for kind in _kinds(ours):
                names[f"{ours}.{kind}".format(number)] = f"{theirs}.{kind}".format(number)
    return names


def _kinds(module: str) -> tuple[str, ...]:
    if module in _WITHOUT_BIAS:
        return ("weight",)
    return ("bias",) if module in _WITHOUT_WEIGHT else ("weight", "bias")


def _module(name: str) -> str:
    return name.rpartition(".")[0]


def _is_optional_bias(name: str) -> bool:
    return name.endswith(".bias") and _module(name) not in _ALWAYS_BIASED


def _layers(state: "Mapping[str, Tensor]", family: Family) -> int:
    pattern = rf"{family.base}\.encoder\.layer\.(\d+)\."
    numbers = [int(match[1]) for name in state if (match := re.match(pattern, name))]
    return max(numbers, default=0) + 1


def _zero_bias(state: "Mapping[str, Tensor]", bias: str) -> "Tensor":
    weight = state[f"{_module(bias)}.weight"]
    return weight.new_zeros(weight.shape[0])


def _rows_before(table: "Tensor", rows: int) -> "Tensor":
    """A table with rows of zeros in front, which nothing reads."""
    from torch.nn import functional

    return functional.pad(table, (0, 0, rows, 0))


def _sinusoids(positions: int, head_size: int) -> "Tensor":
    """What we turn by, laid out as RoFormer's table: a row's sines, then its cosines."""
    import torch

    from model.rotation import rotation

    turn = rotation(torch.arange(positions), head_size)
    return torch.cat((turn.sin_T1F, turn.cos_T1F), dim=-1)[:, 0]


def _are_sinusoids(table: "Tensor") -> bool:
    import torch

    wanted = _sinusoids(*table.shape).to(table.device)
    # Theirs come from fp64. Our angle and its frequency are each off by up to 2^-24 of themselves, and an angle is
    # at most the position. Half precisions keep two or three digits.
    digits = 0.0 if table.dtype == torch.float32 else 1e-2
    return torch.allclose(table.float(), wanted, rtol=0, atol=digits + max(1e-4, table.shape[0] * 2.0**-23))


def _refuse_differences(whose: str, state: "Mapping[str, Tensor]", expected: Iterable[str]) -> None:
    expected = set(expected)
    missing, unexpected = sorted(expected - state.keys()), sorted(state.keys() - expected)
    if missing or unexpected:
        found = {"missing": missing, "unexpected": unexpected}
        parts = "; ".join(f"{label} {', '.join(names)}" for label, names in found.items() if names)
        raise ValueError(f"not the weights of a {whose} BERT for pretraining: {parts}")
