"""The command line: quick, honest about defaults, one line for an error."""

import dataclasses
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import pytest

from pipeline.cli import main
from pipeline.corpus.sharding import ShardConfig
from pipeline.corpus.vocab import VocabConfig

COMMANDS = (
    "vocab", "shard", "inspect", "pretrain", "status", "runs", "evaluate", "convert", "demo", "doctor", "recipe",
    "requeue",
)  # fmt: skip


def test_commands_stand_in_the_roads_order() -> None:
    assert tuple(main.list_commands(click.Context(main))) == COMMANDS


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_answers_without_loading_a_stage(command: str, cli: Any) -> None:
    code = f"import sys; sys.argv = ['bertpipe', *{command.split()!r}, '--help']\n" + (
        "import atexit, pipeline.cli\n"
        "atexit.register(lambda: print('LOADED', *sys.modules))\n"
        "pipeline.cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    printed, loaded = done.stdout.split("LOADED")
    assert "Usage:" in printed
    assert {"torch", "numpy", "pyarrow", "mlflow", "deepspeed"} & set(loaded.split()) == set()


@pytest.mark.parametrize(("command", "config"), [("vocab", VocabConfig), ("shard", ShardConfig)])
def test_the_defaults_that_help_shows_are_the_stages_own(command: str, config: type) -> None:
    fields = dataclasses.fields(config)
    own = {field.name: field.default for field in fields if field.default is not dataclasses.MISSING}
    shown = main.commands[command].params
    compared = 0
    for parameter in shown:
        if isinstance(parameter, click.Option) and parameter.name in own and not parameter.required:
            shown_default = parameter.get_default(click.Context(main))
            # click marks "no default" with a sentinel of its own.
            plain = shown_default if isinstance(shown_default, str | int | float) else None
            assert plain == own[parameter.name], parameter.name
            compared += 1
    assert compared >= 6


@pytest.mark.parametrize("closed", ["2>&-", "2>/dev/full", "2>&1 | true"])
def test_the_exit_code_stands_where_nobody_reads_the_error(closed: str, tmp_path: Path) -> None:
    for arguments in ("pretrain missing.yaml", "pretrain --nope", "--nope"):
        command = f"set -o pipefail; {sys.executable} -m pipeline.cli {arguments} {closed}"
        done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, check=False)
        assert done.returncode == 2


@pytest.mark.parametrize("buffered", ["", "1"])
def test_a_result_that_finds_no_room_is_one_line(buffered: str, shards: Path, tmp_path: Path) -> None:
    for arguments in (f"inspect {shards}", "--help", "inspect --help"):
        command = f"{sys.executable} -m pipeline.cli {arguments} > /dev/full"
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=tmp_path,
            env=os.environ | {"PYTHONUNBUFFERED": buffered},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1
        assert done.stderr.startswith("bertpipe: ")
        assert "has no space left" in done.stderr
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("buffered", ["", "1"])
def test_a_reader_who_has_seen_enough_gets_no_traceback(buffered: str, shards: Path) -> None:
    command = f"{sys.executable} -m pipeline.cli inspect {shards} --json | true"
    environment = os.environ | {"PYTHONUNBUFFERED": buffered}
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, "")


def test_ctrl_c_in_a_stage_says_how_to_go_on(python_english: Path, tmp_path: Path) -> None:
    import signal

    text = python_english.read_text(encoding="utf-8")
    (tmp_path / "many.txt").write_text("\n\n".join(re.sub(r"\ba\b", str(n), text) for n in range(12)))
    command = [sys.executable, "-m", "pipeline.cli", "shard", "many.txt", "-o", "OUT", "--vocab-size", "2000"]
    # A shell that runs the tests in the background has its children ignore SIGINT, as a person's doesn't.
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    until = time.monotonic() + 60
    while not (tmp_path / "OUT" / ".work").exists() and time.monotonic() < until:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130, said
    assert "run the same command again to continue" in said
    assert "Traceback" not in said
    assert not (tmp_path / "OUT" / "manifest.json").exists()
