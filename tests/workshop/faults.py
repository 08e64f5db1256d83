"""What befalls a training on the test cluster: faults, each done to a `Victim` while it trains.

What a person must do afterwards (restore a file, make room, start the server again, submit once more) is done here,
too, as a person would: after having read what the run says.
"""

import random
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from workshop import job_faults
from workshop.cluster_runs import metrics, starts, wait_until
from workshop.cluster_site import ENDED, Site
from workshop.job_faults import NODES
from workshop.tracking_server import Server


@dataclass
class Victim:
    """A training that faults are done to.

    command: that submits it
    shards: its own copy
    chance: what the faults draw from
    jobs: all that were submitted
    """

    site: Site
    command: str
    shards: Path
    server: Server
    chance: random.Random
    jobs: list[int] = field(default_factory=list)

    @property
    def job(self) -> int:
        return self.jobs[-1]

    @property
    def state(self) -> str:
        return self.site.shown(self.job)["JobState"]

    @property
    def run(self) -> Path:
        return self.site.folder / "RUNS/mine"

    def submit(self) -> None:
        self.jobs.append(self.site.submit(self.command))

    def train_on(self, steps: int, *, start: int | None = None) -> None:
        """Until `steps` steps are on record, in the run's `start`th start or later; a job that has ended is submitted
        again.
        """
        asked = time.monotonic()

        def happened() -> bool:
            nonlocal asked
            if time.monotonic() - asked > 1:
                asked = time.monotonic()
                if self.state in ENDED and len(metrics(self.site.folder)) < steps:
                    self.submit()
            begun = start is None or len(starts(self.site.folder)) >= start
            return begun and len(metrics(self.site.folder)) >= steps

        wait_until(happened, self.said, seconds=180)

    def said(self) -> str:
        """All that its jobs have printed."""
        return "\n".join(f"== job {job}\n{self.site.output(job)}" for job in self.jobs)

    def wait_for_word(self, word: str, beyond: int) -> None:
        """Until the jobs' output holds `word` after its first `beyond` characters."""
        wait_until(lambda: word in self.said()[beyond:], self.said, seconds=120)


def flip(path: Path, chance: random.Random) -> None:
    """Change a bit of a file, not near its ends."""
    content = bytearray(path.read_bytes())
    content[chance.randrange(len(content) // 4, 3 * len(content) // 4)] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


def kill_a_rank(victim: Victim) -> None:
    job_faults.kill_ranks(victim.site, victim.job, victim.chance.choice(NODES))


def kill_all_ranks(victim: Victim) -> None:
    job_faults.kill_ranks(victim.site, victim.job, *NODES)


def kill_the_launcher(victim: Victim) -> None:
    job_faults.kill_processes(victim.job, "srun\0")


def kill_the_batch_shell(victim: Victim) -> None:
    job_faults.kill_processes(victim.job, "slurm_script")


def requeue(victim: Victim) -> None:
    job_faults.requeue(victim.site, victim.job)


def make_room(victim: Victim) -> None:
    job_faults.make_room(victim.site, victim.job)


def meet_the_time_limit(victim: Victim) -> None:
    job_faults.meet_the_time_limit(victim.site, victim.job)


def lose_the_server(victim: Victim) -> None:
    """For some steps, and a rank with it."""
    victim.server.kill()
    before = len(metrics(victim.site.folder))
    victim.train_on(before + 2)
    kill_a_rank(victim)
    victim.server.start()


def damage_a_checkpoint(victim: Victim) -> None:
    """The newest, and then the run has to go back to one."""
    kill_all_ranks(victim)
    newest = max(path for path in (victim.run / "checkpoints").glob("step-*") if path.is_dir())
    flip(victim.chance.choice(sorted((newest / "engine").glob("*.pt"))), victim.chance)


def damage_the_shards(victim: Victim) -> None:
    """Until the run says so."""
    heard = len(victim.said())
    tars = {path: path.read_bytes() for path in victim.shards.glob("train-*.tar")}
    for path in tars:
        flip(path, victim.chance)
    kill_all_ranks(victim)
    victim.wait_for_word("restore", heard)
    for path, content in tars.items():
        path.write_bytes(content)


def fill_the_disk(victim: Victim) -> None:
    """Until the run says so."""
    heard = len(victim.said())
    filler = victim.run.parent / "filler"
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(b"\0" * 4096)
    victim.wait_for_word("No space left on device", heard)
    filler.unlink()


FAULTS: tuple[Callable[[Victim], None], ...] = (
    kill_a_rank,
    kill_all_ranks,
    kill_the_launcher,
    kill_the_batch_shell,
    requeue,
    make_room,
    meet_the_time_limit,
    lose_the_server,
    damage_a_checkpoint,
    damage_the_shards,
    fill_the_disk,
)
