"""Which steps have gone wrong, and what becomes of them.

In: the loss and gradient norm of a step, over all ranks, and those before it. Out: a `Verdict`, or none. What always
holds: judged before the update is made, from figures that every rank holds alike, so all judge alike; a run that is
resumed judges as the undisturbed one, since what is compared with lies in the checkpoint.

Example:
    guard = Guard(recipe.guards, standing)
    if (verdict := guard.on_loss(step=12, loss=float("nan"))): …
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipeline.policies import GuardPolicy
from pipeline.training.standing import Standing

# Of fewer losses the median deviation says little.
_FEWEST = 16
# Losses that hardly differ at all would make the smallest rise a spike: no deviation counts as less than this share.
_SMALLEST_DEVIATION = 0.01
# Makes the median deviation of a normal distribution its standard deviation.
_NORMAL = 1.4826


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a guard has found.

    action: `warn`, `stop`, `skip` (the update) or `rollback`
    passes_data: whether a rollback also passes over the data that led here
    """

    action: str
    reason: str
    passes_data: bool = True


def passes(verdict: Verdict | None) -> bool:
    """Whether the step's update is made all the same."""
    return verdict is None or verdict.action == "warn"


class Guard:
    """Judges the steps of one run; `standing` is what it compares with, and is told what was accepted."""

    def __init__(self, policy: GuardPolicy, standing: Standing) -> None:
        self._policy, self._standing = policy, standing

    def on_loss(self, step: int, loss: float) -> Verdict | None:
        """Of a step's loss (nats), before its update."""
        if not math.isfinite(loss):
            return self._limited(
                Verdict(action=self._policy.nonfinite, reason=f"step {step} has loss {loss}")
            )
        if self._policy.spike == "off":
            return None
        score = spike_score(loss, self._standing.recent_losses)
        if score <= self._policy.spike_score:
            return None
        reason = (
            f"step {step} has loss {loss:.4g}, {score:.1f} deviations above the median of the "
            f"{len(self._standing.recent_losses)} before it"
        )
        return self._limited(Verdict(action=self._policy.spike, reason=reason))

    def on_gradient(self, step: int, norm: float) -> Verdict | None:
        """Of the norm of a step's gradient; its update was left out where this isn't finite."""
        if math.isfinite(norm):
            return None
        return self._limited(
            Verdict(action=self._policy.nonfinite, reason=f"step {step} has gradient norm {norm}")
        )

    def on_drift(self, step: int, ranks: Sequence[int]) -> Verdict | None:
        """Of the ranks whose weights are not those of the others."""
        if not ranks:
            return None
        named = ", ".join(map(str, ranks[:8])) + (", …" if len(ranks) > 8 else "")
        reason = f"after step {step} the weights of rank {named} differ from the others'"
        return self._limited(Verdict(action=self._policy.drift, reason=reason, passes_data=False))

    def accepted(self, loss: float) -> None:
        """A step's update was made."""
        self._standing.skipped_in_a_row = 0
        self._standing.recent_losses.append(loss)
        del self._standing.recent_losses[: -self._policy.spike_window]

    def skipped(self) -> None:
        """A step's update was left out."""
        self._standing.skipped_in_a_row += 1

    def _limited(self, verdict: Verdict) -> Verdict:
        done = {"skip": self._standing.skipped_in_a_row, "rollback": self._standing.branch}
        if done.get(verdict.action, 0) < self._policy.limit:
            return verdict
        often = {"skip": "updates in a row were skipped", "rollback": "rollbacks were made"}[verdict.action]
        return replace(
            verdict, action="stop", reason=f"{verdict.reason}, and {self._policy.limit} {often} already"
        )


def spike_score(loss: float, before: Sequence[float]) -> float:
    """How many deviations `loss` lies above the median of those before it; 0 where they are too few to tell.

    A robust z-score (Iglewicz & Hoaglin 1993): the median and the median absolute deviation don't mind the spikes
    among what is compared with.
    """
    if len(before) < _FEWEST:
        return 0.0
    middle = statistics.median(before)
    deviation = _NORMAL * statistics.median(abs(value - middle) for value in before)
    return (loss - middle) / max(deviation, _SMALLEST_DEVIATION * abs(middle), 1e-12)
