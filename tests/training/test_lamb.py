"""LAMB against its formula, whatever ranks cut (through the engine: test_optimizers.py)."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.training.fragments import Fragment
from pipeline.training.lamb import Lamb
from workshop.pretend_ranks import Ranks, as_ranks
from workshop.update_formulas import LambFormula


def train(weights: list[Tensor], gradients: list[list[Tensor]], **constants: Any) -> list[Tensor]:
    """Weights after one step a row of gradients, uncut; None stands for a tensor without a gradient."""
    parameters = [torch.nn.Parameter(each.clone()) for each in weights]
    optimizer = Lamb([{"params": parameters} | constants], lr=0.1)
    for row in gradients:
        for parameter, gradient in zip(parameters, row, strict=True):
            parameter.grad = gradient
        optimizer.step()
    return [parameter.detach() for parameter in parameters]


@pytest.mark.parametrize("corrected", [True, False])
@pytest.mark.parametrize("adapts", [True, False])
@given(seed=st.integers(0, 1000), decay=st.sampled_from([0.0, 0.01]), scale=st.sampled_from([1e-3, 1.0, 1e3]))
@settings(max_examples=20)
def test_it_is_the_formula_tensor_by_tensor(
    corrected: bool, adapts: bool, seed: int, decay: float, scale: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    start = [torch.randn(shape, generator=generator) * scale for shape in ((4, 3), (5, 2), (1, 1))]
    rows = [[torch.randn(each.shape, generator=generator) for each in start] for _ in range(10)]
    found = train(start, rows, weight_decay=decay, adapts=adapts, bias_correction=corrected)
    for number, (weights, tensor) in enumerate(zip(start, found, strict=True)):
        formula = LambFormula(weights, decay=decay, adapts=adapts, corrected=corrected)
        for row in rows:
            formula.update(row[number], 0.1)
        error = float((tensor.double() - formula.x).norm())
        assert error <= 1e-6 * max(1.0, float(formula.x.norm()))


def test_weights_or_updates_of_norm_zero_take_the_rate_itself() -> None:
    zero, start = torch.zeros(2, 2), torch.ones(2, 2)
    gradient = torch.full((2, 2), 3.0)
    moved, still = train([zero, start], [[gradient, zero]], weight_decay=0.0)
    torch.testing.assert_close(moved, torch.full((2, 2), -0.1))
    assert torch.equal(still, start)


def test_a_step_that_is_left_out_leaves_everything_as_it_was() -> None:
    start, gradients = torch.ones(3, 2), [torch.randn(3, 2), torch.randn(3, 2)]
    expected = train([start], [[gradient] for gradient in gradients])[0]
    # Without a gradient there is no update, and the bias correction counts updates.
    found = train([start], [[gradients[0]], [None], [None], [gradients[1]]])[0]  # type: ignore[list-item]
    assert torch.equal(found, expected)


def train_cut(
    weights: list[Tensor], rows: list[list[Tensor]], cuts: list[int], padding: int
) -> tuple[list[Tensor], list[Tensor]]:
    """As `train`, by ranks that hold the flat tensor between `cuts`, each with `padding` elements of rubbish.

    Returns the weights and the paddings afterwards.
    """
    sizes = [each.numel() for each in weights]
    starts = [sum(sizes[:number]) for number in range(len(sizes))]
    flat = torch.cat([each.flatten() for each in weights])
    bounds = [0, *sorted(cuts), len(flat)]

    def train_part(rank: int, ranks: Ranks) -> Tensor:
        low, high = bounds[rank], bounds[rank + 1]
        rubbish = torch.full((padding,), float("nan"))
        part = torch.nn.Parameter(torch.cat([flat[low:high], rubbish]))
        optimizer = Lamb([{"params": [part], "weight_decay": 0.01}], lr=0.1)
        fragments = [
            Fragment(number, max(start, low) - low, min(start + size, high) - max(start, low))
            for number, (start, size) in enumerate(zip(starts, sizes, strict=True))
            if max(start, low) < min(start + size, high)
        ]
        optimizer.divide({part: fragments}, len(weights), lambda values: ranks.sum(rank, values))
        for row in rows:
            part.grad = torch.cat([torch.cat([each.flatten() for each in row])[low:high], rubbish])
            optimizer.step()
        return part.detach()

    parts = as_ranks(len(bounds) - 1, train_part)
    whole = torch.cat([part[: len(part) - padding] for part in parts])
    found = [whole[start : start + size] for start, size in zip(starts, sizes, strict=True)]
    return found, [part[len(part) - padding :] for part in parts]


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=5),
    cuts=st.lists(st.floats(0, 1), max_size=4),
    padding=st.integers(0, 3),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_however_ranks_cut_tensors_the_weights_are_those_of_whole_ones(
    sizes: list[int], cuts: list[float], padding: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    start = [torch.randn(size, generator=generator) * 10.0**index for index, size in enumerate(sizes)]
    rows = [[torch.randn(size, generator=generator) for size in sizes] for _ in range(4)]
    whole = train(start, rows, weight_decay=0.01)
    places = [round(cut * sum(sizes)) for cut in cuts]
    found, paddings = train_cut(start, rows, places, padding)
    for one, other in zip(found, whole, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
    # Nobody has written to it.
    assert all(bool(each.isnan().all()) for each in paddings)


def test_one_ratio_for_all_that_a_flat_tensor_holds_would_be_another_method() -> None:
    start = [torch.ones(4), 100 * torch.ones(4)]
    rows = [[torch.ones(4), torch.ones(4)]]
    flat = train([torch.cat(start)], [[torch.cat(row)] for row in rows], weight_decay=0.01)[0]
    whole = torch.cat(train(start, rows, weight_decay=0.01))
    assert float((flat - whole).abs().max()) > 1.0


def test_norms_of_many_elements_keep_their_digits() -> None:
    # In fp32, in one go, a CPU's norm of so many is off in the fourth digit.
    weights = torch.randn(1 << 24, generator=torch.Generator().manual_seed(1))
    found = train([weights], [[torch.ones(1 << 24)]], weight_decay=0.0)[0]
    rate = 0.1 * float(weights.double().norm()) / (1 << 12)
    assert float((weights - found).double().mean()) == pytest.approx(rate, rel=1e-5)
