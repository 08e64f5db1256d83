"""What a run's files amount to: where it is, how fast, whether it lives.

In: a run folder's files, what SLURM says. Out: `Facts`, plain values. What always holds: it is a function of those and
of the time; what is not known is None or empty, never guessed.

Example:
    facts_of(RunFiles(Path("RUNS/base")), {}).state  # "training"
"""

import itertools
import statistics
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.status.folder import RunFiles

# A gap so many times the usual step is a restart, not a step.
_PAUSE = 50
_RECENT_STEPS = 100
# Seconds without a step after which a live run is said to stand still; and in steps as they usually take.
_STILL, _STILL_IN_STEPS = 120.0, 20
# What is shown of a step beside its losses and accuracies.
_FIGURES = ("learning_rate", "gradient_norm", "mfu", "matmul_flops_per_second", "data_wait_share")


@dataclass(frozen=True, kw_only=True)
class Facts:
    """A run, at a moment.

    state: `training`, `evaluating`, `saving` or `starting` where ranks live; `finished`, `stopped` by a signal,
        `failed` with a word, `killed` without one, `queued`, or `new`
    said: the last start's last line, or what may be done about one that left none
    phase, phases: which one the next step belongs to, counted from 1, and how many there are
    rate_steps: over how many of the latest steps the rates are
    loss: the last step's; figures: its parts and accuracies, learning rate, gradient norm, mfu and what that is of
    held_out: the last evaluation's figures and its `step`
    checkpoint: the newest one's `step`, `folder`, `bytes`, `age` in seconds, and `problem`, empty where it is whole by
        its record (sizes; a resume looks at the hashes)
    starts: how often it was begun or resumed; restarts: those that a job decided on, with reasons
    ranks: what each says; ranks_alive of `ranks_expected`, by host in `hosts`
    last_step_age, written: seconds since the last step; when a file last changed, in seconds since 1970
    slurm: job and state of the last start
    recorded: addresses or files of the tracking servers that know it
    notes: what a person ought to know besides
    """

    run: str
    state: str
    said: str
    step: int
    steps: int
    phase: int
    phases: int
    sequences_per_second: float | None
    steps_per_second: float | None
    tokens_per_second: float | None
    rate_steps: int
    seconds_left: float | None
    loss: float | None
    figures: dict[str, float]
    held_out: dict[str, float]
    last_step_age: float | None
    checkpoint: dict[str, Any] | None
    starts: int
    restarts: list[dict[str, Any]]
    ranks: list[dict[str, Any]]
    ranks_alive: int
    ranks_expected: int
    hosts: dict[str, int]
    slurm: dict[str, str]
    recorded: list[str]
    notes: list[str]
    written: float


def facts_of(files: RunFiles, jobs: Mapping[str, str]) -> Facts:
    """What a run's files say now.

    jobs: what SLURM says of jobs (`job_queue.job_states`)

    Raises InputError where the recipe cannot be read.
    """
    now = time.time()
    phases = [_whole(phase.get("steps")) for phase in files.recipe.get("phases", [])]
    steps = sum(phases)
    last = files.metrics[-1] if files.metrics else {}
    checkpoint = _checkpoint(files, now)
    step = _whole(last.get("step")) or (checkpoint["step"] if checkpoint else 0)
    alive = [rank for rank in files.ranks if rank["alive"]]
    start = files.starts[-1] if files.starts else {}
    expected = max([_whole(start.get("ranks")), *(rank["rank"] + 1 for rank in alive)])
    job = str(start.get("slurm_job") or "")
    slurm = {"job": job, "state": jobs.get(job, "")} if job else {}
    rates = _rates(files.metrics)
    left = (steps - step) / rates["steps_per_second"] if alive and rates["steps_per_second"] else None
    seen = _number(last.get("time"))
    age = max(0.0, now - seen) if seen else None
    state = _state(files, alive, start, finished=bool(steps) and step >= steps, job=slurm.get("state", ""))
    return Facts(
        run=str(files.folder),
        state=state,
        said=_said(state, start),
        step=step,
        steps=steps,
        phase=min(len(phases), sum(sum(phases[: index + 1]) <= step for index in range(len(phases))) + 1),
        phases=len(phases),
        seconds_left=left,
        loss=_number(last.get("loss")),
        figures={
            name: value
            for name in last
            if (name.endswith(("_loss", "_accuracy")) and not name.startswith("held_out")) or name in _FIGURES
            if (value := _number(last[name])) is not None
        },
        held_out=_held_out(files),
        last_step_age=age,
        checkpoint=checkpoint,
        starts=len(files.starts),
        restarts=files.restarts[-5:],
        ranks=files.ranks,
        ranks_alive=len(alive),
        ranks_expected=expected,
        hosts=dict(Counter(rank["host"] for rank in alive)),
        slurm=slurm,
        recorded=_recorded(files),
        notes=[*_notes(files), *_troubles(files, alive, expected, state, age, rates["steps_per_second"])],
        written=files.age,
        **rates,
    )


def _state(
    files: RunFiles, alive: list[dict[str, Any]], start: Mapping[str, Any], *, finished: bool, job: str
) -> str:
    if alive:
        # The first rank speaks for all: it saves and records.
        return str(min(alive, key=lambda rank: rank["rank"])["doing"])
    code = start.get("exit_code")
    if finished and (code in (0, None) or not isinstance(code, int)):
        return "finished"
    if job.startswith(("PENDING", "REQUEUED", "CONFIGURING")):
        return "queued"
    if isinstance(code, int):
        return "stopped" if code > 128 else "failed" if code else "finished"
    return "killed" if files.starts else "new"


def _said(state: str, start: Mapping[str, Any]) -> str:
    if state == "killed":
        return "it ended without a word; the same command continues it"
    return str(start.get("said") or "") if state in ("stopped", "failed", "queued") else ""


def _rates(metrics: list[dict[str, Any]]) -> dict[str, Any]:
    """Steps, sequences and tokens a second over the latest steps, evaluations and checkpoints among them."""
    recent = [line for line in metrics[-_RECENT_STEPS - 1 :] if _number(line.get("time"))]
    pairs = list(itertools.pairwise(recent))
    gaps = [(after["time"] - before["time"], before, after) for before, after in pairs]
    usual = statistics.median([gap for gap, _, _ in gaps] or [0.0])
    # A restart lies between two steps; a step back is no step.
    gaps = [(gap, *ends) for gap, *ends in gaps if 0 < gap <= max(_PAUSE * usual, 1.0)]
    seconds = sum(gap for gap, _, _ in gaps)
    if seconds <= 0:
        return {
            "steps_per_second": None,
            "sequences_per_second": _number(metrics[-1].get("sequences_per_second")) if metrics else None,
            "tokens_per_second": _number(metrics[-1].get("tokens_per_second")) if metrics else None,
            "rate_steps": min(1, len(metrics)),
        }

    def a_second(name: str) -> float | None:
        counts = [(_number(after.get(name)), _number(before.get(name))) for _, before, after in gaps]
        grown = [after - before for after, before in counts if after is not None and before is not None]
        return sum(grown) / seconds if grown else None

    return {
        "steps_per_second": len(gaps) / seconds,
        "sequences_per_second": a_second("samples"),
        "tokens_per_second": a_second("tokens"),
        "rate_steps": len(gaps),
    }


def _held_out(files: RunFiles) -> dict[str, float]:
    """The last evaluation's figures; its loss is the sum of its tasks', as in training."""
    figures = _last_evaluation(files)
    parts = [value for name, value in figures.items() if name.endswith("_loss")]
    return {"loss": sum(parts)} | figures if parts else figures


def _last_evaluation(files: RunFiles) -> dict[str, float]:
    """That of the latest steps, else what the newest checkpoint keeps."""
    for line in reversed(files.metrics):
        found = {
            name.removeprefix("held_out_"): value
            for name in line
            if name.startswith("held_out_") and (value := _number(line[name])) is not None
        }
        if found:
            return {"step": line["step"], **found}
    kept = files.checkpoint[1].get("held_out") if files.checkpoint else None
    if not isinstance(kept, dict):
        return {}
    return {str(name): value for name in kept if (value := _number(kept[name])) is not None}


def _checkpoint(files: RunFiles, now: float) -> dict[str, Any] | None:
    if files.checkpoint is None:
        return None
    folder, info = files.checkpoint
    try:
        age = now - folder.stat().st_mtime
    except OSError:
        return None  # gone since it was looked for: a newer one has taken its place
    written = info.get("files")
    sizes = written if isinstance(written, dict) else {}
    step = folder.name.removeprefix("step-")
    return {
        "step": int(step) if step.isdigit() else 0,
        "folder": str(folder),
        "bytes": sum(_whole(entry[0]) for entry in sizes.values() if isinstance(entry, list) and entry),
        "age": round(max(0.0, age), 1),
        "problem": _problem(folder, sizes) if sizes else "its record checkpoint.json cannot be read",
    }


def _problem(folder: Path, sizes: Mapping[str, Any]) -> str:
    for name, entry in sizes.items():
        try:
            size = (folder / name).stat().st_size
        except OSError:
            return f"{name} is missing"
        if isinstance(entry, list) and entry and entry[0] != size:
            return f"{name} has {size} bytes, {entry[0]} were written"
    return ""


def _recorded(files: RunFiles) -> list[str]:
    addresses = []
    for server, known in files.tracking.items():
        if not isinstance(known, dict) or "run_id" not in known:
            continue
        page = f"{server.rstrip('/')}/#/experiments/{known.get('experiment')}/runs/{known['run_id']}"
        addresses.append(page if server.startswith("http") else server)
    return addresses


def _notes(files: RunFiles) -> list[str]:
    """What happened to the data and the updates."""
    changes = files.lineage.get("data_changes")
    notes = [
        f"the data changed after step {change.get('step')}"
        for change in (changes if isinstance(changes, list) else [])
        if isinstance(change, dict)
    ]
    if not files.metrics:
        return notes
    if branch := _whole(files.metrics[-1].get("branch")):
        notes.append(f"rolled back {branch} time{'s' * (branch > 1)}")
    if skipped := [line["step"] for line in files.metrics if line.get("update_skipped")]:
        notes.append(
            f"{len(skipped)} update{'s' * (len(skipped) > 1)} skipped in the last {len(files.metrics):,} steps, the "
            f"latest at step {skipped[-1]:,}"
        )
    if lost := sum(_whole(line.get("samples_lost")) for line in files.metrics):
        notes.append(f"{lost:,} pairs lost to damaged shards in the last {len(files.metrics):,} steps")
    return notes


def _troubles(
    files: RunFiles,
    alive: list[dict[str, Any]],
    expected: int,
    state: str,
    age: float | None,
    rate: float | None,
) -> list[str]:
    """What looks wrong with a run that lives."""
    if not alive:
        return []
    living = {rank["rank"] for rank in alive}
    missing = [rank for rank in range(expected) if rank not in living]
    troubles = []
    if missing and state != "starting":
        named = ", ".join(map(str, missing[:8])) + (", …" if len(missing) > 8 else "")
        troubles.append(f"no sign of life of rank {named}")
    if state == "training" and age is not None and age > max(_STILL, _STILL_IN_STEPS / (rate or 1.0)):
        troubles.append("no step for a while: the ranks wait for data or for one another")
    return troubles


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _whole(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
