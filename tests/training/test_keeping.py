"""Which checkpoints stay: the newest, those of round steps, the best; and the links that name them."""

import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from pipeline.policies import CheckpointPolicy
from pipeline.training.checkpoints import CheckpointInfo, name_of, write_info
from pipeline.training.keeping import point, prune


def info(step: int, held_out: float | None) -> CheckpointInfo:
    figures = {} if held_out is None else {"mlm_loss": held_out, "mlm_accuracy": 0.5, "step": step}
    return CheckpointInfo(
        step=step, samples=0, tokens=0, held_out=figures, world_size=1, zero_stage=1, recipe={}, model={},
        vocabulary={}, shards=[], versions={},
    )  # fmt: skip


def add(checkpoints: Path, step: int, held_out: float | None, policy: CheckpointPolicy) -> None:
    folder = checkpoints / name_of(step)
    folder.mkdir()
    write_info(folder, info(step, held_out))
    point(checkpoints, "latest", folder.name)
    prune(checkpoints, folder, policy)


def steps_in(checkpoints: Path) -> set[int]:
    return {int(path.name[5:]) for path in checkpoints.glob("step-*")}


@given(
    st.lists(st.one_of(st.none(), st.floats(0.5, 10)), min_size=1, max_size=12),
    st.integers(1, 3),
    st.sampled_from((0, 20, 30)),
    st.integers(0, 2),
)
def test_the_newest_the_round_and_the_best_stay_and_no_others(
    tmp_path_factory: object, losses: list[float | None], last: int, every: int, best: int
) -> None:
    checkpoints = Path(tmp_path_factory.mktemp("run"))  # type: ignore[attr-defined]
    policy = CheckpointPolicy(every=10, keep_last=last, keep_every=every, keep_best=best)
    there: set[int] = set()
    known: dict[int, float] = {}
    for number, loss in enumerate(losses, start=1):
        step = 10 * number
        add(checkpoints, step, loss, policy)
        there.add(step)
        if loss is not None:
            known[step] = loss
        judged = sorted((known[each], each) for each in there if each in known)
        wanted = {each for _, each in judged[:best]} | set(sorted(there)[-last:])
        wanted |= {each for each in there if every and each % every == 0}
        there = wanted
        assert steps_in(checkpoints) == wanted
        assert os.readlink(checkpoints / "latest") == name_of(step)
        if best and judged:
            assert os.readlink(checkpoints / "best") == name_of(judged[0][1])
            assert (checkpoints / "best" / "checkpoint.json").exists()


def test_a_damaged_record_is_nobodys_best_and_keeps_nothing_from_going(tmp_path: Path) -> None:
    policy = CheckpointPolicy(every=10, keep_last=1, keep_best=1)
    add(tmp_path, 10, 1.0, policy)
    (tmp_path / name_of(10) / "checkpoint.json").write_text("{")
    add(tmp_path, 20, 2.0, policy)
    assert steps_in(tmp_path) == {20}
    assert os.readlink(tmp_path / "best") == name_of(20)


def test_what_a_cut_short_write_left_is_cleared_away(tmp_path: Path) -> None:
    (tmp_path / ".step-00000005.tmp" / "engine").mkdir(parents=True)
    (tmp_path / ".step-00000004.old").mkdir()
    add(tmp_path, 10, None, CheckpointPolicy())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step-00000010"]
