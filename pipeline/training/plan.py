"""A recipe with what it names: read, checked, nothing written.

In: a recipe and a number of ranks. Out: `Plan`: the shard folders, vocabulary, DeepSpeed settings, the network's
configuration, and the loaders of each phase. What always holds: a plan that exists can be trained (law 10).
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from model.config import ModelConfig
from model.hf_families import why_none
from pipeline.batches.block_source import BlockSource
from pipeline.batches.held_out import held_out_blocks, held_out_micro_batches
from pipeline.batches.masking import MaskingConfig
from pipeline.batches.microbatch import MicroBatch
from pipeline.batches.mixture import Mixture
from pipeline.batches.phase_order import phase_order
from pipeline.batches.sources import Source, held_out_counts, identity, read_sources
from pipeline.batches.special_ids import SpecialIds
from pipeline.corpus.vocabulary import Vocabulary
from pipeline.corpus.words import has_words
from pipeline.objectives import OBJECTIVES, Objective
from pipeline.recipe import Recipe
from pipeline.training import preflight
from pipeline.training.joining import check_zero
from pipeline.training.ops import check_ops
from pipeline.training.room import refuse_what_does_not_fit
from pipeline.training.run_folder import History, check_folder, with_known_lanes
from pipeline.training.settings import (
    ZeroSettings,
    check_compiling,
    check_optimizers,
    check_precision,
    read_settings,
)
from pipeline.training.world import World, local_devices

if TYPE_CHECKING:
    from pipeline.batches.loader import TrainLoader


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What `make_plan` found good.

    sources: the shard folders of each phase
    history: what the run reads and has read
    """

    recipe: Recipe
    sources: tuple[tuple[Source, ...], ...]
    vocabulary: Vocabulary
    settings: ZeroSettings
    model: ModelConfig
    history: History
    # By folder, for all evaluations: a block that is lost is said once, a disk that is dead is not asked each time.
    _held_out_blocks: dict[str, BlockSource] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @property
    def objective(self) -> Objective:
        """What the recipe trains for."""
        return OBJECTIVES[self.recipe.objective]

    def first_step(self, index: int) -> int:
        """Steps of the phases before phase `index`."""
        return sum(phase.steps for phase in self.recipe.phases[:index])

    @property
    def notes(self) -> list[str]:
        """What is worth knowing before the first step: how often sources are gone through, words not known, a model
        that can't leave.
        """
        idle = self.objective.causal and self.recipe.masking != MaskingConfig()
        warning = "warning: nothing is masked left to right, so masking plays no part"
        notes = [*self._mixtures(), *self._unknown_words(), *([warning] if idle else [])]
        if why := why_none(self.model):
            notes.append(
                f"warning: bertpipe convert will refuse this model: {why}; docs/architecture.md lists what it takes"
            )
        return notes

    def _unknown_words(self) -> list[str]:
        if self.objective.causal or self.recipe.masking.strategy == "token":
            return []
        settings = {source.folder: source.manifest.settings for sources in self.sources for source in sources}
        texts = {
            (f"{folder}'s source {name}" if name else folder): known
            for folder, whole in settings.items()
            for name, known in whole.get("sources", {"": whole}).items()
        }
        return [
            f"warning: {text} was made without --words, so in language {known['language']!r} a word is a single "
            f"character, or a run of kana, to masking.strategy {self.recipe.masking.strategy}"
            for text, known in texts.items()
            if has_words(known.get("language", "")) and not known.get("words")
        ]

    def _mixtures(self) -> list[str]:
        lines = []
        for index, (phase, sources) in enumerate(zip(self.recipe.phases, self.sources, strict=True)):
            order = phase_order(
                sources,
                seed=self.recipe.seed,
                phase=index,
                lanes=self.recipe.resolved_lanes,
                global_batch=phase.global_batch,
                sequence_length=phase.sequence_length,
            )
            if isinstance(order, Mixture):
                whole = sum(source.weight for source in sources)
                read = zip(sources, order.epochs_of_sources(phase.steps), strict=True)
                parts = [f"{s.folder} {s.weight / whole:.1%}, {epochs:.2f} epochs" for s, epochs in read]
                lines.append(f"phases.{index} reads {'; '.join(parts)}")
                held_out = held_out_counts(self.recipe.evaluate.sequences, sources)
                lines[-1] += f"; it is evaluated on {' + '.join(map(str, held_out))} held-out pairs"
        return lines

    def ends_phase(self, step: int) -> bool:
        """Whether step `step` (counted from 1) is the last of a phase."""
        return any(step == self.first_step(index + 1) for index in range(len(self.recipe.phases)))

    def switches_optimizer(self, step: int) -> bool:
        """Whether the step after `step` (counted from 1) takes another optimizer than `step` itself."""
        phases = self.recipe.phases
        before, after = phases[self.recipe.phase_of(step - 1)], phases[self.recipe.phase_of(step)]
        return before.optimizer != after.optimizer

    def loader(self, index: int, step: int, world: World, *, moved: int = 0) -> "TrainLoader":
        """This rank's steps of phase `index`, from the run's `step` on (at its first, where that lies before).

        moved: steps of the phase's data that rollbacks have passed over
        """
        from pipeline.batches.loader import TrainLoader  # loads torch, which making a plan does without

        phase = self.recipe.phases[index]
        return TrainLoader(
            sources=self.sources[index],
            seed=self.recipe.seed,
            phase=index,
            lanes=self.recipe.resolved_lanes,
            global_batch=phase.global_batch,
            micro_batch=phase.micro_batch,
            sequence_length=phase.sequence_length,
            masking=self.recipe.masking,
            special=SpecialIds.of(self.vocabulary),
            objective=self.objective,
            rank=world.rank,
            world_size=world.size,
            workers=self.recipe.loader.workers,
            prefetch=self.recipe.loader.prefetch,
            steps=phase.steps,
            damage=self.recipe.loader.damage,
            start_step=max(0, step - self.first_step(index)) + moved,
            stop_step=phase.steps + moved,
        )

    def held_out(self, index: int, world: World) -> Iterator[MicroBatch]:
        """This rank's part of the held-out pairs of phase `index`, of each source by its weight; the same at
        every call.
        """
        phase = self.recipe.phases[index]
        sources = self.sources[index]
        counts = held_out_counts(self.recipe.evaluate.sequences, sources)
        return itertools.chain.from_iterable(
            held_out_micro_batches(
                source.folder,
                source.manifest,
                sequences=count,
                micro_batch=phase.micro_batch,
                masking=self.recipe.held_out_masking,
                special=SpecialIds.of(self.vocabulary),
                seed=self.recipe.seed,
                objective=self.objective,
                text_length=phase.sequence_length,
                rank=world.rank,
                world_size=world.size,
                blocks=self._blocks_of(source),
            )
            for source, count in zip(sources, counts, strict=True)
        )

    def _blocks_of(self, source: Source) -> BlockSource:
        kept = self._held_out_blocks
        if source.folder not in kept:
            kept[source.folder] = held_out_blocks(source.folder, source.manifest, self.recipe.loader.damage)
        return kept[source.folder]


def make_plan(recipe: Recipe, ranks: int, *, may_change_data: bool = False) -> Plan:
    """Read what the recipe names and refuse a doomed run.

    may_change_data: go on with a run on other data than it was begun on

    Raises InputError naming value and remedy.
    """
    recipe = with_known_lanes(recipe, may_change_data=may_change_data)
    settings = read_settings(recipe.deepspeed)
    check_optimizers(settings, [phase.optimizer for phase in recipe.phases], recipe.precision)
    check_precision(settings, recipe.precision, local_devices())
    check_compiling(settings, recipe.compile)
    check_zero(settings)
    sources = tuple(read_sources(phase) for phase in recipe.phases)
    preflight.check(recipe, sources, ranks)
    shard_hashes = [identity(each) for each in sources]
    vocabulary_hash = sources[0][0].manifest.vocabulary["hash"]
    history = check_folder(
        recipe, shard_hashes, vocabulary_hash, ranks, settings, may_change_data=may_change_data
    )
    vocabulary = preflight.vocabulary_of(sources[0][0].folder, sources[0][0].manifest)
    model = recipe.model_config(vocabulary.size)
    check_ops(settings)
    refuse_what_does_not_fit(recipe, model, settings, ranks)
    return Plan(
        recipe=recipe,
        sources=sources,
        vocabulary=vocabulary,
        settings=settings,
        model=model,
        history=history,
    )
