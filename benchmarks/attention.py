"""One layer's attention in every exact form that a CPU has: why `model/attention.py` takes the one it takes.

In: lengths of sequences (a shard folder's micro-batch, or drawn ones of a given fill), heads, a dropout. Out: a line a
form, forward and backward together, beside the grid padded to the longest. What always holds: all forms have the same
inputs, and with dropout 0 the same results, which is checked first; their rounds alternate, so that what else the
machine does meets all.

- grid: padded to the longest of the batch, torch's `scaled_dot_product_attention` with a mask
- bands: bertpipe's, sequences of about one length together (`model/banded_attention.py`)
- alone: each sequence by itself, `scaled_dot_product_attention` in a loop
- blocks: all tokens as one sequence, with a mask that leaves each its own
- jagged: torch's nested tensors of layout jagged

    $ python benchmarks/attention.py --shards SHARDS/512 --batch 16 --length 512 --heads 4
"""

import argparse
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

# Threads that spin while they wait would slow the next form down. Read when torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout, installed or not

from itertools import pairwise

from parts.step_pairs import draw_lengths, from_shards

from model.banded_attention import attend_banded, lay_bands
from model.grid_attention import attend_on_grid, lay_grid

# context_TND of a (3, T, N, D) of queries, keys and values, at a dropout.
Form = Callable[[Tensor, float], Tensor]
_BASE = "grid"


def grid_form(starts: list[int], heads: int) -> Form:
    longest = max(end - start for start, end in pairwise(starts))
    layout = lay_grid(tokens=starts[-1], sequence_starts_B1=torch.tensor(starts), longest=longest)
    return lambda states, dropout: attend_on_grid(*states, layout, dropout=dropout, causal=False)


def bands_form(starts: list[int], heads: int) -> Form:
    layout = lay_bands(tokens=starts[-1], starts=starts, heads=heads)
    return lambda states, dropout: attend_banded(*states, layout, dropout=dropout, causal=False)


def alone_form(starts: list[int], heads: int) -> Form:
    ends = list(pairwise(starts))

    def attend(states: Tensor, dropout: float) -> Tensor:
        parts = (states[:, start:end].transpose(1, 2) for start, end in ends)
        return torch.cat(
            [scaled_dot_product_attention(*part, dropout_p=dropout).transpose(0, 1) for part in parts]
        )

    return attend


def blocks_form(starts: list[int], heads: int) -> Form:
    lengths = torch.tensor(starts).diff()
    sequence_T = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    is_own_TT = sequence_T[:, None] == sequence_T

    def attend(states: Tensor, dropout: float) -> Tensor:
        query, key, value = states.transpose(1, 2)
        context = scaled_dot_product_attention(query, key, value, attn_mask=is_own_TT, dropout_p=dropout)
        return context.transpose(0, 1)

    return attend


def jagged_form(starts: list[int], heads: int) -> Form:
    offsets = torch.tensor(starts)

    def attend(states: Tensor, dropout: float) -> Tensor:
        nested = (torch.nested.nested_tensor_from_jagged(part, offsets).transpose(1, 2) for part in states)
        context: Tensor = scaled_dot_product_attention(*nested, dropout_p=dropout).transpose(1, 2).values()
        return context

    return attend


FORMS: dict[str, Callable[[list[int], int], Form]] = {
    _BASE: grid_form,
    "bands": bands_form,
    "alone": alone_form,
    "blocks": blocks_form,
    "jagged": jagged_form,
}


def lengths_of(options: argparse.Namespace) -> list[int]:
    if not options.shards:
        return [int(length) for length in draw_lengths(options.batch, options.length, options.fill)]
    (micro_batch,) = from_shards(options.shards, batch=options.batch, length=options.length, count=1)
    return [int(length) for length in micro_batch.lengths]


def run(form: Form, states: Tensor, weights: Tensor, dropout: float) -> tuple[Tensor, Tensor]:
    """The context and the inputs' gradient."""
    context = form(states, dropout)
    (gradient,) = torch.autograd.grad((context * weights).sum(), states)
    return context.detach(), gradient


def main() -> None:
    parser = argparse.ArgumentParser(description="one layer's attention in every exact form, on CPUs")
    parser.add_argument("--shards", help="a folder that `bertpipe shard` wrote; without, lengths are drawn")
    parser.add_argument("--batch", type=int, default=16, help="sequences")
    parser.add_argument("--length", type=int, default=512, help="longest sequence, in tokens")
    parser.add_argument(
        "--fill", type=float, default=0.65, help="of drawn ones: mean length as a share of --length"
    )
    parser.add_argument("--heads", type=int, default=4, help="of 64")
    parser.add_argument("--dropout", type=float, default=0.1, help="of attention probabilities")
    parser.add_argument("--rounds", type=int, default=7, help="timed, after an unmeasured one")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message="The PyTorch API of nested tensors")
    torch.set_num_threads(options.threads)
    torch.manual_seed(1)
    lengths = lengths_of(options)
    starts = [0, *torch.tensor(lengths).cumsum(0).tolist()]
    states = torch.randn(3, starts[-1], options.heads, 64, requires_grad=True)
    weights = torch.randn(starts[-1], options.heads, 64)
    forms = {name: make(starts, options.heads) for name, make in FORMS.items()}
    wanted = run(forms[_BASE], states, weights, 0.0)
    failed = {}
    for name, form in forms.items():
        try:
            found = run(form, states, weights, 0.0)
        except (NotImplementedError, RuntimeError) as error:
            failed[name] = str(error).strip().splitlines()[0]
            continue
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    seconds: dict[str, list[float]] = {name: [] for name in forms if name not in failed}
    for _ in range(1 + options.rounds):
        for name, taken in seconds.items():
            start = time.perf_counter()
            run(forms[name], states, weights, options.dropout)
            taken.append(time.perf_counter() - start)
    fill = sum(lengths) / len(lengths) / options.length
    print(
        f"{len(lengths)} sequences of up to {options.length} tokens, fill {fill:.2f}, {options.heads} heads of 64, "
        f"dropout {options.dropout}, fp32, {options.threads} threads, torch {torch.__version__}"
    )
    for name in forms:
        if name in failed:
            print(f"{name:>8}: fails: {failed[name]}")
            continue
        ratios = [slow / fast for slow, fast in zip(seconds[_BASE][1:], seconds[name][1:], strict=True)]
        print(
            f"{name:>8}: {statistics.median(seconds[name][1:]) * 1e3:8.1f} ms, "
            f"{statistics.median(ratios):5.2f} times as fast as the {_BASE} [{min(ratios):.2f} to {max(ratios):.2f}]"
        )


if __name__ == "__main__":
    main()
