"""A training step on a GPU: sequences a second, MFU on real tokens, memory, and what takes most of it.

In: a preset, lengths with batch sizes, pairs of shard folders or drawn ones. Out: for each length a line a side
(bertpipe, bertpipe compiled, bertpipe's engine, transformers with `scaled_dot_product_attention`), ratios to the last,
and the kernels that take most of bertpipe's step. What always holds: same initial weights, same pairs and masks, fused
AdamW and dropout 0.1 on all sides, one after the other in one call on one card; MFU counts the real tokens' operations
(`model.counts.step_flops`) for all sides, over the rate of large matrix products measured on the card in this call.

Three sides are of pure bf16: weights, gradients and AdamW's moments, nothing clipped. That compares networks; no run
trains so. `engine` is a run's step (`parts.engine_step`): fp32 master weights and moments under ZeRO 1, clipping,
gradients summed in fp32, the micro-batch's way to the device and the reading of the step's figures included.

    $ python benchmarks/gpu/step.py --preset large --sizes 128:128 512:32
"""

import argparse
import gc
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # this checkout, installed or not
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from parts.engine_step import EngineStep
from parts.hugging_face import padded
from parts.step_pairs import SEED, VOCAB_SIZE, drawn, from_shards

from model.bert import BertForPretraining
from model.config import PRESETS, ModelConfig, preset
from model.counts import step_flops
from model.hf_names import hf_config, to_hf
from pipeline.batches.microbatch import MicroBatch
from pipeline.training.joining import leave_world
from pipeline.training.matrix_rate import matmul_rate

SIDES = ("bertpipe", "compiled", "engine", "transformers")
PRECISION = torch.bfloat16
# The mean length of pairs made from real English text, of the longest: at 512 many a document ends before.
FILLS = {128: 0.91, 512: 0.65}
OTHER_FILL = 0.9


def wait_for(device: str) -> None:
    """Return when all that the device was asked is done."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def network_of(side: str, shape: ModelConfig, device: str, backend: str) -> torch.nn.Module:
    """The side's network, with the same initial weights on all."""
    torch.manual_seed(SEED)
    ours = BertForPretraining(shape)
    if side == "transformers":
        from transformers import BertConfig, BertForPreTraining

        theirs = BertForPreTraining(BertConfig(**hf_config(shape), attn_implementation="sdpa"))
        theirs.load_state_dict(to_hf(ours.state_dict(), shape))
        return theirs.to(device, PRECISION).train()
    ours.to(device, PRECISION).train()
    if side == "compiled":
        ours.compile_layers(backend)
    return ours


class Trained(Protocol):
    """A network in training."""

    def step(self, number: int) -> float:
        """Take the step of a micro-batch; the seconds until the device has done it."""

    def close(self) -> None:
        """Let go of what it holds."""


class EngineSide:
    """The engine of a run; its micro-batches come from the host's memory."""

    def __init__(self, shape: ModelConfig, pairs: Sequence[MicroBatch], device: str) -> None:
        self._device, self._pairs = device, pairs
        self._engine = EngineStep(shape, device, seed=SEED)

    def step(self, number: int) -> float:
        """See `Trained`."""
        wait_for(self._device)
        began = time.perf_counter()
        self._engine.take(self._pairs[number], number)
        wait_for(self._device)
        return time.perf_counter() - began

    def close(self) -> None:
        """See `Trained`."""
        self._engine.close()


class Side:
    """A network of pure bf16; its micro-batches are on the device before the clock starts."""

    def __init__(
        self, side: str, shape: ModelConfig, pairs: Sequence[MicroBatch], device: str, backend: str
    ) -> None:
        self._device, self._pairs = device, pairs
        self._network = network_of(side, shape, device, backend)
        self._optimizer = torch.optim.AdamW(
            self._network.parameters(), lr=1e-4, weight_decay=0.01, fused=True
        )
        self._is_theirs = side == "transformers"
        # There before the clock starts, as a loader has them there.
        self._batches = [padded(one, device) if self._is_theirs else one.tensors(device) for one in pairs]

    def step(self, number: int) -> float:
        """See `Trained`."""
        wait_for(self._device)
        began = time.perf_counter()
        self._optimizer.zero_grad()
        result = self._network(**self._batches[number])
        if self._is_theirs:
            result.loss.backward()
        else:
            pairs = self._pairs[number]
            (result.mlm_sum / pairs.masked + result.nsp_sum / pairs.labelled).backward()
        self._optimizer.step()
        wait_for(self._device)
        return time.perf_counter() - began

    def close(self) -> None:
        """Nothing outlives it."""


def peak_of(device: str, do: Callable[[], object]) -> float:
    """The most memory that is allocated on a GPU meanwhile, in GiB; 0 elsewhere."""
    if not device.startswith("cuda"):
        do()
        return 0.0
    torch.cuda.reset_peak_memory_stats()
    do()
    return torch.cuda.max_memory_allocated() / 2**30


def largest_kernels(side: Trained, device: str) -> list[str]:
    """The five operations that take most of a step, with their share."""
    from torch.profiler import ProfilerActivity, profile

    cuda = device.startswith("cuda")
    with profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as trace:
        side.step(1)
    time_of = "self_device_time_total" if cuda else "self_cpu_time_total"
    found = sorted(trace.key_averages(), key=lambda one: -getattr(one, time_of))
    whole = sum(getattr(one, time_of) for one in found) or 1
    return [f"{getattr(one, time_of) / whole:6.1%}  {one.count:5} ×  {one.key[:100]}" for one in found[:5]]


def fill_of(options: argparse.Namespace, length: int) -> float:
    """The fill of drawn pairs of a length: what was asked for, or that of real ones."""
    asked = dict(one.split(":", 1) for one in options.fill)
    return float(asked.get(str(length), FILLS.get(length, OTHER_FILL)))


def measure(options: argparse.Namespace, length: int, batch: int, rate: float) -> None:
    """Print a length's figures."""
    device, count = options.device, options.rounds + options.warm_up
    shape = preset(options.preset, vocab_size=VOCAB_SIZE, max_positions=max(512, length))
    folder = dict(one.split(":", 1) for one in options.shards).get(str(length))
    if folder:
        pairs = from_shards(folder, batch=batch, length=length, count=count)
    else:
        pairs = drawn(batch=batch, length=length, fill=fill_of(options, length), count=count)
    fill = sum(one.tokens for one in pairs) / (count * batch * length)
    print(f"\n{options.preset}, {batch} pairs of up to {length} tokens, fill {fill:.2f}", flush=True)
    flops = statistics.mean(step_flops(shape, one.lengths, one.masked) for one in pairs[options.warm_up :])
    seconds: dict[str, list[float]] = {}
    for name in options.sides:
        gc.collect()
        side: Trained | None = None

        def begin(name: str = name) -> None:
            nonlocal side
            if name == "engine":
                side = EngineSide(shape, pairs, device)
            else:
                side = Side(name, shape, pairs, device, options.backend)
            seconds[name] = [side.step(number) for number in range(count)][options.warm_up :]

        try:
            peak = peak_of(device, begin)
        except torch.OutOfMemoryError:
            print(f"{name:>14}: out of memory", flush=True)
            seconds.pop(name, None)
            continue
        assert side is not None
        median = statistics.median(seconds[name])
        print(
            f"{name:>14}: {batch / median:9.1f} sequences/s, {1000 * median:8.2f} ms, "
            f"{flops / median / rate:6.1%} MFU on real tokens, peak {peak:.1f} GiB",
            flush=True,
        )
        if name != "transformers":
            print("\n".join(f"{'':16}{line}" for line in largest_kernels(side, device)), flush=True)
        side.close()
        del side
        if device.startswith("cuda"):
            torch.cuda.empty_cache()
    if "transformers" in seconds:
        for name in (one for one in seconds if one != "transformers"):
            ratio = statistics.median(seconds["transformers"]) / statistics.median(seconds[name])
            print(
                f"{'ratio':>14}: {name} takes {ratio:.2f} times the sequences/s of transformers", flush=True
            )


def main() -> None:
    parser = argparse.ArgumentParser(description="a training step on a GPU, beside transformers")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--preset", choices=list(PRESETS), default="large")
    parser.add_argument("--sizes", nargs="+", default=["128:128", "512:32"], help="LENGTH:BATCH")
    parser.add_argument("--shards", nargs="*", default=[], help="LENGTH:FOLDER; without, pairs are drawn")
    parser.add_argument(
        "--fill", nargs="*", default=[], help="LENGTH:FILL of drawn pairs: their mean length, of the longest"
    )
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--warm-up", type=int, default=5)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--backend", default="inductor", help="what compiles layers; aot_eager makes no code")
    parser.add_argument(
        "--matrix", type=int, help="size of the products that MFU is measured by; else a run's"
    )
    options = parser.parse_args()
    rate = matmul_rate(options.device, "bf16", size=options.matrix)
    name = torch.cuda.get_device_name() if options.device.startswith("cuda") else options.device
    print(
        f"{name}, torch {torch.__version__}, bf16: {rate / 1e12:.1f} TFLOP/s in products of "
        f"{options.matrix or 'the size that mfu is measured by'}\n"
        "engine: a run's step, fp32 master weights and moments; all others: pure bf16, weights and AdamW's state"
    )
    for size in options.sizes:
        length, batch = map(int, size.split(":"))
        measure(options, length, batch, rate)
    leave_world()


if __name__ == "__main__":
    main()
