"""The DeepSpeed JSON of a run, read and held against what the recipe asks.

In: a recipe's `deepspeed` (a file of deepspeed_configs/ or a path) and its precision. Out: `ZeroSettings`, and
the whole configuration that DeepSpeed is handed. What always holds: batch, precision, clipping and optimizer come
from the recipe, never from the JSON; a combination that DeepSpeed gets wrong is refused by name (law 10). DeepSpeed
itself is not loaded.

Example:
    settings = read_settings("zero2_offload")
    settings.stage, settings.optimizer_device  # 2, 'cpu'
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import InputError
from pipeline.phase import ONE_BIT
from pipeline.shipped import shipped_file, shipped_names

STAGES = (0, 1, 2, 3)
# What a JSON may say: ZeRO, offload, communication, and DeepSpeed's own measuring. The rest is the recipe's, and
# a JSON that set it too would contradict it in silence.
_ALLOWED = (
    "zero_optimization",
    "zero_allow_untested_optimizer",
    "zero_force_ds_cpu_optimizer",
    "aio",
    "communication_data_type",
    "comms_logger",
    "wall_clock_breakdown",
    "memory_breakdown",
    "flops_profiler",
)
# Of DeepSpeed's own keys these two divide what is sent; `GradientSum`, which sends it at some stages, would not.
_DIVIDES = ("prescale_gradients", "gradient_predivide_factor")
_DEVICES = ("none", "cpu", "nvme")
# DeepSpeed's own, where a JSON says nothing.
_REDUCE_BUCKET = 500_000_000
# Counts of elements; what Hugging Face's trainer fills in for "auto" is nobody's business here.
_COUNTS = (
    "reduce_bucket_size",
    "allgather_bucket_size",
    "stage3_prefetch_bucket_size",
    "stage3_param_persistence_threshold",
    "stage3_max_live_parameters",
    "stage3_max_reuse_distance",
)


@dataclass(frozen=True, kw_only=True)
class ZeroSettings:
    """A DeepSpeed JSON: ZeRO stage, offload, communication.

    path: where it lies
    values: the JSON itself
    is_shipped: whether it is one of deepspeed_configs/
    """

    path: str
    values: dict[str, Any]
    is_shipped: bool = False

    @property
    def stage(self) -> int:
        """0: nothing is divided; 1: the optimizer's state; 2: gradients, too; 3: weights, too."""
        return int(self._zero.get("stage", 0))

    @property
    def optimizer_device(self) -> str:
        """Where the optimizer's state and the fp32 weights lie: `none` for the accelerator, `cpu` or `nvme`."""
        return self._offload_device("offload_optimizer")

    @property
    def parameter_device(self) -> str:
        """Where weights that are not in use lie: `none` for the accelerator, `cpu` or `nvme`."""
        return self._offload_device("offload_param")

    @property
    def wants_cpu_adam(self) -> bool:
        """Whether an offloaded optimizer must be DeepSpeed's own, a compiled op, rather than torch's.

        DeepSpeed's default; the JSONs that are shipped say `"zero_force_ds_cpu_optimizer": false`.
        """
        return self.optimizer_device != "none" and bool(self.values.get("zero_force_ds_cpu_optimizer", True))

    @property
    def fixed_parts(self) -> str:
        """What keeps the state in parts that other ranks and stages can't take up, in words; empty: nothing does."""
        if "nvme" in (self.optimizer_device, self.parameter_device):
            return "what is offloaded to nvme"
        return "what mics_shard_size divides" if int(self._zero.get("mics_shard_size") or 0) > 0 else ""

    @property
    def overlaps(self) -> bool:
        """Whether gradients are sent during the backward pass; DeepSpeed's own default is at stage 3 alone."""
        asked = self._zero.get("overlap_comm")
        return self.stage == 3 if asked is None else bool(asked)

    @property
    def bucket(self) -> int:
        """Elements of gradients that are sent at once."""
        return int(self._zero.get("reduce_bucket_size", _REDUCE_BUCKET))

    @property
    def _zero(self) -> dict[str, Any]:
        return dict(self.values.get("zero_optimization", {}))

    def _offload_device(self, key: str) -> str:
        return str((self._zero.get(key) or {}).get("device", "none"))

    def configuration(
        self, *, precision: str, micro_batch: int, accumulation: int, gradient_clipping: float
    ) -> dict[str, Any]:
        """The whole configuration for DeepSpeed.

        accumulation: micro-batches a step on each rank; where each step's last one is is told step by step
        """
        injected: dict[str, Any] = {
            "train_micro_batch_size_per_gpu": micro_batch,
            "gradient_accumulation_steps": accumulation,
            "gradient_clipping": gradient_clipping,
            # The engine's own progress lines; ours say more.
            "steps_per_print": 1 << 60,
            # Ours work element by element, so ZeRO may cut their tensors anywhere.
            "zero_allow_untested_optimizer": True,
        }
        if precision != "fp32":
            # Sums of thousands of micro-batches' terms in 8 bits of mantissa would lose most of them.
            injected["data_types"] = {"grad_accum_dtype": "fp32"}
            injected[precision] = {"enabled": True}
        if precision == "bf16":
            # A gradient that is no number shows in its norm, which the ranks share anyway. And at stage 1 each gradient
            # goes into the fp32 sum as soon as it is there, its bf16 form with it.
            injected[precision] |= {"check_grad_overflow": False, "immediate_grad_update": True}
        return self.values | injected


def read_settings(name: str) -> ZeroSettings:
    """The DeepSpeed JSON that a recipe's `deepspeed` names: a path, or a file of deepspeed_configs/.

    Raises InputError where it is missing, is no JSON, or sets what the recipe decides.
    """
    path, shipped = Path(name), name.removesuffix(".json")
    # A bare `zero1.json` is the shipped one, unless such a file lies here.
    is_shipped = path.suffix != ".json" or (
        shipped in shipped_names("deepspeed_configs", ".json") and not path.exists()
    )
    if is_shipped:
        path = shipped_file(f"deepspeed_configs/{shipped}.json", what="deepspeed")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"deepspeed: {path} does not exist; name a file of deepspeed_configs/ or a path"
        ) from None
    except (ValueError, OSError) as error:
        raise InputError(f"deepspeed: {path} is no JSON: {error}") from error
    if not isinstance(values, dict) or not isinstance(values.get("zero_optimization", {}), dict):
        raise InputError(f"deepspeed: {path} must hold keys, and so must its zero_optimization")
    for key in values:
        if key in _DIVIDES:
            raise InputError(
                f"deepspeed: {path} sets {key!r}; gradients are summed over the ranks as they are, and at stage 0, "
                "and 1 in bf16, it would be ignored; leave it out"
            )
        if key not in _ALLOWED:
            raise InputError(
                f"deepspeed: {path} sets {key!r}; the recipe decides it, or nothing does: a JSON holds ZeRO, "
                "offload and communication only"
            )
    _check_zero(path, values.get("zero_optimization", {}))
    return ZeroSettings(path=str(path), values=values, is_shipped=is_shipped)


def _check_zero(path: Path, zero: dict[str, Any]) -> None:
    stage = zero.get("stage", 0)
    if stage not in STAGES or isinstance(stage, bool):
        known = ", ".join(map(str, STAGES))
        raise InputError(f"deepspeed: {path} asks for ZeRO stage {stage}; there are {known}")
    for key in _COUNTS:
        count = zero.get(key, 1)
        if not isinstance(count, int | float) or isinstance(count, bool) or not 0 < count < float("inf"):
            raise InputError(f"deepspeed: {path}: {key} is {count!r}; it is a number of elements above 0")
    if zero.get("round_robin_gradients"):
        # Seen at 0.19.8: it then takes one tensor's fp32 weights and state for another's.
        raise InputError(
            f"deepspeed: {path} sets round_robin_gradients, with which DeepSpeed saves fp32 weights in the wrong "
            "places; leave it out"
        )
    # DeepSpeed takes offload at too low a stage in silence and offloads nothing.
    for key, least in (("offload_optimizer", 1), ("offload_param", 3)):
        offload = zero.get(key) or {}
        if not isinstance(offload, dict):
            raise InputError(
                f'deepspeed: {path}: {key} is {offload!r}; it holds keys, such as {{"device": "cpu"}}'
            )
        device = offload.get("device", "none")
        if device not in _DEVICES:
            raise InputError(f"deepspeed: {path}: {key}.device is {device!r}; known: {', '.join(_DEVICES)}")
        if device != "none" and stage < least:
            raise InputError(
                f"deepspeed: {path} has {key} at ZeRO stage {stage}; it takes stage {least} or more"
            )


def check_optimizers(settings: ZeroSettings, optimizers: Iterable[str], precision: str) -> None:
    """Raise InputError where a phase's optimizer is none that the JSON lets DeepSpeed take."""
    optimizers = list(optimizers)
    for name in optimizers:
        # ZeRO itself sends gradients from stage 1 on; stage 0 is right in fp32 only (`check_precision`).
        if name in ONE_BIT and (settings.stage or precision != "fp32"):
            raise InputError(
                f"optimizer {name} goes with ZeRO stage 0 in fp32, and deepspeed: {settings.path} asks for stage "
                f"{settings.stage}, precision for {precision}; set deepspeed=zero0 precision=fp32, or take another "
                "optimizer"
            )
    other = [name for name in optimizers if name != "adamw"]
    if settings.wants_cpu_adam and other:
        raise InputError(
            f"optimizer {other[0]} is not DeepSpeed's own Adam, which deepspeed: {settings.path} wants for what it "
            'offloads; set "zero_force_ds_cpu_optimizer": false there, or optimizer=adamw'
        )


def check_compiling(settings: ZeroSettings, compiles: bool) -> None:
    """Raise InputError where layers cannot be compiled because they are not whole until they run."""
    if compiles and settings.stage == 3:
        raise InputError(
            f"compile is true, and deepspeed: {settings.path} asks for ZeRO stage 3, which gathers weights as layers "
            "run; set compile=false, or deepspeed=zero2"
        )


def check_precision(settings: ZeroSettings, precision: str, devices: int) -> None:
    """Raise InputError where DeepSpeed would not train right in this precision.

    devices: accelerators of this node; 0: training is on CPUs
    """
    if precision == "fp32":
        return
    if settings.stage == 0:
        # bf16 at stage 0 takes DeepSpeed's unfused fp16 optimizer, whose Adam counts a step too many.
        raise InputError(
            f"precision {precision} goes with ZeRO stage 1 or more, and deepspeed: {settings.path} asks for stage 0; "
            "set deepspeed=zero1, or precision=fp32"
        )
    if precision == "fp16" and not devices:
        raise InputError("precision fp16 needs a CUDA device; set precision=bf16 or precision=fp32 for CPUs")
