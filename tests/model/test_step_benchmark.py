"""`benchmarks/step.py` compares like with like: the same loss on both sides, from pairs of the fill asked for."""

import argparse
import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")
FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def step(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("step")


@pytest.mark.parametrize("fill", [0.6, 0.9, 1.0])
@pytest.mark.parametrize("batch", [4, 32])
def test_drawn_lengths_have_the_fill_that_was_asked_for(step, batch, fill):
    lengths = step.drawn(batch=batch, length=128, fill=fill, count=1)[0].lengths
    assert len(lengths) == batch
    assert lengths.mean() / 128 == pytest.approx(fill, abs=0.06 if batch == 4 else 0.01)
    assert lengths.min() >= 16
    assert lengths.max() == 128 or fill < 0.7


@pytest.mark.parametrize("source", ["drawn", "shards"])
def test_both_sides_compute_the_same_loss(step, shards, source):
    options = argparse.Namespace(
        preset="tiny", batch=3, length=64, fill=0.8, device="cpu", rounds=1, shards=None
    )
    if source == "shards":
        options.shards = str(shards)
    pairs, found = step.pairs_of(options), []
    for side in step.SIDES:
        model, loss = step.prepare(side, options, pairs)
        model.eval()
        with torch.no_grad():
            found.append([float(loss(number)) for number in (0, 1)])
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    assert found[0][0] != found[0][1]


def test_the_ceiling_is_one_where_nothing_is_saved(step):
    (pairs,) = step.drawn(batch=4, length=32, fill=1.0, count=1)
    shape = step.shape_of(argparse.Namespace(preset="tiny", length=32))
    alone = step.ceiling(shape, [pairs])
    assert alone > 3
    everything = np.full(4, 32)
    assert alone == step.step_flops(shape, everything, 4 * 32) / step.step_flops(
        shape, everything, pairs.masked
    )
