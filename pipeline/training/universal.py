"""A checkpoint's weights and optimizer state whole, by the network's names, whatever ranks and stage wrote them.

In: DeepSpeed's files of a checkpoint. Out: `WholeStates`, which gives for each weight its fp32 values and the
optimizer's state, as they were checkpointed to the last bit. What always holds: what ZeRO has divided among ranks
(stages 1 to 3) DeepSpeed's own converter joins, into its universal checkpoint; at stage 0 each rank held everything,
and the file is read as it stands.

Example:
    convert(checkpoint / "engine", checkpoint.parent / ".step-00000040.universal")
    states = universal_states(checkpoint.parent / ".step-00000040.universal")
    states("bert.pooler.weight")  # {"fp32": …, "exp_avg": …, "exp_avg_sq": …, "step": …}
"""

import io
import os
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pipeline.errors import RunFailed

# The key of the weights among the optimizer's own.
WEIGHTS = "fp32"
_UNIVERSAL = "universal"
_PLAIN = "mp_rank_00_model_states.pt"


class WholeStates(Protocol):
    """A weight's name → `fp32`, the optimizer's tensors in the weight's number of elements, and its counts."""

    @property
    def scaler(self) -> Mapping[str, Any]:
        """What fp16's loss scaling had come to, by DeepSpeed's names; empty where nothing is scaled."""

    def __call__(self, name: str) -> dict[str, Any]:
        """The state of the weight `name`; tensors lie on the CPU and may be mapped files, so copy them."""


def convert(source: Path, output: Path) -> None:
    """Write DeepSpeed's universal checkpoint of `source`, a checkpoint's `engine/`, into the empty folder `output`.

    source, output: must have a folder in common; called by one rank

    Raises what DeepSpeed and the disk raise.
    """
    from deepspeed.checkpoint import ds_to_universal

    together = Path(os.path.commonpath([source.absolute(), output.absolute()]))
    # It prints its progress, which is nobody's.
    with plain_path(together) as folder, redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        ds_to_universal.main(
            Namespace(
                input_folder=str(folder / source.absolute().relative_to(together)),
                output_folder=str(folder / output.absolute().relative_to(together) / _UNIVERSAL),
                # Workers would be forks of a rank, in the middle of its threads and connections.
                num_extract_workers=1,
                num_merge_workers=1,
                keep_temp_folder=False,
                strict=True,
                # Which no network but Megatron's own saves.
                inject_missing_state=True,
            )
        )


@contextmanager
def plain_path(folder: Path) -> Iterator[Path]:
    """A path of `folder` without signs: DeepSpeed makes patterns of paths, which a `[` or a `+` would spoil."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        path = Path(f"/proc/self/fd/{opened}")
        yield path if path.is_dir() else folder
    finally:
        os.close(opened)


@dataclass(frozen=True)
class _Universal:
    folder: Path
    # Of all weights alike: what the converter left undivided.
    step: Any = None
    scaler: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, name: str) -> dict[str, Any]:
        found = {}
        for path in sorted((self.folder / name).glob("*.pt")):
            value = _load(path, trusted=False)
            # Stages 1 and 2 leave a tensor with its shape, stage 3 the bare one.
            found[path.stem] = value["param"] if isinstance(value, dict) else value
        if WEIGHTS not in found:
            raise RunFailed(f"{self.folder} holds no weight {name}; another network was checkpointed")
        return found if self.step is None else found | {"step": self.step}


def universal_states(folder: Path) -> WholeStates:
    """The states in a folder that `convert` wrote; every rank may read it."""
    zero = folder / _UNIVERSAL / "zero"
    common = _load(zero / "optimizer_state.pt", trusted=True)
    scaler = {key: common[key] for key in ("loss_scaler", "dynamic_loss_scale") if key in common}
    # Stage 3 counts steps here, the others beside each weight; the published BERT's Adam counts none.
    parts = common.get("optimizer_state_dict", {}).get("state", {})
    return _Universal(zero, parts[0].get("step") if parts else None, scaler)


@dataclass(frozen=True)
class _Plain:
    weights: Mapping[str, Any]
    states: Mapping[str, Mapping[str, Any]]
    # Stage 0 goes with fp32 alone.
    scaler: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, name: str) -> dict[str, Any]:
        return {WEIGHTS: self.weights[name], **self.states[name]}


def plain_states(source: Path, names: Sequence[str]) -> WholeStates:
    """The states in a checkpoint's `engine/` of stage 0.

    names: the weights' names in the order of the optimizer that wrote them, group by group
    """
    saved = _load(source / _PLAIN, trusted=True)
    groups, states = saved["optimizer"]["param_groups"], saved["optimizer"]["state"]
    order = [index for group in groups for index in group["params"]]
    if len(order) != len(names) or saved["module"].keys() < set(names):
        raise RunFailed(f"{source / _PLAIN} holds another network's weights")
    return _Plain(
        saved["module"], {name: states.get(index, {}) for name, index in zip(names, order, strict=True)}
    )


def _load(path: Path, *, trusted: bool) -> Any:
    """What torch wrote, mapped rather than read: a rank takes no more of it than its part.

    trusted: whether it may hold more than numbers, so that loading it runs code
    """
    import torch

    return torch.load(path, map_location="cpu", mmap=True, weights_only=not trusted)
