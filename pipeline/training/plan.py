"""A recipe with what it names: read, checked, nothing written.

In: a recipe and a number of ranks. Out: `Plan`: manifests, vocabulary, DeepSpeed settings, the network's
configuration, and the loaders of each phase. What always holds: a plan that exists can be trained (law 10).
"""

from dataclasses import dataclass
from typing import Any

from model.config import ModelConfig
from pipeline.corpus.shards import Manifest, read_manifest
from pipeline.corpus.vocabulary import Vocabulary
from pipeline.recipe import Recipe
from pipeline.training import preflight
from pipeline.training.engine import read_settings, zero_stage
from pipeline.training.run_folder import check_folder


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
