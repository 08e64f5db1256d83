"""`compile: true` in a whole run: the engine, evaluation, a resume and a profile, all on compiled layers."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from workshop import processes

COMPILER = any(map(shutil.which, ("g++", "clang++", "c++")))


@pytest.mark.long
@pytest.mark.skipif(not COMPILER, reason="torch compiles for CPUs with a C++ compiler")
def test_a_compiled_run_learns_what_a_plain_one_does_and_resumes_to_the_last_bit(
    recipe: dict[str, Any], write_recipe: Any, cli: Any, tmp_path: Path
) -> None:
    recipe["precision"] = "bf16"
    recipe["model"] |= {"hidden_size": 32, "intermediate_size": 64, "heads": 2, "layers": 2}
    # Compiled layers draw other masks.
    recipe["model"] |= {"hidden_dropout": 0.0, "attention_dropout": 0.0}
    recipe["phases"][0] |= {"steps": 6, "warmup_steps": 2}
    recipe |= {"checkpoint": {"every": 3, "keep_last": 2}, "evaluate": {"every": 3, "sequences": 32}}
    path, plain, compiled = write_recipe(recipe), tmp_path / "plain", tmp_path / "compiled"

    def train(run: Path, *arguments: str) -> str:
        done = cli("pretrain", path, f"run={run}", *arguments)
        assert done.returncode == 0, done.stderr
        return str(done.stderr)

    train(plain)
    said = train(compiled, "compile=true", "--profile")
    assert "warning" not in said
    wanted, found = processes.learned(plain), processes.learned(compiled)
    assert len(found) == 6
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.keys() == theirs.keys()
        # Fused, a layer rounds to bf16's 8 bits at other places.
        for name in (name for name in ours if name.endswith("loss")):
            assert ours[name] == pytest.approx(theirs[name], rel=5e-3), name
        assert ours["gradient_norm"] == pytest.approx(theirs["gradient_norm"], rel=5e-2)
    parts = json.loads((compiled / "profile" / "profile.json").read_text())["time"]["parts"]
    assert parts["forward: attention"] > 0

    shutil.rmtree(compiled / "checkpoints" / "step-00000006")
    assert "after step 3" in train(compiled, "compile=true")
    assert processes.learned(compiled) == found
