"""The learning rate: a line up, a line down, no state."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.phase import Phase
from pipeline.training.schedule import learning_rate


def phase(**values: float) -> Phase:
    fixed = {"shards": "S", "sequence_length": 128, "global_batch": 8, "micro_batch": 8}
    return Phase(**(fixed | {"steps": 100, "learning_rate": 1e-3, "warmup_steps": 10} | values))  # type: ignore[arg-type]


def test_it_rises_to_the_peak_and_falls_to_the_end() -> None:
    given_phase = phase(final_learning_rate=1e-4)
    rates = [learning_rate(given_phase, step) for step in range(100)]
    assert rates[0] == pytest.approx(1e-4)
    assert max(rates) == pytest.approx(1e-3)
    assert rates.index(max(rates)) in (9, 10)
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    # The step after the last would stand at the end itself.
    assert rates[-1] - 1e-4 == pytest.approx((1e-3 - 1e-4) / 90)


@given(st.integers(1, 1000), st.data())
def test_every_step_learns_and_none_exceeds_the_peak(steps: int, data: st.DataObject) -> None:
    warmup = data.draw(st.integers(0, steps))
    given_phase = phase(steps=steps, warmup_steps=warmup)
    for step in range(steps):
        assert 0 < learning_rate(given_phase, step) <= 1e-3


def test_phases_can_continue_one_line() -> None:
    whole = phase(steps=200, warmup_steps=0)
    first = phase(steps=120, warmup_steps=0, final_learning_rate=1e-3 * 80 / 200)
    second = phase(steps=80, warmup_steps=0, learning_rate=1e-3 * 80 / 200)
    joined = [learning_rate(first, step) for step in range(120)] + [
        learning_rate(second, step) for step in range(80)
    ]
    assert joined == pytest.approx([learning_rate(whole, step) for step in range(200)])
