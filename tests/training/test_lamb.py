"""LAMB against its formula, alone and through the engine, whatever ZeRO cuts."""

import json
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
