"""What is run on a GPU where there is one runs on a CPU as well, so that it is sound when one is lent."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("transformers")
FOLDER = Path(__file__).resolve().parents[2] / "benchmarks" / "gpu"


def run(script: str, *arguments: str) -> str:
    command = [sys.executable, str(FOLDER / script), "--device", "cpu", "--backend", "aot_eager", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_check_holds_on_a_cpu():
    lines = run("check.py").splitlines()[1:]
    assert len(lines) == 24
    assert all(line.startswith("    ok  ") for line in lines), lines


def test_the_step_is_measured_on_every_side():
    said = run(
        "step.py",
        "--preset",
        "tiny",
        "--sizes",
        "32:4",
        "--fill",
        "32:1.0",
        "--rounds",
        "1",
        "--warm-up",
        "1",
        "--matrix",
        "64",
    )
    for words in (
        "TFLOP/s in products of 64",
        "bertpipe:",
        "compiled:",
        "engine:",
        "pure bf16",
        "transformers:",
        "MFU on real tokens",
    ):
        assert words in said
    assert said.count("times the sequences/s of transformers") == 3
    assert "fill 1.00" in said
