"""Checkpoints that were never trained: a network with random weights, and all that a checkpoint says of one."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from model.bert import BertForPretraining
from model.config import ModelConfig
from pipeline import storage
from pipeline.corpus.vocabulary import Vocabulary, save_vocabulary
from pipeline.objectives import OBJECTIVES
from pipeline.recipe import recipe_from
from pipeline.training.checkpoints import PROBE, VOCABULARY, WEIGHTS, CheckpointInfo, write_info
from pipeline.training.probe import probe_logits
from workshop.recipes import small_recipe

# [PAD] is not the first, as in BERT's own vocabulary, but may be anywhere in a user's.
WORDS = Vocabulary(
    tokens=("the", "cat", "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "sat", "on", "a", "mat", ".", "##s"),
    cased=False,
)


def network(objective: str, **switches: Any) -> BertForPretraining:
    """2 layers of 32, every weight drawn, biases and LayerNorms too."""
    asked = OBJECTIVES[objective]
    config = ModelConfig(
        vocab_size=len(WORDS.tokens), hidden_size=32, layers=2, heads=4, intermediate_size=48, max_positions=40,
        pair_head=asked.pair_label is not None, causal=asked.causal, **switches,
    )  # fmt: skip
    torch.manual_seed(1)
    made = BertForPretraining(config)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return made.eval()


def write_checkpoint(folder: Path, made: BertForPretraining, objective: str, **said: Any) -> Path:
    """A whole checkpoint of `made` in `RUN/checkpoints/step-00000002`; `said` changes its record of the network."""
    from safetensors.torch import save_file

    checkpoint = folder / "run" / "checkpoints" / "step-00000002"
    checkpoint.mkdir(parents=True)
    save_file(made.state_dict(), checkpoint / WEIGHTS)
    save_file(probe_logits(made, made.config), checkpoint / PROBE)
    save_vocabulary(WORDS, str(checkpoint / VOCABULARY))
    recipe = recipe_from(small_recipe(folder / "run", "SHARDS") | {"objective": objective}, "recipe")
    files = {name: checkpoint / name for name in (WEIGHTS, PROBE)}
    info = CheckpointInfo(
        step=2, samples=32, tokens=640, held_out={}, world_size=1, zero_stage=0, recipe=recipe.as_dict(),
        model=asdict(made.config) | said,
        vocabulary={"hash": WORDS.hash, "size": len(WORDS.tokens), "cased": False}, shards=["0" * 32], versions={},
        files={name: [path.stat().st_size, storage.hash_file(str(path))] for name, path in files.items()},
    )  # fmt: skip
    write_info(checkpoint, info)
    return checkpoint
