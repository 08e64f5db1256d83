"""Laws 3, 5, 7 and 8 as a user meets them: real processes, real kills."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.training.checkpoints import read_checkpoint
from pipeline.training.metrics import read_metrics
from workshop import processes
from workshop.recipes import small_recipe


@pytest.fixture(scope="module")
def finished(shards: Path, cli: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a finished run of the small recipe: 20 steps, the checkpoints of steps 15 and 20."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(small_recipe(folder / "run", shards)))
    done = cli("pretrain", folder / "recipe.yaml")
    assert done.returncode == 0, done.stderr
    return folder / "run"


@pytest.mark.long
def test_killed_anywhere_the_same_command_repeats_the_undisturbed_run_to_the_last_bit(
    recipe: dict[str, Any], write_recipe: Any, cli: Any, tmp_path: Path
) -> None:
    recipe["loader"]["workers"] = 1
    path = write_recipe(recipe)
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    whole = cli("pretrain", path, f"run={undisturbed}", "--ranks", 2)
    assert whole.returncode == 0, whole.stderr

    for step in (7, 13):
        process = processes.begin(path, f"run={disturbed}", "--ranks", 2)
        processes.wait_for_step(disturbed, step, process)
        for pid in processes.processes_of(disturbed):
            os.kill(pid, signal.SIGKILL)
        process.wait()
    rest = cli("pretrain", path, f"run={disturbed}", "--ranks", 2)
    assert rest.returncode == 0, rest.stderr
    assert "resuming" in rest.stderr
    assert processes.learned(disturbed) == processes.learned(undisturbed)
    assert [line["step"] for line in read_metrics(disturbed)] == list(range(1, 21))
    assert all(set(line) >= processes.CONTRACT for line in read_metrics(disturbed))


def test_a_killed_launcher_leaves_no_process_behind(
    recipe: dict[str, Any], write_recipe: Any, tmp_path: Path
) -> None:
    recipe["loader"]["workers"] = 1
    recipe["phases"][0]["steps"] = 100_000
    run = Path(recipe["run"])
    process = processes.begin(write_recipe(recipe), f"run={run}", "--ranks", 2)
    processes.wait_for_step(run, 2, process)
    family = processes.descendants(process.pid)
    # Two ranks, and each one's fork server and dataloader worker.
    assert len(family) >= 6
    process.kill()
    process.wait()
    until = time.monotonic() + 15
    while any(processes.parent_of(pid) is not None for pid in family) and time.monotonic() < until:
        time.sleep(0.1)
    assert [pid for pid in family if processes.parent_of(pid) is not None] == []


def test_a_dead_rank_ends_the_others_and_says_so(
    recipe: dict[str, Any], write_recipe: Any, tmp_path: Path
) -> None:
    recipe["phases"][0]["steps"] = 100_000
    run = Path(recipe["run"])
    process = processes.begin(write_recipe(recipe), f"run={run}", "--ranks", 2)
    processes.wait_for_step(run, 2, process)
    ranks = [pid for pid in processes.processes_of(run) if pid != process.pid]
    os.kill(max(ranks), signal.SIGKILL)
    output = process.communicate(timeout=30)[0]
    assert process.returncode == 1
    assert "was ended by SIGKILL; run the same command again" in output
    assert "Traceback" not in output
    assert processes.processes_of(run) == []


def test_a_stop_signal_ends_in_a_checkpoint_and_the_rerun_repeats_the_undisturbed_run(
    recipe: dict[str, Any], write_recipe: Any, cli: Any, tmp_path: Path
) -> None:
    recipe["phases"][0]["steps"] = 30
    recipe["checkpoint"]["every"] = 1000
    path = write_recipe(recipe)
    undisturbed, stopped = tmp_path / "undisturbed", tmp_path / "stopped"
    assert cli("pretrain", path, f"run={undisturbed}").returncode == 0
    for sent, code, step in ((signal.SIGINT, 130, 3), (signal.SIGTERM, 143, 12)):
        process = processes.begin(path, f"run={stopped}")
        processes.wait_for_step(stopped, step, process)
        process.send_signal(sent)
        output = process.communicate(timeout=60)[0]
        assert process.returncode == code, output
        assert "run the same command again to continue" in output
        assert "Traceback" not in output
        saved = read_checkpoint(stopped / "checkpoints" / "latest").step
        assert step <= saved == read_metrics(stopped)[-1]["step"] < 30
    assert cli("pretrain", path, f"run={stopped}").returncode == 0
    assert processes.learned(stopped) == processes.learned(undisturbed)


@pytest.mark.parametrize(
    "launcher",
    [
        ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"),
        ("deepspeed.launcher.runner", "--num_gpus", "2", "--module"),
    ],
    ids=["torchrun", "deepspeed"],
)
def test_ranks_that_a_launcher_started_are_joined(
    recipe: dict[str, Any], write_recipe: Any, launcher: tuple[str, ...]
) -> None:
    recipe["phases"][0] |= {"steps": 2, "warmup_steps": 1}
    command = [sys.executable, "-m", *launcher, "pipeline.cli", "pretrain", str(write_recipe(recipe))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert read_checkpoint(Path(recipe["run"]) / "checkpoints" / "latest").world_size == 2


@pytest.mark.xdist_group("finished run")
def test_a_damaged_checkpoint_is_passed_over_aloud(
    recipe: dict[str, Any], write_recipe: Any, cli: Any, finished: Path
) -> None:
    path = write_recipe(recipe)
    run = Path(recipe["run"])
    shutil.copytree(finished, run, symlinks=True)
    before = processes.learned(run)
    newest = run / "checkpoints" / "step-00000020" / "engine" / "mp_rank_00_model_states.pt"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    again = cli("pretrain", path)
    assert again.returncode == 0, again.stderr
    assert "was written; trying the checkpoint before it" in again.stderr
    assert "resuming" in again.stderr
    assert "after step 15" in again.stderr
    assert processes.learned(run) == before
    # The damaged one is gone, and what was trained in its place stands.
    assert read_checkpoint(run / "checkpoints" / "latest").step == 20
    assert newest.read_bytes() != content


@pytest.mark.xdist_group("finished run")
def test_a_checkpoint_after_a_damaged_one_is_kept(
    recipe: dict[str, Any], write_recipe: Any, cli: Any, finished: Path
) -> None:
    run = Path(recipe["run"])
    shutil.copytree(finished, run, symlinks=True)
    # The record itself, too, is damaged: still the one before it is used.
    (run / "checkpoints" / "step-00000020" / "checkpoint.json").write_text("{")
    again = cli("pretrain", write_recipe(recipe), "checkpoint.every=2", "checkpoint.keep_last=1")
    assert again.returncode == 0, again.stderr
    assert "after step 15" in again.stderr
    assert [path.name for path in (run / "checkpoints").glob("step-*")] == ["step-00000020"]
    assert read_checkpoint(run / "checkpoints" / "latest").step == 20


def test_a_run_whose_checkpoints_are_all_damaged_is_not_begun_again_in_silence(
    recipe: dict[str, Any], write_recipe: Any, cli: Any
) -> None:
    recipe["phases"][0] |= {"steps": 2, "warmup_steps": 1}
    run = Path(recipe["run"])
    assert cli("pretrain", write_recipe(recipe), "--ranks", 2).returncode == 0
    record = (run / "metrics.jsonl").read_bytes()
    for path in (run / "checkpoints").glob("step-*/probe.safetensors"):
        path.unlink()
    refused = cli("pretrain", write_recipe(recipe), "--ranks", 2)
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1].endswith("restore one, or delete that folder to begin again")
    assert "Traceback" not in refused.stderr
    assert (run / "metrics.jsonl").read_bytes() == record


def test_a_loss_that_is_no_number_stops_the_run_before_it_is_saved(
    recipe: dict[str, Any], write_recipe: Any, cli: Any
) -> None:
    recipe["gradient_clipping"] = 1e30
    stopped = cli("pretrain", write_recipe(recipe), "phases.0.learning_rate=1.0e+30", "--ranks", 2)
    assert stopped.returncode == 1, stopped.stderr
    assert "lower learning_rate" in stopped.stderr
    assert len([line for line in stopped.stderr.splitlines() if line.startswith("bertpipe: ")]) == 1
    assert "NaN" not in (Path(recipe["run"]) / "metrics.jsonl").read_text()


def test_a_start_that_was_cut_short_does_not_block_the_folder(
    recipe: dict[str, Any], write_recipe: Any, cli: Any
) -> None:
    recipe["phases"][0] |= {"steps": 1, "warmup_steps": 0}
    run = Path(recipe["run"])
    run.mkdir(parents=True)
    for name in ("lineage.json", "environment.json", "environment.json.123.tmp"):
        (run / name).write_text("[]")
    assert cli("pretrain", write_recipe(recipe)).returncode == 0


def test_what_a_run_folder_was_begun_with_cannot_change(
    recipe: dict[str, Any], write_recipe: Any, cli: Any, tmp_path: Path
) -> None:
    recipe["phases"][0] |= {"steps": 2, "warmup_steps": 1}
    path = write_recipe(recipe)
    assert cli("pretrain", path).returncode == 0
    for arguments, complaint in (
        (["seed=4"], "seed: 4 here, 3 there"),
        (["phases.0.steps=3"], "phases.0.steps: 3 here, 2 there"),
    ):
        refused = cli("pretrain", path, *arguments)
        assert refused.returncode == 2, refused.stderr
        assert complaint in refused.stderr
        assert "Traceback" not in refused.stderr
    # What decides nothing that is learned may change.
    assert cli("pretrain", path, "checkpoint.keep_last=1", "loader.workers=1").returncode == 0


def test_one_run_trains_in_a_folder_at_a_time(recipe: dict[str, Any], write_recipe: Any, cli: Any) -> None:
    recipe["phases"][0]["steps"] = recipe["checkpoint"]["every"] = 100_000
    path = write_recipe(recipe)
    process = processes.begin(path)
    try:
        processes.wait_for_step(Path(recipe["run"]), 1, process)
        second = cli("pretrain", path, "--ranks", 2)
        assert second.returncode == 2
        assert "is being trained by another process" in second.stderr
        assert len(second.stderr.splitlines()) == 1
        assert process.poll() is None
        shown = cli("status", recipe["run"], "--json")
        assert json.loads(shown.stdout)["state"] in ("training", "starting", "evaluating")
        assert json.loads(shown.stdout)["ranks_alive"] == 1
        process.kill()
        process.wait()
        shown = cli("status", recipe["run"])
        assert f"{recipe['run']}: killed (it ended without a word" in shown.stdout
        assert re.search(r"ranks +not running", shown.stdout)
    finally:
        process.kill()
        process.wait()


def test_the_run_folder_says_what_it_is_and_no_compiler_is_loaded(
    recipe: dict[str, Any], write_recipe: Any, cli: Any
) -> None:
    recipe["phases"][0] |= {"steps": 2, "warmup_steps": 1}
    done = cli("pretrain", write_recipe(recipe), env=os.environ | {"PYTHONPROFILEIMPORTTIME": "1"})
    assert done.returncode == 0
    # Nothing is compiled, and torch's compiler, which doubles a rank's start, is not even loaded.
    assert "torch.optim" in done.stderr
    assert "torch._dynamo" not in done.stderr
    run = Path(recipe["run"])
    assert {path.name for path in run.iterdir()} >= {
        "recipe.yaml", "lineage.json", "environment.json", "metrics.jsonl", "checkpoints",
    }  # fmt: skip
    (start,) = json.loads((run / "environment.json").read_text())
    assert start["versions"]["torch"]
    assert os.readlink(run / "checkpoints" / "latest") == "step-00000002"
