"""The model card: what a converted model is, what it was made from, what was measured.

In: a checkpoint's own record. Out: Markdown with Hugging Face's front matter. What always holds: every figure
comes from the record; what was not measured is said to be so.
"""

from typing import Any

from model.config import ModelConfig
from model.counts import parameter_count
from pipeline.training.checkpoints import CheckpointInfo


def model_card(info: CheckpointInfo, identity: str, largest_difference: float) -> str:
    """The README.md of a model folder; `identity` is the hash of the checkpoint's own record."""
    config = ModelConfig(**info.model)
    cased = "cased" if info.vocabulary["cased"] else "uncased"
    return f"""---
library_name: transformers
pipeline_tag: fill-mask
tags: [bert, fill-mask, bertpipe]
---

# BERT, {config.layers} layers × {config.hidden_size}, {cased}

Pretrained from scratch by masked language modelling and next-sentence prediction (Devlin et al. 2018,
arXiv 1810.04805) with bertpipe {info.versions.get("bertpipe", "")}.

```python
from transformers import pipeline
pipeline("fill-mask", model="PATH/TO/THIS/FOLDER")("The capital of France is [MASK].")
```

## Network

{
        _table(
            {
                "parameters": f"{parameter_count(config):,}",
                "layers": config.layers,
                "hidden size": config.hidden_size,
                "attention heads": config.heads,
                "vocabulary": f"{config.vocab_size:,} WordPieces, {cased}",
                "longest sequence": f"{config.max_positions} tokens",
            }
        )
    }

## Training

{
        _table(
            {
                "steps": f"{info.step:,}",
                "sequences seen": f"{info.samples:,}",
                "tokens seen": f"{info.tokens:,}",
                "masking": _masking(info.recipe["masking"]),
                "precision": info.recipe["precision"],
                "seed": info.recipe["seed"],
                **{
                    f"phase {number + 1}": _phase(phase) for number, phase in enumerate(info.recipe["phases"])
                },
            }
        )
    }

## Held-out figures

{_held_out(info.held_out)}

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
    return (
        f"{masking['strategy']}, {masking['rate']:.0%} of tokens "
        f"({masking['mask']:.0%} [MASK], {masking['random']:.0%} random, {masking['keep']:.0%} kept)"
    )


def _phase(phase: dict[str, Any]) -> str:
    return (
        f"{phase['steps']:,} steps of {phase['global_batch']} sequences of up to {phase['sequence_length']} tokens, "
        f"{phase['optimizer']}, peak learning rate {phase['learning_rate']:g}, {phase['warmup_steps']:,} warm-up steps"
    )


def _held_out(figures: dict[str, float]) -> str:
    if not figures:
        return "No evaluation ran before this checkpoint."
    return _table(
        {
            "measured at step": f"{figures['step']:,.0f}",
            "MLM loss": f"{figures['mlm_loss']:.4f} nats (perplexity {figures['mlm_perplexity']:.1f})",
            "MLM accuracy": f"{figures['mlm_accuracy']:.2%}",
            "NSP loss": f"{figures['nsp_loss']:.4f} nats",
            "NSP accuracy": f"{figures['nsp_accuracy']:.2%}",
        }
    )
