"""Parameters against the network and the published figures; FLOPs against torch's own counter."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from model.bert import BertForPretraining
from model.config import PRESETS, ModelConfig, preset
from model.counts import parameter_count, step_flops


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
