"""What runs elsewhere: SLURM and the tracking server.

In: SLURM's own commands and variables, the tracking server's address. Out: findings. What always holds: each
answer is waited for a few seconds at most.
"""

import base64
import http.client
import os
import shutil
import subprocess
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pipeline.doctor.findings import Finding
from pipeline.tracking.run_page import without_secrets

_SECONDS = 3.0


def look_at_slurm() -> Iterator[Finding]:
    """SLURM's version and partitions, and what a job was given."""
    missing = [name for name in ("sinfo", "srun", "sbatch") if shutil.which(name) is None]
    if len(missing) == 3:
        yield Finding(name="slurm", state="ok", found="not on this machine; local ranks do without")
        return
    if missing:
        yield Finding(
            name="slurm",
            state="warning",
            found=f"{', '.join(missing)} missing on PATH",
            remedy="load SLURM's module, or install its client package",
        )
        return
    yield _partitions()
    if "SLURM_JOB_ID" in os.environ:
        yield judge_job(os.environ)


def _partitions() -> Finding:
    remedy = "see whether the controller runs: scontrol ping; sinfo"
    try:
        version = _run("sinfo", "--version").stdout.strip().removeprefix("slurm ")
        listed = _run("sinfo", "--noheader", "--format=%P %a %D %T")
    except subprocess.TimeoutExpired:
        found = f"the controller doesn't answer within {_SECONDS:g} s"
        return Finding(name="slurm", state="warning", found=found, remedy=remedy)
    if listed.returncode:
        said = (listed.stderr.strip().splitlines() or ["sinfo failed"])[-1]
        return Finding(name="slurm", state="warning", found=f"{version} {said}".strip(), remedy=remedy)
    return judge_partitions(version, listed.stdout)


def judge_partitions(version: str, listed: str) -> Finding:
    """listed: a line a partition and state: name, up or down, nodes, their state."""
    usable: Counter[str] = Counter()
    partitions: dict[str, list[str]] = {}
    for line in listed.splitlines():
        if len(words := line.split()) != 4:
            continue
        name, up, nodes, state = words
        partitions.setdefault(name, []).append(f"{nodes} {state}")
        if up == "up" and state.rstrip("*~#$@+-") in ("idle", "mixed", "allocated", "completing", "reserved"):
            usable[name] += int(nodes)
    found = "; ".join(f"{name}: {', '.join(states)}" for name, states in partitions.items())
    good = bool(usable)
    return Finding(
        name="slurm",
        state="ok" if good else "warning",
        found=f"{version}, partitions {found}" if partitions else f"{version}, no partition",
        remedy="" if good else "no node would take a job now: ask the cluster's people, or see `sinfo -R`",
    )


def judge_job(environment: Mapping[str, str]) -> Finding:
    """What the job that this runs in was given."""
    named = {
        "nodes": "SLURM_JOB_NUM_NODES",
        "tasks": "SLURM_NTASKS",
        "cores a task": "SLURM_CPUS_PER_TASK",
        "GPUs a node": "SLURM_GPUS_ON_NODE",
    }
    given = ", ".join(f"{environment[name]} {what}" for what, name in named.items() if name in environment)
    return Finding(name="slurm job", state="ok", found=f"job {environment['SLURM_JOB_ID']}: {given}")


def _run(*command: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)


def look_at_tracking(uri: str | None, beside: Path | None) -> Iterator[Finding]:
    """Whether the tracking server answers.

    uri: the recipe's; $MLFLOW_TRACKING_URI counts where it is None
    beside: the folder whose `mlflow.db` records the run where neither is set; None where there is no recipe
    """
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or ""
    try:
        scheme = urlsplit(uri).scheme
    except ValueError as error:
        yield Finding(
            name="tracking",
            state="error",
            found=f"{without_secrets(uri)} is no address ({error})",
            remedy="correct tracking.uri, or $MLFLOW_TRACKING_URI",
        )
        return
    if not uri:
        where = f"in {beside / 'mlflow.db'}" if beside else "in mlflow.db beside their folders"
        found = f"no server is named: runs are recorded {where}"
        yield Finding(name="tracking", state="ok", found=found)
    elif scheme in ("http", "https"):
        yield _server(uri)
    elif scheme in ("file", ""):
        folder = uri.removeprefix("file://").removeprefix("file:").rstrip("/")
        yield Finding(
            name="tracking",
            state="error",
            found=f"{uri} is a folder, and MLflow 3 records in none",
            remedy=f"write sqlite:///{folder or '.'}/mlflow.db, or a server's address",
        )
    else:
        yield Finding(name="tracking", state="ok", found=without_secrets(uri))


def _server(uri: str) -> Finding:
    name = without_secrets(uri)
    request = urllib.request.Request(f"{name.rstrip('/')}/health", headers=_login(uri))
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer:
            status = answer.status
    except urllib.error.HTTPError as error:
        status = error.code
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        return Finding(
            name="tracking",
            state="warning",
            found=f"{name} doesn't answer ({reason})",
            remedy="start it, or correct $MLFLOW_TRACKING_URI; training goes on without and sends all later",
        )
    if status in (401, 403):
        remedy = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        # Servers behind a login often guard their health page, too, and take the token that MLflow sends.
        return Finding(name="tracking", state="warning", found=f"{name} asks for a login", remedy=remedy)
    if status != 200:
        remedy = "see whether it is an MLflow server's address"
        return Finding(name="tracking", state="warning", found=f"{name} answers {status}", remedy=remedy)
    return Finding(name="tracking", state="ok", found=f"{name} answers")


def _login(uri: str) -> dict[str, str]:
    """The header that says who asks, where the address names a user: urllib takes that for a port."""
    who, at, _ = urlsplit(uri).netloc.rpartition("@")
    name, _, password = (unquote(part) for part in who.partition(":"))
    return (
        {"Authorization": f"Basic {base64.b64encode(f'{name}:{password}'.encode()).decode()}"} if at else {}
    )
