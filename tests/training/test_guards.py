"""Each guard is triggered by what it guards against, and each of its policies does what docs/guards.md says."""

import json
import math
import os
import resource
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.policies import GuardPolicy
from pipeline.training.checkpoints import read_checkpoint
from pipeline.training.drift import odd_ones
from pipeline.training.guards import Guard, spike_score
from pipeline.training.metrics import read_metrics
from pipeline.training.standing import Standing
from workshop import processes

DISTURBED = Path(__file__).parents[1] / "workshop" / "disturbed.py"
LOSSES = st.lists(st.floats(0.1, 20), min_size=16, max_size=64)


def disturbed(plan: dict[str, Any], *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(DISTURBED), json.dumps(plan), "pretrain", *map(str, arguments)]
    return subprocess.run(command, text=True, capture_output=True, timeout=200, check=False, **options)


def two_ranks(plan: dict[str, Any], *arguments: object) -> list[str]:
    """The outputs of two ranks that a launcher of the test's own starts; both have ended well, or neither."""
    from pipeline.training.world import World, free_port

    port = free_port()
    ranks = []
    for rank in range(2):
        world = World(rank=rank, size=2, local_rank=rank, local_size=2, address="127.0.0.1", port=port)
        command = [sys.executable, str(DISTURBED), json.dumps(plan), "pretrain", *map(str, arguments)]
        environment = os.environ | world.environment()
        ranks.append(subprocess.Popen(command, text=True, env=environment, stderr=subprocess.PIPE))
    said = [rank.communicate(timeout=200)[1] for rank in ranks]
    return [f"{text}\nexit {rank.returncode}" for text, rank in zip(said, ranks, strict=True)]


def flat(losses: int = 32, value: float = 5.0) -> Standing:
    return Standing(step=losses, recent_losses=[value] * losses)


@given(LOSSES, st.floats(0.1, 20))
def test_a_loss_among_those_before_it_is_no_spike_and_a_higher_one_never_scores_less(
    before: list[float], higher: float
) -> None:
    assert spike_score(statistics.median(before), before) == 0
    assert spike_score(max(before) + higher, before) > spike_score(max(before), before)


@given(LOSSES, st.integers(0, 7))
def test_spikes_among_the_losses_before_hide_no_spike(before: list[float], spikes: int) -> None:
    calm = [5.0 + value / 100 for value in before]
    assert spike_score(50.0, calm[spikes:] + [1e6] * min(spikes, len(calm) // 3)) > 10


def test_too_few_losses_make_no_spike() -> None:
    assert spike_score(1e9, [5.0] * 15) == 0


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_gets_the_policys_verdict(loss: float) -> None:
    for action in ("stop", "skip", "rollback"):
        verdict = Guard(GuardPolicy(nonfinite=action), flat()).on_loss(33, loss)
        assert verdict is not None
        assert verdict.action == action
        assert f"loss {loss}" in verdict.reason


def test_what_happens_again_and_again_is_stopped() -> None:
    standing = flat()
    guard = Guard(GuardPolicy(nonfinite="skip", limit=3), standing)
    actions = []
    for step in range(33, 38):
        verdict = guard.on_loss(step, math.nan)
        assert verdict is not None
        actions.append(verdict.action)
        guard.skipped()
    assert actions == ["skip", "skip", "skip", "stop", "stop"]
    guard.accepted(5.0)
    again = guard.on_loss(40, math.nan)
    assert again is not None
    assert again.action == "skip"
    standing.branch = 3
    last = Guard(GuardPolicy(nonfinite="rollback", limit=3), standing).on_loss(41, math.nan)
    assert last is not None
    assert last.action == "stop"


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 30)), max_size=6))
def test_every_rollback_passes_what_the_ones_before_it_passed(steps: list[tuple[int, int]]) -> None:
    """Each goes back to any earlier point, and the data that led to it is never read again."""
    standing, reached = Standing(), 0
    for ahead, back in steps:
        standing.step += ahead
        bad = standing.step + standing.moved(0)  # the data's steps read so far, all of this phase
        reached = max(reached, bad)
        to = Standing(step=max(0, standing.step - back))
        to.moves = [move for move in standing.moves if move["step"] < to.step]
        standing = standing.rolled_back_to(to, phase=0, by=standing.step - to.step, reason="")
        assert standing.step + standing.moved(0) == bad == reached
    assert standing.branch == len(steps)


@given(st.integers(3, 40), st.data())
def test_a_rank_that_differs_is_named_where_most_agree(ranks: int, data: Any) -> None:
    odd = data.draw(st.sets(st.integers(0, ranks - 1), max_size=(ranks - 1) // 2))
    sums = [100 + rank if rank in odd else 7 for rank in range(ranks)]
    assert odd_ones(sums) == sorted(odd)


@pytest.mark.long
def test_a_poisoned_step_is_skipped_and_a_spike_is_said(recipe: dict[str, Any], write_recipe: Any) -> None:
    recipe["phases"][0]["steps"] = 24
    recipe["guards"] = {"nonfinite": "skip", "spike": "warn"}
    plan = {"poison": {"7": "nan", "20": 1000}, "gradient": 10}
    done = disturbed(plan, write_recipe(recipe))
    assert done.returncode == 0, done.stderr
    lines = read_metrics(Path(recipe["run"]))
    assert [line["step"] for line in lines] == list(range(1, 25))
    # The step of a poisoned loss, and the one whose gradient alone is infinite.
    assert [line["step"] for line in lines if line.get("update_skipped")] == [8, 11]
    assert [line["step"] for line in lines if not math.isfinite(line["loss"])] == [8]
    assert [line["step"] for line in lines if not math.isfinite(line["gradient_norm"])] == [8, 11]
    assert lines[-1]["samples"] == 22 * 16
    assert "step 8 has loss nan; its update is left out" in done.stderr
    assert "step 11 has gradient norm inf; its update is left out" in done.stderr
    assert "deviations above the median" in done.stderr
    assert "warning: step 21 has loss" in done.stderr


@pytest.mark.long
def test_a_run_is_rolled_back_and_goes_past_the_data_that_led_there(
    recipe: dict[str, Any], write_recipe: Any
) -> None:
    recipe["phases"][0]["steps"] = 24
    recipe["guards"] = {"nonfinite": "rollback", "spike": "rollback"}
    # Step 8 reads the data's step 7: back to the checkpoint of step 5, past data 5, 6, 7. So data 25 is step 23's.
    done = disturbed({"poison": {"7": "nan", "25": 1000}}, write_recipe(recipe))
    assert done.returncode == 0, done.stderr
    run = Path(recipe["run"])
    lines = read_metrics(run)
    assert [line["step"] for line in lines] == list(range(1, 25))
    assert [line.get("branch", 0) for line in lines] == [0] * 5 + [1] * 15 + [2] * 4
    assert all(math.isfinite(line["loss"]) and line["loss"] < 20 for line in lines)
    abandoned = [json.loads(line) for line in (run / "abandoned.jsonl").read_text().splitlines()]
    assert [line["step"] for line in abandoned] == [6, 7, 8, 21, 22, 23]
    info = read_checkpoint(run / "checkpoints" / "latest")
    assert [(move["step"], move["by"]) for move in info.moves] == [(5, 3), (20, 3)]
    assert info.position == {"phase": 0, "step": 30}
    assert "step 8 has loss nan; back to step 5, past 3 steps of data" in done.stderr
    # It stands so: a resumed run reads on from there.
    lines_before = processes.learned(run)
    recipe["guards"]["limit"] = 2
    again = disturbed({}, write_recipe(recipe))
    assert again.returncode == 0, again.stderr
    assert processes.learned(run) == lines_before


@pytest.mark.long
def test_a_rank_whose_weights_drift_is_found_and_the_run_goes_on_from_the_last_good_checkpoint(
    recipe: dict[str, Any], write_recipe: Any, tmp_path: Path
) -> None:
    # From ZeRO 1 on each step hands out all weights anew, which mends a copy by itself.
    recipe["deepspeed"] = "zero0"
    recipe["guards"] = {"drift": "rollback", "drift_every": 2}
    recipe["phases"][0]["steps"] = 10
    path = write_recipe(recipe)
    sound = two_ranks({}, path, f"run={tmp_path / 'sound'}")
    assert [text.rsplit("exit ")[-1] for text in sound] == ["0", "0"], sound
    mended = two_ranks({"flip": 6}, path, f"run={tmp_path / 'mended'}")
    assert [text.rsplit("exit ")[-1] for text in mended] == ["0", "0"], mended
    assert "the weights of rank 1 differ from the others'; back to step 5" in mended[0]
    assert processes.learned(tmp_path / "mended") == processes.learned(tmp_path / "sound")
    stopped = two_ranks({"flip": 6}, path, f"run={tmp_path / 'stopped'}", "guards.drift=stop")
    assert [text.rsplit("exit ")[-1] for text in stopped] == ["1", "1"], stopped
    assert "the last good checkpoint is that of step 5" in stopped[0]


def test_a_rank_that_stands_still_ends_the_run_and_leaves_its_stacks(
    recipe: dict[str, Any], write_recipe: Any
) -> None:
    recipe["phases"][0]["steps"] = 100_000
    recipe["guards"] = {"stall_seconds": 3}
    run = Path(recipe["run"])
    process = processes.begin(write_recipe(recipe), f"run={run}", "--ranks", 2)
    processes.wait_for_step(run, 3, process)
    ranks = sorted(pid for pid in processes.processes_of(run) if pid != process.pid)
    os.kill(ranks[-1], signal.SIGSTOP)
    while process.poll() is None and not list((run / "stacks").glob("*")):
        time.sleep(0.1)
    # It answers nobody: the launcher would wait for it before it kills it.
    os.kill(ranks[-1], signal.SIGKILL)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 1, output
    assert "has finished nothing for 3 s; its stacks are in" in output
    (stacks,) = (run / "stacks").iterdir()
    assert "pipeline/training/loop.py" in stacks.read_text()
    assert processes.processes_of(run) == []


def test_a_checkpoint_that_does_not_fit_is_skipped_or_ends_the_run(
    recipe: dict[str, Any], write_recipe: Any
) -> None:
    recipe["phases"][0]["steps"] = 60
    recipe["loader"]["workers"] = 0
    path, run = write_recipe(recipe), Path(recipe["run"])

    def begin(policy: str) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "pipeline.cli", "pretrain", str(path), f"guards.full_disk={policy}"]
        return subprocess.Popen(
            command,
            text=True,
            stderr=subprocess.PIPE,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY)),
        )

    stopped = begin("stop")
    said = stopped.communicate(timeout=100)[1]
    assert stopped.returncode == 1, said
    refused = f"cannot write the checkpoint {run}/checkpoints/step-00000005: "
    assert [line for line in said.splitlines() if line.startswith(f"bertpipe: {refused}")], said
    assert list((run / "checkpoints").iterdir()) == []

    skipping = begin("skip")
    processes.wait_for_step(run, 14, skipping)
    resource.prlimit(skipping.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    said = skipping.communicate(timeout=100)[1]
    assert skipping.returncode == 0, said
    assert f"warning: {refused}" in said
    assert "going on without this checkpoint" in said
    assert read_checkpoint(run / "checkpoints" / "latest").step == 60
