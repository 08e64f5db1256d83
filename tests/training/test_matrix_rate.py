"""The yardstick of `mfu`: what all ranks' devices do of matrix products, measured at the same time."""

from types import SimpleNamespace

import pytest
import torch
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


@given(st.integers(1, 16))
def test_each_thread_of_a_cpu_has_as_much_to_compute_as_one_alone(threads: int) -> None:
    size = cpu_size(threads)
    assert cpu_size(1) ** 2 <= size**2 / threads < 4 * cpu_size(1) ** 2


@given(st.integers(16, 1024))
def test_the_work_of_a_product_is_bounded_however_many_threads_there_are(threads: int) -> None:
    assert cpu_size(threads) == cpu_size(16)


@pytest.mark.parametrize(("seconds_a_product", "rounds"), [(0.001, 100), (0.05, 5), (0.2, 3), (7.0, 1)])
def test_where_a_product_takes_long_there_are_fewer_rounds(
    monkeypatch: pytest.MonkeyPatch, seconds_a_product: float, rounds: int
) -> None:
    clock, products = [0.0], []

    def mm(*of: object) -> None:
        products.append(of)
        clock[0] += seconds_a_product

    monkeypatch.setattr(torch, "mm", mm)
    monkeypatch.setattr(matrix_rate, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    assert matmul_rate("cpu", "fp32", size=8) == pytest.approx(2 * 8**3 / seconds_a_product)
    assert len(products) == pytest.approx(1 + rounds, abs=1 if rounds == 100 else 0)  # one to load kernels
