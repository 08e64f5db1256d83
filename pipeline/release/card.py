"""The model card: what a converted model is, what it was made from, what was measured.

In: a checkpoint's own record. Out: Markdown with Hugging Face's front matter. What always holds: every figure
comes from the record; what was not measured is said to be so.
"""

from typing import Any

from model.config import ModelConfig
from model.counts import parameter_count
from model.hf_families import held
from pipeline.objectives import OBJECTIVES, TASKS, Objective
from pipeline.training.checkpoints import CheckpointInfo

_USE = {
    "fill-mask": """from transformers import pipeline
pipeline("fill-mask", model="PATH/TO/THIS/FOLDER")("The capital of France is [MASK].")""",
    "text-generation": """from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained("PATH/TO/THIS/FOLDER")
model = AutoModelForCausalLM.from_pretrained("PATH/TO/THIS/FOLDER")
beginning = tokenizer("The capital of France is", return_tensors="pt").input_ids[:, :-1]  # without the last [SEP]
written = model.generate(beginning, max_new_tokens=20, eos_token_id=tokenizer.sep_token_id)
print(tokenizer.decode(written[0], skip_special_tokens=True))""",
}


def model_card(info: CheckpointInfo, identity: str, largest_difference: float) -> str:
    """The README.md of a model folder; `identity` is the hash of the checkpoint's own record."""
    config, objective = ModelConfig(**info.model), OBJECTIVES[info.recipe["objective"]]
    cased = "cased" if info.vocabulary["cased"] else "uncased"
    use = "text-generation" if objective.causal else "fill-mask"
    learned = " and ".join(TASKS[task] for task in objective.tasks)
    return f"""---
library_name: transformers
pipeline_tag: {use}
tags: [bert, {use}, bertpipe]
---

# BERT, {config.layers} layers × {config.hidden_size}, {cased}

Pretrained from scratch by {learned} ({objective.source}),
with bertpipe {info.versions.get("bertpipe", "")}. {_heads(config, objective)}

```python
{_USE[use]}
```

## Network

{
        _table(
            {
                "parameters": f"{parameter_count(held(config)):,}",
                "layers": config.layers,
                "hidden size": config.hidden_size,
                "attention heads": config.heads,
                "vocabulary": f"{config.vocab_size:,} WordPieces, {cased}",
                "longest sequence": f"{config.max_positions} tokens",
                **_switches(config),
            }
        )
    }

## Training

{
        _table(
            {
                "steps": f"{info.step:,}",
                "pairs seen": f"{info.samples:,}",
                "tokens seen": f"{info.tokens:,}",
                "objective": f"`{objective.name}`",
                "masking": "none" if objective.causal else _masking(info.recipe["masking"]),
                "precision": info.recipe["precision"],
                "seed": info.recipe["seed"],
                **{
                    f"phase {number + 1}": _phase(phase) for number, phase in enumerate(info.recipe["phases"])
                },
            }
        )
    }

## Held-out figures

{_held_out(info.held_out, objective)}

## Lineage

{
        _table(
            {
                "checkpoint": f"`{identity}`, step {info.step:,} of `{info.recipe['run']}`",
                "vocabulary": f"`{info.vocabulary['hash']}`",
                **{
                    f"shards, phase {number + 1}": f"`{content}`"
                    for number, content in enumerate(info.shards)
                },
                **{
                    f"data changed after step {change['step']:,}": "; ".join(change["changes"])
                    for change in info.data_changes
                },
                **{
                    f"rolled back to step {move['step']:,}": f"past {move['by']:,} steps of data: {move['reason']}"
                    for move in info.moves
                },
                **{f"{name}": version for name, version in info.versions.items()},
                "proof": f"transformers' logits differ from the trained engine's by at most {largest_difference:.1e}",
            }
        )
    }

What the model learned is what its corpus holds, its errors and prejudices included. It was not evaluated on
any task by bertpipe.
"""


def _table(rows: dict[str, Any]) -> str:
    return "\n".join(("| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())))


def _masking(masking: dict[str, Any]) -> str:
    final, static = masking.get("final_rate"), masking.get("epochs")
    rate = f"{masking['rate']:.0%}" + ("" if final is None else f" at first, {final:.0%} at last,")
    masks = "" if static is None else f", {static} masks a pair in turn"
    return (
        f"{masking['strategy']}, {rate} of tokens{masks} "
        f"({masking['mask']:.0%} [MASK], {masking['random']:.0%} random, {masking['keep']:.0%} kept)"
    )


def _phase(phase: dict[str, Any]) -> str:
    return (
        f"{phase['steps']:,} steps of {phase['global_batch']} pairs, sequences of up to {phase['sequence_length']} "
        "tokens, "
        f"{phase['optimizer']}, peak learning rate {phase['learning_rate']:g}, {phase['warmup_steps']:,} warm-up steps"
    )


def _switches(config: ModelConfig) -> dict[str, str]:
    """Where the network is not built as published."""
    rows = {}
    if config.norm == "pre":
        rows["LayerNorm"] = "before each half of a layer (pre-LN, Xiong et al. 2020, arXiv 2002.04745)"
    if config.position == "rotary":
        rows["positions"] = "rotary (Su et al. 2021, arXiv 2104.09864)"
    if not config.bias:
        rows["biases"] = "zeros in the layers, which were trained without"
    if config.activation != "gelu":
        rows["activation"] = f"`{config.activation}`"
    return rows


def _heads(config: ModelConfig, objective: Objective) -> str:
    """What the heads that leave with the network have learned."""
    if held(config) != config:
        return (
            "It was trained with a pooler and a head for pairs of sentences, which this class of transformers has no "
            "room for: they are not in this folder."
        )
    if objective.pair_label == "next":
        return "Its `cls.seq_relationship` tells whether B follows A (0) or is random (1)."
    if objective.pair_label == "order":
        return "Its `cls.seq_relationship` tells whether two consecutive segments are in order (0) or swapped (1)."
    if objective.causal:
        return "Each token sees those on its left alone: a decoder, without a pooler. A text ends in `[SEP]`."
    return "It has no pooler and no head for pairs of sentences."


def _held_out(figures: dict[str, float], objective: Objective) -> str:
    if not figures:
        return "No evaluation ran before this checkpoint."
    rows = {"measured at step": f"{figures['step']:,.0f}"}
    for task in (each for each in objective.tasks if f"{each}_loss" in figures):
        perplexity = figures.get(f"{task}_perplexity")
        also = "" if perplexity is None else f" (perplexity {perplexity:.1f})"
        rows[f"{task.upper()} loss"] = f"{figures[f'{task}_loss']:.4f} nats{also}"
        rows[f"{task.upper()} accuracy"] = f"{figures[f'{task}_accuracy']:.2%}"
    return _table(rows)
