"""LAMB and the 1-bit optimizers through the engine, on one rank and on two, at every ZeRO stage that takes them."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from model.bert import BertForPretraining
from model.config import preset
from pipeline.training.optimizer import is_kept
from workshop import optimizer_ranks, processes
from workshop.optimizer_ranks import CLIPPING, RATE, STEPS, gradient_of, starting_weights
from workshop.started_ranks import run_ranks
from workshop.switches import every_form
from workshop.update_formulas import LambFormula

CONFIGS = ["zero0", "zero1", "zero2", "zero3", "zero2_offload", "zero3_offload"]
ASKED = {
    **{f"lamb {name}": {"deepspeed": name, "optimizer": "lamb"} for name in CONFIGS},
    **{
        f"lamb {name} bf16": {"deepspeed": name, "optimizer": "lamb", "precision": "bf16"}
        for name in ("zero1", "zero2", "zero3")
    },
    **{
        name: {"deepspeed": "zero0", "optimizer": name, "recipe": {"onebit": {"freeze_step": 3}}}
        for name in ("onebit_adam", "onebit_lamb")
    },
}


def clipped(gradients: list[Tensor]) -> list[Tensor]:
    norm = torch.stack([g.double().norm() for g in gradients]).norm()
    return [g.double() * min(1.0, CLIPPING / float(norm)) for g in gradients]


def expected_after(ranks: int) -> list[Tensor]:
    """What the engine's weights are after its steps, by the formula."""
    formulas = [
        LambFormula(start, decay=0.01 if start.dim() > 1 else 0.0, adapts=start.dim() > 1)
        for start in starting_weights().values()
    ]
    for step in range(STEPS):
        parts = [gradient_of(step, rank) for rank in range(ranks)]
        sums = [torch.stack(same).sum(0) for same in zip(*parts, strict=True)]
        for formula, gradient in zip(formulas, clipped(sums), strict=True):
            formula.update(gradient, RATE)
    return [formula.x for formula in formulas]


@every_form
def test_weight_decay_leaves_biases_and_layer_norms_alone_however_the_network_is_built(
    form: dict[str, Any],
) -> None:
    network = BertForPretraining(preset("tiny", vocab_size=50, hidden_size=16, intermediate_size=24, **form))
    kept = {name for name, parameter in network.named_parameters() if is_kept(name, parameter)}
    norms = {name for name, module in network.named_modules() if isinstance(module, torch.nn.LayerNorm)}
    assert kept == {
        name
        for name, _ in network.named_parameters()
        if name.endswith(".bias") or name.rpartition(".")[0] in norms
    }


@pytest.fixture(scope="module", params=[1, 2], ids=["1 rank", "2 ranks"])
def trained(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[int, dict[str, list[dict[str, Tensor]]]]:
    """What every configuration came to on so many ranks: weights trained through, and resumed half-way."""
    ranks: int = request.param
    folder = tmp_path_factory.mktemp("ranks")
    (folder / "asked.json").write_text(json.dumps(list(ASKED.values())))
    run_ranks(optimizer_ranks.__file__, folder, ranks)
    return ranks, {name: torch.load(folder / f"found-{index}.pt") for index, name in enumerate(ASKED)}


@pytest.mark.xdist_group("optimizers")
def test_lamb_is_the_formula_at_every_stage(trained: tuple[int, Any]) -> None:
    ranks, found = trained
    expected = expected_after(ranks)
    for name in (name for name in ASKED if name.startswith("lamb")):
        for (tensor, value), wanted in zip(found[name][0].items(), expected, strict=True):
            error = float((value.double() - wanted).norm() / wanted.norm())
            # Gradients in bf16 have 8 bits; a ratio that were not the tensor's would be off by tenths.
            assert error < (1e-3 if "bf16" in name else 1e-6), (name, tensor, error)


@pytest.mark.xdist_group("optimizers")
def test_a_resume_repeats_every_optimizer_to_the_last_bit(trained: tuple[int, Any]) -> None:
    for name, (through, resumed) in trained[1].items():
        assert all(torch.equal(through[tensor], resumed[tensor]) for tensor in through), name


def test_a_1_bit_run_learns_and_its_resume_repeats_it(
    recipe: dict[str, Any], write_recipe: Any, cli: Any
) -> None:
    recipe |= {"deepspeed": "zero0", "onebit": {"freeze_step": 6}}
    recipe["checkpoint"] = {"every": 10, "keep_last": 9}
    recipe["phases"][0] |= {"optimizer": "onebit_adam", "micro_batch": 8}
    path, run = write_recipe(recipe), Path(recipe["run"])
    done = cli("pretrain", path, "--ranks", 2)
    assert done.returncode == 0, done.stderr
    undisturbed = processes.learned(run)
    losses = [line["loss"] for line in undisturbed]
    assert losses[-1] < losses[0] - 0.1
    # As if the run had ended after step 10, where compression owes something.
    shutil.rmtree(run / "checkpoints" / "step-00000020")
    done = cli("pretrain", path, "--ranks", 2)
    assert done.returncode == 0, done.stderr
    assert "after step 10 of 20" in done.stderr
    assert processes.learned(run) == undisturbed
