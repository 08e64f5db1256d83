"""One optimizer step: forward, backward, update, and the figures that it leaves.

In: an engine and a rank's micro-batches of one step. Out: `StepSums` over all ranks. What always holds: the
loss is normalised over the global batch's labels of tokens and of pairs (law 5), so accumulation, ranks and
micro-batches change no gradient; dropout is a function of (seed, step, micro-step, rank), so a resumed step
is the same step.
"""

import signal
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from model.config import ModelConfig
from model.counts import step_flops
from pipeline import counter_random
from pipeline.batches.loader import StepBatches
from pipeline.errors import BertpipeError, Echo, RunFailed
from pipeline.training.engine import Engine
from pipeline.training.signals import StopRequest
from pipeline.training.world import sum_over_ranks

_DROPOUT = int.from_bytes(b"dropout")
# Stop signals, in the order of the counts that the ranks sum.
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


@dataclass(frozen=True, kw_only=True)
class StepSums:
    """Sums over the global batch.

    token_loss, pair_loss: nats a token to be guessed, nats a pair that something is asked of (0 where nothing is)
    sequences: that counted
    tokens: real tokens, special ones included
    flops: floating-point operations that they take
    wait_seconds: what the ranks waited for data, summed
    gradient_norm: before clipping
    learning_rate: of this step
    """

    token_loss: float
    pair_loss: float
    token_accuracy: float
    pair_accuracy: float
    sequences: int
    tokens: int
    flops: float
    wait_seconds: float
    gradient_norm: float
    learning_rate: float

    @property
    def loss(self) -> float:
        """What the gradient is of."""
        return self.token_loss + self.pair_loss


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What the ranks agreed on before a step.

    masked, labelled, lost: over the global batch
    signal_number: a stop signal, or 0
    """

    batches: StepBatches
    masked: int
    labelled: int
    lost: int
    signal_number: int


def turns(loader: Iterable[StepBatches], request: StopRequest, device: str) -> Iterator[Turn]:
    """A rank's steps, each after the ranks have agreed on it in one small all-reduce.

    So all stop at the same step, and a rank whose data cannot be read ends the others instead of leaving them
    to wait for it: it raises what went wrong, they an Echo.
    """
    steps = iter(loader)
    while True:
        batches, failure = _next(steps)
        if batches is None and failure is None:
            return  # at the same step on every rank: all have equally many
        flags = [float(request.signal_number == number) for number in _SIGNALS]
        own = [batches.masked, batches.labelled, batches.lost] if batches else [0, 0, 0]
        masked, labelled, lost, failed, *counts = sum_over_ranks(
            [*map(float, own), float(failure is not None), *flags], device
        )
        if failure is not None:
            raise failure
        if batches is None or failed:
            raise Echo(RunFailed.exit_code)
        stops = [int(number) for number, count in zip(_SIGNALS, counts, strict=True) if count]
        yield Turn(
            batches=batches,
            masked=int(masked),
            labelled=int(labelled),
            lost=int(lost),
            signal_number=stops[0] if stops else 0,
        )


def _next(steps: Iterator[StepBatches]) -> tuple[StepBatches | None, BertpipeError | None]:
    try:
        return next(steps, None), None
    except BertpipeError as error:
        return None, error


def train_step(
    engine: Engine,
    batches: StepBatches,
    *,
    model: ModelConfig,
    masked: int,
    labelled: int,
    learning_rate: float,
    dropout_key: Sequence[int],
) -> StepSums:
    """Train on one rank's micro-batches of a step; every rank calls it.

    masked, labelled: of the global batch; the loss is mlm_sum / masked + nsp_sum / labelled
    dropout_key: what the step's dropout is a function of (seed, step, rank)
    """
    import torch

    totals = torch.zeros(4, dtype=torch.float64, device=engine.device)
    flops = 0
    for number, micro_batch in enumerate(batches.micro_batches):
        torch.manual_seed(counter_random.key(_DROPOUT, *dropout_key, number) >> 1)
        sums = engine.network(**micro_batch.tensors(engine.device))
        loss = sums.mlm_sum / max(1, masked) + sums.nsp_sum / max(1, labelled)
        engine.backward(loss, last=number == len(batches.micro_batches) - 1)
        totals += torch.stack([value.detach().double() for value in sums])
        flops += step_flops(model, micro_batch.lengths, micro_batch.masked)
    norm = engine.step(learning_rate)
    counts = [float(batches.sequences), float(batches.tokens), float(flops), batches.wait_seconds]
    mlm, nsp, mlm_correct, nsp_correct, sequences, tokens, all_flops, wait = sum_over_ranks(
        [*totals.tolist(), *counts], engine.device
    )
    return StepSums(
        token_loss=mlm / max(1, masked),
        pair_loss=nsp / max(1, labelled),
        token_accuracy=mlm_correct / max(1, masked),
        pair_accuracy=nsp_correct / max(1, labelled),
        sequences=int(sequences),
        tokens=int(tokens),
        flops=all_flops,
        wait_seconds=wait,
        gradient_norm=norm,
        learning_rate=learning_rate,
    )
