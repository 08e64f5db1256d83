"""What the ranks' devices can do: the rate of large matrix products, the yardstick of `mfu`.

In: a device, a precision; every rank calls. Out: floating-point operations a second of all ranks together, measured,
since a data sheet's figure holds for other clocks, cores and shapes. What always holds: ranks measure while all others
do, so what they share (a node's cores, its power) counts once; the numbers are random, since a GPU that multiplies
zeros runs faster; of several rounds the middle one counts, so one that was held up, or had the cores to itself, does
not; it takes well under a second.

Example:
    matmul_rate("cpu", "fp32")  # 1.9e11 on a node of two cores, with one rank as with two
"""

import statistics
import time

from pipeline.training.world import sum_over_ranks

# Rows and columns that one thread of a CPU needs to be bound by arithmetic; GPUs need more.
_SIZE_A_THREAD = 1024
_SIZE_CUDA = 8192
# Products between two looks at the clock: a GPU's take a millisecond or two, and each look waits for it.
_PRODUCTS_CUDA = 8
_SECONDS, _ROUNDS = 0.1, 5
_TYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def matmul_rate(device: str, precision: str) -> float:
    """Floating-point operations a second that all ranks together do, multiplying matrices in `precision`.

    Every rank calls it and gets the same.
    """
    import torch

    on_cuda = device.startswith("cuda")
    size = _SIZE_CUDA if on_cuda else cpu_size(torch.get_num_threads())
    products = _PRODUCTS_CUDA if on_cuda else 1
    left, right = torch.randn(2, size, size, device=device).to(getattr(torch, _TYPES[precision]))

    def round_() -> float:
        started = time.perf_counter()
        for _ in range(products):
            torch.mm(left, right)
        if on_cuda:
            torch.cuda.synchronize(device)
        return time.perf_counter() - started

    round_()  # the first loads libraries and chooses kernels
    sum_over_ranks([0.0], device)  # from here on all at once
    began, rounds = time.perf_counter(), list[float]()
    while len(rounds) < _ROUNDS or time.perf_counter() - began < _SECONDS:
        rounds.append(round_())
    (rate,) = sum_over_ranks([2.0 * size**3 * products / statistics.median(rounds)], device)
    return rate


def cpu_size(threads: int) -> int:
    """Rows and columns for so many threads: each has as many results to compute as one alone, or more."""
    return _SIZE_A_THREAD << ((threads - 1).bit_length() + 1) // 2
