"""`bertpipe status` and `bertpipe runs`: what they conclude from a folder that others write."""

import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.process_identity import this_process
from pipeline.status import folder as files_of_a_run
from pipeline.status.facts import Facts, facts_of
from pipeline.status.folder import RunFiles
from pipeline.status.page import page, size, span, table
from pipeline.status.watching import RunsConfig, read, run_list
from pipeline.tracking import server_run
from pipeline.training import checkpoints, heartbeat, lock, restarts, run_folder
from workshop.recipes import small_recipe

STEPS = 1000


def make_run(run: Path, *, steps: int = 120, ended: dict[str, Any] | None = None, **last: Any) -> Path:
    """A run of 1,000 steps that has done `steps`, half a second each, the last of them just now."""
    run.mkdir(parents=True)
    recipe = small_recipe(run, "SHARDS")
    recipe["phases"] = [{"shards": "S", "steps": 100}, {"shards": "S", "steps": STEPS - 100}]
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    start = {"host": "n1", "ranks": 2, "slurm_job": None}
    (run / "environment.json").write_text(json.dumps([start, start | (ended or {})]))
    append_steps(run, 1, steps, **last)
    return run


def append_steps(run: Path, first: int, last: int, **changes: Any) -> None:
    now = time.time()
    with (run / "metrics.jsonl").open("a") as file:
        for step in range(first, last + 1):
            line = {"step": step, "samples": step * 16, "tokens": step * 800, "loss": 9 - step / 500}
            line |= {"mlm_loss": 8 - step / 500, "nsp_loss": 1.0, "mlm_accuracy": 0.25, "learning_rate": 1e-4}
            line |= {"time": now - (last - step) / 2}
            if step % 50 == 0:
                line |= {"held_out_mlm_loss": 7.5, "held_out_nsp_loss": 0.5}
            file.write(json.dumps(line | (changes if step == last else {})) + "\n")


def add_ranks(run: Path, *, ranks: int = 2, host: str = "n1", doing: str = "training") -> None:
    (run / "ranks").mkdir(exist_ok=True)
    now = time.time()
    for rank in range(ranks):
        sign = this_process() | {"boot": "another", "host": host, "rank": rank, "ranks": 2, "step": 5}
        sign |= {"doing": doing, "since": now, "time": now, "every": 10.0}
        (run / "ranks" / f"rank-{rank:05d}.json").write_text(json.dumps(sign))


def add_checkpoint(run: Path, step: int) -> Path:
    made = run / "checkpoints" / f"step-{step:08d}"
    made.mkdir(parents=True)
    (made / "weights.safetensors").write_bytes(b"x" * 5000)
    record = {"step": step, "files": {"weights.safetensors": [5000, "hash"]}, "held_out": {"mlm_loss": 6.0}}
    (made / "checkpoint.json").write_text(json.dumps(record))
    latest = run / "checkpoints" / "latest"
    latest.unlink(missing_ok=True)
    latest.symlink_to(made.name)
    return made


def facts(run: Path, **jobs: str) -> Facts:
    return facts_of(RunFiles(run), {name.removeprefix("job"): state for name, state in jobs.items()})


def test_the_files_have_the_names_that_training_gives_them() -> None:
    ours = files_of_a_run
    assert (ours.RECIPE, ours.ENVIRONMENT, ours.LINEAGE) == (
        run_folder.RECIPE, run_folder.ENVIRONMENT, run_folder.LINEAGE,
    )  # fmt: skip
    assert (ours.CHECKPOINTS, ours.LATEST, ours.INFO) == (
        checkpoints.FOLDER, checkpoints.LATEST, checkpoints.INFO,
    )  # fmt: skip
    assert (ours.RESTARTS, ours.TRACKING, ours.LOCK) == (restarts.RESTARTS, server_run.TRACKING, lock.LOCK)
    assert heartbeat.RANKS == "ranks"


def test_mfu_is_shown_with_the_rate_that_it_is_of(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", mfu=0.4125, matmul_flops_per_second=1.934e14)
    assert "  mfu            41.2% of 193 TFLOP/s" in page(facts(run))
    # Records of before the rate was in them.
    assert "  mfu " not in page(facts(make_run(tmp_path / "b", mfu=0.4125)))


def test_a_run_that_trains_shows_where_it_is_and_when_it_will_be_done(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    add_ranks(run)
    add_checkpoint(run, 100)
    found = facts(run)
    assert (found.state, found.step, found.steps) == ("training", 120, STEPS)
    assert (found.phase, found.phases) == (2, 2)
    assert found.steps_per_second == pytest.approx(2)
    assert found.sequences_per_second == pytest.approx(32)
    assert found.tokens_per_second == pytest.approx(1600)
    assert found.seconds_left == pytest.approx(440)
    assert found.loss == pytest.approx(8.76)
    assert found.held_out == {"step": 100, "loss": 8.0, "mlm_loss": 7.5, "nsp_loss": 0.5}
    assert found.checkpoint is not None
    assert (found.checkpoint["step"], found.checkpoint["bytes"], found.checkpoint["problem"]) == (
        100,
        5000,
        "",
    )
    assert (found.ranks_alive, found.ranks_expected, found.hosts, found.starts) == (2, 2, {"n1": 2}, 2)
    text = page(found)
    for said in (
        "a: training\n", "120 of 1,000 (12.0%), phase 2 of 2", "32.0 sequences/s, 1,600 tokens/s, 2.00 steps/s",
        "7 min 20 s, until about", "8.7600 (mlm 7.7600, 25.0% right; nsp 1.0000)", "step 100, 5.0 kB, 0 s ago, whole",
        "2 of 2 alive (n1 2)",
    ):  # fmt: skip
        assert said in text


def test_the_rate_leaves_out_the_time_between_two_starts(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", steps=60)
    text = (run / "metrics.jsonl").read_text()
    aged = [json.loads(line) for line in text.splitlines()]
    (run / "metrics.jsonl").write_text(
        "".join(json.dumps(line | {"time": line["time"] - 7200}) + "\n" for line in aged)
    )
    append_steps(run, 61, 120)
    assert facts(run).steps_per_second == pytest.approx(2)


@pytest.mark.parametrize(
    ("ended", "job", "state", "said"),
    [
        (
            {"exit_code": 138, "said": "stopped by SIGUSR1 after step 120"},
            "",
            "stopped",
            "stopped by SIGUSR1",
        ),
        ({"exit_code": 1, "said": "rank 0 lost another rank: gone"}, "", "failed", "lost another rank"),
        ({}, "", "killed", "without a word"),
        ({"exit_code": 138, "said": "x"}, "PENDING, BeginTime", "queued", "x"),
        ({}, "PENDING, Resources", "queued", ""),
        ({}, "COMPLETED", "killed", "without a word"),
    ],
)
def test_a_run_that_does_not_live_says_how_it_ended(
    ended: dict[str, Any], job: str, state: str, said: str, tmp_path: Path
) -> None:
    run = make_run(tmp_path / "a", ended={"slurm_job": "7"} | ended)
    found = facts(run, job7=job)
    assert (found.state, found.ranks_alive, found.seconds_left) == (state, 0, None)
    assert said in found.said
    assert "not running" in page(found)


def test_a_finished_run_is_finished_with_or_without_its_word(tmp_path: Path) -> None:
    for name, ended in (("said", {"exit_code": 0, "said": ""}), ("killed at its end", {})):
        assert facts(make_run(tmp_path / name, steps=STEPS, ended=ended)).state == "finished"


def test_a_rank_that_is_gone_and_a_run_that_stands_still_are_noted(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", time=time.time() - 600)
    add_ranks(run, ranks=1)
    notes = " ".join(facts(run).notes)
    assert "no sign of life of rank 1" in notes
    assert "no step for a while" in notes


def test_what_happened_to_data_and_updates_is_noted(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", branch=2, update_skipped=1, samples_lost=3)
    (run / "lineage.json").write_text(json.dumps({"data_changes": [{"step": 40, "changes": ["seed"]}]}))
    (run / "restarts.jsonl").write_text('{"job": "7", "step": 40, "reason": "was preempted"}\n{"job": "7"')
    found = facts(run)
    assert found.notes == [
        "the data changed after step 40",
        "rolled back 2 times",
        "1 update skipped in the last 120 steps, the latest at step 120",
        "3 pairs lost to damaged shards in the last 120 steps",
    ]
    assert "2; last requeued after step 40: was preempted" in page(found)


def test_a_checkpoint_that_is_not_whole_is_called_damaged(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    made = add_checkpoint(run, 100)
    (made / "weights.safetensors").write_bytes(b"x")
    assert "damaged: weights.safetensors has 1 bytes, 5000 were written" in page(facts(run))
    (made / "weights.safetensors").unlink()
    assert "damaged: weights.safetensors is missing" in page(facts(run))
    (made / "checkpoint.json").write_text("{")
    assert "damaged: its record checkpoint.json cannot be read" in page(facts(run))


def test_a_run_of_a_million_steps_is_read_from_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "a", steps=3)
    with (run / "metrics.jsonl").open("r+b") as file:
        # A gigabyte of steps before the last ones, as a hole in the file.
        last = file.read()
        file.seek(1 << 30)
        file.write(b"\n" + last + b'{"step": 4, "lo')
    assert facts(run).step == 3
    assert len(RunFiles(run).metrics) == 3


@given(
    text=st.one_of(st.binary(max_size=60), st.sampled_from([b"[]", b"{}", b"null", b"[[1]]", b'[{"step":"x"}]'])),
    name=st.sampled_from(
        ["metrics.jsonl", "environment.json", "lineage.json", "tracking.json", "restarts.jsonl",
         "checkpoints/latest/checkpoint.json", "ranks/rank-00000.json", ".lock"]
    ),
)  # fmt: skip
def test_whatever_a_file_holds_the_rest_is_shown(
    tmp_path_factory: pytest.TempPathFactory, text: bytes, name: str
) -> None:
    run = make_run(tmp_path_factory.mktemp("runs") / "a")
    add_ranks(run)
    add_checkpoint(run, 100)
    (run / name).write_bytes(text)
    found = facts(run)
    assert found.steps == STEPS
    assert page(found).startswith(f"{run}: ")
    json.dumps(found.__dict__)


def test_a_folder_that_is_half_made_is_shown_as_far_as_it_goes(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    assert facts(tmp_path).state == "new"
    (tmp_path / "environment.json").write_text('[{"ranks": 2}]')
    add_ranks(tmp_path, doing="starting")
    found = facts(tmp_path)
    assert (found.state, found.step, found.steps, found.ranks_alive) == ("starting", 0, 0, 2)
    assert "0 of 0" not in page(found)


@pytest.mark.parametrize("recipe", ["{", "", "text", "phases: 3", "phases: [1]", "\x00"])
def test_a_recipe_that_is_none_is_one_line(recipe: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    (run / "recipe.yaml").write_text(recipe)
    with pytest.raises(InputError) as refused:
        facts(run)
    assert "recipe.yaml" in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


def test_runs_lists_the_latest_first_in_columns_and_names_what_cannot_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_run(tmp_path / "older", ended={"exit_code": 143, "said": "x"})
    add_ranks(make_run(tmp_path / "a long name", steps=250))
    (make_run(tmp_path / "broken") / "recipe.yaml").write_text("{")
    (tmp_path / "notes").mkdir()
    for name, age in (("older", 3600), ("a long name", 0)):
        for path in (tmp_path / name).iterdir():
            os.utime(path, (time.time() - age,) * 2)
    run_list(RunsConfig(folders=(tmp_path,)))
    head, first, second, broken = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{tmp_path / 'a long name'}  training")
    assert second.startswith(f"{tmp_path / 'older'}        stopped")
    assert "250/1,000" in first
    assert first.endswith("2/2")
    assert (
        len({line.index(word) for line, word in ((head, "state"), (first, "train"), (second, "stop"))}) == 1
    )
    assert broken.startswith(f"{tmp_path / 'broken'}: cannot read")
    run_list(RunsConfig(folders=(tmp_path,), json=True))
    listed = json.loads(capsys.readouterr().out)
    assert [entry["run"].rsplit("/", 1)[1] for entry in listed] == ["a long name", "older", "broken"]
    assert table([], []) == ""


def test_slurm_is_asked_where_it_is_at_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "a", ended={"slurm_job": "7"})
    program = tmp_path / "squeue"
    program.write_text("#!/bin/sh\necho '6|RUNNING|None'\necho '7|PENDING|BeginTime'\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    found = read(run)
    assert (found.state, found.slurm) == ("queued", {"job": "7", "state": "PENDING, BeginTime"})
    assert "job 7 PENDING, BeginTime" in page(found)
    program.write_text("#!/bin/sh\nexit 1\n")
    assert read(run).state == "killed"


def test_watching_ends_with_the_run(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    add_ranks(run)
    command = [sys.executable, "-m", "pipeline.cli", "status", str(run), "--watch"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        assert watching.stdout.readline() == f"{run}: training\n"
        append_steps(run, 121, STEPS)
        heartbeat.clear(run)
        said = watching.communicate(timeout=20)[0]
    assert watching.returncode == 0
    assert f"{run}: finished\n" in said
    assert "\x1b" not in said


def test_status_loads_nothing_heavy(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    code = (
        "import atexit, sys; atexit.register(lambda: print('LOADED', *sys.modules))\n"
        "import pipeline.cli; pipeline.cli.main()"
    )
    for arguments in (["status", run], ["runs", tmp_path]):
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=True
        )
        loaded = done.stdout.partition("LOADED")[2].split()
        assert loaded
        assert {"torch", "mlflow", "deepspeed", "pyarrow", "numpy", "rich"} & set(loaded) == set()


def test_figures_are_said_as_a_person_says_them() -> None:
    assert [span(seconds) for seconds in (0, 42, 60, 185, 7800, 86400 * 9 + 8 * 3600)] == [
        "0 s", "42 s", "1 min", "3 min 5 s", "2 h 10 min", "9 d 8 h",
    ]  # fmt: skip
    assert [size(count) for count in (0, 999, 1300, 5_000_000, 1.3e9, 2.5e12)] == [
        "0 bytes", "999 bytes", "1.3 kB", "5.0 MB", "1.3 GB", "2.5 TB",
    ]  # fmt: skip
