"""DeepSpeed's compiled ops: which a run needs, whether they are built, building them, taking them up.

In: a run's DeepSpeed settings and a folder of built ops. Out: names of ops, shared libraries in the folder, and
ops that DeepSpeed finds loaded. What always holds: a job compiles nothing, and needs neither compiler nor ninja
(`build` is `bertpipe doctor --prepare`'s alone); an op that another torch, DeepSpeed, Python or processor was
built for is not taken up (compiled for this processor's own instructions, it would crash another one); an op
appears in the folder whole or not at all.

Only offloading needs ops: bertpipe hands DeepSpeed an optimizer object, so its `fused_adam` and `fused_lamb` are
never asked for, and `deepspeed_shm_comm` is switched off (it serves inference).

Example:
    check_ops(read_settings("my_nvme.json"))  # InputError where `bertpipe doctor --prepare` has not been run
"""

import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pipeline
from pipeline.errors import InputError, RunFailed
from pipeline.training.settings import ZeroSettings
from pipeline.training.world import local_devices

# Ops by DeepSpeed's names, and the classes that build them.
BUILDERS: Mapping[str, str] = {
    "cpu_adam": "CPUAdamBuilder",
    "pin_memory": "PinMemoryBuilder",
    "async_io": "AsyncIOBuilder",
}
# Linked against the accelerator's runtime, so one built on a node without GPUs is not one for a node with them.
_LINKED = ("async_io",)
_STAMP = "built.json"
_ROOT = str(Path(pipeline.__file__).resolve().parents[1])
# Instructions that `-march=native` puts into an op where the processor has them.
_INSTRUCTIONS = re.compile(r"^(avx|amx|fma|f16c|bmi|s?sse|asimd|sve)")


def extensions_folder() -> Path:
    """Where built ops lie: $TORCH_EXTENSIONS_DIR, else `~/.cache/bertpipe/extensions`."""
    return Path(os.environ.get("TORCH_EXTENSIONS_DIR") or "~/.cache/bertpipe/extensions").expanduser()


def needed_ops(settings: ZeroSettings) -> tuple[str, ...]:
    """The ops that a run with these settings loads, in the order in which they are loaded."""
    ops: list[str] = []
    if settings.wants_cpu_adam:
        ops.append("cpu_adam")
    if "nvme" in (settings.optimizer_device, settings.parameter_device):
        ops += ["pin_memory", "async_io"]
    return tuple(ops)


def check_ops(settings: ZeroSettings) -> None:
    """Raise InputError where an op that these settings need isn't built (law 10)."""
    folder = extensions_folder()
    for op in needed_ops(settings):
        if reason := why_unusable(op, folder):
            instead = (
                ', or set "zero_force_ds_cpu_optimizer": false for torch\'s AdamW' if op == "cpu_adam" else ""
            )
            raise InputError(
                f"deepspeed: {settings.path} needs DeepSpeed's op {op}, and {reason}; run `bertpipe doctor --prepare` "
                f"first, where a compiler is and the processors are the nodes' own{instead}"
            )


def is_built(op: str, folder: Path) -> bool:
    """Whether `folder` holds `op`, built for this Python, torch, DeepSpeed and processor."""
    return why_unusable(op, folder) is None


def why_unusable(op: str, folder: Path) -> str | None:
    """What keeps `op` from being loaded from `folder`; None where nothing does."""
    try:
        stamp = json.loads((folder / op / _STAMP).read_text(encoding="utf-8"))
        there = (folder / op / f"{op}.so").is_file()
    except (OSError, ValueError):
        there = False
    if not there:
        return f"{folder} does not hold it"
    here = _stamp(op)
    for key in here.keys() - {"instructions"}:
        if stamp.get(key) != here[key]:
            return f"the one in {folder} was built for {key} {stamp.get(key)}, here is {here[key]}"
    if missing := sorted(set(stamp.get("instructions", ())) - set(here["instructions"])):
        return f"the one in {folder} was built for a processor with {missing[0]}, which this one lacks"
    return None


def load(op: str, folder: Path) -> None:
    """Take up a built op, so that DeepSpeed finds it loaded and asks for neither ninja nor compiler.

    Raises RunFailed where the library can't be loaded.
    """
    _quiet_import()
    from deepspeed.ops.op_builder.builder import OpBuilder

    path = folder / op / f"{op}.so"
    spec = importlib.util.spec_from_file_location(op, path)
    assert spec is not None
    assert spec.loader is not None
    try:
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except (ImportError, OSError) as error:
        raise RunFailed(
            f"cannot load {path}: {_first_line(str(error))}; remove {path.parent} and run `bertpipe doctor --prepare`"
        ) from error
    OpBuilder._loaded_ops[op] = module


def load_needed(settings: ZeroSettings) -> None:
    """Take up the ops that these settings need; `check_ops` found them good."""
    for op in needed_ops(settings):
        load(op, extensions_folder())


def what_building_lacks(op: str) -> str | None:
    """What this machine lacks to build `op`, with the remedy; None where it has all."""
    compiler = os.environ.get("CXX", "c++")
    if shutil.which(compiler) is None:
        return f"no C++ compiler ({compiler}); install g++, or load the compiler's module"
    if ninja_path() is None:
        return "no ninja; pip install ninja"
    if importlib.util.find_spec("setuptools") is None:
        return "no setuptools, which torch compiles with; pip install setuptools"
    include = sysconfig.get_paths()["include"]
    if not Path(include, "Python.h").is_file():
        return (
            f"no Python headers in {include}; install python{sys.version_info[0]}.{sys.version_info[1]}-dev"
        )
    if op == "async_io" and not _links("aio"):
        return "no libaio; install libaio-dev (Debian, Ubuntu) or libaio-devel (Red Hat)"
    return None


def build(op: str, folder: Path) -> None:
    """Compile `op` into `folder/op/`; takes minutes. Other processes may do the same at the same time.

    Raises RunFailed naming the compiler's first error.
    """
    if lack := what_building_lacks(op):
        raise RunFailed(f"cannot build {op}: {lack}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{op}-", dir=folder))
    except OSError as error:
        raise RunFailed(
            f"cannot write to {folder}: {error.strerror}; name another with --extensions"
        ) from error
    try:
        _compile(op, scratch)
        (scratch / op / _STAMP).write_text(json.dumps(_stamp(op), indent=1), encoding="utf-8")
        if not is_built(op, folder):
            # What lies there is of another version, or torn.
            shutil.rmtree(folder / op, ignore_errors=True)
            try:
                (scratch / op).rename(folder / op)
            except OSError:
                # Somebody else's was faster, and is as good.
                if not is_built(op, folder):
                    raise
    except OSError as error:
        raise RunFailed(f"cannot build {op} in {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def ninja_path() -> str | None:
    """The ninja that builds: the one beside this Python, else the one on PATH."""
    return shutil.which("ninja", path=str(Path(sys.executable).parent)) or shutil.which("ninja")


# In a process of its own: DeepSpeed and torch read the environment, and print as they like.
_PROGRAM = """
import sys
from pipeline.processes import die_with_parent
die_with_parent(int(sys.argv[2]))
from deepspeed.accelerator import get_accelerator
try:
    get_accelerator().create_op_builder(sys.argv[1]).jit_load(verbose=False)
except Exception as error:
    sys.exit(str(error))
"""


def _compile(op: str, folder: Path) -> None:
    # The venv's own ninja: another version of it on PATH would take nothing over from an earlier build.
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    environment = os.environ | {"TORCH_EXTENSIONS_DIR": str(folder), "PATH": path, "PYTHONPATH": _ROOT}
    if not local_devices():
        environment["DS_ACCELERATOR"] = "cpu"
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, BUILDERS[op], str(os.getpid())],
        env=environment,
        # Somewhere without modules of its own: Python looks there first.
        cwd=folder,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        raise RunFailed(f"cannot build {op}: {_first_error(done.stdout + done.stderr)}")


def _first_error(output: str) -> str:
    """The line of a compiler's output that says what is wrong."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    telling = re.compile(r"(fatal error|\berror:|undefined reference|cannot find|not found)", re.IGNORECASE)
    return next((line for line in lines if telling.search(line)), lines[-1] if lines else "no reason given")


def _first_line(text: str) -> str:
    return (text.splitlines() or ["no reason given"])[0]


def _stamp(op: str) -> dict[str, Any]:
    """What a built op fits: it is taken up where all of it is the same and the instructions are there."""
    stamp: dict[str, Any] = {
        "python": f"{sys.implementation.cache_tag}-{platform.machine()}",
        "torch": version("torch"),
        "deepspeed": version("deepspeed"),
        "instructions": _instructions(),
    }
    if op in _LINKED:
        stamp["accelerator"] = "cuda" if local_devices() else "cpu"
    return stamp


def _instructions() -> list[str]:
    """The processor's vector instructions, by the kernel's names for them."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", text, flags=re.MULTILINE)
    return sorted({word for word in (found[1].split() if found else ()) if _INSTRUCTIONS.match(word)})


def _links(library: str) -> bool:
    """Whether a program links against `library`."""
    command = [os.environ.get("CXX", "c++"), "-x", "c++", "-", "-o", os.devnull, f"-l{library}"]
    try:
        done = subprocess.run(
            command, input="int main() { return 0; }", text=True, capture_output=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _quiet_import() -> None:
    """DeepSpeed's first import in this process, without its probing for accelerators."""
    if not local_devices():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed  # noqa: F401
