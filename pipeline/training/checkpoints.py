"""Checkpoints: what they hold, which one is whole, and the network inside (`saving` writes them).

In: `RUN/checkpoints/step-00000100/` with
    checkpoint.json      step, counts, recipe, lineage, and every file's size and hash
    weights.safetensors  the network in fp32, whatever stage and precision trained it
    probe.safetensors    the engine's logits on a fixed input (law 9)
    vocab/               the vocabulary
    engine/              DeepSpeed's own files, which a resumed run continues from
and beside them the links `latest`, to the newest, and, where the best are kept, `best`. What always holds: a folder
without a leading dot is whole; `latest` never points at nothing; a damaged checkpoint is found before training goes on,
and the one before it is used, said aloud.

Example:
    info = read_checkpoint(Path("RUNS/mini/checkpoints/latest"))
"""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.config import ModelConfig
from pipeline import lineage, storage
from pipeline.errors import InputError, RunFailed
from pipeline.progress import say
from pipeline.training.engine import TAG
from pipeline.training.probe import probe_logits

if TYPE_CHECKING:
    import torch

    from model.bert import BertForPretraining

FOLDER = "checkpoints"
LATEST = "latest"
BEST = "best"
INFO = "checkpoint.json"
WEIGHTS = "weights.safetensors"
PROBE = "probe.safetensors"
VOCABULARY = "vocab"
# Law 9: the largest difference of two fp32 logits that still counts as the same network.
TOLERANCE = 1e-4
FORMAT_VERSION = 3
_OLDEST_READ = 2
_NAME = re.compile(r"step-\d{8,}")


@dataclass(frozen=True, kw_only=True)
class CheckpointInfo:
    """What a checkpoint is.

    step: optimizer steps done over all phases
    samples, tokens: pairs and real tokens trained on so far
    held_out: the figures of the run's last evaluation and its `step`; empty before the first
    shards: what each phase reads, or has read: a manifest's hash, or those of a mixture with their shares
    data_changes: where the run went on with other data than before: `step`, the last on the old, and `changes`
    position: where the next step reads: its `phase`, and the `step` of that phase's data
    learning_rate: of the last step
    branch, moves, recent_losses, skipped_in_a_row: as in `standing.Standing`
    tracking: the run's id on each tracking server that it is recorded by
    deepspeed: what the DeepSpeed JSON said; empty in checkpoints of earlier releases
    files: size in bytes and hash of every file, by its path inside the folder
    """

    step: int
    samples: int
    tokens: int
    held_out: dict[str, float]
    world_size: int
    zero_stage: int
    recipe: dict[str, Any]
    model: dict[str, Any]
    vocabulary: dict[str, Any]
    shards: list[str]
    versions: dict[str, str]
    data_changes: list[dict[str, Any]] = field(default_factory=list)
    position: dict[str, int] = field(default_factory=dict)
    learning_rate: float = 0.0
    branch: int = 0
    moves: list[dict[str, Any]] = field(default_factory=list)
    recent_losses: list[float] = field(default_factory=list)
    skipped_in_a_row: int = 0
    tracking: dict[str, Any] = field(default_factory=dict)
    deepspeed: dict[str, Any] = field(default_factory=dict)
    files: dict[str, list[Any]] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    @property
    def held_out_loss(self) -> float | None:
        """Nats: the sum of the tasks' held-out losses at this very step; None where it wasn't evaluated."""
        losses = [value for name, value in self.held_out.items() if name.endswith("_loss")]
        return sum(losses) if losses and self.held_out.get("step") == self.step else None


def name_of(step: int) -> str:
    """The folder's name: `step-00000100`."""
    return f"step-{step:08d}"


def run_of(checkpoint: Path) -> Path:
    """The run folder that a checkpoint lies in, however the working folder names it."""
    return checkpoint.absolute().parents[1]


def newest_first(checkpoints: Path) -> list[Path]:
    """The whole checkpoints in a folder."""
    there = checkpoints.glob("step-*")
    # A copy that somebody put beside them under a name of their own is none of them.
    return sorted((path for path in there if _NAME.fullmatch(path.name) and path.is_dir()), reverse=True)


def newest_whole(run: Path) -> tuple[Path, CheckpointInfo] | None:
    """The newest checkpoint whose files are all as they were written; None where there is none.

    A damaged one is named on standard error and passed over. Raises RunFailed where there are some and none
    is whole: to begin again at step 0 would throw a run away that a mended disk may still hold.
    """
    there = newest_first(run / FOLDER)
    for folder in there:
        try:
            info = read_checkpoint(folder)
            if folder.name != name_of(info.step):
                raise InputError(f"{folder} holds the checkpoint of step {info.step}")
            check_files(folder, info)
        except (InputError, RunFailed) as error:
            say(f"warning: {error}; trying the checkpoint before it")
            continue
        return folder, info
    if there:
        raise RunFailed(
            f"no checkpoint under {run / FOLDER} is whole; restore one, or delete that folder to begin again"
        )
    return None


def newest_readable(run: Path) -> CheckpointInfo | None:
    """What the newest checkpoint says of itself, its files not looked at; damaged ones are passed over."""
    for folder in newest_first(run / FOLDER):
        try:
            return read_checkpoint(folder)
        except InputError:
            continue
    return None


def pinned(folder: Path) -> Path:
    """The checkpoint that `latest` points to now, since a run may move it on while its files are read."""
    is_link = folder.name == LATEST and folder.is_symlink()
    return folder.parent / os.readlink(folder) if is_link else folder


def read_checkpoint(folder: Path) -> CheckpointInfo:
    """What the checkpoint in `folder` is.

    Raises InputError where the folder is none; a run folder's newest checkpoint is `RUN/checkpoints/latest`.
    """
    if not folder.exists():
        raise InputError(f"{folder} does not exist; a run's newest checkpoint is RUN/{FOLDER}/{LATEST}")
    if not (folder / INFO).exists():
        inside = folder / FOLDER / LATEST
        hint = f"did you mean {inside}?" if inside.exists() else "it is no checkpoint of bertpipe"
        raise InputError(f"{folder} holds no {INFO}; {hint}")
    value = storage.read_json(str(folder / INFO))
    try:
        version, said = value["format_version"], value.pop("hash", None)
        if version > FORMAT_VERSION:
            raise InputError(f"{folder} has format {version}; upgrade bertpipe to read it")
        if version < _OLDEST_READ:
            raise InputError(f"{folder} has format {version}, of an older bertpipe; use that release for it")
        if (found := lineage.hash_json(value)) != said:
            raise InputError(f"{folder / INFO} is damaged: it has hash {found}, {said} was written")
        return CheckpointInfo(**value)
    except (TypeError, KeyError, AttributeError) as error:
        raise InputError(f"{folder / INFO} is damaged: {type(error).__name__} {error}") from error


def write_info(folder: Path, info: CheckpointInfo) -> None:
    """Write the checkpoint's record; it holds its own hash, since it vouches for all other files."""
    value = json.loads(json.dumps(asdict(info)))
    storage.write_json(str(folder / INFO), value | {"hash": lineage.hash_json(value)})


def check_files(folder: Path, info: CheckpointInfo) -> None:
    """Raise RunFailed naming the first file that is missing, cut short or altered."""
    for name, problem in _damaged(folder, info):
        raise RunFailed(f"{folder / name} {problem}")


def _damaged(folder: Path, info: CheckpointInfo) -> Iterator[tuple[str, str]]:
    for name, (size, content) in info.files.items():
        path = folder / name
        if not path.exists():
            yield name, "is missing"
        elif path.stat().st_size != size:
            yield name, f"has {path.stat().st_size} bytes, {size} were written"
        elif (found := _hash(path)) != content:
            yield name, f"has hash {found}, {content} was written" if found else "cannot be read"


def _hash(path: Path) -> str:
    """The file's hash; empty where the disk doesn't give it."""
    try:
        return storage.hash_file(str(path))
    except OSError:
        return ""


def refuse_foreign(folder: Path, *, trusted: bool) -> None:
    """Raise InputError where DeepSpeed's files, which are pickles, belong to somebody else.

    Loading a pickle runs what its author put there; `trusted` is the user's word that this one is good.
    """
    for path in () if trusted else (folder / TAG).rglob("*"):
        if path.stat().st_uid != os.getuid():
            raise InputError(
                f"{path} belongs to another user, and loading it runs code from it; "
                "add --trust-checkpoint if you trust its author"
            )


def read_weights(folder: Path) -> dict[str, "torch.Tensor"]:
    """The fp32 weights of a checkpoint of any stage and precision, by the network's names."""
    return _read_tensors(folder / WEIGHTS)


def load_network(folder: Path, info: CheckpointInfo) -> "BertForPretraining":
    """The checkpoint's network in fp32 on the CPU, dropout off, proved to answer as the engine did (law 9).

    Raises RunFailed where the files are damaged or give other logits than the engine that wrote them.
    """
    from model.bert import BertForPretraining

    check_files(folder, info)
    config = ModelConfig(**info.model)
    network = BertForPretraining(config)
    network.load_state_dict(read_weights(folder))
    network.eval()
    difference = largest_difference(probe_logits(network, config), read_probe(folder))
    if difference > TOLERANCE:
        raise RunFailed(
            f"the weights read from {folder} give logits that differ from the engine's by {difference:.1e}, more "
            f"than {TOLERANCE:.0e}; the checkpoint is not what was trained, use another"
        )
    return network


def read_probe(folder: Path) -> dict[str, "torch.Tensor"]:
    """The logits that the engine gave when the checkpoint was written."""
    return _read_tensors(folder / PROBE)


def _read_tensors(path: Path) -> dict[str, "torch.Tensor"]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors: dict[str, torch.Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise RunFailed(f"cannot read {path}: {error}; use another checkpoint") from error
    return tensors


def largest_difference(ours: dict[str, "torch.Tensor"], theirs: dict[str, "torch.Tensor"]) -> float:
    """The largest absolute difference between two answers to the probe; NaN counts as infinite."""
    largest = max(float((ours[name] - theirs[name]).abs().max()) for name in theirs)
    return largest if largest == largest else float("inf")
