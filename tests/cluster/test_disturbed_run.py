"""One training on two nodes that everything happens to which SLURM and its users do to a job.

It is told to make room, loses a rank, is requeued, loses a node, is preempted, meets its time limit and is told to end;
what it has learned in the end is what the undisturbed run learned, bit for bit.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from workshop.cluster_runs import learned, metrics, recorded, starts, wait_for_steps, wait_until
from workshop.cluster_site import PRETRAIN, make_site
from workshop.job_faults import kill_ranks, make_room, meet_the_time_limit, requeue

pytestmark = pytest.mark.timeout(900)


@dataclass
class Story:
    """What was seen on the way.

    refused: the output of the job that was submitted a second time
    waiting: the state of a job that waits for the first one's good end, after each disturbance
    """

    site: Any
    first: int = 0
    last: int = 0
    twice: dict[str, str] = field(default_factory=dict)
    refused: str = ""
    waiting: list[str] = field(default_factory=list)
    status: dict[str, Any] = field(default_factory=dict)
    told_to_end: dict[str, Any] = field(default_factory=dict)


@pytest.fixture(scope="module")
def story(slurm: str, tmp_path_factory: pytest.TempPathFactory, python_english: Path, shards: Path) -> Story:
    """The training, and everything that happens to it."""
    site = make_site(slurm, tmp_path_factory.mktemp("disturbed") / "site", python_english)
    site.write_recipe(shards, checkpoint={"every": 5, "keep_last": 2})
    told = Story(site=site)
    first, second = (site.submit(f"{PRETRAIN.replace('sbatch', 'sbatch --time=30')}") for _ in range(2))
    wait_until(lambda: site.shown(first)["JobState"] == "FAILED" or site.shown(second)["JobState"] == "FAILED",
               lambda: site.output(first) + site.output(second))  # fmt: skip
    told.first, twice = (second, first) if site.shown(first)["JobState"] == "FAILED" else (first, second)
    told.twice, told.refused = site.shown(twice), site.output(twice)
    job = told.first
    waits = site.submit(f"sbatch --dependency=afterok:{job} --kill-on-invalid-dep=yes --wrap=true")

    for number, disturb in enumerate(
        (make_room, kill_a_rank, requeue, lose_a_node, preempt, meet_the_time_limit), 1
    ):
        wait_for_training(site, job, number, 4 * number)
        if disturb is requeue:
            told.status = json.loads(site.run("venv/bin/bertpipe status RUNS/mine --json").stdout)
        disturb(site, job)
        told.waiting.append(site.shown(waits)["JobState"])
    wait_for_training(site, job, 7, 28)
    site.run(f"scancel --signal=TERM {job}")
    site.wait(job, waits)
    told.waiting.append(site.shown(waits)["JobState"])
    told.told_to_end = site.shown(job) | {"steps": len(metrics(site.folder)), "record": recorded(site.folder)}
    told.last = site.submit(PRETRAIN)
    site.wait(told.last)
    return told


def wait_for_training(site: Any, job: int, start: int, steps: int) -> None:
    """Until the `start`th start has trained a step of its own, and the run `steps` in all."""
    wait_for_steps(site, job, 0, start=start)
    wait_for_steps(site, job, max(steps, len(metrics(site.folder)) + 1), start=start)


def kill_a_rank(site: Any, job: int) -> None:
    kill_ranks(site, job, "n2")


def lose_a_node(site: Any, job: int) -> None:
    site.run("scontrol update nodename=n2 state=down reason=test")
    wait_until(lambda: site.shown(job)["JobState"] == "PENDING", lambda: site.output(job))
    site.run("scontrol update nodename=n2 state=resume")


def preempt(site: Any, job: int) -> None:
    site.submit("sbatch --partition=urgent --nodes=2 --exclusive --wrap='sleep 1'")


def test_the_losses_are_those_of_the_undisturbed_run_to_the_last_bit(story: Story, undisturbed: Any) -> None:
    assert story.site.shown(story.last)["JobState"] == "COMPLETED", story.site.output(story.last)
    assert len(learned(story.site.folder)) == 40
    assert learned(story.site.folder) == learned(undisturbed[0].folder)


def test_the_tracked_run_is_one_with_each_step_once(story: Story) -> None:
    assert recorded(story.site.folder) == ("FINISHED", list(range(1, 41)))


def test_a_job_submitted_twice_trains_once_and_the_other_says_who_does(story: Story) -> None:
    assert (story.twice["JobState"], story.twice["ExitCode"]) == ("FAILED", "2:0")
    assert "RUNS/mine is being trained by another process: " in story.refused
    assert f"of SLURM job {story.first}, since" in story.refused


def test_the_job_starts_itself_again_and_says_why(story: Story) -> None:
    path = story.site.folder / "RUNS/mine/restarts.jsonl"
    restarts = [json.loads(line) for line in path.read_text().splitlines()]
    # scontrol requeue and a lost node are SLURM's own doing.
    assert [restart["reason"].split(" with")[0] for restart in restarts] == [
        "has used up its time", "failed", "was preempted", "has used up its time",
    ]  # fmt: skip
    assert {restart["job"] for restart in restarts} == {str(story.first)}
    steps = [restart["step"] for restart in restarts]
    assert steps == sorted(steps)
    assert [start["slurm_job"] for start in starts(story.site.folder)] == [str(story.first)] * 7 + [
        str(story.last)
    ]
    output = story.site.output(story.first)
    assert output.count("resuming RUNS/mine after step") == 6
    assert "RUNS/mine was preempted; it continues after step" in output


def test_a_stop_loses_no_step_and_a_crash_those_since_the_last_checkpoint(story: Story) -> None:
    ends = starts(story.site.folder)
    # The killed rank takes the other with it, which says so.
    assert [end.get("exit_code") for end in ends] == [138, 1, 143, 143, 143, 138, 143, 0]
    assert all("stopped by SIG" in end["said"] for end in ends if end["exit_code"] > 128)


def test_a_job_that_waits_for_the_training_goes_on_waiting_until_it_has_really_ended(story: Story) -> None:
    assert story.waiting == ["PENDING"] * 6 + ["CANCELLED"]


def test_a_job_that_is_told_to_end_leaves_a_checkpoint_and_does_not_start_again(story: Story) -> None:
    job, end = story.told_to_end, story.told_to_end["steps"]
    assert (job["JobState"], job["ExitCode"]) == ("FAILED", "143:0")
    assert 28 <= end < 40
    assert f"stopped by SIGTERM after step {end}" in story.site.output(story.first)
    assert job["record"] == ("KILLED", list(range(1, end + 1)))
    assert f"resuming RUNS/mine after step {end} of 40" in story.site.output(story.last)


def test_status_is_read_from_another_terminal_while_the_run_trains(story: Story) -> None:
    status = story.status
    assert status["state"] in ("starting", "training", "saving", "evaluating")
    assert (status["ranks_alive"], status["steps"], status["starts"]) == (2, 40, 3)
    assert status["slurm"] == {"job": str(story.first), "state": "RUNNING"}
    assert status["restarts"][-1]["reason"] == "failed with exit code 137"
    done = story.site.run("venv/bin/bertpipe runs")
    assert "RUNS/mine  finished  40/40" in done.stdout
