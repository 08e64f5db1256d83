"""What a recipe says about saving, guarding, evaluating, recording and loading: nothing that decides what a sound run
learns.

In: plain values. Out: frozen dataclasses. What always holds: one that exists is good in itself.
"""

import math
from dataclasses import dataclass

from pipeline.configuration import at_least, one_of
from pipeline.errors import InputError

MASK = "[MASK]"


@dataclass(frozen=True, kw_only=True)
class CheckpointPolicy:
    """When checkpoints are written and which ones stay.

    every: steps between two
    keep_last: how many of the newest stay
    keep_every: those of steps that it divides stay for ever; 0 for none
    keep_best: how many stay of those whose step was evaluated, the lowest held-out loss first
    asynchronous: written while training goes on, from a copy in the host's memory; where that has no room for it,
        training waits as it does with `false`
    """

    every: int = 1000
    keep_last: int = 2
    keep_every: int = 0
    keep_best: int = 0
    asynchronous: bool = True

    def __post_init__(self) -> None:
        at_least("every", self.every, 1)
        at_least("keep_last", self.keep_last, 1)
        at_least("keep_every", self.keep_every, 0)
        at_least("keep_best", self.keep_best, 0)
        if self.keep_every % self.every:
            raise InputError(
                f"keep_every is {self.keep_every}, and checkpoints are written every {self.every} steps; "
                "make it a multiple of that"
            )


@dataclass(frozen=True, kw_only=True)
class GuardPolicy:
    """What becomes of a run whose step goes wrong. `docs/guards.md` says what each choice does.

    nonfinite: a loss or gradient that is NaN or infinite: `stop`, `skip` (leave the update out) or `rollback` (to the
        last checkpoint, then past the data that led here)
    spike: a loss far above those before it: `off`, `warn`, `stop`, `skip` or `rollback`
    spike_score: how far: deviations above the median, where a deviation is 1.4826 times the median one
    spike_window: of how many steps before
    drift: ranks whose weights are no longer the same: `stop`, or `rollback` to the last checkpoint
    drift_every: steps between two looks at it, besides one at every checkpoint; 0 for none
    stall_seconds: a rank that finishes nothing for so long writes down where it stands and ends; 0 for none
    full_disk: a checkpoint that cannot be written: `stop`, or `skip` it and go on
    limit: so many updates skipped in a row, or rollbacks in all, are the last that are let pass
    """

    nonfinite: str = "stop"
    spike: str = "warn"
    spike_score: float = 10.0
    spike_window: int = 128
    drift: str = "stop"
    drift_every: int = 100
    stall_seconds: float = 1800.0
    full_disk: str = "stop"
    limit: int = 10

    def __post_init__(self) -> None:
        one_of("nonfinite", self.nonfinite, ("stop", "skip", "rollback"))
        one_of("spike", self.spike, ("off", "warn", "stop", "skip", "rollback"))
        one_of("drift", self.drift, ("stop", "rollback"))
        one_of("full_disk", self.full_disk, ("stop", "skip"))
        at_least("spike_window", self.spike_window, 16)
        at_least("drift_every", self.drift_every, 0)
        at_least("limit", self.limit, 1)
        if not 0 < self.spike_score < math.inf:
            raise InputError(f"spike_score is {self.spike_score}; it must be above 0")
        if not 0 <= self.stall_seconds < math.inf:
            raise InputError(f"stall_seconds is {self.stall_seconds}; it must be 0 or more")


@dataclass(frozen=True, kw_only=True)
class EvaluationPolicy:
    """When the held-out pairs are looked at.

    every: steps between two evaluations; 0 for none
    sequences: how many held-out pairs, always the same ones
    masking_rate: share of a held-out sequence's tokens that are to be guessed; default: `masking`'s own, at a phase's
        last step
    sentences: texts with [MASK] in which words are predicted at each evaluation; default: some held-out ones, empty for
        none
    """

    every: int = 1000
    sequences: int = 2048
    masking_rate: float | None = None
    sentences: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        at_least("every", self.every, 0)
        at_least("sequences", self.sequences, 1)
        if self.masking_rate is not None and not 0 < self.masking_rate <= 1:
            raise InputError(f"masking_rate is {self.masking_rate}; it must be above 0 and at most 1")
        for index, sentence in enumerate(self.sentences or ()):
            if MASK not in sentence:
                raise InputError(f"sentences.{index} is {sentence!r}; it has no {MASK} to predict a word for")


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
    """How micro-batches are fetched; changes no sample and no mask, but for lost ones.

    workers: dataloader processes a rank (0 loads in the trainer itself)
    prefetch: micro-batches a worker prepares ahead
    damage: what a block of pairs that is missing or damaged does: `error` stops the run, `skip` leaves its pairs
        out, counted as `samples_lost`, and changes nothing else
    """

    workers: int = 1
    prefetch: int = 8
    damage: str = "error"

    def __post_init__(self) -> None:
        at_least("workers", self.workers, 0)
        at_least("prefetch", self.prefetch, 1)
        one_of("damage", self.damage, ("error", "skip"))
