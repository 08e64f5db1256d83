"""Whatever launcher started a process, it knows its place."""

import pytest

from pipeline.errors import InputError
from pipeline.training.world import World, read_world

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
    ],
)
def test_a_launcher_that_contradicts_itself_is_named(environment: dict[str, str], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        read_world(environment)
