"""One optimizer step: forward and backward, and the one small all-reduce that closes it and opens the next.

In: an engine, a loader, stop signals. Out: `Turn`s that all ranks take together, and `StepSums` over all ranks. What
always holds: the loss is normalised over the global batch's labels of tokens and of pairs (law 5), so accumulation,
ranks and micro-batches change no gradient; dropout is a function of (seed, step, micro-step, rank), so a resumed step
is the same step; a stop signal on any rank, data that one cannot read, a checkpoint that one cannot write are known to
all before the next step.

Example:
    rounds = Rounds(loader, …)
    while (turn := rounds.turn) is not None:
        sums = sums_of(rounds.close(forward_and_backward(engine, turn, …)), turn)
        engine.step(rate)
"""

import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
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
    """

    token_loss: float
    pair_loss: float
    token_accuracy: float
    pair_accuracy: float
    sequences: int
    tokens: int
    flops: float
    wait_seconds: float

    @property
    def loss(self) -> float:
        """What the gradient is of."""
        return self.token_loss + self.pair_loss


@dataclass(frozen=True, kw_only=True)
class Turn:
    """A step that all ranks are about to take.

    masked, labelled, lost: over the global batch
    failure: what this rank is to raise in place of taking it: its data cannot be read, or another rank's
    """

    batches: StepBatches
    masked: int
    labelled: int
    lost: int
    failure: BertpipeError | None = None


class Rounds:
    """A rank's steps of a phase, each agreed on with the others in one all-reduce, which also sums up the one before.

    So all stop at the same step, and a rank whose data cannot be read ends the others instead of leaving them to wait
    for it: it raises what went wrong, they an Echo.

    turn: the step to take; None after the last, which is the same one on every rank
    signal_number: of a stop signal that some rank had before it; 0 for none
    troubled: whether some rank could not write its part of a checkpoint
    """

    def __init__(
        self,
        loader: Iterable[StepBatches],
        request: StopRequest,
        is_troubled: Callable[[], bool],
        device: str,
    ) -> None:
        self._steps, self._request, self._is_troubled = iter(loader), request, is_troubled
        self._device = device
        self.turn: Turn | None = None
        self.signal_number, self.troubled = 0, False
        self._agree([])

    def close(self, own: Sequence[float]) -> list[float]:
        """The sums of each rank's `own` figures of the step just computed; `turn` is then the next."""
        return self._agree(own)

    def _agree(self, own: Sequence[float]) -> list[float]:
        batches, failure = _next(self._steps)
        counts = [batches.masked, batches.labelled, batches.lost] if batches else [0, 0, 0]
        flags = [self._request.signal_number == number for number in _SIGNALS]
        flags += [failure is not None, self._is_troubled()]
        sums = sum_over_ranks([*own, *map(float, counts), *map(float, flags)], self._device)
        masked, labelled, lost = map(int, sums[len(own) : len(own) + 3])
        *signals, failed, troubled = sums[len(own) + 3 :]
        noted = [int(number) for number, count in zip(_SIGNALS, signals, strict=True) if count]
        self.signal_number, self.troubled = (noted or [0])[0], bool(troubled)
        if failure is None and failed:
            failure = Echo(RunFailed.exit_code)
        if batches is None and failure is None:
            self.turn = None
        else:
            self.turn = Turn(
                batches=batches or NO_BATCHES, masked=masked, labelled=labelled, lost=lost, failure=failure
            )
        return sums[: len(own)]


NO_BATCHES = StepBatches(step=0, micro_batches=(), masked=0, labelled=0, lost=0, wait_seconds=0.0)


def _next(steps: Iterator[StepBatches]) -> tuple[StepBatches | None, BertpipeError | None]:
    try:
        return next(steps, None), None
    except BertpipeError as error:
        return None, error


def forward_and_backward(
    engine: Engine,
    turn: Turn,
    *,
    model: ModelConfig,
    dropout_key: Sequence[int],
    alive: Callable[[], None],
) -> list[float]:
    """Compute a step's gradient from this rank's micro-batches; every rank calls it. Returns this rank's figures.

    The loss is mlm_sum / masked + nsp_sum / labelled of the global batch.
    dropout_key: what the step's dropout is a function of (seed, step, rank)
    alive: called after each micro-batch
    """
    import torch

    batches = turn.batches
    totals = torch.zeros(4, dtype=torch.float64, device=engine.device)
    flops = 0
    for number, micro_batch in enumerate(batches.micro_batches):
        _seed(engine.device, counter_random.key(_DROPOUT, *dropout_key, number) >> 1)
        sums = engine.network(**micro_batch.tensors(engine.device))
        loss = sums.mlm_sum / max(1, turn.masked) + sums.nsp_sum / max(1, turn.labelled)
        engine.backward(loss, last=number == len(batches.micro_batches) - 1)
        totals += torch.stack([value.detach().double() for value in sums])
        flops += step_flops(model, micro_batch.lengths, micro_batch.masked)
        alive()
    return [
        *totals.tolist(),
        float(batches.sequences),
        float(batches.tokens),
        float(flops),
        batches.wait_seconds,
    ]


def _seed(device: str, seed: int) -> None:
    """Seed the generators that dropout draws from; `torch.manual_seed` seeds all devices, and takes a millisecond."""
    import torch

    torch.default_generator.manual_seed(seed)
    if device.startswith("cuda"):
        torch.cuda.manual_seed(seed)


def sums_of(figures: Sequence[float], turn: Turn) -> StepSums:
    """What `forward_and_backward` returned, summed over the ranks, as figures of the step."""
    mlm, nsp, mlm_correct, nsp_correct, sequences, tokens, flops, wait = figures
    return StepSums(
        token_loss=mlm / max(1, turn.masked),
        pair_loss=nsp / max(1, turn.labelled),
        token_accuracy=mlm_correct / max(1, turn.masked),
        pair_accuracy=nsp_correct / max(1, turn.labelled),
        sequences=int(sequences),
        tokens=int(tokens),
        flops=flops,
        wait_seconds=wait,
    )
