"""`bertpipe status` and `bertpipe runs`: what runs are doing, from any terminal or node that sees their folders.

In: run folders. Out: text or JSON on standard output. What always holds: nothing is written, nobody is disturbed; a
folder that is half made, or being written by another node, is shown as far as it goes.

Example:
    bertpipe status RUNS/base --watch
"""

import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import InputError
from pipeline.status.facts import Facts, facts_of
from pipeline.status.folder import RunFiles, is_run
from pipeline.status.job_queue import job_states
from pipeline.status.page import page, table

DEFAULT = "RUNS"
_SECONDS_BETWEEN_LOOKS = 2.0
_OVER = ("finished", "stopped", "failed", "killed")


@dataclass(frozen=True, kw_only=True)
class StatusConfig:
    """What `bertpipe status` is asked.

    watch: show it again every two seconds until the run is over
    """

    folder: Path
    json: bool = False
    watch: bool = False


@dataclass(frozen=True, kw_only=True)
class RunsConfig:
    """What `bertpipe runs` is asked: run folders, or folders of them (default: `RUNS`)."""

    folders: tuple[Path, ...] = ()
    json: bool = False


def run(config: StatusConfig) -> None:
    """Show a run.

    Raises InputError where the folder is no run's.
    """
    on_terminal = sys.stdout.isatty()
    try:
        while True:
            facts = read(config.folder)
            text = json.dumps(dataclasses.asdict(facts)) if config.json else page(facts)
            # From the top of a terminal, what stood there before wiped away.
            print(f"\x1b[H\x1b[J{text}" if config.watch and on_terminal else text, flush=True)
            if not config.watch or facts.state in _OVER:
                return
            time.sleep(_SECONDS_BETWEEN_LOOKS)
            if not config.json and not on_terminal:
                print()
    except KeyboardInterrupt:
        if not config.watch:
            raise


def run_list(config: RunsConfig) -> None:
    """List runs, those that were written last first.

    Raises InputError where a folder does not exist, or is neither a run's nor holds any.
    """
    folders = [found for folder in config.folders or (Path(DEFAULT),) for found in _runs_in(folder)]
    known, problems = read_all(list(dict.fromkeys(folders)))
    known.sort(key=lambda facts: facts.written, reverse=True)
    if config.json:
        unread = [{"run": folder, "problem": problem} for folder, problem in problems]
        print(json.dumps([*map(dataclasses.asdict, known), *unread]))
    else:
        print(table(known, problems))


def read(folder: Path) -> Facts:
    """The facts of one run; raises InputError where the folder is no run's."""
    files = RunFiles(folder)
    return facts_of(files, job_states(_job(files)))


def read_all(folders: Sequence[Path]) -> tuple[list[Facts], list[tuple[str, str]]]:
    """The facts of many runs, SLURM asked once, and what is wrong with those that cannot be read."""
    opened = [RunFiles(folder) for folder in folders]
    jobs = job_states({job for files in opened for job in _job(files)})
    known, problems = [], []
    for files in opened:
        try:
            known.append(facts_of(files, jobs))
        except InputError as error:
            problems.append((str(files.folder), str(error)))
    return known, problems


def _job(files: RunFiles) -> list[str]:
    job = files.starts[-1].get("slurm_job") if files.starts else None
    return [str(job)] if job else []


def _runs_in(folder: Path) -> list[Path]:
    if is_run(folder):
        return [folder]
    try:
        found = [inside for inside in sorted(folder.iterdir()) if is_run(inside)]
    except NotADirectoryError:
        raise InputError(f"{folder} is a file; name run folders, or a folder of them") from None
    except OSError as error:
        raise InputError(
            f"cannot read {folder}: {error.strerror}; name run folders, or a folder of them"
        ) from None
    if not found:
        raise InputError(f"{folder} holds no run folders; name another folder")
    return found
