"""Chaos: what a run learns is what the undisturbed run learned, whatever happens to it, and its record is one."""

import random
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pipeline.training.checkpoints import read_checkpoint
from workshop.cluster_runs import learned, metrics, recorded, starts, wait_until
from workshop.cluster_site import PRETRAIN, Site, make_site
from workshop.faults import FAULTS, Victim, kill_a_rank
from workshop.tracking_server import Server

pytestmark = pytest.mark.timeout(800)
SEED = 6
STEPS = 62
# A disk that a filler file fills, with room for the run's checkpoints and one on its way.
DISK = "48m"


@dataclass
class Told:
    """What the disturbed run was done to, in this order, and what became of it."""

    victim: Victim
    faults: list[str]
    sound: Site


@pytest.fixture(scope="module")
def told(
    slurm: str, tmp_path_factory: pytest.TempPathFactory, python_english: Path, shards: Path
) -> Iterator[Told]:
    """The same recipe twice: left alone, and with every fault done to it in a drawn order."""
    folder = tmp_path_factory.mktemp("chaos")
    chance = random.Random(SEED)
    own = folder / "shards"
    shutil.copytree(shards, own)
    sound, site = (make_site(slurm, folder / name, python_english) for name in ("sound", "site"))
    server = Server(folder / "mlflow")
    server.start()
    for each, uri in ((sound, None), (site, server.uri)):
        each.write_recipe(
            own,
            checkpoint={"every": 3, "keep_last": 3},
            evaluate={"every": 30, "sequences": 32},
            tracking={"experiment": "cluster" if uri else None, "uri": uri},
        )
        recipe = each.folder / "recipes/mine.yaml"
        recipe.write_text(recipe.read_text().replace("steps: 40", f"steps: {STEPS}"))
    disk = site.folder / "RUNS"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(disk)], check=True)
    try:
        sound.wait(sound.submit(PRETRAIN))
        victim = Victim(site=site, command=PRETRAIN, shards=own, server=server, chance=chance)
        victim.submit()
        faults = chance.sample(FAULTS, k=len(FAULTS))
        for number, fault in enumerate(faults):
            victim.train_on(4 + 5 * number, start=number + 1)
            fault(victim)
        victim.train_on(STEPS)
        wait_until(lambda: victim.state == "COMPLETED", victim.said)
        yield Told(victim=victim, faults=[fault.__name__ for fault in faults], sound=sound)
    finally:
        server.kill()
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_after_every_fault_the_losses_are_those_of_the_undisturbed_run_to_the_last_bit(told: Told) -> None:
    assert len(told.faults) >= 10
    assert len(starts(told.victim.site.folder)) > len(told.faults), told.victim.said()
    assert len(learned(told.sound.folder)) == STEPS
    assert learned(told.victim.site.folder) == learned(told.sound.folder)


def test_it_said_what_happened_to_it_and_went_back_no_further_than_it_had_to(told: Told) -> None:
    said = told.victim.said()
    assert "trying the checkpoint before it" in said
    assert "No space left on device" in said
    assert "restore" in said
    assert "Traceback" not in said
    assert read_checkpoint(told.victim.run / "checkpoints/latest").step == STEPS


def test_the_tracking_server_holds_one_run_with_every_step_once(told: Told) -> None:
    status, steps = recorded(told.victim.site.folder, told.victim.server.uri)
    assert status == "FINISHED"
    assert steps == list(range(1, STEPS + 1))


def test_ranks_that_come_and_go_change_no_loss_beyond_rounding(
    slurm: str, tmp_path: Path, python_english: Path, shards: Path
) -> None:
    """Each start is ended by a fault or a person; dropout is 0, since its masks are a rank's own."""
    still: dict[str, Any] = {"hidden_dropout": 0.0, "attention_dropout": 0.0}
    sound, site = (make_site(slurm, tmp_path / name, python_english) for name in ("sound", "site"))
    for each in (sound, site):
        each.write_recipe(
            shards,
            model={"preset": "tiny", "hidden_size": 64, "intermediate_size": 128} | still,
            checkpoint={"every": 5, "keep_last": 3},
            evaluate={"every": 0},
            tracking={"experiment": None},
        )
    sound.wait(sound.submit(PRETRAIN))
    worlds = (
        ("--nodes=2 --ntasks-per-node=1", 9),
        ("--nodes=1 --ntasks-per-node=1", 18),
        ("--nodes=2 --ntasks-per-node=2", 27),
        ("--nodes=1 --ntasks-per-node=2", 36),
        ("--nodes=1 --ntasks-per-node=1", 40),
    )
    for number, (world, until) in enumerate(worlds):
        job = site.submit(PRETRAIN.replace("sbatch", f"sbatch --no-requeue {world}"))
        if until == 40:
            assert site.wait(job) == ["COMPLETED"], site.output(job)
            break
        victim = Victim(
            site=site,
            command="",
            shards=shards,
            server=Server(tmp_path),
            chance=random.Random(number),
            jobs=[job],
        )
        wait_until(lambda last=until: len(metrics(site.folder)) >= last, victim.said)
        if number % 2:
            site.run(f"scancel --signal=TERM {job}")
        else:
            kill_a_rank(victim)
            site.run(f"scancel {job}")
        site.wait(job)
    assert [start["ranks"] for start in starts(site.folder)] == [2, 1, 4, 2, 1]
    ours, theirs = learned(site.folder), learned(sound.folder)
    assert [line["samples"] for line in ours] == [line["samples"] for line in theirs]
    assert [line["tokens"] for line in ours] == [line["tokens"] for line in theirs]
    assert [line["loss"] for line in ours] == pytest.approx([line["loss"] for line in theirs], rel=1e-5)
