"""What a recipe says about saving, evaluating, recording and loading: nothing that decides what is learned.

In: plain values. Out: frozen dataclasses. What always holds: one that exists is good in itself.
"""

from dataclasses import dataclass

from pipeline.configuration import at_least, one_of
from pipeline.errors import InputError

MASK = "[MASK]"


@dataclass(frozen=True, kw_only=True)
class CheckpointPolicy:
    """When checkpoints are written and how many stay.

    every: steps between two
    keep_last: how many of the newest stay
    """

    every: int = 1000
    keep_last: int = 2

    def __post_init__(self) -> None:
        at_least("every", self.every, 1)
        at_least("keep_last", self.keep_last, 1)


@dataclass(frozen=True, kw_only=True)
class EvaluationPolicy:
    """When the held-out pairs are looked at.

    every: steps between two evaluations; 0 for none
    sequences: how many held-out pairs, always the same ones
    sentences: texts with [MASK] in which words are predicted at each evaluation; default: some held-out ones, empty for
        none
    """

    every: int = 1000
    sequences: int = 2048
    sentences: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        at_least("every", self.every, 0)
        at_least("sequences", self.sequences, 1)
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
