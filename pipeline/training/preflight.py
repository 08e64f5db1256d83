"""Law 10: a run that cannot succeed is refused before its first step.

In: a recipe, the manifests of its phases, the number of ranks. Out: nothing, or an InputError that names the
values and the remedy. What always holds: it reads manifests only, so it takes no time and no device.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from pipeline import lineage
from pipeline.batches.phase_order import order_plan
from pipeline.batches.share import Share
from pipeline.corpus.manifest import Manifest
from pipeline.corpus.vocabulary import Vocabulary, load_vocabulary
from pipeline.errors import InputError
from pipeline.phase import Phase
from pipeline.recipe import Recipe

_PASSWORD = re.compile(r"://[^/?#\s]*:[^/?#\s]*@|[?&]password=")


def check(recipe: Recipe, manifests: Sequence[Manifest], ranks: int) -> None:
    """Raise InputError where the run described cannot be trained by `ranks` ranks."""
    if _PASSWORD.search(recipe.tracking.uri or ""):
        raise InputError(
            "tracking.uri holds a password, which the run folder and every checkpoint would keep; "
            "export it as MLFLOW_TRACKING_URI instead"
        )
    for index, (phase, manifest) in enumerate(zip(recipe.phases, manifests, strict=True)):
        try:
            _check_phase(recipe, phase, index, manifest, ranks)
        except InputError as error:
            raise InputError(f"phases.{index}: {error}") from None
        if manifest.vocabulary["hash"] != manifests[0].vocabulary["hash"]:
            raise InputError(
                f"phases.{index}: {phase.shards} was made with vocabulary {manifest.vocabulary['hash']}, "
                f"{recipe.phases[0].shards} with {manifests[0].vocabulary['hash']}; phases share one vocabulary"
            )


def _check_phase(recipe: Recipe, phase: Phase, index: int, manifest: Manifest, ranks: int) -> None:
    plan = order_plan(
        manifest,
        seed=recipe.seed,
        phase=index,
        lanes=recipe.resolved_lanes,
        global_batch=phase.global_batch,
        sequence_length=phase.sequence_length,
    )
    # Built for its checks: ranks against lanes, micro-batches against the global batch.
    Share(plan=plan, rank=0, world_size=ranks, micro_batch=phase.micro_batch)
    if recipe.evaluate.every and not manifest.pairs("validation"):
        raise InputError(
            f"{phase.shards} holds no held-out pairs; shard with --validation-fraction, "
            "or set evaluate.every=0"
        )


def vocabulary_of(shards: str, manifest: Manifest) -> Vocabulary:
    """The vocabulary that lies with a shard folder.

    Raises InputError where it isn't the one the shards were made with.
    """
    folder = f"{shards.rstrip('/')}/vocab"
    vocabulary = load_vocabulary(folder)
    if vocabulary.hash != manifest.vocabulary["hash"]:
        raise InputError(
            f"{folder} has hash {vocabulary.hash}, but {shards} was made with vocabulary "
            f"{manifest.vocabulary['hash']}; put that vocabulary back, or shard again"
        )
    return vocabulary


# What may change between two starts of one run: nothing that decides what is learned.
# The DeepSpeed JSON is compared by content.
_FREE = ("run", "checkpoint", "evaluate", "tracking", "loader", "activation_checkpointing", "deepspeed")


def check_resume(
    run: Path,
    recipe: Recipe,
    known: Recipe,
    begun: int,
    shards: Sequence[str],
    known_shards: Sequence[str],
) -> None:
    """Raise InputError where a run folder was begun by another recipe or on other shards.

    begun: how many of the known phases have trained a step; those behind them may change, go, or be added
    """
    if len(recipe.phases) < begun:
        raise InputError(
            f"{run} has trained in {begun} phases, the recipe has {len(recipe.phases)}; phases can be added, not "
            "taken away"
        )
    here, there = _bound(recipe, begun), _bound(known, begun)
    if here != there:
        lines = lineage.difference(here, there)
        raise InputError(
            f"{run} was begun with another recipe ({'; '.join(lines[:3])}); choose another run folder"
        )
    for index, (mine, other) in enumerate(zip(shards, known_shards, strict=False)):
        if mine != other:
            raise InputError(
                f"phases.{index}: {recipe.phases[index].shards} now has hash {mine}, {run} was begun on {other}; "
                "restore those shards, or choose another run folder"
            )


def _bound(recipe: Recipe, begun: int) -> dict[str, object]:
    value = {key: item for key, item in recipe.as_dict().items() if key not in _FREE}
    # A folder may be mounted elsewhere; what it holds is compared by hash.
    value["phases"] = {
        str(index): {key: item for key, item in phase.items() if key != "shards"}
        for index, phase in enumerate(value["phases"][:begun])
    }
    return value
