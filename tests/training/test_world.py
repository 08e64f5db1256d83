"""Whatever launcher started a process, it knows its place."""

import pytest

from pipeline.errors import InputError
from pipeline.training import world as world_module
from pipeline.training.world import World, check_address, check_devices, read_world

SLURM = {
    "SLURM_PROCID": "5",
    "SLURM_NTASKS": "8",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "4(x2)",
    "SLURM_JOB_ID": "77",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
}


def test_no_launcher_is_no_world() -> None:
    assert read_world({}) is None
    # A shell inside `srun --pty` is one task, not a rank; a batch script's shell is none at all.
    assert read_world({"SLURM_PROCID": "0", "SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "1"}) is None
    assert read_world({"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "8"}) is None


def test_torchrun_is_read() -> None:
    environment = {
        "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "n1", "MASTER_PORT": "4000",
    }  # fmt: skip
    assert read_world(environment) == World(
        rank=3, size=4, local_rank=1, local_size=2, address="n1", port=4000
    )


def test_deepspeed_launcher_is_read() -> None:
    world = read_world({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_SIZE": "2"})
    assert world is not None
    assert (world.local_rank, world.local_size) == (1, 2)


def test_srun_is_read() -> None:
    world = read_world(SLURM)
    assert world is not None
    assert (world.rank, world.size, world.local_rank, world.local_size) == (5, 8, 1, 4)
    assert world.address == "gpu07"
    assert 20000 <= world.port < 40000


def test_two_steps_of_a_job_do_not_meet_on_a_port() -> None:
    first, second = read_world(SLURM), read_world(SLURM | {"SLURM_STEP_ID": "1"})
    assert first is not None
    assert second is not None
    assert first.port != second.port


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("n1", "n1"), ("n1,n2", "n1"), ("n[3,5-9]", "n3"), ("gpu-a[001-100],cpu1", "gpu-a001")],
)
def test_the_first_node_of_a_list_is_found(nodes: str, first: str) -> None:
    world = read_world(SLURM | {"SLURM_STEP_NODELIST": nodes})
    assert world is not None
    assert world.address == first


def test_what_the_world_tells_others_is_read_back() -> None:
    world = World(rank=1, size=2, local_rank=1, local_size=2, address="127.0.0.1", port=4000)
    assert read_world(world.environment()) == world


@pytest.mark.parametrize(
    ("environment", "complaint"),
    [
        ({"RANK": "2", "WORLD_SIZE": "2"}, "rank 2 lies outside the world of 2"),
        ({"RANK": "x", "WORLD_SIZE": "2"}, "RANK is 'x'"),
        ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "x"}, "LOCAL_WORLD_SIZE is 'x'"),
        ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "0"}, "local rank 0 of 0"),
        ({"RANK": "3", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}, "local rank 3 of 2"),
        ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "4"}, "local rank 0 of 4 on this node and 2"),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": "99999"}, "MASTER_PORT is 99999; a port lies"),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": "0"}, "MASTER_PORT is 0; a port lies"),
        (SLURM | {"SLURM_JOB_ID": "abc"}, "SLURM_JOB_ID is 'abc'"),
        (SLURM | {"SLURM_STEP_ID": "x"}, "SLURM_STEP_ID is 'x'"),
    ],
)
def test_a_launcher_that_contradicts_itself_is_named(environment: dict[str, str], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        read_world(environment)


@pytest.mark.parametrize(("node", "rank", "tasks"), [(0, 1, 4), (1, 5, 4), (2, 9, 3), (3, 12, 1)])
def test_each_node_of_srun_has_its_own_number_of_tasks(node: int, rank: int, tasks: int) -> None:
    mixed = {"SLURM_STEP_TASKS_PER_NODE": "4(x2),3,1", "SLURM_STEP_NUM_TASKS": "12", "SLURM_LOCALID": "0"}
    mixed |= {"SLURM_NODEID": str(node), "SLURM_PROCID": str(rank - 1)}
    world = read_world(SLURM | mixed)
    assert world is not None
    assert world.local_size == tasks


def of(*, address: str = "127.0.0.1", local_size: int = 2) -> World:
    return World(rank=0, size=8, local_rank=0, local_size=local_size, address=address, port=4000)


@pytest.mark.parametrize("address", ["nohost.invalid", "a" * 70, "x..y"])
def test_an_address_that_nobody_knows_is_refused_before_anyone_waits_for_it(address: str) -> None:
    with pytest.raises(InputError, match="MASTER_ADDR"):
        check_address(of(address=address))
    check_address(of(address="localhost"))


@pytest.mark.parametrize(
    ("devices", "local_size", "environment", "good"),
    [
        (0, 8, {}, True),
        (8, 8, {}, True),
        (4, 8, {}, False),
        (1, 2, {}, False),
        (1, 2, {"CUDA_VISIBLE_DEVICES": "0"}, False),
        (1, 2, {"SLURM_STEP_ID": "0", "SLURM_GPUS_PER_TASK": "1"}, True),
        (1, 2, {"SLURM_STEP_ID": "0", "CUDA_VISIBLE_DEVICES": "0"}, True),
        (2, 4, {"SLURM_STEP_ID": "0", "CUDA_VISIBLE_DEVICES": "0,1"}, False),
    ],
)
def test_a_launcher_starts_no_more_ranks_than_the_node_has_gpus(
    devices: int, local_size: int, environment: dict[str, str], good: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SLURM_STEP_ID", "SLURM_GPUS_PER_TASK", "SLURM_STEP_GPUS", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(world_module, "local_devices", lambda: devices)
    if good:
        check_devices(of(local_size=local_size))
    else:
        with pytest.raises(
            InputError, match=f"{local_size} ranks were started on this node, which has {devices} GPU"
        ):
            check_devices(of(local_size=local_size))
