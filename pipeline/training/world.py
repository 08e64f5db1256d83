"""Who this process is among the ranks, and the few sums that the ranks share.

In: the environment that torchrun, deepspeed, srun or bertpipe's own launcher set. Out: a `World` of plain
numbers; everything else gets these as arguments. What always holds: this is the one module that reads rank
variables, and every rank takes part in every sum.

Example:
    world = read_world(os.environ) or World.alone()
"""

import os
import re
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn, TypeVar

from pipeline.errors import BertpipeError, Echo, InputError

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# Where SLURM has handed out GPUs, one of these says so.
_SLURM_GPUS = ("SLURM_GPUS_PER_TASK", "SLURM_STEP_GPUS", "CUDA_VISIBLE_DEVICES")


@dataclass(frozen=True, kw_only=True)
class World:
    """This process's place.

    rank: 0 … size − 1 over all nodes
    local_rank: 0 … local_size − 1 on this node; also the device's index
    address, port: where rank 0 listens
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    address: str
    port: int

    @classmethod
    def alone(cls) -> "World":
        """One process that is the whole world."""
        return cls(rank=0, size=1, local_rank=0, local_size=1, address="127.0.0.1", port=free_port())

    @property
    def is_first(self) -> bool:
        """Whether this rank writes what one rank writes."""
        return self.rank == 0

    def environment(self) -> dict[str, str]:
        """The variables that torch and DeepSpeed read; all of them, or DeepSpeed asks for MPI."""
        values = (self.rank, self.size, self.local_rank, self.local_size, self.address, self.port)
        return dict(zip(_VARIABLES, map(str, values), strict=True))


def read_world(environment: Mapping[str, str]) -> World | None:
    """The world that a launcher described, or None where none did.

    Raises InputError where a launcher's variables are none, or contradict each other.
    """
    if "RANK" in environment and "WORLD_SIZE" in environment:
        size = _number(environment, "WORLD_SIZE")
        local_size = "LOCAL_WORLD_SIZE" if environment.get("LOCAL_WORLD_SIZE") else "LOCAL_SIZE"
        world = World(
            rank=_number(environment, "RANK"),
            size=size,
            local_rank=_number(environment, "LOCAL_RANK", environment["RANK"]),
            local_size=_number(environment, local_size, str(size)),
            address=environment.get("MASTER_ADDR", "127.0.0.1"),
            port=_number(environment, "MASTER_PORT", "29500"),
        )
    elif "SLURM_STEP_ID" in environment and _number(environment, "SLURM_STEP_NUM_TASKS", "1") > 1:
        # A batch script's own shell has SLURM_NTASKS too, but is no rank: only srun sets a step's variables.
        job, step = _number(environment, "SLURM_JOB_ID", "0"), _number(environment, "SLURM_STEP_ID")
        world = World(
            rank=_number(environment, "SLURM_PROCID"),
            size=_number(environment, "SLURM_STEP_NUM_TASKS"),
            local_rank=_number(environment, "SLURM_LOCALID", "0"),
            local_size=_tasks_here(environment),
            address=environment.get("MASTER_ADDR") or _first_node(environment),
            # Two steps of one job, or two jobs on one node, do not meet on a port.
            port=_number(environment, "MASTER_PORT", str(20000 + (job * 31 + step) % 20000)),
        )
    else:
        return None
    if not 0 <= world.rank < world.size:
        raise InputError(f"rank {world.rank} lies outside the world of {world.size}; check the launcher")
    if not 0 <= world.local_rank < world.local_size <= world.size:
        raise InputError(
            f"local rank {world.local_rank} of {world.local_size} on this node and {world.size} in all cannot be; "
            "check the launcher's LOCAL_RANK and LOCAL_WORLD_SIZE"
        )
    if not 1 <= world.port <= 65535:
        raise InputError(f"MASTER_PORT is {world.port}; a port lies between 1 and 65535")
    return world


def check_address(world: World) -> None:
    """Raise InputError where rank 0's node has a name that nobody knows here: joining would wait for minutes."""
    try:
        socket.getaddrinfo(world.address, world.port)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"MASTER_ADDR, rank 0's node, is {world.address!r}, which this node can't resolve ({reason}); "
            "export MASTER_ADDR as a name or number that every node can reach"
        ) from None


def check_devices(world: World) -> None:
    """Raise InputError where a launcher has started more ranks on this node than it has GPUs."""
    devices = local_devices()
    # srun can show each rank a GPU of its own, which looks like one that all would share.
    own = "SLURM_STEP_ID" in os.environ and any(os.environ.get(name) for name in _SLURM_GPUS)
    if 0 < devices < world.local_size and not (devices == 1 and own):
        raise InputError(
            f"{world.local_size} ranks were started on this node, which has {devices} GPU(s); start one rank a GPU, "
            "or hide the GPUs with CUDA_VISIBLE_DEVICES= to train on the CPU"
        )


def _number(environment: Mapping[str, str], name: str, default: str | None = None) -> int:
    text = environment.get(name, default)
    try:
        return int(text or default or "")
    except ValueError:
        raise InputError(f"the environment variable {name} is {text!r}, not a number; unset it") from None


def _tasks_here(environment: Mapping[str, str]) -> int:
    """This node's tasks of SLURM's list: `4(x2),3` are 4, 4 and 3."""
    tasks: list[int] = []
    for count, times in re.findall(
        r"(\d+)(?:\(x(\d+)\))?", environment.get("SLURM_STEP_TASKS_PER_NODE", "1")
    ):
        tasks += [int(count)] * int(times or 1)
    node = _number(environment, "SLURM_NODEID", "0")
    return tasks[node] if 0 <= node < len(tasks) else 1


def _first_node(environment: Mapping[str, str]) -> str:
    """The first name of SLURM's node list: `n[01-04,7]` → `n01`."""
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST") or "127.0.0.1"
    head = re.match(r"([^\[,]+)(?:\[(\d+))?", nodes)
    return head.group(1) + (head.group(2) or "") if head else nodes


def free_port() -> int:
    """A TCP port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# What the drivers of NVIDIA, of NVIDIA under Windows' Linux, and of AMD put there.
_DRIVERS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")


def local_devices() -> int:
    """How many accelerators this node has."""
    # Loading torch takes seconds, and a recipe that is refused should be so at once.
    if not any(map(os.path.exists, _DRIVERS)):
        return 0
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def device_of(world: World) -> str:
    """The torch device of this rank: its GPU, or the CPU."""
    devices = local_devices()
    if not devices:
        return "cpu"
    # srun --gpus-per-task=1 shows each rank one device, its own, as number 0.
    return f"cuda:{world.local_rank if devices > 1 else 0}"


def share_threads(world: World) -> None:
    """Give each rank of a node its part of the cores: ranks that fight over cores are slower than one."""
    import torch

    from pipeline.processes import available_cores

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, available_cores() // world.local_size))


def sum_over_ranks(values: list[float], device: str) -> list[float]:
    """The sum of each value over all ranks, in float64; every rank calls it and gets the same."""
    import torch
    import torch.distributed as dist

    total = torch.tensor(values, dtype=torch.float64, device=device)
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(total)
    return [float(value) for value in total.tolist()]


def begin_sum_over_ranks(tensor: "torch.Tensor") -> Callable[[], object]:
    """Begin to sum a tensor over all ranks in place; returns what waits until it is there. Every rank calls it."""
    import torch.distributed as dist

    work = dist.all_reduce(tensor, async_op=True)
    assert work is not None
    wait: Callable[[], object] = work.wait
    return wait


def exchange_over_ranks(tensor: "torch.Tensor") -> "torch.Tensor":
    """The first axis dealt to the ranks in equal parts; what they dealt to this one, in their order."""
    import torch
    import torch.distributed as dist

    received = torch.empty_like(tensor)
    dist.all_to_all_single(received, tensor.contiguous())
    return received


def gather_over_ranks(tensor: "torch.Tensor") -> "torch.Tensor":
    """Every rank's tensor, end to end along the first axis in the order of the ranks."""
    import torch
    import torch.distributed as dist

    shape = (dist.get_world_size() * tensor.shape[0], *tensor.shape[1:])
    gathered = torch.empty(shape, dtype=tensor.dtype, device=tensor.device)
    dist.all_gather_into_tensor(gathered, tensor.contiguous())
    return gathered


def on_first_rank(world: World, device: str, work: Callable[[], T]) -> T | None:
    """`work()` on the first rank, None on the others; every rank calls it.

    A BertpipeError of the work is raised there, and ends the others as an Echo.
    """
    result: T | None = None
    failure: BertpipeError | None = None
    if world.is_first:
        try:
            result = work()
        except BertpipeError as error:
            failure = error
    (code,) = sum_over_ranks([float(failure.exit_code) if failure else 0.0], device)
    if failure is not None:
        raise failure
    if code:
        raise Echo(int(code))
    return result


def raise_once(error: BertpipeError) -> NoReturn:
    """Raise what every rank has found alike: on the first as it is, on the others as an Echo."""
    import torch.distributed as dist

    if dist.is_initialized() and dist.get_rank() > 0:
        raise Echo(error.exit_code)
    raise error


def is_lost_peer(error: BaseException) -> bool:
    """Whether a collective failed because another rank is gone (gloo and NCCL have no error type of it)."""
    said = str(error).lower()
    return any(word in said for word in ("gloo", "nccl", "connection reset", "connection closed by peer"))
