"""The networks of Hugging Face `transformers` that compute ours: names, classes and demands, as tables.

In: a configuration of ours. Out: the family that holds it, or why none does. What always holds: what a family is said
to hold its classes compute exactly (tests/model/test_switches_against_transformers.py); `transformers` itself is not
needed.

    BERT                  norm post, position learned
    RoBERTa-PreLayerNorm  norm pre,  position learned   no pairs' head; its MLM head computes "gelu" alone
    RoFormer              norm post, position rotary    no pairs' head

All have biases; a network without them gives them zeros. None has norm pre with position rotary, or a gated
feed-forward layer; docs/architecture.md says what other classes lack.

    >>> family_of(preset("base", vocab_size=30522)).model_type
    'bert'
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from model.config import PLAIN_ACTIVATIONS, ModelConfig


@dataclass(frozen=True, kw_only=True)
class Family:
    """What `transformers` calls a network, and where it differs from BERT.

    model_type, base: its name in config.json, and that of its encoder in a state
    norm, position, activations: what it computes, as `ModelConfig` has it
    modules: our module → theirs, a layer's once, with {} for its number
    tied: entries that repeat another one: copy → source
    buffers: entries that hold no weights, and may be missing
    with_pairs, masked, causal: its class with a pairs' head (empty: none), without one, and as a decoder
    says: what its config.json says beside the shape
    padding_positions: positions begin behind the padding token's id, so its table has that many rows more, and one
    sinusoids: the entry with the sines and cosines of its positions, which are no weights of ours
    """

    model_type: str
    base: str
    norm: str
    position: str
    activations: tuple[str, ...] = PLAIN_ACTIVATIONS
    modules: Mapping[str, str]
    tied: Mapping[str, str]
    buffers: tuple[str, ...] = ()
    with_pairs: str = ""
    masked: str
    causal: str
    says: Mapping[str, Any] = field(default_factory=dict)
    padding_positions: bool = False
    sinusoids: str = ""

    def architecture(self, config: ModelConfig) -> str:
        """The class that computes `config`, or all of it but the pairs' head."""
        if config.pair_head and self.with_pairs:
            return self.with_pairs
        return self.causal if config.causal else self.masked


def family_of(config: ModelConfig) -> Family:
    """The family that holds a network; raises `ValueError` where none does, saying why."""
    why = why_none(config)
    if why:
        raise ValueError(why)
    return next(family for family in FAMILIES if _computes(family, config))


def why_none(config: ModelConfig) -> str:
    """Why no family holds a network, in words; empty where one does."""
    if any(_computes(family, config) and config.activation in family.activations for family in FAMILIES):
        return ""
    if config.gated:
        what = f"model.activation {config.activation}"
    elif any(_computes(family, config) for family in FAMILIES):
        what = f"model.norm {config.norm} and model.activation {config.activation}"
    else:
        what = f"model.norm {config.norm} and model.position {config.position}"
    return f"bertpipe knows no class of transformers for a BERT with {what}"


def held(config: ModelConfig) -> ModelConfig:
    """What the class that computes a network has room for: all of it, or all but its pooler and pairs' head.

    Raises `ValueError` where no class computes it.
    """
    return replace(config, pair_head=config.pair_head and bool(family_of(config).with_pairs))


def _computes(family: Family, config: ModelConfig) -> bool:
    return (family.norm, family.position) == (config.norm, config.position)


def _below(base: str, *tables: Mapping[str, str]) -> dict[str, str]:
    return {ours: f"{base}.{theirs}" for table in tables for ours, theirs in table.items()}


# Names below the encoder's own, `base`.
_EVERYWHERE = {
    "bert.embeddings.word": "embeddings.word_embeddings",
    "bert.embeddings.segment": "embeddings.token_type_embeddings",
    "bert.embeddings.norm": "embeddings.LayerNorm",
    "bert.layers.{}.attention.query": "encoder.layer.{}.attention.self.query",
    "bert.layers.{}.attention.key": "encoder.layer.{}.attention.self.key",
    "bert.layers.{}.attention.value": "encoder.layer.{}.attention.self.value",
    "bert.layers.{}.attention.output": "encoder.layer.{}.attention.output.dense",
    "bert.layers.{}.feed_forward.expand": "encoder.layer.{}.intermediate.dense",
    "bert.layers.{}.feed_forward.contract": "encoder.layer.{}.output.dense",
}
_TABLE = {"bert.embeddings.position": "embeddings.position_embeddings"}
_POST_NORMS = {
    "bert.layers.{}.attention_norm": "encoder.layer.{}.attention.output.LayerNorm",
    "bert.layers.{}.feed_forward_norm": "encoder.layer.{}.output.LayerNorm",
}
_PRE_NORMS = {
    "bert.layers.{}.attention_norm": "encoder.layer.{}.attention.LayerNorm",
    "bert.layers.{}.feed_forward_norm": "encoder.layer.{}.intermediate.LayerNorm",
    "bert.final_norm": "LayerNorm",
}
# Heads; `mlm_head` itself has a bias alone, the decoder's.
_BERT_MLM = {
    "mlm_head.dense": "cls.predictions.transform.dense",
    "mlm_head.norm": "cls.predictions.transform.LayerNorm",
    "mlm_head": "cls.predictions",
}
_ROBERTA_MLM = {
    "mlm_head.dense": "lm_head.dense",
    "mlm_head.norm": "lm_head.layer_norm",
    "mlm_head": "lm_head",
}
# What comes with a pairs' head and goes with it.
PAIRS = {"bert.pooler.dense": "bert.pooler.dense", "nsp_head.dense": "cls.seq_relationship"}


def _tied(decoder: str, bias: str, base: str) -> dict[str, str]:
    return {f"{decoder}.weight": f"{base}.embeddings.word_embeddings.weight", f"{decoder}.bias": bias}


BERT = Family(
    model_type="bert",
    base="bert",
    norm="post",
    position="learned",
    modules=_below("bert", _EVERYWHERE, _TABLE, _POST_NORMS) | _BERT_MLM | PAIRS,
    tied=_tied("cls.predictions.decoder", "cls.predictions.bias", "bert"),
    buffers=("bert.embeddings.position_ids", "bert.embeddings.token_type_ids"),
    with_pairs="BertForPreTraining",
    masked="BertForMaskedLM",
    causal="BertLMHeadModel",
)
ROBERTA_PRELAYERNORM = Family(
    model_type="roberta-prelayernorm",
    base="roberta_prelayernorm",
    norm="pre",
    position="learned",
    activations=("gelu",),
    modules=_below("roberta_prelayernorm", _EVERYWHERE, _TABLE, _PRE_NORMS) | _ROBERTA_MLM,
    tied=_tied("lm_head.decoder", "lm_head.bias", "roberta_prelayernorm"),
    buffers=(
        "roberta_prelayernorm.embeddings.position_ids",
        "roberta_prelayernorm.embeddings.token_type_ids",
    ),
    masked="RobertaPreLayerNormForMaskedLM",
    causal="RobertaPreLayerNormForCausalLM",
    # Unsaid they are RoBERTa's ids.
    says={"bos_token_id": None, "eos_token_id": None},
    padding_positions=True,
)
ROFORMER = Family(
    model_type="roformer",
    base="roformer",
    norm="post",
    position="rotary",
    modules=_below("roformer", _EVERYWHERE, _POST_NORMS) | _BERT_MLM,
    tied=_tied("cls.predictions.decoder", "cls.predictions.bias", "roformer"),
    masked="RoFormerForMaskedLM",
    causal="RoFormerForCausalLM",
    says={"rotary_value": False},
    sinusoids="roformer.encoder.embed_positions.weight",
)
FAMILIES = (BERT, ROBERTA_PRELAYERNORM, ROFORMER)
