"""Which DeepSpeed configuration a recipe fits in: an estimate of memory a rank for each.

In: a recipe, GPUs (`8x80GB`) or this machine's own devices. Out: `Fit`: a row a configuration, the largest
micro-batch of each phase, and which to choose. What always holds: nothing is allocated; the shards are not needed
(without them the vocabulary is taken to have BERT's 30,522 tokens, and that is said).

Example:
    print(describe(fit(read_recipe("recipes/large.yaml"), parse_gpus("8x80GB"))))
"""

import re
from dataclasses import asdict, dataclass
from typing import Any

from model.config import ModelConfig
from model.counts import parameter_count
from pipeline.batches.order import OrderPlan
from pipeline.batches.share import Share
from pipeline.corpus.manifest import read_manifest
from pipeline.errors import InputError
from pipeline.recipe import Recipe
from pipeline.training.memory import Estimate, estimate_phase, gib, largest_micro_batch
from pipeline.training.room import SHIPPED, room_for_a_rank
from pipeline.training.settings import (
    ZeroSettings,
    check_compiling,
    check_optimizers,
    check_precision,
    read_settings,
)
from pipeline.training.world import local_devices

BERT_VOCABULARY = 30522
# Both send each gradient and each weight once a step; stage 2 sends gradients at every micro-batch.
_LEAST = ("zero0", "zero1")
_GPUS = re.compile(r"(?:(\d+)\s*[x×*]\s*)?(\d+(?:\.\d+)?)\s*(GB|GiB|G)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Devices:
    """What a recipe would run on.

    ranks: one a device, over all nodes
    memory: bytes of each
    gpu: GPUs; else CPU ranks, which share the host's memory
    host: bytes of host memory a rank, where that is known; else 0
    """

    ranks: int
    memory: int
    gpu: bool = True
    host: int = 0

    def __str__(self) -> str:
        return (
            f"{self.ranks} {'GPU' if self.gpu else 'CPU rank'}{'s' * (self.ranks > 1)} of {gib(self.memory)}"
        )


@dataclass(frozen=True, kw_only=True)
class Row:
    """One configuration.

    needs: the estimate of the phase that needs most, micro-batches as the recipe has them; None where it is refused
    refused: why it can't train this recipe, whatever the memory
    fits: whether the memory holds every phase as the recipe has it, margin included
    micro_batches: the largest micro_batch of each phase; None where not even one sequence fits, or where the ranks
        can't be dealt the recipe's lanes
    """

    name: str
    needs: Estimate | None
    refused: str
    fits: bool
    micro_batches: tuple[int | None, ...]

    @property
    def can(self) -> bool:
        """Whether it trains every phase with some micro-batch."""
        return bool(self.micro_batches) and all(self.micro_batches)


@dataclass(frozen=True, kw_only=True)
class Fit:
    """The answer.

    own: the recipe's own configuration, which is among the rows
    vocabulary: tokens; assumed: whether that is BERT's, for want of shards
    refusals: why `pretrain` would refuse so many ranks, whatever their memory
    """

    devices: Devices
    model: ModelConfig
    precision: str
    recomputes: bool
    own: str
    rows: tuple[Row, ...]
    vocabulary: int
    assumed: bool
    refusals: tuple[str, ...]

    @property
    def choice(self) -> Row | None:
        """The recipe's own, where none is faster; else the first that fits as the recipe is, or made smaller."""
        if self.own_fits and self.own in _LEAST:
            return next(row for row in self.rows if row.name == self.own)
        # On several ranks stage 1 sends as much as stage 0 and needs less; on one, stage 0 needs no master copy.
        fitting = [row for row in self.rows if row.name != "zero0" or self.devices.ranks == 1]
        asis = [row for row in fitting if row.fits and not self.refusals]
        return next(iter(asis or [row for row in fitting if row.can]), None)

    @property
    def own_fits(self) -> bool:
        """Whether the recipe trains as it stands."""
        return not self.refusals and any(row.fits for row in self.rows if row.name == self.own)


def parse_gpus(text: str) -> Devices:
    """`8x80GB`: N GPUs of so much memory; `80GB`: one.

    GB and GiB both mean 2³⁰ bytes, as makers name their GPUs. Raises InputError on anything else.
    """
    found = _GPUS.fullmatch(text.strip())
    if found is None:
        raise InputError(f"--gpus is {text!r}; write how many and how large, e.g. 8x80GB or 80GB")
    ranks, memory = int(found[1] or 1), float(found[2])
    if ranks < 1 or memory <= 0:
        raise InputError(f"--gpus is {text!r}; both numbers must be above 0")
    return Devices(ranks=ranks, memory=int(memory * 2**30))


def own_devices() -> Devices:
    """This machine's: its GPUs, or one rank on its CPUs."""
    count = local_devices()
    room = room_for_a_rank(count or 1)
    return Devices(ranks=count or 1, memory=room.device, gpu=room.gpu, host=room.host)


def fit(recipe: Recipe, devices: Devices) -> Fit:
    """The estimate for every configuration that is shipped, and for the recipe's own."""
    vocabulary, assumed = _vocabulary(recipe)
    model = recipe.model_config(vocabulary)
    own = read_settings(recipe.deepspeed)
    configurations = {name: read_settings(name) for name in SHIPPED}
    if recipe.deepspeed not in configurations:
        configurations[recipe.deepspeed] = own
    return Fit(
        devices=devices,
        model=model,
        precision=recipe.precision,
        recomputes=recipe.activation_checkpointing == "full",
        own=recipe.deepspeed,
        rows=tuple(_row(name, settings, recipe, model, devices) for name, settings in configurations.items()),
        vocabulary=vocabulary,
        assumed=assumed,
        refusals=tuple(_refusals(recipe, devices.ranks)),
    )


def _vocabulary(recipe: Recipe) -> tuple[int, bool]:
    for folder in (folder for phase in recipe.phases for folder in phase.weighted_shards):
        try:
            return int(read_manifest(folder).vocabulary["size"]), False
        except (InputError, KeyError):
            continue
    return BERT_VOCABULARY, True


def _row(name: str, settings: ZeroSettings, recipe: Recipe, model: ModelConfig, devices: Devices) -> Row:
    try:
        check_precision(settings, recipe.precision, devices.ranks if devices.gpu else 0)
        check_optimizers(settings, [phase.optimizer for phase in recipe.phases], recipe.precision)
        check_compiling(settings, recipe.compile)
    except InputError as error:
        refused = str(error).partition(";")[0].partition(", and deepspeed:")[0]
        return Row(name=name, needs=None, refused=refused, fits=False, micro_batches=())
    needs = [
        estimate_phase(recipe, phase, model, settings, ranks=devices.ranks, gpu=devices.gpu)
        for phase in recipe.phases
    ]
    largest = tuple(
        largest_micro_batch(
            recipe, phase, model, settings, ranks=devices.ranks, gpu=devices.gpu, memory=devices.memory
        )
        if recipe.resolved_lanes % devices.ranks == 0
        else None
        for phase in recipe.phases
    )
    return Row(
        name=name,
        needs=max(needs, key=lambda need: need.device + (0 if devices.gpu else need.host)),
        refused="",
        fits=all(need.with_margin + (0 if devices.gpu else need.host) <= devices.memory for need in needs),
        micro_batches=largest,
    )


def _refusals(recipe: Recipe, ranks: int) -> list[str]:
    """What `pretrain` would say of so many ranks, asked of the same judges; of the shards nothing is known."""
    found: list[str] = []
    for index, phase in enumerate(recipe.phases):
        plan = OrderPlan(
            block_pairs=[phase.global_batch],
            seed=recipe.seed,
            phase=index,
            lanes=recipe.resolved_lanes,
            global_batch=phase.global_batch,
        )
        try:
            Share(plan=plan, rank=0, world_size=ranks, micro_batch=phase.micro_batch)
        except InputError as error:
            found.append(f"phases.{index}: {error}")
            if recipe.resolved_lanes % ranks:
                break  # which is so in every phase
    return found


def as_json(result: Fit) -> dict[str, Any]:
    """The answer for a machine; memory in bytes."""
    choice = result.choice
    return {
        "devices": asdict(result.devices),
        "parameters": parameter_count(result.model),
        "precision": result.precision,
        "vocabulary": {"size": result.vocabulary, "assumed": result.assumed},
        "configurations": [
            {
                "name": row.name,
                "fits": row.fits,
                "refused": row.refused or None,
                "needs": asdict(row.needs)
                | {"device": row.needs.device, "with_margin": row.needs.with_margin}
                if row.needs
                else None,
                "largest_micro_batches": list(row.micro_batches),
            }
            for row in result.rows
        ],
        "recipe": {"deepspeed": result.own, "fits": result.own_fits},
        "choose": choice.name if choice else None,
        "refusals": list(result.refusals),
    }


def verdict(result: Fit) -> list[str]:
    """What to do, in words."""
    lines = [f"`pretrain` would refuse this: {refusal}" for refusal in result.refusals]
    choice = result.choice
    if choice is None and result.refusals:
        return lines
    if choice is None:
        lines.append(
            "nothing fits: set activation_checkpointing=full, or take more or larger devices"
            if not result.recomputes
            else "nothing fits: take more or larger devices, or a smaller model"
        )
        return lines
    if not result.refusals:
        own = "fits" if result.own_fits else "does not fit"
        lines.append(f"the recipe as it stands (deepspeed: {result.own}) {own}")
    if choice.name == result.own and result.own_fits:
        lines.append("keep it: of those that fit none sends or moves less, so none is faster")
        return lines
    asis = choice.fits and not result.refusals
    sizes = [] if asis else [f"phases.{i}.micro_batch={n}" for i, n in enumerate(choice.micro_batches)]
    setting = " ".join([f"deepspeed={choice.name}", *sizes])
    lines.append(f"choose {setting}: the lowest stage that fits sends and moves least, so it is the fastest")
    return lines
