"""`benchmarks/ranks.py` reckons with steps of all ranks at once, and counts as held up what messages alone hold up."""

import importlib.util
import sys
from argparse import Namespace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def loaded(path: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(path).stem, BENCHMARKS / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    before = list(sys.path)
    sys.path.insert(0, str(BENCHMARKS))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path[:] = before
    return module


def steps(begins: list[float], **held_up: float) -> list[dict[str, Any]]:
    return [{"began": began, "held_up": held_up} for began in begins]


def test_only_steps_that_all_runs_were_there_for_count() -> None:
    ranks = loaded("ranks.py")
    # The second begins five seconds later and is quick once it is alone.
    first = steps([float(second) for second in range(12)])
    second = steps([5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0, 11.1, 11.2, 11.3])
    found = ranks.found(Namespace(batch=64), ranks.CEILING, [first, second])
    assert found.sequences_per_second == pytest.approx(2 * 64)


def test_what_holds_up_a_pair_is_what_holds_up_the_later_one() -> None:
    ranks = loaded("ranks.py")
    begins = [0.5 * number for number in range(10)]
    pair = [steps(begins, gradients=0.2, round=0.1), steps(begins, gradients=0.05)]
    found = ranks.found(Namespace(batch=64), ranks.Case(ranks=2, threads=1), pair)
    assert found.sequences_per_second == pytest.approx(64 / 0.5)
    assert found.held_up == pytest.approx({"gradients": 0.1, "round": 0.0, "update": 0.0})


def test_waiting_for_a_message_counts_and_computing_meanwhile_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = loaded("parts/timed_rank.py")
    now = 0.0

    def pass_by(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(module, "time", Namespace(perf_counter=lambda: now))
    clock = module.Clock()

    class Work:
        def __init__(self) -> None:
            pass_by(1)

        def wait(self) -> None:
            pass_by(2)

    class Owner:
        def part(self) -> None:
            work = clock.timed(Work)()
            pass_by(50)  # computing
            work.wait()

    clock.within(Owner, "part", "gradients")
    Owner().part()
    assert clock.held_up == {"gradients": 3}
