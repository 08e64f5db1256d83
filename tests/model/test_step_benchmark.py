"""`benchmarks/step.py` compares like with like: the same loss on both sides, from pairs of the fill asked for."""

import argparse
import importlib.util
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")
FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "step.py"


@pytest.fixture(scope="module")
def step():
    spec = importlib.util.spec_from_file_location("step_benchmark", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("fill", [0.6, 0.9, 1.0])
@pytest.mark.parametrize("batch", [4, 32])
def test_lengths_have_the_fill_that_was_asked_for(step, batch, fill):
    lengths = step.draw_lengths(batch, 128, fill)
    assert len(lengths) == batch
    assert lengths.mean() / 128 == pytest.approx(fill, abs=0.06 if batch == 4 else 0.01)
    assert lengths.min() >= 16
    assert lengths.max() == 128 or fill < 0.7


def test_both_sides_compute_the_same_loss(step):
    options = argparse.Namespace(preset="tiny", batch=3, length=24, fill=0.8, device="cpu")
    found = []
    for side in step.SIDES:
        model, loss = step.prepare(side, options)
        model.eval()
        with torch.no_grad():
            found.append(float(loss()))
    assert found[0] == pytest.approx(found[1], rel=1e-5)
