"""Which checkpoints stay, and how others go.

In: a run's folder of checkpoints and its policy. Out: links and fewer folders. What always holds: the newest stays; a
link never points at nothing; half a deleted folder never stands under a whole one's name.

Example:
    prune(Path("RUNS/a/checkpoints"), newest, CheckpointPolicy(keep_last=2, keep_every=10_000, keep_best=1))
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import InputError
from pipeline.policies import CheckpointPolicy
from pipeline.training.checkpoints import BEST, CheckpointInfo, newest_first, read_checkpoint


def prune(checkpoints: Path, newest: Path, policy: CheckpointPolicy) -> None:
    """Delete what the policy doesn't keep, now that `newest` is there.

    Later steps can only be damaged ones that were passed over, or such that the run was rolled back from: it has gone
    on without them.
    """
    there = newest_first(checkpoints)
    before = [folder for folder in there if folder.name <= newest.name]
    known = _readable(before)
    best = best_first(known)[: policy.keep_best]
    kept = {newest, *before[: policy.keep_last], *best}
    if policy.keep_every:
        kept |= {folder for folder, info in known.items() if info.step % policy.keep_every == 0}
    if best:
        point(checkpoints, BEST, best[0].name)
    elif not policy.keep_best:
        # Of an earlier policy: what it points to may go.
        (checkpoints / BEST).unlink(missing_ok=True)
    for old in there:
        if old not in kept:
            discard(old)
    for leftover in checkpoints.glob(".step-*"):
        remove(leftover)


def best_first(known: dict[Path, CheckpointInfo]) -> Sequence[Path]:
    """The checkpoints whose step was evaluated, the lowest held-out loss first, of equal ones the earlier."""
    judged = [(info.held_out_loss, info.step, folder) for folder, info in known.items()]
    return [
        folder
        for _, _, folder in sorted((loss, step, folder) for loss, step, folder in judged if loss is not None)
    ]


def _readable(folders: Sequence[Path]) -> dict[Path, CheckpointInfo]:
    known = {}
    for folder in folders:
        try:
            known[folder] = read_checkpoint(folder)
        except InputError:  # damaged: it is no step's, and nobody's best
            continue
    return known


def point(checkpoints: Path, link: str, name: str) -> None:
    """Have `link` point to the checkpoint `name`, from one moment to the next."""
    temporary = checkpoints / f".{link}.tmp"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(name)
    os.replace(temporary, checkpoints / link)


def discard(folder: Path) -> None:
    """Delete a whole folder; renamed first, so that half of it never stands under a whole one's name."""
    if folder.exists():
        doomed = folder.with_name(f".{folder.name}.old")
        remove(doomed)
        os.rename(folder, doomed)
        remove(doomed)


def remove(folder: Path) -> None:
    """Delete a folder that need not exist."""
    shutil.rmtree(folder, ignore_errors=True)
