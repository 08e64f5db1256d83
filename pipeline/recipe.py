"""The recipe: everything that decides what a run trains on and how.

In: a YAML file and `key=value` overrides with dotted keys. Out: a frozen `Recipe` that has checked itself.
What always holds: defaults < YAML < overrides; an unknown key is refused with the nearest known one; a
value of the wrong type is refused with the type wanted; reading a recipe touches nothing but its file.

Example:
    recipe = read_recipe("recipes/tiny.yaml", ["run=RUNS/try", "phases.0.steps=12"])
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from model.config import RECOMPUTED, ModelConfig, preset
from pipeline import storage
from pipeline.batches.masking import MaskingConfig
from pipeline.batches.order import MOST_DEFAULT_LANES, default_lanes
from pipeline.configuration import apply_override, at_least, build, load_yaml, one_of, unshared
from pipeline.errors import InputError
from pipeline.objectives import OBJECTIVES
from pipeline.phase import ONE_BIT, AdamW, Lamb, OneBit, Phase
from pipeline.policies import (
    CheckpointPolicy,
    EvaluationPolicy,
    GuardPolicy,
    LoaderPolicy,
    TrackingPolicy,
)

# What a list of alternatives offers today; each grows with the code behind it.
PRECISIONS = ("fp32", "bf16", "fp16")
# What is laid as text is cut anew for each lane and step, the last sequence shorter: of fewer pairs, mostly shorter.
_PAIRS_A_TEXT = 8


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One pretraining run.

    run: the run folder; a rerun of the same command resumes it
    model: `preset` and any field of `model.config.ModelConfig` that the objective and the vocabulary don't decide
    objective: one of `pipeline.objectives.OBJECTIVES`
    masking: which tokens are masked; plays no part where the objective masks none (`ltr`)
    precision: `fp32`, or `bf16` / `fp16` (CUDA only) with fp32 optimizer state, at ZeRO stage 1 or more
    deepspeed: a file of deepspeed_configs/ (its name, .json or not) or a path: ZeRO, offload, communication only
    activation_checkpointing: what is computed again for the backward pass instead of being kept: the same results in
        less memory. `attention`: what attention makes of queries, keys and values, which on CPUs grows with the square
        of a sequence's length; `full`: each layer, for a third more arithmetic
    compile: whether torch compiles the encoder's layers, which takes it up to a minute at the start: element-wise
        work is fused; a resumed run repeats itself, and agrees with an uncompiled one where dropout is 0
    adamw, lamb: the constants of the optimizers that a phase may name (`adamw`'s are those of all kinds of Adam)
    onebit: what `onebit_adam` and `onebit_lamb` want besides
    gradient_clipping: the largest global norm of a step's gradient
    lanes: equal runs that an epoch is cut into; divides every global batch, and the ranks divide it
        (default: the largest common divisor up to 64; where pairs are laid as text, the largest that gives each
        lane's text eight pairs a step)
    """

    run: str
    phases: tuple[Phase, ...]
    seed: int = 1
    model: dict[str, Any] = field(default_factory=lambda: {"preset": "base"})
    objective: str = "mlm+nsp"
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    precision: str = "fp32"
    deepspeed: str = "zero1"
    activation_checkpointing: str = "none"
    compile: bool = False
    adamw: AdamW = field(default_factory=AdamW)
    lamb: Lamb = field(default_factory=Lamb)
    onebit: OneBit = field(default_factory=OneBit)
    gradient_clipping: float = 1.0
    lanes: int | None = None
    checkpoint: CheckpointPolicy = field(default_factory=CheckpointPolicy)
    guards: GuardPolicy = field(default_factory=GuardPolicy)
    evaluate: EvaluationPolicy = field(default_factory=EvaluationPolicy)
    tracking: TrackingPolicy = field(default_factory=TrackingPolicy)
    loader: LoaderPolicy = field(default_factory=LoaderPolicy)

    def __post_init__(self) -> None:
        if not self.run:
            raise InputError("run is empty; name the run folder")
        if not self.phases:
            raise InputError("phases is empty; a recipe has at least one")
        at_least("seed", self.seed, 0)
        one_of("objective", self.objective, tuple(OBJECTIVES))
        one_of("precision", self.precision, PRECISIONS)
        one_of("activation_checkpointing", self.activation_checkpointing, RECOMPUTED)
        if not 0 < self.gradient_clipping < math.inf:
            raise InputError(f"gradient_clipping is {self.gradient_clipping}; it must be above 0")
        objective = OBJECTIVES[self.objective]
        if objective.layout == "text" and not objective.causal and self.masking.epochs is not None:
            raise InputError(
                f"masking.epochs is {self.masking.epochs}, which fixes a pair's mask, and objective {self.objective} "
                "lays pairs as other text each epoch; leave it out"
            )
        self._check_freezing()
        config = self.model_config(vocab_size=1 << 15)
        if objective.layout == "pair" and config.type_vocab_size < 2:
            raise InputError(
                f"model.type_vocab_size is {config.type_vocab_size}, and objective {self.objective} has segments A "
                "and B; set it to 2"
            )
        for index, phase in enumerate(self.phases):
            if phase.sequence_length > config.max_positions:
                raise InputError(
                    f"phases.{index}.sequence_length is {phase.sequence_length}, more than the model's "
                    f"{config.max_positions} positions; set model.max_positions or shorten the phase"
                )
        common = math.gcd(*(phase.global_batch for phase in self.phases))
        if self.lanes is not None and (self.lanes < 1 or common % self.lanes):
            raise InputError(
                f"lanes is {self.lanes}; it must divide every phase's global_batch (common divisor {common})"
            )

    def _check_freezing(self) -> None:
        """Phases in a row with the same optimizer share its state, so they are counted together."""
        for name, phases in itertools.groupby(self.phases, key=lambda phase: phase.optimizer):
            if name not in ONE_BIT:
                continue
            freeze, steps = self.onebit.freeze_step, sum(phase.steps for phase in phases)
            if freeze is None:
                raise InputError(
                    f"onebit.freeze_step is not set, and optimizer {name} compresses from there on; "
                    f"set it to 15 to 25 % of its {steps} steps"
                )
            if freeze >= steps:
                raise InputError(
                    f"onebit.freeze_step is {freeze}, and optimizer {name} has {steps} steps: nothing would be "
                    "compressed; set it lower, or take another optimizer"
                )

    @property
    def resolved_lanes(self) -> int:
        """`lanes`, or its default."""
        if self.lanes is not None:
            return self.lanes
        common = math.gcd(*(phase.global_batch for phase in self.phases))
        if OBJECTIVES[self.objective].layout == "pair":
            return default_lanes(common)
        fitting = (
            lanes
            for lanes in range(1, MOST_DEFAULT_LANES + 1)
            if common % lanes == 0 and common // lanes >= _PAIRS_A_TEXT
        )
        return max(fitting, default=1)

    @property
    def held_out_masking(self) -> MaskingConfig:
        """How held-out pairs are masked."""
        rate = self.evaluate.masking_rate
        return self.masking if rate is None else dataclasses.replace(self.masking, rate=rate, final_rate=None)

    @property
    def steps(self) -> int:
        """The run's steps over all phases."""
        return sum(phase.steps for phase in self.phases)

    def begun_phases(self, step: int) -> int:
        """How many phases have trained something once `step` steps are done."""
        return self.phase_of(step - 1) + 1 if step else 0

    def finished_phases(self, step: int) -> int:
        """How many phases have trained all their steps once `step` steps are done."""
        ends = itertools.accumulate(phase.steps for phase in self.phases)
        return sum(end <= step for end in ends)

    def phase_of(self, step: int) -> int:
        """The index of the phase that step `step` (from 0) belongs to; the last one's where the run is over."""
        first = 0
        for index, phase in enumerate(self.phases):
            first += phase.steps
            if step < first:
                return index
        return len(self.phases) - 1

    def model_config(self, vocab_size: int) -> ModelConfig:
        """The network's configuration for a vocabulary of `vocab_size`."""
        overrides = dict(self.model)
        name = overrides.pop("preset", None)
        if not isinstance(name, str):
            raise InputError("model.preset is missing; write e.g. model: {preset: base}")
        if "vocab_size" in overrides:
            raise InputError("model.vocab_size is not set in a recipe; it is that of the shards' vocabulary")
        for key in ("pair_head", "causal"):
            if key in overrides:
                raise InputError(
                    f"model.{key} is not set in a recipe; the objective ({self.objective}) decides it"
                )
        objective = OBJECTIVES[self.objective]
        decided = {"pair_head": objective.pair_label is not None, "causal": objective.causal}
        try:
            return preset(name, vocab_size=vocab_size, **decided, **overrides)
        except (ValueError, TypeError) as error:
            raise InputError(f"model: {error}") from error

    def as_dict(self) -> dict[str, Any]:
        """Plain values, every default spelled out, as `recipe.yaml` of the run folder holds them."""
        value = dataclasses.asdict(self) | {"lanes": self.resolved_lanes}
        value["phases"] = [dict(phase) for phase in value["phases"]]
        return value


def read_recipe(path: str, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in the YAML file `path`, with `key=value` overrides applied.

    Raises InputError naming file, key, value and remedy.
    """
    try:
        with storage.open_read(path) as stream:
            value = load_yaml(stream)
    except FileNotFoundError:
        raise InputError(f"the recipe {path} does not exist; see recipes/ for examples") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: no UTF-8, a date that is none
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        raise InputError(f"{path}{where} is no YAML: {getattr(error, 'problem', error)}") from error
    except OSError as error:
        raise InputError(f"cannot read the recipe {path}: {error.strerror or error}") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} holds {type(value).__name__}, not the keys of a recipe")
    value = unshared(value)
    for override in overrides:
        apply_override(value, override)
    return recipe_from(value, path)


def recipe_from(value: Mapping[str, Any], where: str) -> Recipe:
    """The recipe that plain values describe; `where` names their source in errors."""
    try:
        recipe = build(Recipe, value, "")
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    assert isinstance(recipe, Recipe)
    return recipe
