"""The one door to DeepSpeed: an engine that steps, saves and loads.

In: a network, an optimizer object, a DeepSpeed JSON and this run's precision and clipping. Out: `Engine`.
What always holds: batch, precision, clipping and optimizer come from the recipe, never from the JSON;
nothing is compiled at start (`deepspeed_shm_comm` and JSON optimizers would be); gradients are sums over
the ranks (law 5), so the loss handed to `backward` is already divided by the global batch.

Example:
    engine = Engine(network, optimizer, settings, precision="bf16", micro_batch=32, accumulation=4, …)
    engine.backward(loss, last=True); norm = engine.step(learning_rate=1e-4)
"""

import gc
import io
import math
import os
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import InputError, RunFailed, first_line
from pipeline.training.fragments import fragments_of
from pipeline.training.settings import ZeroSettings
from pipeline.training.universal import WholeStates, plain_path
from pipeline.training.world import (
    World,
    begin_sum_over_ranks,
    device_of,
    exchange_over_ranks,
    gather_over_ranks,
    sum_over_ranks,
)
from pipeline.training.zero_parts import put_states

if TYPE_CHECKING:
    import torch

    from pipeline.training.gradient_sum import GradientSum

# The folder of DeepSpeed's files inside a checkpoint.
TAG = "engine"


class Engine:
    """A network under DeepSpeed.

    micro_batch: sequences a rank computes at once
    accumulation: micro-batches a step on each rank, at most; `last=` tells where a step's last one is
    """

    def __init__(
        self,
        network: "torch.nn.Module",
        optimizer: "torch.optim.Optimizer",
        settings: ZeroSettings,
        *,
        precision: str,
        micro_batch: int,
        accumulation: int,
        gradient_clipping: float,
        world: World,
    ) -> None:
        import deepspeed
        from deepspeed.runtime.zero.utils import ZeRORuntimeException

        from pipeline.training.lamb import Lamb
        from pipeline.training.onebit import OneBit
        from pipeline.training.sign_mean import SignMean

        self._world = world
        # It averages, so DeepSpeed must not.
        self._one_bit = optimizer if isinstance(optimizer, OneBit) else None
        self._clipping = gradient_clipping
        self.stage, self.precision = settings.stage, precision
        self._offloads = settings.optimizer_device != "none"
        config = settings.configuration(
            precision=precision,
            micro_batch=micro_batch,
            accumulation=accumulation,
            # At stage 0 it is done here: DeepSpeed would take the norm anew, and then average over the ranks what each
            # of them has.
            gradient_clipping=gradient_clipping if self.stage else 0.0,
        )
        try:
            # It prints how much memory it takes.
            with redirect_stdout(io.StringIO()):
                self._engine, *_ = deepspeed.initialize(
                    model=network.to(device_of(world)),
                    optimizer=optimizer,
                    config=config,
                    dist_init_required=False,
                )
        except (AssertionError, ValueError, KeyError, NotImplementedError, ZeRORuntimeException) as error:
            raise InputError(
                f"deepspeed: {settings.path}: DeepSpeed refuses it: {first_line(error)}"
            ) from error
        if isinstance(optimizer, Lamb) and self.stage:
            optimizer.divide(
                fragments_of(network, self._engine.optimizer, self.stage),
                tensors=len(list(network.parameters())),
                sum_over_ranks=lambda values: sum_over_ranks(values, self.device),
            )
        self._updates = True
        self._gate(optimizer)
        self._gradient_sum = self._own_sum(settings)

        if self._one_bit and world.size > 1:
            self._one_bit.join(
                lambda elements: SignMean(
                    elements, world.size, exchange_over_ranks, gather_over_ranks, self.device
                )
            )

    @property
    def network(self) -> Any:
        """The network, to be called."""
        return self._engine

    @property
    def device(self) -> str:
        """The torch device of this rank."""
        return device_of(self._world)

    @property
    def whole_network(self) -> Any:
        """The network itself where each rank holds all of it in fp32; else None (ZeRO 3, half precisions)."""
        return self._engine.module if self.stage < 3 and self.precision == "fp32" else None

    def backward(self, loss: "torch.Tensor", *, last: bool) -> None:
        """Add the gradient of this rank's part of the step's loss; `last` closes the step's accumulation."""
        self._engine.set_gradient_accumulation_boundary(last)
        if self._one_bit:
            self._engine.enable_backward_allreduce = not self._one_bit.compresses
        if self._gradient_sum is None:
            # DeepSpeed averages over the ranks, and law 5 wants the sum: hence the factor.
            self._engine.backward(loss * self._world.size, scale_wrt_gas=False)
            return
        if last:
            self._gradient_sum.begin()
        self._engine.backward(loss, scale_wrt_gas=False)
        if last:
            self._gradient_sum.finish()

    def step(self, learning_rate: float, *, update: bool = True) -> float:
        """Clip, update the weights, forget the gradient. Returns the gradient's global norm before clipping.

        update: False forgets the gradient and leaves weights and optimizer state as they are; so does a norm that is
            not finite
        0 where fp16's loss scaling found an overflow: the update is left out and the scale lowered.
        """
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate
        norm = self._own_norm() if self.stage == 0 else None
        self._updates = update and (norm is None or math.isfinite(norm))
        self._engine.step()
        if self.precision == "fp16" and getattr(self._engine.optimizer, "overflow", False):
            return 0.0
        norm = self._zero_norm() if norm is None else norm
        if self._offloads and not math.isfinite(norm):
            self._forget_offloaded_gradient()
        return norm

    def _zero_norm(self) -> float:
        """The norm that ZeRO found; infinite where that was no number, for which it has -1 in some of its forms."""
        norm = float(self._engine.optimizer._global_grad_norm)
        return norm if math.isfinite(norm) and norm >= 0 else math.inf

    def _forget_offloaded_gradient(self) -> None:
        """Let go of what ZeRO 2 has summed of a gradient that is no number.

        With offload DeepSpeed (0.19.8) keeps it, and adds each later step's to it.
        """
        averaged = getattr(self._engine.optimizer, "averaged_gradients", {})
        for group in averaged:
            averaged[group] = None

    def _gate(self, optimizer: "torch.optim.Optimizer") -> None:
        """Let updates through only where `step` means them to be made.

        ZeRO clips, hands each part to the optimizer and forgets the gradient, all in one: this is where a step can be
        left out and all the rest go its way.
        """
        make: Any = optimizer.step

        def gated(*given: Any, **named: Any) -> Any:
            is_finite = self.stage == 0 or math.isfinite(self._zero_norm())
            return make(*given, **named) if self._updates and is_finite else None

        optimizer.step = gated  # type: ignore[method-assign]

    def _own_sum(self, settings: ZeroSettings) -> "GradientSum | None":
        """What sums gradients over the ranks where DeepSpeed would send all of them after the backward pass."""
        from deepspeed.runtime.bf16_optimizer import BF16_Optimizer

        from pipeline.training.gradient_sum import GradientSum, own_gradient

        zero = self._engine.optimizer
        if isinstance(zero, BF16_Optimizer):
            groups = zip(zero.bf16_groups, zero.fp32_groups_gradients, strict=True)
            sums = {each: own for group in groups for each, own in zip(*group, strict=True)}
            gradient_of = sums.__getitem__
        elif self.stage == 0 and self._one_bit is None:
            gradient_of = own_gradient
        else:
            return None
        self._engine.enable_backward_allreduce = False
        return GradientSum(
            list(self._engine.module.parameters()),
            gradient_of,
            elements=settings.bucket,
            dtype=self._engine.communication_data_type,
            begin_sum=begin_sum_over_ranks if self._world.size > 1 else None,
            overlaps=settings.overlaps,
        )

    def _own_norm(self) -> float:
        """The norm where DeepSpeed keeps none (stage 0, fp32), to which the gradient is then clipped."""
        import torch

        with_gradient = [p for p in self._engine.module.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in with_gradient])
        if self._one_bit:
            # The mean's own norm is nobody's to know; the root mean square of the ranks' is no less.
            (squares,) = sum_over_ranks([float(norm) ** 2], self.device)
            norm = torch.tensor((squares / self._world.size) ** 0.5)
        torch.nn.utils.clip_grads_with_norm_(with_gradient, self._clipping, norm)
        return float(norm)

    def fp32_weights(self) -> dict[str, "torch.Tensor"]:
        """The weights as the optimizer keeps them, in fp32 on the CPU, by the network's names.

        Every rank calls it, at any stage and precision; the first gets them, the others nothing.
        """
        from deepspeed.utils import safe_get_full_fp32_param

        weights = {}
        for name, parameter in self._engine.module.named_parameters():
            whole = (
                parameter.detach() if self.whole_network is not None else safe_get_full_fp32_param(parameter)
            )
            if self._world.is_first:
                weights[name] = whole.cpu().clone()
        return weights

    def put_fp32_weights(self, weights: dict[str, "torch.Tensor"]) -> None:
        """Set the weights that the optimizer keeps; every rank calls it, with the same ones.

        DeepSpeed makes its fp32 copy from the network after rounding that to bf16 or fp16.
        """
        from deepspeed.utils import safe_set_full_fp32_param

        for name, parameter in self._engine.module.named_parameters():
            safe_set_full_fp32_param(parameter, weights[name].to(self.device))

    def close(self) -> None:
        """Let go of the network and the optimizer's state, so that another engine has room."""
        if self._gradient_sum is not None:
            self._gradient_sum.close()
        self._engine.destroy()
        del self._engine
        gc.collect()

    def states(self, folder: Path) -> list[tuple[Path, Any]]:
        """What this rank writes of the engine's state under `folder/engine`, by path; every rank calls it.

        Tensors are the engine's own: copy them, or write them before the next step.
        """
        held = _Held()
        own, self._engine.checkpoint_engine = self._engine.checkpoint_engine, held
        try:
            self._engine.save_checkpoint(str(folder), tag=TAG, save_latest=False)
        finally:
            self._engine.checkpoint_engine = own
        if self._one_bit and (errors := self._one_bit.errors()):
            held.states.append((self._errors(folder), errors))
        return held.states

    def load(self, folder: Path) -> None:
        """Take up the state that a checkpoint holds, bit for bit; every rank calls it."""
        with plain_path(folder) as plain:
            path, _ = self._engine.load_checkpoint(str(plain), tag=TAG)
        if path is None:
            raise RunFailed(
                f"DeepSpeed found nothing to load in {folder / TAG}; remove the folder and resume"
            )
        if self._one_bit and self._errors(folder).exists():
            import torch

            self._one_bit.put_errors(torch.load(self._errors(folder), map_location=self.device))

    def _errors(self, folder: Path) -> Path:
        """Where a 1-bit optimizer's own part of the state lies, which DeepSpeed saves the first rank's of only."""
        return folder / TAG / f"errors-of-rank-{self._world.rank}-of-{self._world.size}.pt"

    def put_states(self, states: WholeStates) -> None:
        """Take up whole weights and optimizer states, whatever ranks and stage they come from; every rank calls it."""
        put_states(self._engine, states)


class _Held:
    """In the place of what writes DeepSpeed's checkpoints: keeps what would be written."""

    def __init__(self) -> None:
        self.states: list[tuple[Path, Any]] = []

    def save(self, state_dict: Any, path: str) -> None:
        """Keep a file's content."""
        self.states.append((Path(path), state_dict))

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        """Folders are made at once."""
        os.makedirs(path, exist_ok=exist_ok)

    def create(self, info: Any) -> None:
        """A checkpoint begins."""

    def commit(self, info: Any) -> bool:
        """A checkpoint ends."""
        return True

    def is_data_parallel_writer(self, dp_rank: int) -> bool:
        """The first rank writes what all hold."""
        return dp_rank == 0

    def is_decoupled(self) -> bool:
        """Nothing is under way when `save` returns."""
        return False


def deepspeed_cpu_adam() -> Any:
    """DeepSpeed's Adam for state that lies in host memory; a compiled op (see `ops`)."""
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    return DeepSpeedCPUAdam
