"""What a check found, and checks that cannot hang or crash the doctor.

In: checks, each a name and a function that looks at one thing. Out: findings, in the checks' order. What always
holds: a check that fails is a finding that names the failure; one that doesn't answer in time (a dead SLURM
controller, a network file system that is away) is given up, and holds up neither the others nor the end.

Example:
    examine([Check("python", lambda: [Finding(name="python", state="ok", found="3.11.7")])])
"""

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "error"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the doctor's.

    name: what was looked at
    found: what is there, with its value
    remedy: what to do about it; empty where nothing needs doing
    """

    name: str
    state: State
    found: str
    remedy: str = ""

    def __post_init__(self) -> None:
        assert self.state == "ok" or self.remedy, f"{self.name}: a {self.state} must name its remedy"


@dataclass(frozen=True)
class Check:
    """Something to look at.

    seconds: how long the answer is waited for
    """

    name: str
    look: Callable[[], Iterable[Finding]]
    seconds: float = 5.0


def examine(checks: Sequence[Check]) -> list[Finding]:
    """The findings of all checks, which run at once."""
    started = time.monotonic()
    answers: list[list[Finding]] = [[] for _ in checks]
    threads = [
        # Daemons: a thread that hangs in the kernel must not keep the process from ending.
        threading.Thread(target=_look, args=(check, answer), name=check.name, daemon=True)
        for check, answer in zip(checks, answers, strict=True)
    ]
    for thread in threads:
        thread.start()
    findings: list[Finding] = []
    for check, thread, answer in zip(checks, threads, answers, strict=True):
        thread.join(max(0.0, started + check.seconds - time.monotonic()))
        if thread.is_alive():
            late = f"no answer within {check.seconds:g} s"
            remedy = "see whether what it looks at is reachable: a mounted disk, a controller, a server"
            findings.append(Finding(name=check.name, state="error", found=late, remedy=remedy))
        else:
            findings += answer
    return findings


def _look(check: Check, answer: list[Finding]) -> None:
    try:
        answer += list(check.look())
    except Exception as error:  # whatever it is, the other checks have something to say
        found = (
            f"the check failed: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        )
        remedy = "this may be a defect of bertpipe's; report it with this line"
        answer[:] = [Finding(name=check.name, state="error", found=found.strip(), remedy=remedy)]
