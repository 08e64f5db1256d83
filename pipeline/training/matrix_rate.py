"""What a device can do: the rate of a large matrix product, the yardstick of `mfu`.

In: a device and a precision. Out: floating-point operations a second, measured, since a data sheet's figure holds
for other clocks and shapes. What always holds: it takes well under a second.
"""

import time

# Large enough to be bound by arithmetic, small enough for a CPU to do in some tens of milliseconds.
_SIZE_CPU = 1024
_SIZE_CUDA = 8192
_ROUNDS = 3
_TYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def matrix_rate(device: str, precision: str) -> float:
    """Floating-point operations a second of a matrix product on `device` in `precision`, the best of three."""
    import torch

    on_cuda = device.startswith("cuda")
    size = _SIZE_CUDA if on_cuda else _SIZE_CPU
    left, right = torch.randn(2, size, size, device=device).to(getattr(torch, _TYPES[precision]))
    best = float("inf")
    for _ in range(_ROUNDS + 1):
        started = time.perf_counter()
        torch.mm(left, right)
        if on_cuda:
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return 2.0 * size**3 / best
