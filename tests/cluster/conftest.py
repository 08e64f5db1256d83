"""A real SLURM of two nodes on this machine, and a folder from which a user submits bertpipe's jobs to it."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from workshop.cluster_site import PRETRAIN, Site, make_site

START_SCRIPT = Path(__file__).with_name("slurm_local.sh")
IMPOSSIBLE = 3


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The path of the configuration of a SLURM that runs as long as the tests."""
    folder = tmp_path_factory.mktemp("slurm")
    # Output to a file: the daemons inherit it, and a pipe would be waited for until they end.
    with (folder / "start.log").open("w+") as log:
        command = [str(START_SCRIPT), "start", str(folder)]
        code = subprocess.run(command, stdout=log, stderr=log, timeout=280, check=False).returncode
    said = (folder / "start.log").read_text()
    if code == IMPOSSIBLE:
        pytest.skip(said.strip())
    assert code == 0, said
    yield str(folder / "slurm.conf")
    subprocess.run([str(START_SCRIPT), "stop", str(folder)], timeout=60, check=True)


@pytest.fixture
def site(slurm: str, tmp_path: Path, python_english: Path) -> Site:
    """A folder like a checkout's, on a disk that both nodes see."""
    return make_site(slurm, tmp_path / "site", python_english)


@pytest.fixture(scope="session")
def undisturbed(shared_site: Site, shards: Path) -> tuple[Site, int]:
    """A run of 40 steps over both nodes that nobody disturbed, and its job."""
    shared_site.write_recipe(shards)
    job = shared_site.submit(PRETRAIN)
    shared_site.wait(job)
    return shared_site, job


@pytest.fixture(scope="session")
def shared_site(slurm: str, tmp_path_factory: pytest.TempPathFactory, python_english: Path) -> Site:
    """The same for runs that several tests look at."""
    return make_site(slurm, tmp_path_factory.mktemp("shared") / "site", python_english)
