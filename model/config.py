"""The shape of a BERT network: a configuration that checks itself, and the published presets.

In: a preset's name and overrides by field. Out: a frozen `ModelConfig`. What always holds: a `ModelConfig`
that exists can be built; every refusal is a `ValueError` of one line that names the value and the remedy.
No torch is loaded, so a recipe can be checked at once.

    >>> preset("mini", vocab_size=8192).hidden_size
    256
"""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any

# Element by element, under Hugging Face's names. "gelu" is the exact, erf-based GELU of the published code.
PLAIN_ACTIVATIONS = ("gelu", "gelu_pytorch_tanh", "relu")
# Two products, one gating the other (Shazeer 2020, arXiv 2002.05202); the published BERT has none.
GATED_ACTIVATIONS = ("geglu",)
ACTIVATIONS = (*PLAIN_ACTIVATIONS, *GATED_ACTIVATIONS)
# Where a layer's LayerNorms stand, and how a token's place is told; the first of each is the published one.
NORMS = ("post", "pre")
POSITIONS = ("learned", "rotary")

# What may be computed again for the backward pass instead of being kept (activation checkpointing): nothing, what
# attention makes of queries, keys and values, or all of a layer but its input.
RECOMPUTED = ("none", "attention", "full")

# base and large: Devlin et al. 2018 §3; tiny to medium: Turc et al. 2019 (arXiv 1908.08962). In all of them
# heads are 64 wide and the feed-forward layer is 4 × hidden_size.
PRESETS: Mapping[str, Mapping[str, int]] = MappingProxyType(
    {
        "tiny": {"layers": 2, "hidden_size": 128, "heads": 2, "intermediate_size": 512},
        "mini": {"layers": 4, "hidden_size": 256, "heads": 4, "intermediate_size": 1024},
        "small": {"layers": 4, "hidden_size": 512, "heads": 8, "intermediate_size": 2048},
        "medium": {"layers": 8, "hidden_size": 512, "heads": 8, "intermediate_size": 2048},
        "base": {"layers": 12, "hidden_size": 768, "heads": 12, "intermediate_size": 3072},
        "large": {"layers": 24, "hidden_size": 1024, "heads": 16, "intermediate_size": 4096},
    }
)

_COUNTS = (
    "vocab_size", "hidden_size", "layers", "heads", "intermediate_size", "max_positions", "type_vocab_size",
)  # fmt: skip
_RATES = ("hidden_dropout", "attention_dropout")
_SCALES = ("initializer_range", "layer_norm_eps")
_SWITCHES = ("bias", "pair_head", "causal")
_CHOICES = {"activation": ACTIVATIONS, "norm": NORMS, "position": POSITIONS}


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The shape of a network and the rates that it trains with; raises `ValueError` on what can't be built.

    vocab_size: token ids, [0, vocab_size); the vocabulary's size.
    hidden_size: width of a token's vector (the paper's H).
    layers: encoder layers (the paper's L).
    heads: attention heads a layer (the paper's A); divides hidden_size.
    intermediate_size: width of the feed-forward layer.
    max_positions: the longest sequence, in tokens, [CLS] and [SEP] included.
    type_vocab_size: segment ids; 2 for pairs (A and B).
    hidden_dropout: share of a layer's outputs and of the embeddings dropped in training, in [0, 1).
    attention_dropout: share of attention probabilities dropped in training, in [0, 1).
    initializer_range: standard deviation of the initial weights.
    layer_norm_eps: added to the variance in LayerNorm.
    activation: of the feed-forward layer and the MLM head, one of `ACTIVATIONS`. "geglu" gates the feed-forward layer,
        which then has 2 × intermediate_size inputs to its activation, and is plain "gelu" in the head.
    norm: "post", a LayerNorm after each sum, as published; "pre", one before each half of a layer, and one more after
        the last layer (Xiong et al. 2020, arXiv 2002.04745).
    position: "learned", a vector a position, as published; "rotary", queries and keys turned by their position's
        angles (Su et al. 2021, arXiv 2104.09864), no parameters.
    bias: whether the layers' products, the LayerNorms and the MLM head's transform have biases; the decoder, the pooler
        and the pairs' head always do.
    pair_head: whether there is a pooler with a head for what is asked of a pair; without, neither has parameters.
    causal: a token attends to itself and to those on its left alone (left-to-right language modelling).
    """

    vocab_size: int
    hidden_size: int
    layers: int
    heads: int
    intermediate_size: int
    max_positions: int = 512
    type_vocab_size: int = 2
    hidden_dropout: float = 0.1
    attention_dropout: float = 0.1
    initializer_range: float = 0.02
    layer_norm_eps: float = 1e-12
    activation: str = "gelu"
    norm: str = "post"
    position: str = "learned"
    bias: bool = True
    pair_head: bool = True
    causal: bool = False

    def __post_init__(self) -> None:
        for name in _COUNTS:
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"model.{name} is {value!r}: give a whole number of at least 1")
        for name in _RATES:
            value = getattr(self, name)
            if not _is_number(value) or not 0 <= value < 1:
                raise ValueError(f"model.{name} is {value!r}: give a share from 0 to below 1, such as 0.1")
        for name in _SCALES:
            value = getattr(self, name)
            if not _is_number(value) or not 0 < value < 1:
                # YAML 1.1 reads 1e-12 as text: it wants 1.0e-12.
                raise ValueError(f"model.{name} is {value!r}: give a number between 0 and 1, such as 1.0e-12")
        if self.hidden_size % self.heads:
            raise ValueError(
                f"model.hidden_size {self.hidden_size} is not a multiple of model.heads {self.heads}: "
                f"set heads to {_nearest_divisor(self.hidden_size, self.heads)}"
            )
        for name in _SWITCHES:
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"model.{name} is {getattr(self, name)!r}: give true or false")
        if self.causal and self.pair_head:
            raise ValueError(
                "model.causal is true and so is model.pair_head: [CLS] sees no token on its right, so nothing can be "
                "asked of it; set pair_head to false"
            )
        for name, known in _CHOICES.items():
            value = getattr(self, name)
            if value not in known:
                raise ValueError(f"model.{name} {value!r} is unknown{_suggest(str(value), known)}")
        if self.position == "rotary" and self.head_size % 2:
            raise ValueError(
                f"model.position is 'rotary', which turns a head's numbers two by two, and model.hidden_size "
                f"{self.hidden_size} / model.heads {self.heads} is {self.head_size}: set hidden_size to a multiple of "
                f"{2 * self.heads}"
            )

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.heads

    @property
    def gated(self) -> bool:
        """Whether one half of the feed-forward layer gates the other."""
        return self.activation in GATED_ACTIVATIONS

    @property
    def plain_activation(self) -> str:
        """What the MLM head's transform computes, which is never gated; one of `PLAIN_ACTIVATIONS`."""
        return "gelu" if self.gated else self.activation


def preset(name: str, **overrides: Any) -> ModelConfig:
    """The configuration of a published size; `vocab_size` must be among the overrides.

    Raises `ValueError` on an unknown preset or field, naming the nearest known one, and on whatever
    `ModelConfig` refuses.
    """
    if name not in PRESETS:
        raise ValueError(f"model.preset {name!r} is unknown{_suggest(str(name), PRESETS)}")
    known = [field.name for field in fields(ModelConfig)]
    for key in overrides:
        if key not in known:
            raise ValueError(f"model.{key} is unknown{_suggest(key, known)}")
    if "vocab_size" not in overrides:
        raise ValueError(f"model.vocab_size is missing for preset {name!r}: give the vocabulary's size")
    shape: dict[str, Any] = dict(PRESETS[name])
    return ModelConfig(**{**shape, **overrides})


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _nearest_divisor(whole: int, wanted: int) -> int:
    divisors = [number for number in range(1, whole + 1) if whole % number == 0]
    return min(divisors, key=lambda divisor: abs(divisor - wanted))


def _suggest(wrong: str, known: Iterable[str]) -> str:
    names = sorted(known)
    near = difflib.get_close_matches(wrong, names, n=1)
    return f": did you mean {near[0]!r}?" if near else f": known are {', '.join(names)}"
