"""The yardstick of `mfu`: what all ranks' devices do of matrix products, measured at the same time."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.training import matrix_rate
from pipeline.training.matrix_rate import cpu_size, matmul_rate


def test_the_rate_is_the_sum_of_what_the_ranks_measured_after_they_had_met(monkeypatch: object) -> None:
    met = []

    def sum_over_two(values: list[float], device: str) -> list[float]:
        met.append(values[0])
        return [2 * value for value in values]

    monkeypatch.setattr(matrix_rate, "sum_over_ranks", sum_over_two)  # type: ignore[attr-defined]
    rate = matmul_rate("cpu", "fp32")
    before, own = met
    assert before == 0
    assert rate == 2 * own > 0


@given(st.integers(1, 1024))
def test_each_thread_of_a_cpu_has_as_much_to_compute_as_one_alone(threads: int) -> None:
    size = cpu_size(threads)
    assert cpu_size(1) ** 2 <= size**2 / threads < 4 * cpu_size(1) ** 2
