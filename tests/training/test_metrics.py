"""`metrics.jsonl`: every step once, cut where the checkpoint stands, at a price that doesn't grow with the run."""

import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from pipeline.training.metrics import METRICS, MetricsLog, NoLog, open_log, read_after, read_metrics


def write(run: Path, steps: int, *, pad: int = 0, torn: str = "") -> None:
    lines = [
        json.dumps({"step": step, "note": "x" * (pad * step % 97)}) + "\n" for step in range(1, steps + 1)
    ]
    (run / METRICS).write_text("".join(lines) + torn)


@given(
    steps=st.integers(0, 60),
    after=st.integers(0, 80),
    pad=st.integers(0, 40),
    torn=st.sampled_from(["", '{"st', '{"step": 999}']),
)
def test_a_log_begins_after_its_checkpoint_and_what_was_torn_is_gone(
    tmp_path_factory: object, steps: int, after: int, pad: int, torn: str
) -> None:
    run: Path = tmp_path_factory.mktemp("run")  # type: ignore[attr-defined]
    write(run, steps, pad=pad, torn=torn)
    assert [line["step"] for line in read_after(run, after)][:steps] == list(range(after + 1, steps + 1))
    with MetricsLog(run, after=after) as log:
        log.append({"step": after + 1})
    kept = list(range(1, min(steps, after) + 1))
    assert [line["step"] for line in read_metrics(run)] == [*kept, after + 1]


def test_cutting_reads_a_few_lines_of_a_long_record(tmp_path: Path, monkeypatch: object) -> None:
    from pipeline.tracking import spool

    write(tmp_path, 20_000)
    looked = 0
    honest = spool.place_of

    def counting(line: bytes) -> tuple[float, float]:
        nonlocal looked
        looked += 1
        return honest(line)

    spool.place_of = counting
    try:
        assert len(read_after(tmp_path, 19_990)) == 10
    finally:
        spool.place_of = honest
    assert looked < 40


def test_other_ranks_write_nothing(tmp_path: Path) -> None:
    with open_log(tmp_path, after=0, is_first=False) as log:
        log.append({"step": 1})
        log.sync()
    assert isinstance(log, NoLog)
    assert list(tmp_path.iterdir()) == []
