"""The benchmark of attention's forms holds them against each other before it times them."""

import re
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "attention.py"


def test_every_form_is_timed():
    sizes = ("--batch", "6", "--length", "48", "--heads", "2", "--rounds", "1", "--threads", "1")
    command = [sys.executable, str(SCRIPT), *sizes]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    timed = re.findall(r"(\w+): +[\d.]+ ms, +[\d.]+ times as fast as the grid", done.stdout)
    assert timed == ["grid", "bands", "alone", "blocks", "jagged"]
