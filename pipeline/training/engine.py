"""The one door to DeepSpeed: an engine that steps, saves and loads.

In: a network, an optimizer object, a DeepSpeed JSON and this run's precision and clipping. Out: `Engine`.
What always holds: batch, precision, clipping and optimizer come from the recipe, never from the JSON;
nothing is compiled at start (`deepspeed_shm_comm` and JSON optimizers would be); gradients are sums over
the ranks (law 5), so the loss handed to `backward` is already divided by the global batch.

Example:
    engine = Engine(network, optimizer, settings, world)
    engine.backward(loss, last=True); norm = engine.step()
"""

import io
import json
import logging
import os
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import InputError, RunFailed
from pipeline.shipped import shipped_file
from pipeline.training.world import World, device_of, local_devices

if TYPE_CHECKING:
    import torch

# The folder of DeepSpeed's files inside a checkpoint.
TAG = "engine"
# What a JSON may say: ZeRO, offload, communication, and DeepSpeed's own measuring. The rest is the recipe's, and
# a JSON that set it too would contradict it in silence.
_ALLOWED = (
    "zero_optimization",
    "zero_allow_untested_optimizer",
    "zero_force_ds_cpu_optimizer",
    "aio",
    "communication_data_type",
    "prescale_gradients",
    "gradient_predivide_factor",
    "comms_logger",
    "wall_clock_breakdown",
    "memory_breakdown",
    "flops_profiler",
)
STAGES = (0, 1)


def read_settings(name: str) -> dict[str, Any]:
    """The DeepSpeed JSON that a recipe's `deepspeed` names: a path, or a file of deepspeed_configs/.

    Raises InputError where it is missing, is no JSON, or sets what the recipe decides.
    """
    path = Path(name)
    if path.suffix != ".json":
        path = shipped_file(f"deepspeed_configs/{name}.json", what="deepspeed")
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"deepspeed: {path} does not exist; name a file of deepspeed_configs/ or a path"
        ) from None
    except (ValueError, OSError) as error:
        raise InputError(f"deepspeed: {path} is no JSON: {error}") from error
    if not isinstance(settings, dict) or not isinstance(settings.get("zero_optimization", {}), dict):
        raise InputError(f"deepspeed: {path} must hold keys, and so must its zero_optimization")
    for key in settings:
        if key not in _ALLOWED:
            raise InputError(
                f"deepspeed: {path} sets {key!r}; the recipe decides it, or nothing does: a JSON holds ZeRO, "
                "offload and communication only"
            )
    stage = settings.get("zero_optimization", {}).get("stage", 0)
    if stage not in STAGES or isinstance(stage, bool):
        known = " and ".join(map(str, STAGES))
        raise InputError(f"deepspeed: {path} asks for ZeRO stage {stage}; this version trains with {known}")
    return dict(settings)


def zero_stage(settings: dict[str, Any]) -> int:
    """The ZeRO stage of a DeepSpeed JSON."""
    return int(settings.get("zero_optimization", {}).get("stage", 0))


def join_world(world: World) -> None:
    """Connect this process with the other ranks: NCCL on GPUs, gloo on CPUs. Called once a process."""
    os.environ.update(world.environment())
    _hush()
    import deepspeed
    import deepspeed.ops
    import torch

    # init_distributed would compile this op for 40 s; only inference uses it.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if local_devices():
        torch.cuda.set_device(world.local_rank)
    try:
        deepspeed.init_distributed(dist_backend="nccl" if local_devices() else "gloo", verbose=False)
    except RuntimeError as error:
        where = f"{world.address}:{world.port}"
        reason = (str(error).splitlines() or ["no reason given"])[0]
        raise RunFailed(f"rank {world.rank} cannot meet the others at {where}: {reason}") from error


def _hush() -> None:
    """Before DeepSpeed is imported: no probing for accelerators that aren't there, no log on standard output."""
    if not local_devices():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    # DeepSpeed calls collectives by names that torch is about to change: nothing a user can do about.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    # DeepSpeed sets its logger's level at import; a filter stays.
    logging.getLogger("DeepSpeed").addFilter(lambda record: record.levelno >= logging.ERROR)


def leave_world() -> None:
    """Part from the other ranks, so that the process ends without torch's warnings."""
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()


class Engine:
    """A network under DeepSpeed."""

    def __init__(
        self,
        network: "torch.nn.Module",
        optimizer: "torch.optim.Optimizer",
        settings: dict[str, Any],
        *,
        micro_batch: int,
        gradient_clipping: float,
        world: World,
    ) -> None:
        import deepspeed

        self._world = world
        self._clipping = gradient_clipping
        self.stage = zero_stage(settings)
        config = settings | {
            # Accumulation is told step by step (`last=`), so the phases may differ in it.
            "train_micro_batch_size_per_gpu": micro_batch,
            "gradient_accumulation_steps": 1,
            "gradient_clipping": gradient_clipping,
            # The engine's own progress lines; ours say more.
            "steps_per_print": 1 << 60,
        }
        self._engine, *_ = deepspeed.initialize(
            model=network.to(device_of(world)), optimizer=optimizer, config=config, dist_init_required=False
        )

    @property
    def network(self) -> Any:
        """The network, to be called."""
        return self._engine

    @property
    def device(self) -> str:
        """The torch device of this rank."""
        return device_of(self._world)

    def backward(self, loss: "torch.Tensor", *, last: bool) -> None:
        """Add the gradient of this rank's part of the step's loss; `last` closes the step's accumulation.

        DeepSpeed averages over the ranks, and law 5 wants the sum: hence the factor.
        """
        self._engine.set_gradient_accumulation_boundary(last)
        self._engine.backward(loss * self._world.size, scale_wrt_gas=False)

    def step(self, learning_rate: float) -> float:
        """Clip, update the weights, forget the gradient. Returns the gradient's global norm before clipping."""
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate
        norm = self._own_norm() if self.stage == 0 else None
        self._engine.step()
        if norm is None:
            norm = self._engine.get_global_grad_norm()
        return float(norm)

    def _own_norm(self) -> float:
        """The norm where DeepSpeed keeps none (stage 0, fp32)."""
        import torch

        gradients = [p.grad for p in self._engine.module.parameters() if p.grad is not None]
        return float(torch.nn.utils.get_total_norm(gradients))

    def save(self, folder: Path) -> None:
        """Write this engine's state under `folder/engine`; every rank calls it."""
        self._engine.save_checkpoint(str(folder), tag=TAG, save_latest=False)

    def load(self, folder: Path) -> None:
        """Take up the state that `save` wrote, bit for bit; every rank calls it."""
        path, _ = self._engine.load_checkpoint(str(folder), tag=TAG)
        if path is None:
            raise RunFailed(
                f"DeepSpeed found nothing to load in {folder / TAG}; remove the folder and resume"
            )


def read_weights(folder: Path) -> dict[str, "torch.Tensor"]:
    """The fp32 weights of a checkpoint of any ZeRO stage, by the network's names.

    DeepSpeed's files are pickles: the caller has made sure that they may be trusted.
    """
    import torch

    if any((folder / TAG).glob("*zero_pp_rank_*_optim_states.pt")):
        _hush()
        from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

        # It prints its progress to standard output, which is for results.
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            state = get_fp32_state_dict_from_zero_checkpoint(str(folder), tag=TAG)
    else:
        path = folder / TAG / "mp_rank_00_model_states.pt"
        state = torch.load(path, map_location="cpu", weights_only=False)["module"]
    return {name: tensor.float() for name, tensor in state.items()}
