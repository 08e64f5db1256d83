"""What a person sees of a run on a tracking server's pages: names, parameters, a description, a link.

In: a recipe as plain values, lineage tags, names of `metrics.jsonl`. Out: the same as MLflow shows it best:
curves grouped by what they tell, nested keys dotted, a list of what the run was made from. What always holds:
these are pure functions; nothing here talks to a server; no password of a URI is among what is shown.

Example:
    metric_name("held_out_mlm_loss") → "held_out/mlm_loss"
"""

import getpass
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline import __version__
from pipeline.tracking.spool import METRICS

# MLflow's own limit.
_PARAMETER_LENGTH = 6000
_PROGRESS = ("step", "epoch", "samples", "tokens")
_OPTIMIZER = ("learning_rate", "gradient_norm")
_SPEED = (
    "sequences_per_second", "tokens_per_second", "mfu", "matmul_flops_per_second", "data_wait_share",
)  # fmt: skip
_HELD_OUT = "held_out_"
# The file of samples of a run that has one node, whichever that is.
ONE_NODE = "node"
_OF_A_START = ("host", "ranks", "cores", "python", "slurm_job")
# MLflow's tag of a run that belongs below another, and ours of what a run is.
PARENT = "mlflow.parentRunId"
STAGE = "bertpipe.stage"


def metric_name(name: str, branch: int = 0) -> str:
    """A name of `metrics.jsonl` with its group before a slash: MLflow draws a group's curves together.

    branch: how often the run was rolled back before; what came after is a history of its own
    """
    if branch:
        return f"branch{branch}/{metric_name(name)}"
    if name.startswith(_HELD_OUT):
        return f"held_out/{name.removeprefix(_HELD_OUT)}"
    for group, names in (("progress", _PROGRESS), ("optimizer", _OPTIMIZER), ("speed", _SPEED)):
        if name in names:
            return f"{group}/{name}"
    return f"train/{name}"


def sample_name(node: str, name: str, branch: int = 0) -> str:
    """A name of `RUN/system/NODE.jsonl` as MLflow has it; of several nodes, each has a group."""
    group = "system" if node == ONE_NODE else f"system/{re.sub(r'[^A-Za-z0-9_.-]', '-', node)}"
    return f"{group}/{'sample' if name == 'step' else name}"


def start_tags(start: Mapping[str, Any]) -> dict[str, str]:
    """An entry of `environment.json` as tags: where, with how many ranks, with which versions and code."""
    tags = {f"bertpipe.{name}": str(start[name]) for name in _OF_A_START if start.get(name) is not None}
    if versions := start.get("versions"):
        tags["bertpipe.versions"] = ", ".join(f"{name} {version}" for name, version in versions.items())
    for place, state in start.get("git", {}).items():
        tags[f"bertpipe.git.{place}"] = f"{state['commit']}{', changed since' if state['dirty'] else ''}"
    # What MLflow's pages show as the code's version is that of bertpipe's own checkout, else of the user's folder.
    for state in [state for place, state in sorted(start.get("git", {}).items())][:1]:
        tags["mlflow.source.git.commit"] = state["commit"]
        tags["mlflow.source.git.branch"] = state["branch"]
    return tags


def parameters(recipe: Mapping[str, Any]) -> dict[str, str]:
    """A recipe's values by dotted key, as text that MLflow takes."""
    # Folders are keys in a phase that reads several; MLflow takes no URI, `~` or `@` in a name.
    phases = [
        {name: _shards(phase) if name == "shards" else value for name, value in phase.items()}
        for phase in recipe.get("phases", ())
    ]
    flat = flatten({**recipe, "phases": phases})
    return {key: without_secrets(str(value))[:_PARAMETER_LENGTH] for key, value in flat.items()}


def heading(recipe: Mapping[str, Any], lineage: Mapping[str, str]) -> dict[str, str]:
    """The tags that MLflow shows at the head of a training's page: who, with what, and what it is."""
    return stage_heading("pretrain", description(recipe, lineage))


def parent_heading(name: str) -> dict[str, str]:
    """The same of a pipeline's page."""
    note = f"The pipeline `{name}` of bertpipe {__version__}: a run below this one for each stage."
    return {"mlflow.user": _user(), "mlflow.source.name": "bertpipe", "mlflow.note.content": note}


def stage_heading(stage: str, note: str) -> dict[str, str]:
    """The same of a stage's page; `note` is Markdown."""
    shown = {"mlflow.user": _user(), "mlflow.source.name": f"bertpipe {stage}"}
    return shown | ({"mlflow.note.content": note} if note else {})


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return str(os.getuid())


def description(recipe: Mapping[str, Any], lineage: Mapping[str, str]) -> str:
    """Markdown for the run's page: what is trained, in which phases, and from what it was made."""
    flat = flatten(recipe)
    lines = [
        f"BERT pretraining by bertpipe {__version__}: model `{flat.get('model.preset')}`, "
        f"objective `{flat.get('objective')}`, `{flat.get('deepspeed')}`, `{flat.get('precision')}`; "
        f"run folder `{flat.get('run')}`.",
        "",
    ]
    lines += [
        f"- phase {number}: `{_shards(phase)}`, {phase.get('sequence_length')} tokens, "
        f"{phase.get('global_batch')} sequences a step, {phase.get('steps')} steps"
        for number, phase in enumerate(recipe.get("phases", ()))
    ]
    lines += [f"- {name.removeprefix('bertpipe.')}: `{value}`" for name, value in lineage.items()]
    return without_secrets("\n".join(lines))


def _shards(phase: Mapping[str, Any]) -> str:
    shards = phase.get("shards")
    if isinstance(shards, Mapping):
        return ", ".join(f"{folder}: {weight:g}" for folder, weight in shards.items())
    return str(shards)


def not_taken(server: str, run: Path) -> str:
    """What is said where a server was not waited for any longer."""
    return (
        f"warning: {server} has not taken all of this run; its steps are in {run / METRICS}, and running the same "
        "command again sends them"
    )


def without_secrets(text: str) -> str:
    """`text` whose URIs have lost their users' names and passwords: `http://bob:pass@host` → `http://host`."""
    return re.sub(r"(?<=://)[^/?#\s]*@", "", text)


def page_address(uri: str, experiment: str, run: str) -> str:
    """Where a browser finds the run; the last word has MLflow show its menu for trainings, not for prompts."""
    return f"{uri.rstrip('/')}/#/experiments/{experiment}/runs/{run}?workflowType=machine_learning"


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings and lists as dotted keys: `{"phases": [{"steps": 3}]}` → `{"phases.0.steps": 3}`."""
    if isinstance(value, Mapping):
        items: Any = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)
    else:
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, item in items:
        flat |= flatten(item, f"{prefix}.{key}" if prefix else str(key))
    return flat
