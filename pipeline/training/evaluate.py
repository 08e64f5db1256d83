"""Held-out loss and accuracy of both objectives, beside what a unigram model would reach.

In: a network and held-out micro-batches, or a checkpoint and a shard folder. Out: MLM and NSP loss (nats)
and accuracy, perplexity. What always holds: the same pairs with the same masks at every evaluation, whatever
the ranks; dropout off; the network's mode is put back.

Example:
    bertpipe evaluate RUNS/mini/checkpoints/latest --shards SHARDS
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.batches.held_out import held_out_micro_batches
from pipeline.batches.microbatch import MicroBatch
from pipeline.batches.special_ids import SpecialIds
from pipeline.corpus.manifest import Manifest, read_manifest
from pipeline.corpus.shards import read_block
from pipeline.errors import InputError
from pipeline.recipe import recipe_from
from pipeline.training import checkpoints
from pipeline.training.preflight import vocabulary_of
from pipeline.training.world import local_devices, sum_over_ranks

# Enough blocks (of 1,024 pairs) to know a vocabulary's frequencies; a terabyte need not be read for it.
_UNIGRAM_BLOCKS = 512
_MICRO_BATCH = 32


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """What `bertpipe evaluate` is asked.

    sequences: held-out pairs to look at; None for all
    """

    checkpoint: Path
    shards: str
    sequences: int | None = None

    def __post_init__(self) -> None:
        if self.sequences is not None and self.sequences < 1:
            raise InputError(f"--sequences is {self.sequences}; it must be at least 1")


def run(config: EvaluateConfig) -> dict[str, Any]:
    """Evaluate a checkpoint on a shard folder's held-out pairs.

    Raises InputError where the two were made with different vocabularies.
    """
    checkpoint = checkpoints.pinned(config.checkpoint)
    info = checkpoints.read_checkpoint(checkpoint)
    manifest = read_manifest(config.shards)
    if manifest.vocabulary["hash"] != info.vocabulary["hash"]:
        raise InputError(
            f"{config.shards} was made with vocabulary {manifest.vocabulary['hash']}, the checkpoint "
            f"{config.checkpoint} with {info.vocabulary['hash']}; evaluate on shards of its vocabulary"
        )
    vocabulary = vocabulary_of(config.shards, manifest)
    recipe = recipe_from(info.recipe, str(config.checkpoint))
    if manifest.max_seq_length > info.model["max_positions"]:
        raise InputError(
            f"{config.shards} holds pairs of up to {manifest.max_seq_length} tokens, the model has "
            f"{info.model['max_positions']} positions; evaluate on shards of shorter pairs"
        )
    micro_batches = held_out_micro_batches(
        config.shards,
        manifest,
        sequences=config.sequences or max(1, manifest.pairs("validation")),
        micro_batch=_MICRO_BATCH,
        masking=recipe.masking,
        special=SpecialIds.of(vocabulary),
        seed=recipe.seed,
    )
    network = checkpoints.load_network(checkpoint, info)
    device = "cuda" if local_devices() else "cpu"
    counted = LabelCounts(vocabulary.size)
    result = evaluate(network.to(device), counted.of(micro_batches), device)
    result["unigram_mlm_loss"] = unigram_loss(config.shards, manifest, counted.labels)
    return {"step": info.step, "sequences": counted.pairs, **result}


class LabelCounts:
    """Counts what passes by: pairs, and how often each token is to be guessed."""

    def __init__(self, vocab_size: int) -> None:
        self.labels = np.zeros(vocab_size, np.int64)
        self.pairs = 0

    def of(self, micro_batches: Iterable[MicroBatch]) -> Iterator[MicroBatch]:
        """The same micro-batches, counted."""
        for micro_batch in micro_batches:
            labels = micro_batch.masked_labels_M
            self.labels += np.bincount(labels[labels >= 0], minlength=len(self.labels))
            self.pairs += micro_batch.pairs
            yield micro_batch


def evaluate(network: Any, micro_batches: Iterable[MicroBatch], device: str) -> dict[str, float]:
    """Losses (nats), accuracies and perplexity over a rank's held-out micro-batches and the other ranks'.

    network: anything that is called like `BertForPretraining`; every rank calls it equally often
    """
    import torch

    totals = torch.zeros(4, dtype=torch.float64, device=device)
    masked = pairs = 0
    training = network.training
    network.eval()
    with torch.no_grad():
        for micro_batch in micro_batches:
            sums = network(**micro_batch.tensors(device))
            totals += torch.stack([value.double() for value in sums])
            masked += micro_batch.masked
            pairs += micro_batch.pairs
    network.train(training)
    values = sum_over_ranks([*totals.tolist(), masked, pairs], device)
    mlm_sum, nsp_sum, mlm_correct, nsp_correct, all_masked, all_pairs = values
    mlm_loss = mlm_sum / all_masked
    return {
        "mlm_loss": mlm_loss,
        "mlm_accuracy": mlm_correct / all_masked,
        "mlm_perplexity": math.exp(min(mlm_loss, 700.0)),
        "nsp_loss": nsp_sum / all_pairs,
        "nsp_accuracy": nsp_correct / all_pairs,
    }


def unigram_loss(shards: str, manifest: Manifest, label_counts: NDArray[np.int64]) -> float:
    """Nats a label costs a model that knows only how often each token occurs in the training shards.

    label_counts: how often each token of the vocabulary is to be guessed
    Frequencies are smoothed by one, over evenly spaced blocks where there are more than 512.
    """
    table = manifest.of_split("train")
    chosen = np.unique(np.linspace(0, table.blocks - 1, min(table.blocks, _UNIGRAM_BLOCKS)).astype(int))
    counts = np.ones(len(label_counts))
    for row, index in map(table.locate_block, chosen.tolist()):
        counts += np.bincount(read_block(shards, table[row], index).tokens, minlength=len(counts))
    nats = np.log(counts.sum()) - np.log(counts)
    return float((nats * label_counts).sum() / label_counts.sum())


def describe(result: dict[str, Any]) -> str:
    """The result as a person reads it."""
    below = result["unigram_mlm_loss"] - result["mlm_loss"]
    return "\n".join(
        (
            f"step {result['step']}, {result['sequences']:,} held-out pairs",
            f"MLM  loss {result['mlm_loss']:.4f} nats ({abs(below):.4f} {'below' if below > 0 else 'ABOVE'} the "
            f"unigram baseline of {result['unigram_mlm_loss']:.4f})  accuracy {result['mlm_accuracy']:.2%}  "
            f"perplexity {result['mlm_perplexity']:.1f}",
            f"NSP  loss {result['nsp_loss']:.4f} nats (chance: 0.6931)  accuracy {result['nsp_accuracy']:.2%}",
        )
    )
