"""An op built beforehand is taken up where there is neither compiler nor ninja (a real build: minutes)."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
JSON = '{"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}}'
# DeepSpeed's Adam against torch's, a few steps.
PROGRAM = """
import sys
from pipeline.training.ops import check_ops, load_needed
from pipeline.training.settings import read_settings
settings = read_settings(sys.argv[1])
check_ops(settings)
load_needed(settings)
import torch
from deepspeed.ops.adam import DeepSpeedCPUAdam
ours, theirs = (torch.nn.Parameter(torch.ones(1000)) for _ in range(2))
adams = (DeepSpeedCPUAdam([ours], lr=0.1, weight_decay=0.01, adamw_mode=True),
         torch.optim.AdamW([theirs], lr=0.1, weight_decay=0.01))
for _ in range(3):
    for weight, adam in zip((ours, theirs), adams):
        weight.grad = torch.sin(torch.arange(1000.0))
        adam.step()
torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
print("same")
"""


@pytest.mark.timeout(900)
def test_an_op_that_doctor_prepared_loads_without_a_compiler(tmp_path: Path) -> None:
    (tmp_path / "own.json").write_text(JSON)
    (tmp_path / "recipe.yaml").write_text((ROOT / "recipes" / "tiny.yaml").read_text())
    command = [sys.executable, "-m", "pipeline.cli", "doctor", "--prepare", "--extensions", "ext"]
    command += ["--recipe", "recipe.yaml", "deepspeed=own.json"]
    options: dict[str, Any] = {"cwd": tmp_path, "text": True, "capture_output": True, "check": False}
    options["env"] = os.environ | {"PYTHONPATH": str(ROOT)}
    prepared = subprocess.run(command, timeout=800, **options)
    assert prepared.returncode == 0, prepared.stderr
    assert "cpu_adam: built in" in prepared.stderr
    again = subprocess.run(command, timeout=60, **options)
    assert "cpu_adam: built already" in again.stderr

    (tmp_path / "empty").mkdir()
    bare = {"PATH": str(tmp_path / "empty"), "PYTHONPATH": str(ROOT), "HOME": str(tmp_path)}
    options["env"] = bare | {"TORCH_EXTENSIONS_DIR": str(tmp_path / "ext")}
    used = subprocess.run([sys.executable, "-c", PROGRAM, "own.json"], timeout=120, **options)
    assert used.stdout == "same\n", used.stderr
    options["env"] = bare | {"TORCH_EXTENSIONS_DIR": str(tmp_path / "empty")}
    refused = subprocess.run([sys.executable, "-c", PROGRAM, "own.json"], timeout=120, **options)
    assert "bertpipe doctor --prepare" in refused.stderr
