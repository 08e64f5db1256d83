"""A recipe with what it names: read, checked, nothing written.

In: a recipe and a number of ranks. Out: `Plan`: manifests, vocabulary, DeepSpeed settings, the network's
configuration, and the loaders of each phase. What always holds: a plan that exists can be trained (law 10).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from model.config import ModelConfig
from pipeline.batches.held_out import held_out_micro_batches
from pipeline.batches.loader import TrainLoader
from pipeline.batches.masking import SpecialIds
from pipeline.batches.microbatch import MicroBatch
from pipeline.corpus.shards import Manifest, read_manifest
from pipeline.corpus.vocabulary import Vocabulary
from pipeline.recipe import Recipe
from pipeline.training import preflight
from pipeline.training.engine import read_settings, zero_stage
from pipeline.training.run_folder import check_folder
from pipeline.training.world import World


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What `make_plan` found good."""

    recipe: Recipe
    manifests: tuple[Manifest, ...]
    vocabulary: Vocabulary
    settings: dict[str, Any]
    model: ModelConfig

    def first_step(self, index: int) -> int:
        """Steps of the phases before phase `index`."""
        return sum(phase.steps for phase in self.recipe.phases[:index])

    def loader(self, index: int, step: int, world: World) -> TrainLoader:
        """This rank's steps of phase `index`, from the run's `step` on (at its first, where that lies before)."""
        phase = self.recipe.phases[index]
        return TrainLoader(
            folder=phase.shards,
            manifest=self.manifests[index],
            seed=self.recipe.seed,
            phase=index,
            lanes=self.recipe.resolved_lanes,
            global_batch=phase.global_batch,
            micro_batch=phase.micro_batch,
            sequence_length=phase.sequence_length,
            masking=self.recipe.masking,
            special=SpecialIds.of(self.vocabulary),
            rank=world.rank,
            world_size=world.size,
            workers=self.recipe.loader.workers,
            prefetch=self.recipe.loader.prefetch,
            start_step=max(0, step - self.first_step(index)),
            stop_step=phase.steps,
        )

    def held_out(self, index: int, world: World) -> Iterator[MicroBatch]:
        """This rank's part of the held-out pairs of phase `index`; the same at every call."""
        phase = self.recipe.phases[index]
        return held_out_micro_batches(
            phase.shards,
            self.manifests[index],
            sequences=self.recipe.evaluate.sequences,
            micro_batch=phase.micro_batch,
            masking=self.recipe.masking,
            special=SpecialIds.of(self.vocabulary),
            seed=self.recipe.seed,
            rank=world.rank,
            world_size=world.size,
        )


def make_plan(recipe: Recipe, ranks: int) -> Plan:
    """Read what the recipe names and refuse a doomed run.

    Raises InputError naming value and remedy.
    """
    manifests = tuple(read_manifest(phase.shards) for phase in recipe.phases)
    preflight.check(recipe, manifests, ranks)
    settings = read_settings(recipe.deepspeed)
    check_folder(recipe, manifests, ranks, zero_stage(settings))
    vocabulary = preflight.vocabulary_of(recipe.phases[0].shards, manifests[0])
    model = recipe.model_config(vocabulary.size)
    return Plan(recipe=recipe, manifests=manifests, vocabulary=vocabulary, settings=settings, model=model)
