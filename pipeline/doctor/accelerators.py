"""torch and what it computes on: devices, driver, precision, NCCL, DeepSpeed's ops and their compilers.

In: torch (imported here, once), `nvidia-smi` and `nvcc` where there are such. Out: findings. What always holds:
no CUDA context is made (it would take memory on every device), DeepSpeed is not imported, nothing is compiled.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.doctor.findings import Finding
from pipeline.doctor.software import installed_version
from pipeline.training import ops
from pipeline.training.settings import ZeroSettings

_SECONDS = 4.0


def said_by(*command: str) -> str | None:
    """What a program prints; None where it isn't there, fails, or doesn't answer in time."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def look_at_torch() -> Iterator[Finding]:
    """That torch loads, and for which devices it was built."""
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Finding(
            name="torch",
            state="error",
            found=f"torch doesn't load: {str(error).splitlines()[0]}",
            remedy="install it again: pip install torch (with the index of your CUDA version)",
        )
        return
    build = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "for CPUs"
    yield Finding(name="torch", state="ok", found=f"{torch.__version__}, built {build}")
    yield from _devices()


def _devices() -> Iterator[Finding]:
    import torch

    if torch.cuda.is_available():
        yield from judge_devices(
            [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())],
            driver=said_by("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader", "-i", "0"),
        )
        version = torch.cuda.nccl.version()
        text = ".".join(map(str, version)) if isinstance(version, tuple) else str(version)
        good = torch.distributed.is_nccl_available()
        yield Finding(
            name="communication",
            state="ok" if good else "error",
            found=f"NCCL {text}" if good else "torch was built without NCCL",
            remedy="" if good else "install a torch wheel for CUDA on Linux",
        )
        return
    yield judge_no_device(
        torch.version.cuda, said_by("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
    )
    good = torch.distributed.is_available() and torch.distributed.is_gloo_available()
    yield Finding(
        name="communication",
        state="ok" if good else "error",
        found="gloo, between CPU ranks" if good else "torch was built without gloo",
        remedy="" if good else "install a torch wheel for Linux",
    )


def judge_no_device(cuda: str | None, gpus: str | None) -> Finding:
    """Why torch sees no GPU. cuda: the version torch is built for; gpus: names that nvidia-smi gives."""
    found = "no CUDA device; training is on CPUs, in fp32 or bf16"
    if gpus and os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return Finding(name="devices", state="ok", found=f"{found} (CUDA_VISIBLE_DEVICES is empty)")
    if not gpus:
        return Finding(name="devices", state="ok", found=found)
    names = ", ".join(sorted(set(gpus.splitlines())))
    remedy = (
        f"its driver is older than CUDA {cuda} needs: update it, or install a torch for an older CUDA"
        if cuda
        else "install torch's CUDA build (see pytorch.org for the index of your CUDA version)"
    )
    return Finding(
        name="devices",
        state="warning",
        found=f"the machine has {names}, and torch doesn't use it",
        remedy=remedy,
    )


def judge_devices(devices: Sequence[object], driver: str | None) -> Iterator[Finding]:
    """What the GPUs are, and whether they compute in bf16. devices: torch's properties of each."""
    kinds: dict[str, int] = {}
    for device in devices:
        memory = getattr(device, "total_memory", 0) / 2**30
        capability = f"{getattr(device, 'major', 0)}.{getattr(device, 'minor', 0)}"
        kind = f"{getattr(device, 'name', '?')}, {memory:.0f} GiB, compute capability {capability}"
        kinds[kind] = kinds.get(kind, 0) + 1
    listed = "; ".join(f"{count} × {kind}" for kind, count in kinds.items())
    yield Finding(
        name="devices",
        state="ok" if len(kinds) == 1 else "warning",
        found=f"{listed}, driver {driver or 'unknown'}",
        remedy=""
        if len(kinds) == 1
        else "choose equal ones with CUDA_VISIBLE_DEVICES: the slowest sets the pace",
    )
    # Ampere (8.0) and later compute in bf16; earlier ones emulate it.
    bf16 = all(getattr(device, "major", 0) >= 8 for device in devices)
    yield Finding(
        name="precision",
        state="ok" if bf16 else "warning",
        found="fp32, fp16, bf16" if bf16 else "fp32, fp16; bf16 is emulated and slow",
        remedy="" if bf16 else "set precision=fp16 in recipes, not bf16",
    )


def look_at_deepspeed(settings: ZeroSettings | None, folder: Path) -> Iterator[Finding]:
    """DeepSpeed's version, its ops, and what building them would take.

    settings: those of the recipe asked about; None for no recipe
    """
    version = installed_version("deepspeed")
    if version is None:
        return  # the packages' finding says so
    built = [op for op in ops.BUILDERS if ops.is_built(op, folder)]
    needed = ops.needed_ops(settings) if settings else ()
    missing = [op for op in needed if op not in built]
    there = f"{', '.join(built)} in {folder}" if built else "none built"
    if missing:
        reason = ops.why_unusable(missing[0], folder)
        yield Finding(
            name="deepspeed",
            state="error",
            found=f"{version}; the recipe needs the op {missing[0]}, and {reason}",
            remedy="run `bertpipe doctor --prepare` with the same --recipe, before the job",
        )
    else:
        need = (
            f"the recipe needs {', '.join(needed) or 'none'}" if settings else "the shipped JSONs need none"
        )
        yield Finding(name="deepspeed", state="ok", found=f"{version}; ops: {there}; {need}")
    yield from _compilers(needed=bool(missing))


def _compilers(*, needed: bool) -> Iterator[Finding]:
    if lack := ops.what_building_lacks("cpu_adam"):
        what, _, remedy = lack.partition("; ")
        yield Finding(
            name="compilers",
            state="error" if needed else "ok",
            found=what if needed else f"{what}: only `doctor --prepare` would need one",
            remedy=remedy if needed else "",
        )
        return
    compiler = (said_by(os.environ.get("CXX", "c++"), "--version") or "a C++ compiler").splitlines()[0]
    ninja = said_by(str(ops.ninja_path()), "--version")
    yield Finding(name="compilers", state="ok", found=f"{compiler}; ninja {ninja}")
    yield from _nvcc()


def _nvcc() -> Iterator[Finding]:
    import torch

    if not torch.version.cuda or shutil.which("nvcc") is None:
        return
    found = re.search(r"release (\d+\.\d+)", said_by("nvcc", "--version") or "")
    if found and found[1] != torch.version.cuda:
        yield Finding(
            name="compilers",
            state="warning",
            found=f"nvcc {found[1]}, and torch is built for CUDA {torch.version.cuda}",
            remedy=f"load CUDA {torch.version.cuda}'s toolkit before `doctor --prepare`",
        )
    elif found:
        yield Finding(name="compilers", state="ok", found=f"nvcc {found[1]}, as torch's CUDA")
