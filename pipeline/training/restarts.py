"""Whether a job whose training ended is to start again by itself.

In: a run folder, the exit code of `bertpipe pretrain`, how often it may start again in vain. Out: yes or no, with a
line that says why; each yes is a line of `RUN/restarts.jsonl`. What always holds: what a person ended stays ended, what
cannot work is not tried again, and what makes no headway ends: a start that added no checkpoint to those of the start
before it is one in vain.

Example:
    decide(Path("RUNS/base"), code=137, job="1234", limit=3)
"""

import json
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import InputError, RunFailed
from pipeline.tracking.spool import objects_in
from pipeline.training.checkpoints import FOLDER, newest_first

RESTARTS = "restarts.jsonl"
_DONE = 0
_ENDED_BY_A_PERSON = (128 + signal.SIGINT, 128 + signal.SIGTERM)
_TIME_IS_UP = 128 + signal.SIGUSR1


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Whether to start again, and why, in words that follow on the run's name."""

    again: bool
    why: str


def decide(run: Path, *, code: int, job: str, limit: int, preempted: bool = False) -> Decision:
    """Decide, and note a yes in the run folder.

    job: whose starts are counted; those of a job submitted later begin anew
    limit: how many starts in a row may add no checkpoint
    preempted: SLURM, not a person, has sent SIGTERM

    Raises RunFailed where the folder can't be written.
    """
    if code == _DONE:
        return Decision(again=False, why="is done")
    if code == InputError.exit_code:
        return Decision(again=False, why="was refused; mend what the line above names and submit again")
    if code in _ENDED_BY_A_PERSON and not preempted:
        return Decision(again=False, why="was ended by a person; submit again to continue")
    step = newest_step(run)
    vain = _in_vain(read_restarts(run), job, step)
    if vain >= limit:
        return Decision(
            again=False,
            why=f"started {vain + 1} time{'s' * (vain > 0)} without a checkpoint after that of step {step}; look into "
            "the job's output, then submit again",
        )
    reason = _reason(code, preempted)
    entry = {"job": job, "step": step, "exit_code": code, "reason": reason}
    entry["time"] = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    try:
        run.mkdir(parents=True, exist_ok=True)
        with (run / RESTARTS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
    except OSError as error:
        raise RunFailed(f"cannot write {run / RESTARTS}: {error.strerror}; submit again by hand") from error
    return Decision(again=True, why=f"{reason}; it continues after step {step}")


def _reason(code: int, preempted: bool) -> str:
    if preempted:
        return "was preempted"
    if code == _TIME_IS_UP:
        return "has used up its time"
    return f"failed with exit code {code}"


def newest_step(run: Path) -> int:
    """The step of the newest checkpoint; 0 where there is none."""
    there = newest_first(run / FOLDER)
    return int(there[0].name.removeprefix("step-")) if there else 0


def read_restarts(run: Path) -> list[dict[str, Any]]:
    """The restarts on record, the latest last; lines that were cut short are passed over."""
    try:
        lines = (run / RESTARTS).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return objects_in(lines)


def _in_vain(restarts: list[dict[str, Any]], job: str, step: int) -> int:
    """How many of a job's latest restarts began where it still stands."""
    count = 0
    for restart in reversed(restarts):
        if restart.get("job") != job or restart.get("step") != step:
            break
        count += 1
    return count
