"""Held-out loss and accuracy of what a network was trained for, beside what a unigram model would reach.

In: a network and held-out micro-batches, or a checkpoint and a shard folder. Out: loss (nats) and accuracy of
tokens and, where something is asked of them, of pairs; perplexity. What always holds: the same sequences with the
same masks at every evaluation, whatever the ranks; dropout off; the network's mode is put back.

Example:
    bertpipe evaluate RUNS/mini/checkpoints/latest --shards SHARDS
"""

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import storage
from pipeline.batches.held_out import held_out_micro_batches
from pipeline.batches.microbatch import MicroBatch
from pipeline.batches.special_ids import SpecialIds
from pipeline.corpus.manifest import Manifest, read_manifest
from pipeline.corpus.shards import Block, read_block
from pipeline.errors import InputError, RunFailed
from pipeline.objectives import MLM_NSP, OBJECTIVES, Objective
from pipeline.recipe import recipe_from
from pipeline.tracking.record import StageRecord
from pipeline.tracking.stages import record_below
from pipeline.training import checkpoints
from pipeline.training.preflight import vocabulary_of
from pipeline.training.world import local_devices, raise_once, sum_over_ranks

# Enough blocks (of 1,024 pairs) to know a vocabulary's frequencies; a terabyte need not be read for it.
_UNIGRAM_BLOCKS = 512
_MICRO_BATCH = 32


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """What `bertpipe evaluate` is asked.

    sequences: held-out pairs to look at; None for all
    track: whether it is recorded below the pipeline that the checkpoint's run belongs to
    """

    checkpoint: Path
    shards: str
    sequences: int | None = None
    track: bool = True

    def __post_init__(self) -> None:
        if self.sequences is not None and self.sequences < 1:
            raise InputError(f"--sequences is {self.sequences}; it must be at least 1")


def run(config: EvaluateConfig) -> dict[str, Any]:
    """Evaluate a checkpoint on a shard folder's held-out pairs.

    Raises InputError where the two were made with different vocabularies.
    """
    started = time.time()
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
    objective, special = OBJECTIVES[recipe.objective], SpecialIds.of(vocabulary)
    if objective.layout == "pair" and manifest.max_seq_length > info.model["max_positions"]:
        raise InputError(
            f"{config.shards} holds pairs of up to {manifest.max_seq_length} tokens, the model has "
            f"{info.model['max_positions']} positions; evaluate on shards of shorter pairs"
        )
    pairs = min(config.sequences or math.inf, manifest.pairs("validation"))
    length = recipe.phases[recipe.phase_of(max(0, info.step - 1))].sequence_length
    micro_batches = held_out_micro_batches(
        config.shards,
        manifest,
        sequences=max(1, int(pairs)),
        micro_batch=_MICRO_BATCH,
        masking=recipe.held_out_masking,
        special=special,
        seed=recipe.seed,
        objective=objective,
        text_length=length,
    )
    network = checkpoints.load_network(checkpoint, info)
    device = "cuda" if local_devices() else "cpu"
    counted = LabelCounts(vocabulary.size)
    result = evaluate(network.to(device), counted.of(micro_batches), device, objective)
    ends = Ends(sep_id=special.sep_id, length=length) if objective.causal else None
    result[f"unigram_{objective.token_task}_loss"] = unigram_loss(
        config.shards, manifest, counted.labels, ends
    )
    figures = {"step": info.step, "objective": objective.name, "sequences": int(pairs), **result}
    if config.track:
        identity = storage.hash_file(str(checkpoint / checkpoints.INFO))
        record = _record(config, identity, info, manifest, figures)
        record_below(checkpoints.run_of(checkpoint), info.recipe["tracking"], record, started=started)
    return figures


def _record(
    config: EvaluateConfig,
    identity: str,
    info: checkpoints.CheckpointInfo,
    manifest: Manifest,
    figures: dict[str, Any],
) -> StageRecord:
    """What is told of an evaluation; `identity` is the hash of the checkpoint's own record."""
    told_apart = f"{identity}/{manifest.hash}/{figures['sequences']}"
    return StageRecord(
        stage="evaluate",
        key=told_apart,
        made=told_apart,
        parameters={
            "checkpoint": str(config.checkpoint),
            "shards": config.shards,
            "sequences": figures["sequences"],
            "objective": figures["objective"],
            "step": info.step,
        },
        tags={
            "bertpipe.checkpoint": identity,
            "bertpipe.shards": manifest.hash,
            "bertpipe.vocabulary": info.vocabulary["hash"],
        },
        metrics={f"held_out/{name}": value for name, value in figures.items() if isinstance(value, float)},
        step=info.step,
        texts={"result.json": storage.json_text(figures)},
        note=describe(figures).replace("\n", "  \n"),
    )


class LabelCounts:
    """Counts how often each token is to be guessed in what passes by."""

    def __init__(self, vocab_size: int) -> None:
        self.labels = np.zeros(vocab_size, np.int64)

    def of(self, micro_batches: Iterable[MicroBatch]) -> Iterator[MicroBatch]:
        """The same micro-batches, counted."""
        for micro_batch in micro_batches:
            labels = micro_batch.masked_labels_M
            self.labels += np.bincount(labels[labels >= 0], minlength=len(self.labels))
            yield micro_batch


def evaluate(
    network: Any, micro_batches: Iterable[MicroBatch], device: str, objective: Objective = MLM_NSP
) -> dict[str, float]:
    """Losses (nats), accuracies and perplexity over a rank's held-out micro-batches and the other ranks'.

    network: anything that is called like `BertForPretraining`; every rank calls it equally often

    Raises RunFailed where nothing is left to count.
    """
    import torch

    totals = torch.zeros(4, dtype=torch.float64, device=device)
    masked = labelled = 0
    training = network.training
    network.eval()
    with torch.no_grad():
        for micro_batch in micro_batches:
            sums = network(**micro_batch.tensors(device))
            totals += torch.stack([value.double() for value in sums])
            masked += micro_batch.masked
            labelled += micro_batch.labelled
    network.train(training)
    values = sum_over_ranks([*totals.tolist(), masked, labelled], device)
    token_sum, pair_sum, token_correct, pair_correct, tokens, pairs = values
    if not tokens:
        raise_once(
            RunFailed(
                "nothing is left of the held-out pairs to evaluate on; restore their damaged blocks "
                "(or set evaluate.every=0), then run the same command again"
            )
        )
    loss = token_sum / tokens
    # Of few held-out pairs none may have an order to ask for; a loss of 0 would say that all were told right.
    pair = {"loss": pair_sum / pairs, "accuracy": pair_correct / pairs} if pairs else {}
    return objective.figures(
        token={
            "loss": loss,
            "accuracy": token_correct / tokens,
            "perplexity": math.exp(min(loss, 700.0)),
        },
        pair=pair,
    )


@dataclass(frozen=True, kw_only=True)
class Ends:
    """Where a text has [SEP], which is to be guessed left to right like any token.

    length: of a text's sequences, each of which ends in one
    """

    sep_id: int
    length: int

    def of(self, block: Block) -> float:
        """About how many there are in a block's pairs laid as text."""
        # Behind each pair, before each random B; and one more wherever a sequence is cut.
        separators = len(block) + int(block.random_next.sum())
        return separators + (len(block.tokens) + separators) / (self.length - 2)


def unigram_loss(
    shards: str, manifest: Manifest, label_counts: NDArray[np.int64], ends: Ends | None = None
) -> float:
    """Nats a label costs a model that knows only how often each token occurs in the training shards.

    label_counts: how often each token of the vocabulary is to be guessed
    ends: where [SEP] is to be guessed, too
    Frequencies are smoothed by one, over evenly spaced blocks where there are more than 512.
    """
    table = manifest.of_split("train")
    chosen = np.unique(np.linspace(0, table.blocks - 1, min(table.blocks, _UNIGRAM_BLOCKS)).astype(int))
    counts = np.ones(len(label_counts))
    for row, index in map(table.locate_block, chosen.tolist()):
        block = read_block(shards, table[row], index)
        counts += np.bincount(block.tokens, minlength=len(counts))
        if ends is not None:
            counts[ends.sep_id] += ends.of(block)
    nats = np.log(counts.sum()) - np.log(counts)
    return float((nats * label_counts).sum() / label_counts.sum())


def describe(result: dict[str, Any]) -> str:
    """The result as a person reads it."""
    objective = OBJECTIVES[result["objective"]]
    task, pair_task = objective.token_task, objective.pair_task
    loss, baseline = result[f"{task}_loss"], result[f"unigram_{task}_loss"]
    lines = [
        f"step {result['step']}, {result['sequences']:,} held-out pairs",
        f"{task.upper()}  loss {loss:.4f} nats ({abs(baseline - loss):.4f} {'below' if loss < baseline else 'ABOVE'} "
        f"the unigram baseline of {baseline:.4f})  accuracy {result[f'{task}_accuracy']:.2%}  "
        f"perplexity {result[f'{task}_perplexity']:.1f}",
    ]
    if pair_task is not None and f"{pair_task}_loss" not in result:
        lines.append(f"{pair_task.upper()}  of none of these pairs is it asked")
    elif pair_task is not None:
        lines.append(
            f"{pair_task.upper()}  loss {result[f'{pair_task}_loss']:.4f} nats (chance: 0.6931)  "
            f"accuracy {result[f'{pair_task}_accuracy']:.2%}"
        )
    return "\n".join(lines)
