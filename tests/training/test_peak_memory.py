"""The most that a process held, from a moment on."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.training.peak_memory import PeakMemory

SIZE = 200 << 20


def test_the_peak_counts_what_came_after_the_reset_and_nothing_that_was_gone_by_then() -> None:
    peak = PeakMemory("cpu")
    peak.reset()
    before = peak.read()
    if before is None:
        pytest.skip("this system keeps no record that can be reset")
    np.ones(SIZE, dtype=np.uint8).sum()
    held = peak.read()
    peak.reset()
    after = peak.read()
    assert held is not None
    assert after is not None
    assert held - before > 0.9 * SIZE
    assert after - before < 0.5 * SIZE
    assert peak.kind == "resident"


def test_where_the_record_cannot_be_reset_nothing_is_claimed(tmp_path: Path) -> None:
    (tmp_path / "status").write_text("VmHWM:\t  1234 kB\n")
    (tmp_path / "clear_refs").mkdir()
    peak = PeakMemory("cpu", tmp_path)
    peak.reset()
    assert peak.read() is None
    assert peak.kind == ""
