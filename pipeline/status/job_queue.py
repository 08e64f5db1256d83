"""What SLURM says of jobs, where it is at hand.

In: job numbers. Out: each one's state and reason, as squeue prints them. What always holds: without squeue, or with one
that doesn't answer, there is no answer and no complaint.

Example:
    job_states({"1234"})  # {"1234": "PENDING, Resources"}
"""

import shutil
import subprocess
from collections.abc import Collection

_SECONDS_FOR_AN_ANSWER = 3.0


def job_states(jobs: Collection[str]) -> dict[str, str]:
    """The states of those jobs that SLURM still knows."""
    program = shutil.which("squeue")
    numbers = sorted(job for job in jobs if job.isdigit())
    if not numbers or program is None:
        return {}
    # One job that is forgotten already makes squeue refuse all that were named.
    command = [program, "--noheader", "--me", "--states=all", "--format=%i|%T|%r"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_SECONDS_FOR_AN_ANSWER, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return {}
    rows = [line.split("|") for line in done.stdout.splitlines()]
    told = {
        row[0]: row[1] if row[2] in ("None", "") else f"{row[1]}, {row[2]}" for row in rows if len(row) == 3
    }
    return {job: told[job] for job in numbers if job in told}
