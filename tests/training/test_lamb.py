"""LAMB against its formula, alone and through the engine, whatever ZeRO cuts."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.training.fragments import Fragment
from pipeline.training.lamb import Lamb
from pipeline.training.world import free_port
from workshop import optimizer_ranks
from workshop.optimizer_ranks import CLIPPING, RATE, STEPS, gradient_of, starting_weights

CONFIGS = ["zero0", "zero1", "zero2", "zero3", "zero2_offload", "zero3_offload"]


class Formula:
    """Algorithm 2 of You et al. 2020, one tensor at a time, in float64."""

    def __init__(self, start: Tensor, *, decay: float, adapts: bool, corrected: bool = True) -> None:
        self.x = start.double()
        self.decay, self.adapts, self.corrected = decay, adapts, corrected
        self.m = self.v = torch.zeros_like(self.x)
        self.t = 0

    def update(self, gradient: Tensor, rate: float) -> None:
        g = gradient.double()
        self.t += 1
        self.m = 0.9 * self.m + 0.1 * g
        self.v = 0.999 * self.v + 0.001 * g * g
        m, v = self.m, self.v
        if self.corrected:
            m, v = m / (1 - 0.9**self.t), v / (1 - 0.999**self.t)
        u = m / (v.sqrt() + 1e-6) + self.decay * self.x
        ratio = 1.0
        if self.adapts and float(self.x.norm()) > 0 and float(u.norm()) > 0:
            ratio = float(self.x.norm() / u.norm())
        self.x = self.x - rate * ratio * u


def formulas(corrected: bool = True) -> dict[str, Formula]:
    return {
        name: Formula(
            start,
            decay=0.01 if start.dim() > 1 else 0.0,
            adapts=start.dim() > 1,
            corrected=corrected,
        )
        for name, start in starting_weights().items()
    }


def clipped(gradients: list[Tensor]) -> list[Tensor]:
    norm = torch.stack([g.double().norm() for g in gradients]).norm()
    return [g.double() * min(1.0, CLIPPING / float(norm)) for g in gradients]


def expected_after(ranks: int) -> dict[str, Tensor]:
    """What the engine's weights are after its steps, by the formula."""
    known = formulas()
    for step in range(STEPS):
        parts = [gradient_of(step, rank) for rank in range(ranks)]
        sums = [torch.stack(same).sum(0) for same in zip(*parts, strict=True)]
        for formula, gradient in zip(known.values(), clipped(sums), strict=True):
            formula.update(gradient, RATE)
    return {name: formula.x for name, formula in known.items()}


def run_ranks(folder: Path, asked: list[dict[str, Any]], ranks: int) -> list[list[dict[str, Tensor]]]:
    (folder / "asked.json").write_text(json.dumps(asked))
    port = free_port()
    command = [sys.executable, optimizer_ranks.__file__, str(folder)]
    processes = [
        subprocess.Popen(
            [*command, str(rank), str(ranks), str(port)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
        for rank in range(ranks)
    ]
    for process in processes:
        said = process.communicate(timeout=200)[0]
        assert process.returncode == 0, said
    return [torch.load(folder / f"found-{number}.pt") for number in range(len(asked))]


@pytest.fixture(scope="module", params=[1, 2], ids=["1 rank", "2 ranks"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[int, Any]:
    """What every configuration came to on so many ranks: weights trained through, and resumed half-way."""
    ranks: int = request.param
    asked = [{"deepspeed": name, "optimizer": "lamb"} for name in CONFIGS]
    asked += [{"deepspeed": f"zero{n}", "optimizer": "lamb", "precision": "bf16"} for n in (1, 2, 3)]
    found = run_ranks(tmp_path_factory.mktemp("ranks"), asked, ranks)
    names = [f"{each['deepspeed']} {each.get('precision', 'fp32')}" for each in asked]
    return ranks, dict(zip(names, found, strict=True))


def test_through_the_engine_it_is_the_formula_at_every_stage(trained: tuple[int, Any]) -> None:
    ranks, found = trained
    expected = expected_after(ranks)
    for name, (weights, _) in found.items():
        # A gradient in bf16 has 8 bits.
        tolerance = 1e-6 if "fp32" in name else 1e-2
        for (tensor, value), wanted in zip(weights.items(), expected.values(), strict=True):
            error = float((value.double() - wanted).norm() / wanted.norm())
            assert error < tolerance, (name, tensor, error)


def test_a_resume_repeats_it_to_the_last_bit(trained: tuple[int, Any]) -> None:
    for name, (through, resumed) in trained[1].items():
        assert all(torch.equal(through[tensor], resumed[tensor]) for tensor in through), name


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
        formula = Formula(weights, decay=decay, adapts=adapts, corrected=corrected)
        for row in rows:
            formula.update(row[number], 0.1)
        torch.testing.assert_close(tensor.double(), formula.x, rtol=1e-5, atol=2e-6 * scale)


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


class Ranks:
    """An all-reduce among threads that stand for ranks."""

    def __init__(self, count: int) -> None:
        self._barrier = threading.Barrier(count, timeout=20)
        self._given: dict[int, list[float]] = {}

    def sum(self, rank: int, values: list[float]) -> list[float]:
        self._given[rank] = values
        self._barrier.wait()
        total = [
            sum(column) for column in zip(*(self._given[each] for each in sorted(self._given)), strict=True)
        ]
        self._barrier.wait()
        return total


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
    ranks = Ranks(len(bounds) - 1)
    parts: list[Tensor] = [torch.empty(0)] * (len(bounds) - 1)
    failures: list[BaseException] = []

    def train_part(rank: int) -> None:
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
        parts[rank] = part.detach()

    def guarded(rank: int) -> None:
        try:
            train_part(rank)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(rank,)) for rank in range(len(bounds) - 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures
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
