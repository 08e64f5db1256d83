"""What lies in a run folder, read while others write it.

In: a run folder. Out: its files' contents, each empty where the file is missing, half written or no such file. What
always holds: nothing is written; `metrics.jsonl` is read from its end, so a run of millions of steps costs no more than
a young one; neither torch nor Arrow is loaded, so it answers at once.

Example:
    RunFiles(Path("RUNS/base")).metrics[-1]["loss"]
"""

import json
import os
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.errors import InputError
from pipeline.tracking.spool import objects_in
from pipeline.training.heartbeat import read_ranks
from pipeline.training.metrics import METRICS

RECIPE = "recipe.yaml"
ENVIRONMENT = "environment.json"
LINEAGE = "lineage.json"
TRACKING = "tracking.json"
LOCK = ".lock"
RESTARTS = "restarts.jsonl"
CHECKPOINTS = "checkpoints"
LATEST = "latest"
INFO = "checkpoint.json"
# What a start leaves before it has written the recipe.
_BEGINNINGS = (ENVIRONMENT, RESTARTS, LOCK)
_BYTES_OF_METRICS = 1 << 17


class RunFiles:
    """The files of a run folder, each read when it is asked for.

    Raises InputError where the folder is none, or its recipe cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not folder.exists():
            raise InputError(f"{folder} does not exist; `bertpipe runs` lists the run folders under RUNS/")
        if not is_run(folder):
            raise InputError(
                f"{folder} is no run folder: it holds no {RECIPE}; `bertpipe runs` lists those under RUNS/"
            )

    @cached_property
    def recipe(self) -> dict[str, Any]:
        """The resolved recipe; empty before the first start has written it."""
        import yaml

        path = self.folder / RECIPE
        try:
            text = path.read_text(encoding="utf-8")
            value = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise InputError(
                f"cannot read {path}: {' '.join(str(error).split())[:100]}; restore it"
            ) from error
        phases = value.get("phases") if isinstance(value, dict) else None
        if not isinstance(phases, list) or not all(isinstance(phase, dict) for phase in phases):
            raise InputError(f"{path} is no recipe: it names no phases; restore it")
        return dict(value)

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """The last steps on record, the latest last."""
        return [line for line in _last_lines(self.folder / METRICS) if isinstance(line.get("step"), int)]

    @cached_property
    def starts(self) -> list[dict[str, Any]]:
        """One entry a start."""
        value = _json(self.folder / ENVIRONMENT)
        return [start for start in value if isinstance(start, dict)] if isinstance(value, list) else []

    @cached_property
    def restarts(self) -> list[dict[str, Any]]:
        """The latest restarts that jobs decided on."""
        return _last_lines(self.folder / RESTARTS)

    @cached_property
    def ranks(self) -> list[dict[str, Any]]:
        """What each rank said last (see `heartbeat.read_ranks`)."""
        return read_ranks(self.folder)

    @cached_property
    def lineage(self) -> dict[str, Any]:
        """What the run reads, and where that changed."""
        return _mapping(self.folder / LINEAGE)

    @cached_property
    def tracking(self) -> dict[str, Any]:
        """The tracking servers that know the run."""
        return _mapping(self.folder / TRACKING)

    @cached_property
    def checkpoint(self) -> tuple[Path, dict[str, Any]] | None:
        """The newest checkpoint's folder, and its record (empty where it can't be read)."""
        checkpoints = self.folder / CHECKPOINTS
        try:
            newest = checkpoints / os.readlink(checkpoints / LATEST)
        except OSError:
            there = sorted(checkpoints.glob("step-*"))
            if not there:
                return None
            newest = there[-1]
        return newest, _mapping(newest / INFO)

    @cached_property
    def age(self) -> float:
        """When anything about the run was last written, in seconds since 1970."""
        names = (METRICS, RECIPE, ENVIRONMENT, RESTARTS, LOCK)
        return max((_written(self.folder / name) for name in names), default=0.0)


def is_run(folder: Path) -> bool:
    """Whether a folder is a run's, or is about to become one."""
    try:
        if (folder / RECIPE).is_file():
            return True
        return folder.is_dir() and any((folder / name).is_file() for name in _BEGINNINGS)
    except OSError:
        return False


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _mapping(path: Path) -> dict[str, Any]:
    value = _json(path)
    return value if isinstance(value, dict) else {}


def _last_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a file's last lines; the first and the last of them may be cut, and are passed over."""
    try:
        with path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - _BYTES_OF_METRICS))
            lines = file.read().splitlines()
    except OSError:
        return []
    return objects_in(lines)
