"""Law 10: a run that cannot succeed is refused before its first step.

In: a recipe, the manifests of its phases, the number of ranks. Out: nothing, or an InputError that names the
values and the remedy. What always holds: it reads manifests only, so it takes no time and no device.
"""

from collections.abc import Sequence
from pathlib import Path

from pipeline import lineage
from pipeline.corpus.shards import Manifest
from pipeline.corpus.vocabulary import Vocabulary, load_vocabulary
from pipeline.errors import InputError
from pipeline.recipe import Recipe


def check(recipe: Recipe, manifests: Sequence[Manifest], ranks: int) -> None:
    """Raise InputError where the run described cannot be trained by `ranks` ranks."""
    if recipe.resolved_lanes % ranks:
        raise InputError(
            f"{ranks} ranks do not divide the {recipe.resolved_lanes} lanes; "
            "set lanes to a multiple of the ranks that divides every global_batch, or change --ranks"
        )
    for index, (phase, manifest) in enumerate(zip(recipe.phases, manifests, strict=True)):
        where = f"phases.{index}"
        if phase.global_batch % (ranks * phase.micro_batch):
            raise InputError(
                f"{where}: global_batch {phase.global_batch} is no multiple of {ranks} ranks × "
                f"micro_batch {phase.micro_batch}; change one of the three"
            )
        if manifest.max_seq_length > phase.sequence_length:
            raise InputError(
                f"{where}: sequence_length {phase.sequence_length} is below the {manifest.max_seq_length} "
                f"of {phase.shards}; raise it, or shard with --max-seq-length {phase.sequence_length}"
            )
        pairs = manifest.pairs("train")
        if pairs < phase.global_batch:
            raise InputError(
                f"{where}: {phase.shards} holds {pairs} training pairs, fewer than one global_batch of "
                f"{phase.global_batch}; shard more text or lower global_batch"
            )
        if recipe.evaluate.every and not manifest.pairs("validation"):
            raise InputError(
                f"{where}: {phase.shards} holds no held-out pairs; shard with --validation-fraction, "
                "or set evaluate.every=0"
            )
        if manifest.vocabulary["hash"] != manifests[0].vocabulary["hash"]:
            raise InputError(
                f"{where}: {phase.shards} was made with vocabulary {manifest.vocabulary['hash']}, "
                f"{recipe.phases[0].shards} with {manifests[0].vocabulary['hash']}; phases share one vocabulary"
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
_FREE = ("run", "checkpoint", "evaluate", "tracking", "loader")


def check_resume(
    run: Path, recipe: Recipe, known: Recipe, shards: Sequence[str], known_shards: Sequence[str]
) -> None:
    """Raise InputError where a run folder was begun by another recipe or on other shards."""
    here, there = _bound(recipe), _bound(known)
    if here != there:
        lines = lineage.difference(here, there)
        raise InputError(
            f"{run} was begun with another recipe ({'; '.join(lines[:3])}); choose another run folder"
        )
    for index, (mine, other) in enumerate(zip(shards, known_shards, strict=True)):
        if mine != other:
            raise InputError(
                f"phases.{index}: {recipe.phases[index].shards} now has hash {mine}, {run} was begun on {other}; "
                "restore those shards, or choose another run folder"
            )


def _bound(recipe: Recipe) -> dict[str, object]:
    value = {key: item for key, item in recipe.as_dict().items() if key not in _FREE}
    # A folder may be mounted elsewhere; what it holds is compared by hash.
    value["phases"] = {
        str(index): {key: item for key, item in phase.items() if key != "shards"}
        for index, phase in enumerate(value["phases"])
    }
    return value
