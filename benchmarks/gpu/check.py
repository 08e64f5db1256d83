"""Whether a device computes what it should: attention, the network's losses and gradients, compiled layers.

In: a device. Out: a line a check, exit code 1 where one fails. What always holds: what is compared with is the plain
formula, the same network in fp32 on the CPU, or the plain network under the same dropout masks; nothing is timed. On a
CPU the same checks run with the CPU's kernels.

    $ python benchmarks/gpu/check.py --device cuda
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # this checkout, installed or not
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from parts.attention_checks import share_left, with_dropout, without_dropout
from parts.step_pairs import drawn

from model.bert import BertForPretraining
from model.config import preset

HALF, FP16, FULL = torch.bfloat16, torch.float16, torch.float32
# Of the largest value: a sum of hundreds of products of 8 bits, or of 11.
BF16_ERROR, FP16_ERROR = 2e-2, 4e-3
NO_DROPOUT = {"hidden_dropout": 0.0, "attention_dropout": 0.0}


def losses(network: BertForPretraining, device: str, of: str) -> tuple[torch.Tensor, torch.Tensor]:
    """A loss, and the gradient of all weights with `of` in their name, end to end; dropout is drawn from one seed."""
    (pairs,) = drawn(batch=6, length=64, fill=0.8, count=1)
    torch.manual_seed(2)
    sums = network(**pairs.tensors(device))
    loss = sums.mlm_sum / pairs.masked + sums.nsp_sum / pairs.labelled
    weights = [weight for name, weight in network.named_parameters() if of in name]
    gradients = torch.autograd.grad(loss, weights)
    return loss.detach().cpu().double(), torch.cat([one.flatten().cpu().double() for one in gradients])


def error_of(
    network: BertForPretraining, device: str, plain: BertForPretraining, plain_device: str, of: str = ""
) -> float:
    """The error of loss and gradient beside another network's."""
    (loss, gradient), (expected, wanted) = losses(network, device, of), losses(plain, plain_device, of)
    return max(float((loss / expected - 1).abs()), float((gradient - wanted).norm() / wanted.norm()))


def check_network(device: str, precision: torch.dtype, *, backend: str | None = None, **shape: Any) -> float:
    """The error of loss and gradient against the plain network in fp32 on the CPU."""
    config = preset("tiny", vocab_size=30522, **NO_DROPOUT, **shape)
    torch.manual_seed(1)
    plain, network = BertForPretraining(config), BertForPretraining(config)
    network.load_state_dict(plain.state_dict())
    network.to(device, precision)
    if backend:
        network.compile_layers(backend)
    return error_of(network, device, plain, "cpu")


def check_recompute(device: str, precision: torch.dtype, recompute: str) -> float:
    """The error of the gradient of layers computed twice, dropout's masks included, beside layers computed once."""
    config = preset("tiny", vocab_size=30522, attention_dropout=0.5)
    torch.manual_seed(1)
    plain, again = BertForPretraining(config), BertForPretraining(config, recompute=recompute)
    again.load_state_dict(plain.state_dict())
    # The values' alone: attention is a small part of a new network's gradient, and its masks a part of that.
    return error_of(
        again.to(device, precision), device, plain.to(device, precision), device, of="attention.value"
    )


@contextmanager
def no_waiting(device: str) -> Iterator[None]:
    """Make it an error that the host waits for the device."""
    if not device.startswith("cuda"):
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def check_waiting(
    device: str, precision: torch.dtype, *, recompute: str = "none", backend: str | None = None
) -> float:
    """Two accumulated micro-batches, from the loader's arrays to their gradients, in which the host may not wait."""
    network = BertForPretraining(preset("tiny", vocab_size=30522), recompute=recompute).to(device, precision)
    if backend:
        network.compile_layers(backend)
    totals = torch.zeros(4, dtype=torch.float64, device=device)
    for number, pairs in enumerate(drawn(batch=6, length=64, fill=0.8, count=4)):
        # The first ones load kernels, and compile.
        with no_waiting(device if number > 1 else "cpu"):
            torch.default_generator.manual_seed(number)
            if device.startswith("cuda"):
                torch.cuda.manual_seed(number)
            sums = network(**pairs.tensors(device))
            (sums.mlm_sum / 100 + sums.nsp_sum / 6).backward()
            totals += torch.stack([value.detach().double() for value in sums])
    return 0.0 if torch.isfinite(totals).all() else float("inf")


def checks(device: str, backend: str) -> Iterator[tuple[str, float, Callable[[], float]]]:
    """What is checked, in words, the error that it may have, and what finds its error."""
    yield "attention, fp32", 1e-5, lambda: without_dropout(device, FULL)
    yield "attention, bf16", BF16_ERROR, lambda: without_dropout(device, HALF)
    yield "attention, fp16", FP16_ERROR, lambda: without_dropout(device, FP16)
    yield "attention to the left, bf16", BF16_ERROR, lambda: without_dropout(device, HALF, causal=True)
    yield "attention of heads of 32, bf16", BF16_ERROR, lambda: without_dropout(device, HALF, size=32)
    yield "the share that dropout leaves, fp32", 0.02, lambda: share_left(device, FULL)
    yield "the share that dropout leaves, bf16", 0.02, lambda: share_left(device, HALF)
    yield "attention under dropout's mask, fp32", 1e-4, lambda: with_dropout(device, FULL)
    yield "attention under dropout's mask, bf16", BF16_ERROR, lambda: with_dropout(device, HALF)
    yield "attention under dropout's mask, fp16", FP16_ERROR, lambda: with_dropout(device, FP16)
    yield (
        "attention to the left under dropout's mask, bf16",
        BF16_ERROR,
        lambda: with_dropout(device, HALF, causal=True),
    )
    yield (
        "attention of heads of 32 under dropout's mask, bf16",
        BF16_ERROR,
        lambda: with_dropout(device, HALF, size=32),
    )
    yield "the network, fp32", 1e-4, lambda: check_network(device, FULL)
    yield "the network, bf16", 3e-2, lambda: check_network(device, HALF)
    yield (
        "the network with rotary positions, fp32",
        1e-4,
        lambda: check_network(device, FULL, position="rotary"),
    )
    yield (
        "the network with rotary positions, bf16",
        3e-2,
        lambda: check_network(device, HALF, position="rotary"),
    )
    yield "the network compiled, fp32", 1e-4, lambda: check_network(device, FULL, backend=backend)
    yield "the network compiled, bf16", 3e-2, lambda: check_network(device, HALF, backend=backend)
    # The same to the last bit where kernels repeat themselves; with other masks the error is half the gradient.
    yield "attention computed twice, bf16", BF16_ERROR, lambda: check_recompute(device, HALF, "attention")
    yield "layers computed twice, bf16", BF16_ERROR, lambda: check_recompute(device, HALF, "full")
    yield "no waiting for the device, bf16", 0.0, lambda: check_waiting(device, HALF)
    yield (
        "no waiting, attention computed twice",
        0.0,
        lambda: check_waiting(device, HALF, recompute="attention"),
    )
    yield "no waiting, layers computed twice", 0.0, lambda: check_waiting(device, HALF, recompute="full")
    yield "no waiting, layers compiled", 0.0, lambda: check_waiting(device, HALF, backend=backend)


def main() -> None:
    parser = argparse.ArgumentParser(description="what a device computes, beside the plain formula")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--backend", default="inductor", help="what compiles layers; aot_eager makes no code")
    options = parser.parse_args()
    name = torch.cuda.get_device_name() if options.device.startswith("cuda") else options.device
    print(f"{name}, torch {torch.__version__}", flush=True)
    failed = 0
    for said, most, check in checks(options.device, options.backend):
        try:
            error, problem = check(), ""
        except Exception as raised:  # each check is tried
            error, problem = (
                float("inf"),
                f": {type(raised).__name__}: {(str(raised).splitlines() or [''])[0]}",
            )
        passed = error <= most
        failed += not passed
        print(
            f"{'ok' if passed else 'FAILED':>6}  {said}{problem}: {error:.1e} of at most {most:.0e}",
            flush=True,
        )
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
