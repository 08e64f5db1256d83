"""What is told of a run or a stage: plain values, so that another process can be told.

In: what a command knows of what it does. Out: JSON, and back again. What always holds: nothing here talks to a server.

Example:
    RunRecord(parameters=recipe.as_dict(), tags={"bertpipe.vocabulary": "02ab…"}, artefacts=("RUNS/a/recipe.yaml",))
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]


@dataclass(frozen=True, kw_only=True)
class StageRecord:
    """One stage of a pipeline that is over, or begins.

    stage: `vocab`, `shard`, `evaluate` or `convert`
    made: the hash of what it made, by which it is told from others; empty while it runs
    key: what tells this stage from the pipeline's others before that is known
    metrics: figures at `step`
    texts: file names and contents; folders: local ones, kept under their names
    """

    stage: str
    key: str
    made: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    step: int = 0
    texts: Mapping[str, str] = field(default_factory=dict)
    folders: Mapping[str, str] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """What the tracker is told once of a training.

    artefacts: text files and folders to keep
    datasets: what it reads, as `datasets.describe` has it
    shards: folders of shards to be drawn
    stages: what was made before it
    """

    parameters: Mapping[str, Any]
    tags: Mapping[str, str]
    artefacts: Sequence[str] = ()
    datasets: Sequence[dict[str, Any]] = ()
    shards: Sequence[str] = ()
    stages: Sequence[StageRecord] = ()
