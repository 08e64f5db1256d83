"""When a job starts again by itself."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import RunFailed
from pipeline.training.restarts import RESTARTS, decide, newest_step, read_restarts


def reach(run: Path, step: int) -> None:
    (run / "checkpoints" / f"step-{step:08d}").mkdir(parents=True, exist_ok=True)


@pytest.mark.parametrize(
    ("code", "preempted", "again", "said"),
    [
        (0, False, False, "is done"),
        (2, False, False, "was refused"),
        (130, False, False, "was ended by a person; submit again"),
        (143, False, False, "was ended by a person; submit again"),
        (143, True, True, "was preempted; it continues after step 40"),
        (138, False, True, "has used up its time; it continues after step 40"),
        (1, False, True, "failed with exit code 1; it continues after step 40"),
        (137, False, True, "failed with exit code 137; it continues after step 40"),
        (139, False, True, "failed with exit code 139"),
    ],
)
def test_the_exit_code_says_whether_a_job_starts_again(
    code: int, preempted: bool, again: bool, said: str, tmp_path: Path
) -> None:
    reach(tmp_path, 40)
    decision = decide(tmp_path, code=code, job="7", limit=3, preempted=preempted)
    assert decision.again is again
    assert decision.why.startswith(said)
    assert len(read_restarts(tmp_path)) == again


@pytest.mark.parametrize("code", [1, 137, 138])
def test_starts_that_add_no_checkpoint_come_to_an_end_and_those_that_do_never(
    code: int, tmp_path: Path
) -> None:
    def fail(job: str = "7") -> Any:
        return decide(tmp_path, code=code, job=job, limit=2)

    for step in range(0, 50, 10):
        reach(tmp_path, step)
        assert fail().again
    assert [fail().again, fail().again] == [True, False]
    assert "started 3 times without a checkpoint after that of step 40" in fail().why
    # Submitted anew, it has its tries again.
    assert [fail("8").again, fail("8").again, fail("8").again] == [True, True, False]
    reach(tmp_path, 50)
    assert fail("8").again


@given(st.lists(st.sampled_from(["fails", "advances"]), max_size=30), st.integers(0, 4))
def test_it_ends_after_exactly_so_many_failures_in_a_row(
    tmp_path_factory: pytest.TempPathFactory, story: list[str], limit: int
) -> None:
    run = tmp_path_factory.mktemp("run")
    step = vain = 0
    for event in story:
        if event == "advances":
            step, vain = step + 1, 0
            reach(run, step)
            continue
        assert decide(run, code=1, job="7", limit=limit).again is (vain < limit)
        if vain >= limit:
            return
        vain += 1


def test_a_run_that_failed_before_it_had_a_folder_is_tried_again_too(tmp_path: Path) -> None:
    run = tmp_path / "RUNS" / "new"
    assert decide(run, code=1, job="7", limit=1).again
    assert not decide(run, code=1, job="7", limit=1).again
    assert newest_step(run) == 0


def test_a_folder_that_cannot_be_written_is_no_reason_to_try_for_ever(tmp_path: Path) -> None:
    (tmp_path / RESTARTS).mkdir()
    with pytest.raises(RunFailed, match="submit again by hand"):
        decide(tmp_path, code=1, job="7", limit=3)


def test_the_command_answers_by_its_exit_code(tmp_path: Path, shards: Path, cli: Any) -> None:
    import yaml

    from workshop.recipes import small_recipe

    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(small_recipe("RUNS/a", shards)))
    yes = cli("requeue", "recipe.yaml", "--code", 138, "run=RUNS/b", cwd=tmp_path)
    assert (yes.returncode, yes.stdout) == (
        0,
        "RUNS/b has used up its time; it continues after step 0\n",
    )
    no = cli("requeue", "recipe.yaml", "--code", 1, "--limit", 0, cwd=tmp_path)
    assert no.returncode == 1
    assert no.stdout.startswith("RUNS/a started 1 time without a checkpoint")
    assert len(read_restarts(tmp_path / "RUNS/b")) == 1
