"""Local ranks are stopped at any moment of their start, and nobody has to watch them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import Stopped
from pipeline.training import launch
from pipeline.training.metrics import read_metrics
from workshop import processes


@pytest.mark.parametrize(
    ("sent", "wait"),
    [(signal.SIGINT, 0.0), (signal.SIGINT, 0.4), (signal.SIGTERM, 1.5), (signal.SIGINT, 4.0)],
)
def test_ranks_that_are_stopped_while_they_start_end_at_once_and_quietly(
    recipe: dict[str, Any], write_recipe: Any, sent: signal.Signals, wait: float
) -> None:
    recipe["phases"][0]["steps"] = 100_000
    run = Path(recipe["run"])
    process = processes.begin(write_recipe(recipe), f"run={run}", "--ranks", 2)
    until = time.monotonic() + 60
    while len(processes.processes_of(run)) < 2:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < until, "no rank was started"
        time.sleep(0.005)
    time.sleep(wait)
    process.send_signal(sent)
    said = process.communicate(timeout=40)[0]
    assert process.returncode == 128 + sent, said
    assert "Traceback" not in said
    assert said.count("run the same command again to continue") == 1, said
    assert f"stopped by {sent.name}" in said
    assert processes.processes_of(run) == []


def test_a_signal_that_comes_while_a_rank_is_spawned_reaches_it_and_spawns_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started: list[subprocess.Popen[bytes]] = []
    spawn = subprocess.Popen

    def interrupted(_: list[str], **options: Any) -> "subprocess.Popen[bytes]":
        os.kill(os.getpid(), signal.SIGTERM)
        sleeper = "import signal, time; signal.pthread_sigmask(signal.SIG_UNBLOCK, {15}); time.sleep(60)"
        started.append(spawn([sys.executable, "-c", sleeper], **options))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", interrupted)
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped, match="stopped by SIGTERM"):
        launch.launch(["pretrain"], 3)
    assert [child.returncode for child in started] == [-signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) == handler


def test_a_stop_signal_explains_ranks_that_failed_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    # One rank ends by the signal; another loses it and fails, as ranks do, with exit code 1.
    monkeypatch.setattr(
        launch,
        "_RANK",
        "import os, signal, sys, time\n"
        "signal.pthread_sigmask(signal.SIG_UNBLOCK, {15})\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))\n"
        "os.environ['RANK'] == '1' and os.kill(os.getppid(), signal.SIGTERM)\n"
        "time.sleep(60)\n",
    )
    with pytest.raises(Stopped) as stopped:
        launch.launch([], 2)
    assert stopped.value.exit_code == 143


def test_a_terminal_that_was_closed_costs_the_display_only(recipe: dict[str, Any], write_recipe: Any) -> None:
    recipe["evaluate"]["every"] = 1
    recipe["phases"][0] |= {"steps": 2, "warmup_steps": 1}
    command = [
        sys.executable,
        "-m",
        "pipeline.cli",
        "pretrain",
        str(write_recipe(recipe)),
        "--ranks",
        "2",
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    process.stderr.close()
    assert process.wait(timeout=120) == 0
    assert len(read_metrics(Path(recipe["run"]))) == 2
