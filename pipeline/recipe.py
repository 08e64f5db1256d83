"""The recipe: everything that decides what a run trains on and how.

In: a YAML file and `key=value` overrides with dotted keys. Out: a frozen `Recipe` that has checked itself.
What always holds: defaults < YAML < overrides; an unknown key is refused with the nearest known one; a
value of the wrong type is refused with the type wanted; reading a recipe touches nothing but its file.

Example:
    recipe = read_recipe("recipes/tiny.yaml", ["run=RUNS/try", "phases.0.steps=12"])
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from model.config import ModelConfig, preset
from pipeline import storage
from pipeline.batches.masking import MaskingConfig
from pipeline.batches.order import default_lanes
from pipeline.configuration import apply_override, build, unshared
from pipeline.errors import InputError

# What a list of alternatives offers today; each grows with the code behind it.
OBJECTIVES = ("mlm+nsp",)
PRECISIONS = ("fp32", "bf16", "fp16")
OPTIMIZERS = ("adamw", "bert_adam")
ACTIVATION_CHECKPOINTING = ("none", "full")


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A stretch of steps on one shard folder.

    shards: the folder that `bertpipe shard` wrote
    sequence_length: tokens of the longest sequence, special tokens included
    global_batch: sequences a step, over all ranks and accumulation
    micro_batch: sequences a rank computes at once
    steps: optimizer steps
    learning_rate: the peak, reached after `warmup_steps` steps of linear warm-up
    final_learning_rate: where the linear decay ends, at the phase's last step
    warmup_steps: steps
    optimizer: `adamw`, or `bert_adam`, the published code's Adam without bias correction; a phase with another
        one than the phase before begins with fresh optimizer state
    """

    shards: str
    sequence_length: int
    global_batch: int
    micro_batch: int
    steps: int
    learning_rate: float
    final_learning_rate: float = 0.0
    warmup_steps: int = 0
    optimizer: str = "adamw"

    def __post_init__(self) -> None:
        for name in ("sequence_length", "global_batch", "micro_batch", "steps"):
            _at_least(name, getattr(self, name), 1)
        _at_least("warmup_steps", self.warmup_steps, 0)
        _one_of("optimizer", self.optimizer, OPTIMIZERS)
        if self.sequence_length < 5:
            raise InputError(f"sequence_length is {self.sequence_length}; [CLS] A [SEP] B [SEP] takes 5")
        if not 0 < self.learning_rate < math.inf:
            raise InputError(f"learning_rate is {self.learning_rate}; it must be above 0")
        if not 0 <= self.final_learning_rate <= self.learning_rate:
            raise InputError(
                f"final_learning_rate is {self.final_learning_rate}; "
                f"it lies between 0 and learning_rate ({self.learning_rate})"
            )
        if self.warmup_steps > self.steps:
            raise InputError(f"warmup_steps is {self.warmup_steps}, more than the phase's {self.steps} steps")
        if self.global_batch % self.micro_batch:
            raise InputError(
                f"micro_batch {self.micro_batch} does not divide global_batch {self.global_batch}; "
                f"the nearest that does is {_nearest_divisor(self.global_batch, self.micro_batch)}"
            )


@dataclass(frozen=True, kw_only=True)
class AdamW:
    """Adam's constants, for both its forms (Devlin et al. 2018 §A.2: β₁ 0.9, β₂ 0.999, weight decay 0.01)."""

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-6
    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it lies in [0, 1)")
        if not 0 < self.epsilon < math.inf:
            raise InputError(f"epsilon is {self.epsilon}; it must be above 0")
        if not 0 <= self.weight_decay < math.inf:
            raise InputError(f"weight_decay is {self.weight_decay}; it is 0 or more")


@dataclass(frozen=True, kw_only=True)
class CheckpointPolicy:
    """When checkpoints are written and how many stay.

    every: steps between two
    keep_last: how many of the newest stay
    """

    every: int = 1000
    keep_last: int = 2

    def __post_init__(self) -> None:
        _at_least("every", self.every, 1)
        _at_least("keep_last", self.keep_last, 1)


@dataclass(frozen=True, kw_only=True)
class EvaluationPolicy:
    """When the held-out pairs are looked at.

    every: steps between two evaluations; 0 for none
    sequences: how many held-out pairs, always the same ones
    """

    every: int = 1000
    sequences: int = 2048

    def __post_init__(self) -> None:
        _at_least("every", self.every, 0)
        _at_least("sequences", self.sequences, 1)


@dataclass(frozen=True, kw_only=True)
class TrackingPolicy:
    """Where the run is recorded.

    experiment: MLflow's experiment; null for no tracking
    uri: the tracking server; default $MLFLOW_TRACKING_URI, else a SQLite file beside the run folder
    """

    experiment: str | None = "bertpipe"
    uri: str | None = None

    def __post_init__(self) -> None:
        if self.experiment == "":
            raise InputError("experiment is empty; name one, or write null for no tracking")


@dataclass(frozen=True, kw_only=True)
class LoaderPolicy:
    """How micro-batches are fetched; changes no sample and no mask.

    workers: dataloader processes a rank (0 loads in the trainer itself)
    prefetch: micro-batches a worker prepares ahead
    """

    workers: int = 1
    prefetch: int = 8

    def __post_init__(self) -> None:
        _at_least("workers", self.workers, 0)
        _at_least("prefetch", self.prefetch, 1)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One pretraining run.

    run: the run folder; a rerun of the same command resumes it
    model: `preset` and any field of `model.config.ModelConfig`
    precision: `fp32`, or `bf16` / `fp16` (CUDA only) with fp32 optimizer state, at ZeRO stage 1 or more
    deepspeed: a file of deepspeed_configs/ (its name without .json) or a path: ZeRO, offload, communication only
    activation_checkpointing: `full` computes each layer again for the backward pass instead of keeping its
        activations: the same results, less memory, a third more arithmetic
    gradient_clipping: the largest global norm of a step's gradient
    lanes: equal runs that an epoch is cut into; divides every global batch, and the ranks divide it
        (default: the largest common divisor up to 64)
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
    adamw: AdamW = field(default_factory=AdamW)
    gradient_clipping: float = 1.0
    lanes: int | None = None
    checkpoint: CheckpointPolicy = field(default_factory=CheckpointPolicy)
    evaluate: EvaluationPolicy = field(default_factory=EvaluationPolicy)
    tracking: TrackingPolicy = field(default_factory=TrackingPolicy)
    loader: LoaderPolicy = field(default_factory=LoaderPolicy)

    def __post_init__(self) -> None:
        if not self.run:
            raise InputError("run is empty; name the run folder")
        if not self.phases:
            raise InputError("phases is empty; a recipe has at least one")
        _at_least("seed", self.seed, 0)
        _one_of("objective", self.objective, OBJECTIVES)
        _one_of("precision", self.precision, PRECISIONS)
        _one_of("activation_checkpointing", self.activation_checkpointing, ACTIVATION_CHECKPOINTING)
        if not 0 < self.gradient_clipping < math.inf:
            raise InputError(f"gradient_clipping is {self.gradient_clipping}; it must be above 0")
        config = self.model_config(vocab_size=1 << 15)
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

    @property
    def resolved_lanes(self) -> int:
        """`lanes`, or its default."""
        if self.lanes is not None:
            return self.lanes
        common = math.gcd(*(phase.global_batch for phase in self.phases))
        return default_lanes(common)

    @property
    def steps(self) -> int:
        """The run's steps over all phases."""
        return sum(phase.steps for phase in self.phases)

    def begun_phases(self, step: int) -> int:
        """How many phases have trained something once `step` steps are done."""
        return self.phase_of(step - 1) + 1 if step else 0

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
        try:
            return preset(name, vocab_size=vocab_size, **overrides)
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
            value = yaml.safe_load(stream)
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


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise InputError(f"{name} is {value}; it must be at least {least}")


def _one_of(name: str, value: Any, known: Sequence[Any]) -> None:
    if value not in known:
        raise InputError(f"{name} is {value!r}; known: {', '.join(map(str, known))}")


def _nearest_divisor(whole: int, wanted: int) -> int:
    divisors = (number for number in range(1, whole + 1) if whole % number == 0)
    return min(divisors, key=lambda number: abs(number - wanted))
