"""What the ranks' devices can do: the rate of large matrix products, the yardstick of `mfu`.

In: a device, a precision; every rank calls. Out: floating-point operations a second of all ranks together, measured,
since a data sheet's figure holds for other clocks, cores and shapes. What always holds: ranks measure while all others
do, so what they share (a node's cores, its power) counts once; the numbers are random, since a GPU that multiplies
zeros runs faster; of several rounds the middle one counts, so one that was held up, or had the cores to itself, does
not; it takes half a second or so: where a product takes long there are fewer rounds.

Example:
    matmul_rate("cpu", "fp32")  # 1.9e11 on a node of two cores, with one rank as with two
"""

import statistics
import time

from pipeline.training.world import sum_over_ranks

# Rows and columns that one thread of a CPU needs to be bound by arithmetic, and that any number of them needs; GPUs
# need more.
_SIZE_A_THREAD, _SIZE_CPU = 1024, 4096
_SIZE_CUDA = 8192
# Products between two looks at the clock, at most, and the seconds for which no more are put together: a GPU's may take
# a millisecond, and each look waits for it.
_PRODUCTS_CUDA, _SECONDS_A_LOOK = 8, 0.02
# So long and so many rounds at least; no more once so long has passed.
_SECONDS, _ROUNDS, _SECONDS_AT_MOST = 0.1, 5, 0.5
_TYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def matmul_rate(device: str, precision: str, *, size: int | None = None) -> float:
    """Floating-point operations a second that all ranks together do, multiplying matrices in `precision`.

    size: rows and columns; by itself, what the device needs. Every rank calls it and gets the same.
    """
    import torch

    on_cuda = device.startswith("cuda")
    size = size or (_SIZE_CUDA if on_cuda else cpu_size(torch.get_num_threads()))
    left, right = torch.randn(2, size, size, device=device).to(getattr(torch, _TYPES[precision]))

    def seconds_of(products: int) -> float:
        started = time.perf_counter()
        for _ in range(products):
            torch.mm(left, right)
        if on_cuda:
            torch.cuda.synchronize(device)
        return time.perf_counter() - started

    seconds_of(1)  # the first loads libraries and chooses kernels
    products = max(1, min(_PRODUCTS_CUDA, int(_SECONDS_A_LOOK / seconds_of(1)))) if on_cuda else 1
    sum_over_ranks([0.0], device)  # from here on all at once
    began, passed, rounds = time.perf_counter(), 0.0, list[float]()
    while not rounds or passed < _SECONDS or (len(rounds) < _ROUNDS and passed < _SECONDS_AT_MOST):
        rounds.append(seconds_of(products))
        passed = time.perf_counter() - began
    (rate,) = sum_over_ranks([2.0 * size**3 * products / statistics.median(rounds)], device)
    return rate


def cpu_size(threads: int) -> int:
    """Rows and columns for so many threads: each has as many results to compute as one alone, or more, up to a size."""
    return min(_SIZE_CPU, _SIZE_A_THREAD << ((threads - 1).bit_length() + 1) // 2)
