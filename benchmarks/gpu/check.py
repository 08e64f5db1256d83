"""Whether a device computes what it should: attention, the network's losses and gradients, compiled layers.

In: a device. Out: a line a check, exit code 1 where one fails. What always holds: what is compared with is the plain
formula, or the same network in fp32 on the CPU; nothing is timed. On a CPU the same checks run with the CPU's kernels.

    $ python benchmarks/gpu/check.py --device cuda
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # this checkout, installed or not
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from parts.step_pairs import drawn

from model.attention import attend, lay_out
from model.bert import BertForPretraining
from model.config import preset

LENGTHS = (128, 3, 77, 1, 128, 50)
TAIL = 5
# Of the largest value, in bf16: a sum of hundreds of products of 8 bits.
BF16 = 2e-2


def formula(states: torch.Tensor, starts: list[int], *, causal: bool) -> torch.Tensor:
    """Softmax over each sequence alone, in the precision of `states`."""
    context = torch.zeros_like(states[0])
    for start, end in pairwise(starts):
        query, key, value = (one[start:end].transpose(0, 1) for one in states)
        scores = query @ key.transpose(1, 2) / query.shape[-1] ** 0.5
        if causal:
            scores = scores + torch.full_like(scores[0], -torch.inf).triu(1)
        context[start:end] = (scores.softmax(-1) @ value).transpose(0, 1)
    return context


def check_attention(device: str, precision: torch.dtype, causal: bool) -> float:
    """The largest error of contexts and gradients, as a share of the largest value."""
    torch.manual_seed(1)
    starts = [0, *torch.tensor(LENGTHS).cumsum(0).tolist()]
    tokens = starts[-1] + TAIL
    exact = torch.randn(3, tokens, 4, 64).to(precision).double().requires_grad_()
    states = exact.detach().to(device, precision).requires_grad_()
    layout = lay_out(
        tokens=tokens,
        sequence_starts_B1=torch.tensor(starts, dtype=torch.int32, device=device),
        longest=max(LENGTHS),
        heads=4,
        precision=precision,
    )
    context, expected = (
        attend(*states, layout, dropout=0.0, causal=causal),
        formula(exact, starts, causal=causal),
    )
    weights = torch.randn(tokens, 4, 64).to(precision)
    weights[starts[-1] :] = 0
    (found,) = torch.autograd.grad((context * weights.to(device)).sum(), states)
    (wanted,) = torch.autograd.grad((expected * weights.double()).sum(), exact)
    if not torch.isfinite(found).all() or not torch.all(found[:, starts[-1] :] == 0):
        return float("inf")
    context, expected = context.detach(), expected.detach()
    errors = [
        (context.cpu().double() - expected)[: starts[-1]].abs().max() / expected.abs().max(),
        (found.cpu().double() - wanted).abs().max() / wanted.abs().max(),
    ]
    return max(map(float, errors))


def check_dropout(device: str, precision: torch.dtype) -> float:
    """How far the share of probabilities that are left is from what was asked for."""
    torch.manual_seed(1)
    length = 64
    flat = torch.zeros(8 * length, 1, length, dtype=precision, device=device)
    value = torch.eye(length, dtype=precision, device=device).repeat(8, 1)[
        :, None, :
    ]  # shows the probabilities
    layout = lay_out(
        tokens=8 * length,
        sequence_starts_B1=torch.arange(0, 8 * length + 1, length, dtype=torch.int32, device=device),
        longest=length,
        heads=1,
        precision=precision,
    )
    probabilities = attend(flat, flat, value, layout, dropout=0.25)
    kept = probabilities != 0
    scale = float((probabilities[kept].float() * length * 0.75 - 1).abs().max())
    return max(abs(float(kept.float().mean()) - 0.75) / 0.75, scale)


def losses(network: BertForPretraining, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """A loss, and the gradient of all weights laid end to end."""
    (pairs,) = drawn(batch=6, length=64, fill=0.8, count=1)
    sums = network(**pairs.tensors(device))
    loss = sums.mlm_sum / pairs.masked + sums.nsp_sum / pairs.labelled
    gradients = torch.autograd.grad(loss, list(network.parameters()))
    return loss.detach().cpu().double(), torch.cat([one.flatten().cpu().double() for one in gradients])


def check_network(device: str, precision: torch.dtype, change: Callable[[BertForPretraining], None]) -> float:
    """The error of loss and gradient against the plain network in fp32 on the CPU."""
    shape = preset("tiny", vocab_size=30522, hidden_dropout=0.0, attention_dropout=0.0)
    torch.manual_seed(1)
    plain = BertForPretraining(shape)
    network = BertForPretraining(shape)
    network.load_state_dict(plain.state_dict())
    network.to(device, precision)
    change(network)
    (loss, gradient), (expected, wanted) = losses(network, device), losses(plain, "cpu")
    return max(float((loss / expected - 1).abs()), float((gradient - wanted).norm() / wanted.norm()))


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


def check_waiting(device: str, precision: torch.dtype) -> float:
    """Forward and backward of two micro-batches, in which the host may not wait."""
    network = BertForPretraining(preset("tiny", vocab_size=30522)).to(device, precision)
    batches = [pairs.tensors(device) for pairs in drawn(batch=6, length=64, fill=0.8, count=3)]
    for number, batch in enumerate(batches):
        # The first one loads kernels.
        with no_waiting(device if number else "cpu"):
            sums = network(**batch)
            (sums.mlm_sum / 100 + sums.nsp_sum / 6).backward()
    return 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description="what a device computes, beside the plain formula")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--backend", default="inductor", help="what compiles layers; aot_eager makes no code")
    options = parser.parse_args()
    device = options.device
    half, full = torch.bfloat16, torch.float32
    checks: list[tuple[str, float, Callable[[], float]]] = [
        ("attention, fp32", 1e-5, lambda: check_attention(device, full, False)),
        ("attention, bf16", BF16, lambda: check_attention(device, half, False)),
        ("attention to the left, bf16", BF16, lambda: check_attention(device, half, True)),
        ("attention's dropout, fp32", 0.02, lambda: check_dropout(device, full)),
        ("attention's dropout, bf16", 0.02, lambda: check_dropout(device, half)),
        ("the network, fp32", 1e-4, lambda: check_network(device, full, lambda network: None)),
        ("the network, bf16", 3e-2, lambda: check_network(device, half, lambda network: None)),
        (
            "the network compiled, fp32",
            1e-4,
            lambda: check_network(device, full, lambda network: network.compile_layers(options.backend)),
        ),
        ("no waiting for the device, bf16", 0.0, lambda: check_waiting(device, half)),
    ]
    name = torch.cuda.get_device_name() if device.startswith("cuda") else device
    print(f"{name}, torch {torch.__version__}", flush=True)
    failed = 0
    for said, most, check in checks:
        try:
            error = check()
        except Exception as problem:  # each check is tried
            error, said = float("inf"), f"{said}: {type(problem).__name__}: {str(problem).splitlines()[0]}"
        failed += error > most
        print(
            f"{'ok' if error <= most else 'FAILED':>6}  {said}: {error:.1e} of at most {most:.0e}", flush=True
        )
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
