"""Signs of life: what readers on this node and on others may conclude from them."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.process_identity import is_alive, this_process
from pipeline.training.heartbeat import RANKS, beating, clear, read_ranks, seconds_between_beats
from pipeline.training.world import World


def world(rank: int, size: int = 2) -> World:
    return World(rank=rank, size=size, local_rank=rank, local_size=size, address="127.0.0.1", port=1)


def leave_sign(run: Path, **changes: Any) -> None:
    """A sign of rank 0 as another node leaves it."""
    (run / RANKS).mkdir(exist_ok=True)
    now = time.time()
    sign = {"rank": 0, "step": 5, "doing": "training", "since": now, "time": now, "every": 10.0}
    record = this_process() | {"boot": "another", "host": "n7"} | sign | changes
    (run / RANKS / "rank-00000.json").write_text(json.dumps(record))


def test_a_rank_is_alive_while_it_works_and_leaves_nothing_when_it_ends(tmp_path: Path) -> None:
    with beating(tmp_path, world(0), every=0.02) as pulse, beating(tmp_path, world(1), every=0.02):
        pulse.at(7, "evaluating")
        until = time.monotonic() + 20
        while [rank["doing"] for rank in read_ranks(tmp_path)] != ["evaluating", "starting"]:
            assert time.monotonic() < until
            time.sleep(0.01)
        first, second = read_ranks(tmp_path)
        assert (first["rank"], first["step"], first["alive"]) == (0, 7, True)
        assert (second["rank"], second["step"], second["alive"]) == (1, 0, True)
    assert list((tmp_path / RANKS).iterdir()) == []


def test_other_work_is_told_long_before_the_next_beat(tmp_path: Path) -> None:
    with beating(tmp_path, world(0)) as pulse:
        until = time.monotonic() + 8
        for doing in ("training", "saving"):
            pulse.at(3, doing)
            while [rank["doing"] for rank in read_ranks(tmp_path)] != [doing]:
                assert time.monotonic() < until
                time.sleep(0.01)


def test_a_rank_that_raises_takes_its_sign_with_it(tmp_path: Path) -> None:
    def work() -> None:
        with beating(tmp_path, world(0), every=0.02):
            raise KeyError

    with pytest.raises(KeyError):
        work()
    assert read_ranks(tmp_path) == []


def test_a_disk_that_refuses_costs_the_sign_and_not_the_training(tmp_path: Path) -> None:
    (tmp_path / RANKS).write_text("a file where a folder should be")
    with beating(tmp_path, world(0), every=0.01) as pulse:
        pulse.at(1, "training")
        time.sleep(0.05)
    assert read_ranks(tmp_path) == []


def test_a_rank_of_another_node_is_judged_by_the_age_of_its_sign(tmp_path: Path) -> None:
    for age, alive in ((0, True), (35, True), (60, False)):
        leave_sign(tmp_path, time=time.time() - age)
        (rank,) = read_ranks(tmp_path)
        assert rank["alive"] is alive
    # A thousand ranks beat less often.
    leave_sign(tmp_path, time=time.time() - 60, every=40.0)
    assert read_ranks(tmp_path)[0]["alive"]


def test_a_rank_of_this_node_that_was_killed_is_dead_at_once(tmp_path: Path) -> None:
    leave_sign(tmp_path, **(this_process() | {"pid": 4_194_303}))
    assert not read_ranks(tmp_path)[0]["alive"]
    # Another process that got its number later is not taken for it.
    assert is_alive(this_process()) is True
    assert is_alive(this_process() | {"began": "1"}) is False
    assert is_alive(this_process() | {"boot": "another"}) is None


def test_a_new_start_forgets_the_ranks_of_the_one_before(tmp_path: Path) -> None:
    clear(tmp_path)
    leave_sign(tmp_path)
    clear(tmp_path)
    assert read_ranks(tmp_path) == []


def test_what_is_no_sign_of_life_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / RANKS).mkdir()
    for number, content in enumerate(("", "{", "[]", "{}", '{"rank": "x", "time": 1}', "\x00")):
        (tmp_path / RANKS / f"rank-{number:05d}.json").write_text(content)
    (tmp_path / RANKS / "rank-00009.json").write_bytes(b"\xff")
    (tmp_path / RANKS / "rank-00010.json").mkdir()
    assert read_ranks(tmp_path) == []


@given(ranks=st.integers(1, 100_000))
def test_however_many_ranks_there_are_the_disk_sees_at_most_fifty_signs_a_second(ranks: int) -> None:
    assert ranks / seconds_between_beats(ranks) <= 50
    assert seconds_between_beats(ranks) >= 10
