"""A phase of a run, and the constants of its optimizer.

In: plain values. Out: frozen dataclasses. What always holds: one that exists is good in itself; what it names
(shards, a model's positions) is held against it by who reads those.
"""

import math
from dataclasses import dataclass

from pipeline.configuration import at_least, one_of
from pipeline.errors import InputError

OPTIMIZERS = ("adamw", "bert_adam", "lamb", "onebit_adam", "onebit_lamb")
# They send gradients in their own way, so DeepSpeed may divide nothing (ZeRO 0).
ONE_BIT = ("onebit_adam", "onebit_lamb")


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A stretch of steps on one shard folder.

    shards: the folder that `bertpipe shard` wrote, or several with their weights: {SHARDS/wiki: 0.7, SHARDS/law: 0.3}
    sequence_length: tokens of the longest sequence, special tokens included
    global_batch: pairs a step, over all ranks and accumulation: as many sequences, or where the objective lays pairs as
        text, about as many
    micro_batch: pairs whose sequences a rank computes at once
    steps: optimizer steps
    learning_rate: the peak, reached after `warmup_steps` steps of linear warm-up
    final_learning_rate: where the linear decay ends, at the phase's last step
    warmup_steps: steps
    optimizer: `adamw`; `bert_adam`, the published code's Adam without bias correction; `lamb`, for global batches of
        thousands; `onebit_adam` or `onebit_lamb`, for slow networks (docs/optimizers.md); a phase with another one
        than the phase before begins with fresh optimizer state
    """

    shards: str | dict[str, float]
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
            at_least(name, getattr(self, name), 1)
        if not self.shards or not all(self.weighted_shards):
            raise InputError("shards is empty; name the folder that `bertpipe shard` wrote")
        for folder, weight in self.weighted_shards.items():
            if not 0 < weight < math.inf:
                raise InputError(f"shards: the weight of {folder} is {weight}; it must be above 0")
        at_least("warmup_steps", self.warmup_steps, 0)
        one_of("optimizer", self.optimizer, OPTIMIZERS)
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

    @property
    def weighted_shards(self) -> dict[str, float]:
        """The shard folders and their weights."""
        return {self.shards: 1.0} if isinstance(self.shards, str) else self.shards


@dataclass(frozen=True, kw_only=True)
class AdamW:
    """Adam's constants, for both its forms (Devlin et al. 2018 §A.2: β₁ 0.9, β₂ 0.999, weight decay 0.01)."""

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-6
    weight_decay: float = 0.01

    def __post_init__(self) -> None:
        _check_moments(self)


@dataclass(frozen=True, kw_only=True)
class Lamb:
    """LAMB's constants (You et al. 2020, arXiv 1904.00962, and their code for BERT: 0.9, 0.999, 1e-6, 0.01).

    bias_correction: as in the paper's algorithm; the authors' code for BERT does without
    """

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-6
    weight_decay: float = 0.01
    bias_correction: bool = True

    def __post_init__(self) -> None:
        _check_moments(self)


@dataclass(frozen=True, kw_only=True)
class OneBit:
    """What `onebit_adam` and `onebit_lamb` want beside Adam's and LAMB's constants.

    freeze_step: updates before ranks send momentum in bits: 15 to 25 % of all, past the learning rate's warm-up
    """

    freeze_step: int | None = None

    def __post_init__(self) -> None:
        if self.freeze_step is not None:
            at_least("freeze_step", self.freeze_step, 1)


def _check_moments(constants: AdamW | Lamb) -> None:
    for name in ("beta1", "beta2"):
        if not 0 <= getattr(constants, name) < 1:
            raise InputError(f"{name} is {getattr(constants, name)}; it lies in [0, 1)")
    if not 0 < constants.epsilon < math.inf:
        raise InputError(f"epsilon is {constants.epsilon}; it must be above 0")
    if not 0 <= constants.weight_decay < math.inf:
        raise InputError(f"weight_decay is {constants.weight_decay}; it is 0 or more")


def _nearest_divisor(whole: int, wanted: int) -> int:
    divisors = (number for number in range(1, whole + 1) if whole % number == 0)
    return min(divisors, key=lambda number: abs(number - wanted))
