"""Law 10: a run that cannot succeed is refused before its first step.

In: a recipe, the manifests of its phases, the number of ranks. Out: nothing, or an InputError that names the
values and the remedy. What always holds: it reads manifests only, so it takes no time and no device.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from pipeline import lineage
from pipeline.batches.phase_order import phase_order
from pipeline.batches.share import Share
from pipeline.batches.sources import Source
from pipeline.corpus.manifest import Manifest
from pipeline.corpus.vocabulary import Vocabulary, load_vocabulary
from pipeline.errors import InputError
from pipeline.phase import Phase
from pipeline.recipe import Recipe

_PASSWORD = re.compile(r"://[^/?#\s]*:[^/?#\s]*@|[?&]password=")


def check(recipe: Recipe, sources: Sequence[Sequence[Source]], ranks: int) -> None:
    """Raise InputError where the run described cannot be trained by `ranks` ranks."""
    if _PASSWORD.search(recipe.tracking.uri or ""):
        raise InputError(
            "tracking.uri holds a password, which the run folder and every checkpoint would keep; "
            "export it as MLFLOW_TRACKING_URI instead"
        )
    first = sources[0][0]
    for index, (phase, own) in enumerate(zip(recipe.phases, sources, strict=True)):
        try:
            _check_phase(recipe, phase, index, own, ranks)
        except InputError as error:
            raise InputError(f"phases.{index}: {error}") from None
        _refuse_repetition(own, index)
        for source in own:
            theirs, ours = source.manifest.vocabulary["hash"], first.manifest.vocabulary["hash"]
            if theirs != ours:
                raise InputError(
                    f"phases.{index}: {source.folder} was made with vocabulary {theirs}, {first.folder} with {ours}; "
                    "all shards of a run share one vocabulary"
                )


def _refuse_repetition(sources: Sequence[Source], index: int) -> None:
    folders: dict[str, str] = {}
    for source in sources:
        if (other := folders.setdefault(source.manifest.hash, source.folder)) != source.folder:
            raise InputError(
                f"phases.{index}: {other} and {source.folder} hold the same pairs; name one, with both weights"
            )


def _check_phase(recipe: Recipe, phase: Phase, index: int, sources: Sequence[Source], ranks: int) -> None:
    plan = phase_order(
        sources,
        seed=recipe.seed,
        phase=index,
        lanes=recipe.resolved_lanes,
        global_batch=phase.global_batch,
        sequence_length=phase.sequence_length,
    )
    # Built for its checks: ranks against lanes, micro-batches against the global batch.
    Share(plan=plan, rank=0, world_size=ranks, micro_batch=phase.micro_batch)
    without = [source.folder for source in sources if not source.manifest.pairs("validation")]
    if recipe.evaluate.every and without:
        raise InputError(
            f"{without[0]} holds no held-out pairs; shard with --validation-fraction, or set evaluate.every=0"
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


# What may change between two starts of one run: nothing that decides what is learned. (Compiled layers draw dropout's
# masks in their own way, as another micro-batch does.)
# What DeepSpeed's JSON says, and how many ranks there are, is the machine's (see `elastic`).
_FREE = (
    "run",
    "checkpoint",
    "guards",
    "evaluate",
    "tracking",
    "loader",
    "activation_checkpointing",
    "compile",
    "deepspeed",
)
# What decides which sequences a step trains on: it may change where the user says so, and is then recorded.
_DATA = ("seed", "lanes")
_PHASE_DATA = ("sequence_length", "global_batch")


def check_resume(
    run: Path,
    recipe: Recipe,
    known: Recipe,
    step: int,
    shards: Sequence[str],
    known_shards: Sequence[str],
    *,
    may_change_data: bool = False,
) -> list[str]:
    """Raise InputError where a run folder was begun by another recipe or on other shards.

    step: done by the known recipe; phases that have not begun then may change, go, or be added
    may_change_data: return what differs of the data from now on instead, one `key: new here, old there` a line
    """
    begun, finished = known.begun_phases(step), known.finished_phases(step)
    if len(recipe.phases) < begun:
        raise InputError(
            f"{run} has trained in {begun} phases, the recipe has {len(recipe.phases)}; phases can be added, not "
            "taken away"
        )
    lines = lineage.difference(_bound(recipe, begun), _bound(known, begun))
    changed = [line for line in lines if _is_data(line.partition(":")[0], finished)]
    if len(changed) < len(lines) or (changed and not may_change_data):
        remedy = "choose another run folder"
        if len(changed) == len(lines):
            remedy += ", or go on with --allow-data-change"
        raise InputError(f"{run} was begun with another recipe ({'; '.join(lines[:3])}); {remedy}")
    for index, (mine, other) in enumerate(zip(shards, known_shards[:begun], strict=False)):
        if mine != other and not may_change_data:
            folders = " and ".join(recipe.phases[index].weighted_shards)
            raise InputError(
                f"phases.{index}: {folders} now has hash {mine}, {run} was begun on {other}; "
                "restore those shards, choose another run folder, or go on with --allow-data-change"
            )
        if mine != other and index >= finished:
            changed.append(f"phases.{index}.shards: {mine} here, {other} there")
    if changed and step >= recipe.steps:
        raise InputError(f"{run} has no step left to train on other data ({'; '.join(changed[:3])})")
    return changed


def _is_data(name: str, finished: int) -> bool:
    """Whether a dotted key says which sequences the steps to come train on; nothing of a finished phase does."""
    parts = name.split(".")
    of_a_phase = len(parts) == 3 and parts[0] == "phases" and parts[2] in _PHASE_DATA
    return parts[0] in _DATA or (of_a_phase and int(parts[1]) >= finished)


def _bound(recipe: Recipe, begun: int) -> dict[str, object]:
    value = {key: item for key, item in recipe.as_dict().items() if key not in _FREE}
    # A folder may be mounted elsewhere; what it holds is compared by hash. Other ranks may take another micro-batch.
    value["phases"] = {
        str(index): {key: item for key, item in phase.items() if key not in ("shards", "micro_batch")}
        for index, phase in enumerate(value["phases"][:begun])
    }
    return value
