"""A step that guards reject changes neither weights nor optimizer state, whatever DeepSpeed divides and where."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[1] / "workshop" / "left_out.py"


@pytest.fixture(scope="module")
def found() -> dict[str, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, SCRIPT],
        text=True,
        capture_output=True,
        timeout=200,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    answers: dict[str, dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    assert len(answers) == 14
    return answers


@pytest.mark.xdist_group("left out")
def test_a_step_that_is_left_out_changes_nothing_under_any_configuration(found: dict[str, Any]) -> None:
    assert {name: answer["left out"] for name, answer in found.items()} == dict.fromkeys(found, True)
    assert all(answer["norm of one left out"] > answer["norm"] for answer in found.values())


@pytest.mark.xdist_group("left out")
@pytest.mark.parametrize("kind", ["nan", "inf"])
def test_a_gradient_that_is_no_number_is_told_and_changes_nothing(found: dict[str, Any], kind: str) -> None:
    assert {name: answer[kind] for name, answer in found.items()} == dict.fromkeys(found, True)
    assert {answer[f"norm of {kind}"] for answer in found.values()} <= {"nan", "inf"}


@pytest.mark.xdist_group("left out")
def test_the_step_after_it_is_made_as_ever(found: dict[str, Any]) -> None:
    assert {name: answer["moves again"] for name, answer in found.items()} == dict.fromkeys(found, True)
    assert all(0 < answer["norm after"] < 100 for answer in found.values())
