"""What is noted of the machine and of the code."""

import json
import subprocess
from pathlib import Path

import pytest

from pipeline.tracking.git_state import code_and_folder, git_state
from pipeline.tracking.spool import read_lines
from pipeline.tracking.system import Sampler, gpu_figures


def test_samples_are_numbered_on_after_a_restart_and_a_torn_line_is_cut(tmp_path: Path) -> None:
    for _ in range(2):
        sampler = Sampler(tmp_path, "n1")
        sampler.sample()
        sampler.sample()
        with (tmp_path / "system" / "n1.jsonl").open("a") as file:
            file.write('{"step": 99, "ti')
    samples = read_lines(tmp_path / "system" / "n1.jsonl")
    assert [sample["step"] for sample in samples] == [1, 2, 3, 4]
    assert all(0 < sample["system_memory_usage_percentage"] < 100 for sample in samples)


def test_a_disk_that_refuses_a_sample_costs_only_that(tmp_path: Path) -> None:
    (tmp_path / "system").write_text("in the way")
    Sampler(tmp_path, "n1").sample()


def test_what_a_gpu_does_not_know_is_left_out() -> None:
    said = "0, 87, 40960, 81920, 301.55\n1, [N/A], 0, 81920, [Not Supported]\n"
    assert gpu_figures(said) == {
        "gpu_0_utilization_percentage": 87.0,
        "gpu_0_memory_usage_megabytes": 42949.7,
        "gpu_0_power_usage_watts": 301.6,
        "gpu_0_memory_usage_percentage": 50.0,
        "gpu_1_memory_usage_megabytes": 0.0,
        "gpu_1_memory_usage_percentage": 0.0,
    }
    assert gpu_figures("") == {}


def test_a_checkouts_commit_is_told_and_whether_it_was_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert git_state(tmp_path) == {}
    monkeypatch.chdir(tmp_path)
    assert "folder" not in code_and_folder()
    for command in ("init -q -b main", "config user.email a@b", "config user.name a"):
        subprocess.run(["git", *command.split()], cwd=tmp_path, check=True)
    (tmp_path / "file").write_text("1")
    for command in ("add file", "commit -q -m x"):
        subprocess.run(["git", *command.split()], cwd=tmp_path, check=True)
    found = git_state(tmp_path)
    assert (found["branch"], found["dirty"], len(found["commit"])) == ("main", False, 40)
    (tmp_path / "file").write_text("2")
    assert code_and_folder()["folder"] == found | {"dirty": True}
    assert json.dumps(found)
