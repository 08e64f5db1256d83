"""Where a run stands: what a checkpoint carries besides tensors, and what each step moves on.

In: a checkpoint's record, or nothing. Out: counts, the losses that guards compare with, and how the order of the data
has moved. What always holds: two runs of one recipe that stand alike go on alike; the loader, the learning rate and the
guards are functions of it.

Example:
    standing = Standing.of(read_checkpoint(folder)); standing.moved(phase=0)  # steps of data passed over so far
"""

from dataclasses import dataclass, field, replace
from typing import Any

from pipeline.training.checkpoints import CheckpointInfo


@dataclass(kw_only=True)
class Standing:
    """Changes with each step.

    step: optimizer steps done over all phases
    samples, tokens: pairs and real tokens trained on
    held_out: the figures of the last evaluation and its `step`; empty before the first
    branch: how often the run was rolled back; the metrics of each stretch are a history of their own
    moves: where steps of data were passed over: `phase`, `step` (the last one before), `by` (steps), `reason`
    recent_losses: of the last accepted steps, the latest last
    skipped_in_a_row: updates left out since the last one that was made
    """

    step: int = 0
    samples: int = 0
    tokens: int = 0
    held_out: dict[str, float] = field(default_factory=dict)
    branch: int = 0
    moves: list[dict[str, Any]] = field(default_factory=list)
    recent_losses: list[float] = field(default_factory=list)
    skipped_in_a_row: int = 0

    @classmethod
    def of(cls, info: CheckpointInfo | None) -> "Standing":
        """As a checkpoint left it; at the run's beginning without one."""
        if info is None:
            return cls()
        return cls(
            step=info.step,
            samples=info.samples,
            tokens=info.tokens,
            held_out=info.held_out,
            branch=info.branch,
            moves=[dict(move) for move in info.moves],
            recent_losses=list(info.recent_losses),
            skipped_in_a_row=info.skipped_in_a_row,
        )

    def moved(self, phase: int) -> int:
        """Steps of data of a phase that were passed over so far."""
        return sum(move["by"] for move in self.moves if move["phase"] == phase)

    def rolled_back_to(self, to: "Standing", *, phase: int, by: int, reason: str) -> "Standing":
        """The standing of a run that goes from here back to an earlier one.

        by: steps of the phase's data to pass over from there, besides those that were passed over on the way here
        """
        passed = by + self.moved(phase) - to.moved(phase)
        move = {"phase": phase, "step": to.step, "by": passed, "reason": reason}
        return replace(to, branch=self.branch + 1, moves=[*to.moves, move])
