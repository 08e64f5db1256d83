"""How much memory a rank needs, before it is taken (pure arithmetic).

In: a network's shape, a micro-batch, DeepSpeed settings, precision and ranks. Out: `Estimate`, bytes by parts, on the
device and on the host. What always holds: nothing is allocated or imported that takes time; of two ranks and more,
more never need more; a larger micro-batch never needs less.

Bytes a parameter, over N ranks, as DeepSpeed 0.19.8 was seen to take them on CPUs (`base`, 1 and 2 ranks, a process's
own memory; docs/stages.md has the table). The ZeRO paper (Rajbhandari et al. 2020, arXiv 1910.02054, §3.1) counts
2 + 2 + 12 for mixed precision; here gradients are summed in fp32, and stages 1 to 3 keep a master copy in fp32 too.

    stage  fp32                           bf16
    0      4 + 4 + 8                      refused
    1      4 + 4 + 12/N                   2 + 4 + 12/N   (fp16: 2 + 6 + 12/N, its gradients stand beside their sums)
    2      4 + 4/N + 12/N                 2 + 4/N + 12/N
    3      4/N + 4/N + 12/N, and gathered weights while they are used

Example:
    estimate(model, settings, precision="bf16", ranks=8, batch=Batch(sequences=32, length=128, masked=20)).device
"""

from dataclasses import dataclass, fields

from model.config import ModelConfig
from model.counts import activation_bytes, parameter_count
from pipeline.batches.asking import most_asked
from pipeline.objectives import OBJECTIVES
from pipeline.phase import ONE_BIT, Phase
from pipeline.recipe import Recipe
from pipeline.training.settings import ZeroSettings

GIB = 1 << 30
# DeepSpeed's own, where a JSON says nothing.
_PREFETCH_BUCKET = 50_000_000
_MAX_LIVE = 1_000_000_000
# What a process takes before the network: Python, torch and DeepSpeed on a CPU (measured: 0.35 GiB); a CUDA context
# and NCCL's buffers on a GPU (not measured here; NVIDIA's own figures lie around it).
_CPU_CONTEXT = int(0.35 * GIB)
_GPU_CONTEXT = int(0.8 * GIB)
# Bytes a parameter that a step takes in passing: fused AdamW none, ours, in torch's `_foreach`, a copy or two.
# 1-bit: momenta end to end, what is sent of them and what comes back, beside an update.
_IN_PASSING = {"adamw": 0, "bert_adam": 8, "lamb": 4, "onebit_adam": 20, "onebit_lamb": 24}
# Bytes a parameter that they keep beside two moments: what compression owes; 1-bit LAMB's guess of second moments.
_KEPT = {"onebit_adam": 4, "onebit_lamb": 8}
# What an allocator loses in pieces that don't fit.
_FRAGMENTATION = 0.08


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A micro-batch at its largest: every sequence full.

    masked: tokens to be guessed, a sequence
    """

    sequences: int
    length: int
    masked: int


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Bytes that one rank needs at the moment of most.

    weights, gradients, optimizer: as their names say; optimizer is the two moments, of LAMB as of Adam
    master: the fp32 copy of the weights that is updated
    buckets: what communication and the optimizer's step copy
    activations: kept for the backward pass, and what that makes in passing
    context: what a process takes before there is a network
    host: in the node's memory, for what is offloaded; not part of `device`
    """

    weights: int
    gradients: int
    optimizer: int
    master: int
    buckets: int
    activations: int
    context: int
    host: int

    @property
    def device(self) -> int:
        """All that lies on the device, without a margin."""
        return sum(getattr(self, field.name) for field in fields(self)) - self.host

    @property
    def with_margin(self) -> int:
        """What a device should have: the allocator's losses counted in."""
        return int(self.device * (1 + _FRAGMENTATION))

    @property
    def on_one(self) -> int:
        """Where device and host are one memory, as for ranks on CPUs."""
        return self.device + self.host


def estimate(
    model: ModelConfig,
    settings: ZeroSettings,
    *,
    precision: str,
    ranks: int,
    batch: Batch,
    accumulates: bool = True,
    gpu: bool = True,
    recompute: str = "none",
    optimizer_name: str = "adamw",
) -> Estimate:
    """What a rank needs to train `model`.

    ranks: over all nodes
    accumulates: whether a step takes several micro-batches
    gpu: whether ranks have a GPU each, or share the host's memory
    recompute: activation checkpointing, as the recipe names it
    """
    parameters = parameter_count(model)
    part = -(-parameters // ranks)
    element = 4 if precision == "fp32" else 2
    stage = settings.stage
    offloads_state = settings.optimizer_device != "none"
    offloads_weights = settings.parameter_device != "none"

    weights = element * (part if stage == 3 else parameters)
    master = 4 * part if stage else 0
    optimizer = 8 * (part if stage else parameters)
    if optimizer_name in ONE_BIT:  # and the error of this rank's share of the mean
        optimizer += _KEPT[optimizer_name] * parameters + 4 * part
    gradients = _gradients(stage, precision, parameters, part, accumulates)
    buckets = _buckets(settings, precision, model, ranks=ranks, gpu=gpu)
    in_passing = _IN_PASSING[optimizer_name] * (part if stage else parameters)
    # The gradient of what a rank updates, end to end; `GradientSum`'s lies so already.
    step_copy = (0 if _sums_itself(settings, precision) else 4 * part) + in_passing
    host = 0
    if offloads_state:
        # Master copies, moments, gradients, and the sums that these are added up in; stage 2 keeps the updated
        # weights there, too, before they go back.
        if settings.optimizer_device == "cpu":
            host += (20 + (0 if stage == 3 else element)) * part + in_passing
        master = optimizer = step_copy = 0
        # A gradient leaves for the host bucket by bucket.
        gradients = 0
    if offloads_weights:
        if settings.parameter_device == "cpu":
            host += element * part
        weights = 0

    kept = activation_bytes(
        model,
        sequences=batch.sequences,
        length=batch.length,
        masked=batch.sequences * batch.masked,
        element=element,
        gpu=gpu,
        flash=_has_flash(precision),
        recompute=recompute,
    )
    # The optimizer's step comes when activations and buckets are gone.
    buckets = max(buckets, step_copy - kept.peak)
    return Estimate(
        weights=weights,
        gradients=gradients,
        optimizer=optimizer,
        master=master,
        buckets=buckets,
        activations=kept.peak,
        context=_GPU_CONTEXT if gpu else _CPU_CONTEXT,
        host=host,
    )


def _gradients(stage: int, precision: str, parameters: int, part: int, accumulates: bool) -> int:
    if stage == 0:
        return 4 * parameters
    if stage == 1:
        return (6 if precision == "fp16" else 4) * parameters
    if stage == 2:
        # In fp32 a micro-batch's part stands beside the sum that it is added to.
        return 4 * part * (2 if accumulates and precision == "fp32" else 1)
    return 4 * part


def _sums_itself(settings: ZeroSettings, precision: str) -> bool:
    """Whether gradients are summed over the ranks by `GradientSum`, and not by DeepSpeed."""
    return settings.stage == 0 or (
        settings.stage == 1 and precision == "bf16" and settings.optimizer_device == "none"
    )


def _buckets(settings: ZeroSettings, precision: str, model: ModelConfig, *, ranks: int, gpu: bool) -> int:
    parameters = parameter_count(model)
    element = 4 if precision == "fp32" else 2
    zero = settings.values.get("zero_optimization", {})
    if _sums_itself(settings, precision):
        # All gradients are under way, in the form in which they are sent; a rank alone sends none.
        return element * parameters if ranks > 1 else 0
    # DeepSpeed's buckets are as large as the JSON says; on a CPU, what is never written takes no memory.
    bucket = settings.bucket if gpu else min(parameters, settings.bucket)
    if settings.stage == 3:
        live = min(parameters, int(zero.get("stage3_max_live_parameters", _MAX_LIVE)))
        ahead = min(parameters, int(zero.get("stage3_prefetch_bucket_size", _PREFETCH_BUCKET)))
        return element * (bucket + live + ahead)
    if settings.optimizer_device != "none":
        # On its way to the host a bucket stands twice, and the largest tensor has room of its own, twice.
        return 2 * element * (bucket + model.vocab_size * model.hidden_size)
    # One is filled while the other is sent. At stage 1 they hold sums, in fp32.
    return (4 if settings.stage == 1 else element) * bucket * (2 if settings.overlaps else 1)


def batch_of(recipe: Recipe, phase: Phase, micro_batch: int | None = None) -> Batch:
    """The largest micro-batch of a phase; of `micro_batch` sequences, where that is given.

    Pairs laid as text give about as many full sequences as they are.
    """
    return Batch(
        sequences=micro_batch or phase.micro_batch,
        length=phase.sequence_length,
        masked=most_asked(OBJECTIVES[recipe.objective], recipe.masking, phase.sequence_length),
    )


def estimate_phase(
    recipe: Recipe,
    phase: Phase,
    model: ModelConfig,
    settings: ZeroSettings,
    *,
    ranks: int,
    gpu: bool,
    micro_batch: int | None = None,
    recompute: str | None = None,
) -> Estimate:
    """What a rank needs in one phase of a recipe; micro_batch and recompute stand in for the recipe's own."""
    batch = batch_of(recipe, phase, micro_batch)
    return estimate(
        model,
        settings,
        precision=recipe.precision,
        ranks=ranks,
        batch=batch,
        accumulates=phase.global_batch > ranks * batch.sequences,
        gpu=gpu,
        recompute=recompute or recipe.activation_checkpointing,
        optimizer_name=phase.optimizer,
    )


def _has_flash(precision: str) -> bool:
    """Whether attention on GPUs is taken to keep no grid: fp16 is for those before Ampere, where it does."""
    return precision == "bf16"


def memory_by_moment(
    recipe: Recipe, phase: Phase, model: ModelConfig, settings: ZeroSettings, *, ranks: int, gpu: bool
) -> dict[str, int]:
    """What `estimate_phase` reckons with in each part of a step: the most bytes there.

    On a GPU they are what torch allocates, no context; on a CPU, all of the process.
    """
    need = estimate_phase(recipe, phase, model, settings, ranks=ranks, gpu=gpu)
    batch = batch_of(recipe, phase)
    kept = activation_bytes(
        model,
        sequences=batch.sequences,
        length=batch.length,
        masked=batch.sequences * batch.masked,
        element=4 if recipe.precision == "fp32" else 2,
        gpu=gpu,
        flash=_has_flash(recipe.precision),
        recompute=recipe.activation_checkpointing,
    )
    most = need.device - need.context if gpu else need.on_one
    held = most - need.activations - need.buckets
    return {
        "data": held,
        "forward": held + kept.kept + kept.forward,
        "backward": most,
        "optimizer": held + need.buckets,
    }


def largest_micro_batch(
    recipe: Recipe,
    phase: Phase,
    model: ModelConfig,
    settings: ZeroSettings,
    *,
    ranks: int,
    gpu: bool,
    memory: int,
    recompute: str | None = None,
) -> int | None:
    """The largest micro_batch that divides a rank's sequences of a step and fits `memory` bytes, margin included.

    None where not even one sequence fits. Where ranks are on CPUs, `memory` holds what is offloaded, too.
    """
    a_rank = max(1, phase.global_batch // ranks)
    best = None
    for size in (size for size in range(1, a_rank + 1) if a_rank % size == 0):
        need = estimate_phase(
            recipe, phase, model, settings, ranks=ranks, gpu=gpu, micro_batch=size, recompute=recompute
        )
        if need.with_margin + (0 if gpu else need.host) > memory:
            break
        best = size
    return best


def gib(size: float) -> str:
    """Bytes as a person says them: `1.5 GiB`, `64 MiB`."""
    return f"{size / GIB:.1f} GiB" if size >= GIB / 10 else f"{size / (1 << 20):.0f} MiB"
