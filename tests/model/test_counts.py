"""Parameters against the network and the published figures; FLOPs and saved bytes against torch's own."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from model.bert import BertForPretraining
from model.config import PRESETS, ModelConfig, preset
from model.counts import activation_bytes, parameter_count, step_flops
from workshop.switches import every_form


def test_the_formula_counts_the_networks_parameters(config):
    assert parameter_count(config) == sum(p.numel() for p in BertForPretraining(config).parameters())


@pytest.mark.parametrize("name", PRESETS)
def test_the_formula_counts_every_presets_parameters(name):
    shape = preset(name, vocab_size=30522)
    with torch.device("meta"):
        model = BertForPretraining(shape)
    assert parameter_count(shape) == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "millions"),
    # Devlin et al. 2018 §3 (110 and 340 million); Turc et al. 2019, table 1.
    [("tiny", 4.4), ("mini", 11.3), ("small", 29.1), ("medium", 41.7), ("base", 110.1), ("large", 340)],
)
def test_presets_have_the_published_number_of_parameters(name, millions):
    assert parameter_count(preset(name, vocab_size=30522)) / 1e6 == pytest.approx(millions, rel=0.015)


@pytest.mark.parametrize("masked_each", [0, 3])
def test_a_steps_flops_are_those_that_torch_counts(make_model, lay_end_to_end, masked_each):
    # Attention dropout makes the CPU take the plain path, whose backward recomputes nothing.
    model = make_model(attention_dropout=0.1).train()
    lengths = (24,) * 6
    batch = lay_end_to_end(lengths, masked_each=masked_each)
    counter = FlopCounterMode(display=False)
    with counter:
        sums = model(**batch)
        (sums.mlm_sum + sums.nsp_sum).backward()
    assert step_flops(model.config, lengths, masked=6 * masked_each) == counter.get_total_flops()


def counted_flops(model: BertForPretraining, batch: dict[str, Any]) -> tuple[int, int]:
    """What torch counts of a forward and backward: in dense products, and in those of attention."""
    with FlopCounterMode(display=False) as counter:
        sums = model(**batch)
        (sums.mlm_sum + sums.nsp_sum).backward()
    each = {str(op): count for op, count in counter.get_flop_counts()["Global"].items()}
    dense = sum(count for op, count in each.items() if op in ("aten.mm", "aten.addmm"))
    return dense, sum(each.values()) - dense


# mlm+nsp and mlm+sop train one network; mlm one without a pairs' head; ltr also asks every token but the last.
@pytest.mark.parametrize(
    ("network", "masked_each"),
    [({}, 3), ({"pair_head": False}, 3), ({"pair_head": False, "causal": True}, 4)],
    ids=["mlm+nsp", "mlm", "ltr"],
)
def test_flops_of_unpadded_sequences_are_those_that_torch_counts_but_for_tail_and_grid(
    make_model: Callable[..., BertForPretraining],
    lay_end_to_end: Callable[..., dict[str, Any]],
    network: dict[str, Any],
    masked_each: int,
) -> None:
    # With attention dropout: torch has no count of the kernel that a CPU takes without.
    model = make_model(**network, attention_dropout=0.1).train()
    lengths, tail, pads = (5, 24, 17, 32, 9), 41, 6
    masked = masked_each * len(lengths)
    batch = lay_end_to_end(lengths, tail=tail, masked_each=masked_each, masked_pads=pads)
    dense, attention = counted_flops(model, batch)
    config = model.config
    in_all = step_flops(config, lengths, masked)
    # Scores and weighted values, forward and twice backward, of sequences whose squared lengths add up to so much.
    of_squares = 3 * config.layers * 4 * config.hidden_size
    in_attention = of_squares * sum(length**2 for length in lengths)
    # What a micro-batch's bucket rounds up, tokens and masked positions, is computed and counts nothing.
    a_token = step_flops(replace(config, pair_head=False), [1], 0) - of_squares
    a_masked_one = step_flops(config, [], 1)
    assert dense == in_all - in_attention + tail * a_token + pads * a_masked_one
    # Attention may be computed on a grid, each sequence as long as the longest; what it computes of padding, or of
    # what is masked, counts nothing.
    assert in_attention <= attention <= of_squares * len(lengths) * max(lengths) ** 2


def test_a_steps_flops_add_up_over_sequences_and_padding_counts_nothing(config):
    lengths, masked = np.array([5, 17, 128], dtype=np.uint16), [1, 2, 19]
    each = [step_flops(config, [length], count) for length, count in zip(lengths, masked, strict=True)]
    assert step_flops(config, lengths, 22) == sum(each)
    assert step_flops(config, [], 0) == 0


def test_flops_of_large_batches_do_not_overflow():
    shape = preset("large", vocab_size=30522)
    one = step_flops(shape, [512], 76)
    assert step_flops(shape, np.full(2**20, 512, dtype=np.uint16), 76 * 2**20) == one * 2**20


def test_base_needs_about_six_operations_a_parameter_and_token():
    # The usual rule of thumb, over the encoder's parameters (85 million in base).
    shape: ModelConfig = preset("base", vocab_size=30522)
    assert step_flops(shape, [128], masked=0) / 128 == pytest.approx(6 * 85.1e6, rel=0.05)


@pytest.mark.parametrize("activation", ["gelu", "relu"])
@pytest.mark.parametrize("element", [4, 2])
@pytest.mark.parametrize(("attention_dropout", "hidden_dropout"), [(0.1, 0.1), (0.0, 0.0), (0.1, 0.0)])
@pytest.mark.parametrize(("sequences", "length", "layers"), [(2, 40, 1), (8, 24, 3), (1, 512, 2)])
def test_the_activations_are_those_that_autograd_keeps(
    lay_end_to_end: Callable[..., dict[str, Any]],
    config: ModelConfig,
    saved_bytes: Callable[[BertForPretraining, dict[str, Any]], int],
    activation: str,
    element: int,
    attention_dropout: float,
    hidden_dropout: float,
    sequences: int,
    length: int,
    layers: int,
) -> None:
    shape = replace(
        config, layers=layers, hidden_size=64, intermediate_size=192, max_positions=512, activation=activation,
        attention_dropout=attention_dropout, hidden_dropout=hidden_dropout,
    )  # fmt: skip
    model = BertForPretraining(shape).train().to(torch.float32 if element == 4 else torch.bfloat16)
    batch = lay_end_to_end([length] * sequences, masked_each=6)
    formula = activation_bytes(
        shape, sequences=sequences, length=length, masked=6 * sequences, element=element
    )
    assert formula.kept == pytest.approx(saved_bytes(model, batch), rel=0.03)


def test_recomputing_keeps_a_layers_input_alone():
    shape = preset("base", vocab_size=30522)
    size: dict[str, Any] = {"sequences": 32, "length": 128, "masked": 20 * 32}
    all_, inputs = (activation_bytes(shape, **size, recompute=recompute) for recompute in ("none", "full"))
    embeddings = (
        activation_bytes(replace(shape, layers=1), **size, recompute="full").layers - 32 * 128 * 768 * 4
    )
    assert inputs.layers == embeddings + 12 * 32 * 128 * 768 * 4
    # While a layer is gone through backwards, its own activations are there again.
    assert inputs.backward > all_.layers / 12
    assert inputs.peak < all_.peak / 4


def test_where_there_is_no_flash_kernel_a_layer_keeps_one_more_vector_a_token():
    shape = preset("base", vocab_size=30522)
    size = {"sequences": 4, "length": 128, "masked": 76, "element": 2, "gpu": True}
    grid, flash = (activation_bytes(shape, **size, flash=has).layers for has in (False, True))
    assert grid - flash == 12 * 4 * 128 * 768 * 2


def test_a_gpu_keeps_no_attention_probabilities():
    shape = preset("base", vocab_size=30522)
    short, long = (
        activation_bytes(shape, sequences=512 // length, length=length, masked=76, gpu=True).layers
        for length in (128, 512)
    )
    assert long == pytest.approx(short, rel=0.01)
    on_cpu, many = (
        activation_bytes(shape, sequences=512 // n, length=n, masked=76).layers for n in (512, 128)
    )
    # One probability a score, in each layer and head.
    assert on_cpu - many == 12 * 12 * (512**2 - 4 * 128**2) * 4


@every_form
def test_parameters_and_flops_of_every_switch_are_those_of_the_network(make_model, lay_end_to_end, form):
    model = make_model(**form, attention_dropout=0.1).train()
    assert parameter_count(model.config) == sum(p.numel() for p in model.parameters())
    without_pairs = BertForPretraining(replace(model.config, pair_head=False))
    assert parameter_count(without_pairs.config) == sum(p.numel() for p in without_pairs.parameters())
    batch, counter = lay_end_to_end((24,) * 6, masked_each=3), FlopCounterMode(display=False)
    with counter:
        sums = model(**batch)
        (sums.mlm_sum + sums.nsp_sum).backward()
    assert step_flops(model.config, (24,) * 6, masked=18) == counter.get_total_flops()


@every_form
@pytest.mark.parametrize(
    ("sequences", "length", "layers", "attention_dropout", "hidden_dropout", "element"),
    [(8, 24, 3, 0.1, 0.1, 4), (1, 512, 2, 0.0, 0.0, 2), (3, 64, 1, 0.0, 0.1, 4)],
)
def test_the_activations_of_every_switch_are_those_that_autograd_keeps(
    lay_end_to_end, config, saved_bytes, form, sequences, length, layers, attention_dropout,
    hidden_dropout, element,
):  # fmt: skip
    shape = replace(
        config, **form, layers=layers, hidden_size=64, intermediate_size=192, max_positions=512,
        attention_dropout=attention_dropout, hidden_dropout=hidden_dropout,
    )  # fmt: skip
    model = BertForPretraining(shape).train()
    model = model.to(torch.float32 if element == 4 else torch.bfloat16)
    batch = lay_end_to_end([length] * (sequences - 1) + [length - 1], masked_each=6) | {"longest": length}
    formula = activation_bytes(
        shape, sequences=sequences, length=length, masked=6 * sequences, element=element
    )
    assert formula.kept == pytest.approx(saved_bytes(model, batch), rel=0.03)
