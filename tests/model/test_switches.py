"""The architectural switches: each against its formula, all of them against the laws that the network keeps."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from model.attention import lay_out
from model.bert import BertForPretraining
from model.rotation import rotate, rotation
from workshop.switches import every_form


def test_the_published_network_is_what_it_was_before_there_were_switches(config):
    torch.manual_seed(1)
    model = BertForPretraining(config)
    assert len(model.state_dict()) == 5 + 3 * 16 + 2 + 5 + 2
    drawn = sum(float(parameter.double().pow(2).sum()) for parameter in model.state_dict().values())
    assert drawn == pytest.approx(267.24380, rel=1e-6)
    tokens = torch.arange(1, 41, dtype=torch.int64) * 7 % config.vocab_size
    sums = model(
        tokens, torch.arange(40) % 2, torch.arange(40) % 23, torch.tensor([0, 23, 40]), 23,
        torch.arange(0, 40, 3), tokens[::3], torch.tensor([0, 1]),
    )  # fmt: skip
    assert float(sums.mlm_sum.detach()) == pytest.approx(63.661190, rel=1e-6)
    assert float(sums.nsp_sum.detach()) == pytest.approx(1.3854876, rel=1e-6)


def test_pre_ln_layers_that_add_nothing_leave_the_normalised_embeddings(
    make_model, lay_end_to_end, encoder_inputs
):
    model = make_model(norm="pre")
    with torch.no_grad():
        for layer in model.bert.layers:
            for last in (layer.attention.output, layer.feed_forward.contract):
                last.weight.zero_()
                last.bias.zero_()
    batch = encoder_inputs(lay_end_to_end((5, 13, 8)))
    embedded = model.bert.embeddings(batch["tokens_T"], batch["segments_T"], batch["positions_T"])
    assert torch.equal(model.encode(**batch).hidden_TH, model.bert.final_norm(embedded))


def test_a_pre_ln_layer_normalises_what_each_half_reads_and_nothing_that_it_passes_on(make_model):
    layer = make_model(norm="pre").bert.layers[1]
    read = {}
    for half in ("attention", "feed_forward"):
        getattr(layer, half).register_forward_hook(
            lambda module, inputs, added, half=half: read.update({half: (inputs[0], added)})
        )
    hidden = 100 * torch.randn(9, 32)
    layout = lay_out(tokens=9, sequence_starts_B1=torch.tensor([0, 9]), longest=9, heads=4)
    after = layer(hidden, layout, None)
    (first, attended), (second, fed) = read["attention"], read["feed_forward"]

    def normalised(states: torch.Tensor, norm: nn.LayerNorm) -> torch.Tensor:
        centred = states - states.mean(-1, keepdim=True)
        return norm.weight * centred / centred.pow(2).mean(-1, keepdim=True).sqrt() + norm.bias

    torch.testing.assert_close(first, normalised(hidden, layer.attention_norm), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        second, normalised(hidden + attended, layer.feed_forward_norm), rtol=1e-5, atol=1e-5
    )
    assert torch.equal(after, hidden + attended + fed)


@given(
    positions=st.lists(st.integers(0, 2048), min_size=1, max_size=6),
    pairs=st.integers(1, 8),
    seed=st.integers(0, 99),
)
def test_rotation_is_a_product_with_complex_numbers_of_length_1(positions, pairs, seed):
    states = torch.randn(
        len(positions), 3, 2 * pairs, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    turned = rotate(states, rotation(torch.tensor(positions), 2 * pairs))
    # §3.2.2, eq. 13 and 15, a pair of numbers being a complex one.
    frequencies = 10_000.0 ** (-torch.arange(pairs, dtype=torch.float64) / pairs)
    angles = torch.tensor(positions, dtype=torch.float64)[:, None, None] * frequencies
    expected = torch.view_as_complex(states.view(-1, 3, pairs, 2)) * torch.polar(
        torch.ones_like(angles), angles
    )
    torch.testing.assert_close(turned, torch.view_as_real(expected).flatten(2), rtol=0, atol=2e-3)
    torch.testing.assert_close(turned.norm(dim=-1), states.norm(dim=-1), rtol=1e-6, atol=0)


@given(first=st.integers(0, 500), second=st.integers(0, 500), shift=st.integers(0, 500))
def test_a_turned_querys_product_with_a_turned_key_depends_on_their_distance_alone(first, second, shift):
    query, key = torch.randn(2, 1, 2, 16, generator=torch.Generator().manual_seed(first))

    def score(query_position: int, key_position: int) -> torch.Tensor:
        turned = [
            rotate(each, rotation(torch.tensor([place]), 16))
            for each, place in ((query, query_position), (key, key_position))
        ]
        return (turned[0] * turned[1]).sum(-1)

    torch.testing.assert_close(score(first, second), score(first + shift, second + shift), rtol=0, atol=2e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_rotation_keeps_the_type_and_turns_nothing_at_position_0(dtype):
    states = torch.randn(5, 2, 8).to(dtype)
    turned = rotate(states, rotation(torch.zeros(5, dtype=torch.int32), 8))
    assert turned.dtype == dtype
    assert torch.equal(turned, states)


def test_a_rotary_network_has_no_positions_but_those_relative_to_each_other(
    make_model, lay_end_to_end, encoder_inputs
):
    for norm in ("post", "pre"):
        model = make_model(position="rotary", norm=norm)
        assert not any("position" in name for name, _ in model.named_parameters())
        batch = encoder_inputs(lay_end_to_end((5, 13, 8), tail=3))
        hidden = model.encode(**batch).hidden_TH[:26]
        moved = model.encode(**batch | {"positions_T": batch["positions_T"] + 170}).hidden_TH[:26]
        torch.testing.assert_close(moved, hidden, rtol=0, atol=2e-4)
        back = model.encode(**batch | {"positions_T": -batch["positions_T"]}).hidden_TH[:26]
        assert float((back - hidden).abs().max()) > 0.01


def test_a_network_without_biases_has_only_those_of_decoder_pooler_and_pairs_and_is_one_of_zeros(
    make_model, lay_end_to_end, encoder_inputs
):
    for norm in ("post", "pre"):
        bare = make_model(norm=norm, bias=False)
        named = {name for name, _ in bare.named_parameters() if "bias" in name}
        assert named == {"mlm_head.bias", "bert.pooler.dense.bias", "nsp_head.dense.bias"}
        biased = make_model(norm=norm)
        absent = biased.state_dict().keys() - bare.state_dict().keys()
        zeros = {name: torch.zeros_like(biased.state_dict()[name]) for name in absent}
        biased.load_state_dict(bare.state_dict() | zeros)
        batch = encoder_inputs(lay_end_to_end((5, 13, 8)))
        (found, pooled), (expected, expected_pooled) = bare.encode(**batch), biased.encode(**batch)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
        torch.testing.assert_close(pooled, expected_pooled, rtol=0, atol=1e-6)
        every = torch.arange(26)
        torch.testing.assert_close(
            bare.mlm_logits(found, every), biased.mlm_logits(expected, every), rtol=0, atol=1e-5
        )


def test_geglu_is_gelu_of_one_product_times_another_and_the_heads_gelu_is_plain(make_model):
    model = make_model(activation="geglu")
    layer, states = model.bert.layers[0].feed_forward, torch.randn(7, 32)
    gate, value = layer.expand.weight.view(2, 48, 32)
    gate_bias, value_bias = layer.expand.bias.view(2, 48)
    # Shazeer 2020 eq. 5: GELU(xW + b) ⊗ (xV + c); GELU(x) is x Φ(x).
    gated = states @ gate.T + gate_bias
    wide = gated * 0.5 * (1 + torch.erf(gated / 2**0.5)) * (states @ value.T + value_bias)
    expected = wide @ layer.contract.weight.T + layer.contract.bias
    torch.testing.assert_close(layer(states), expected, rtol=1e-4, atol=1e-5)
    assert model.mlm_head.activation is functional.gelu


@every_form
def test_a_sequence_is_computed_as_if_alone_and_its_neighbours_change_no_bit(
    make_model, lay_end_to_end, encoder_inputs, form
):
    model = make_model(**form)
    batch = encoder_inputs(lay_end_to_end((5, 13, 8), tail=3))
    hidden, pooled = model.encode(**batch)
    for b, (start, end) in enumerate(pairwise(batch["sequence_starts_B1"].tolist())):
        alone = model.encode(
            *(batch[name][start:end] for name in ("tokens_T", "segments_T", "positions_T")),
            torch.tensor([0, end - start], dtype=torch.int32),
            end - start,
        )
        torch.testing.assert_close(hidden[start:end], alone.hidden_TH, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(pooled[b], alone.pooled_BH[0], rtol=1e-5, atol=1e-5)
    changed = {**batch, "tokens_T": batch["tokens_T"].clone()}
    changed["tokens_T"][5:18] = torch.randint(1, 97, (13,))
    changed["tokens_T"][26:] = torch.arange(1, 4)
    after = model.encode(**changed).hidden_TH
    untouched = torch.tensor([*range(5), *range(18, 26)])
    assert torch.equal(hidden[untouched], after[untouched])
    assert not torch.equal(hidden[5:18], after[5:18])


@every_form
def test_recomputing_gives_the_same_gradient_and_every_parameter_has_one(
    make_model, lay_end_to_end, gradients, form
):
    model = make_model(**form, hidden_dropout=0.1, attention_dropout=0.1).train()
    batch, found = lay_end_to_end((9, 14, 6), tail=3), []
    for recompute in ("none", "full"):
        model.bert.recompute = recompute
        torch.manual_seed(5)
        sums = model(**batch)
        found.append(gradients(model, sums.mlm_sum + sums.nsp_sum))
    assert found[0].keys() == {name for name, _ in model.named_parameters()}
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    idle = model(**lay_end_to_end((9, 14, 6), masked_each=0) | {"next_labels_B": torch.full((3,), -100)})
    nothing = gradients(model, idle.mlm_sum + idle.nsp_sum)
    assert nothing.keys() == found[0].keys()
    assert all(torch.all(gradient == 0) for gradient in nothing.values())


@every_form
def test_a_causal_networks_answer_does_not_depend_on_what_follows(
    make_model, lay_end_to_end, encoder_inputs, form
):
    model = make_model(**form, pair_head=False, causal=True)
    batch = encoder_inputs(lay_end_to_end((9, 14, 6)))
    changed = {**batch, "tokens_T": batch["tokens_T"].clone()}
    changed["tokens_T"][15:23] = torch.arange(1, 9)
    before, after = (model.encode(**each).hidden_TH for each in (batch, changed))
    same = torch.isclose(before, after, rtol=1e-6, atol=1e-6).all(dim=1)
    assert same.tolist() == [True] * 15 + [False] * 8 + [True] * 6


@every_form
def test_every_form_starts_from_the_published_weights_distribution_and_learns_a_batch_by_heart(
    config, lay_end_to_end, form
):
    model = BertForPretraining(replace(config, **form)).train()
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            assert torch.all(module.weight == 1)
        if isinstance(module, nn.LayerNorm | nn.Linear) and module.bias is not None:
            assert torch.all(module.bias == 0)
        if isinstance(module, nn.Linear | nn.Embedding):
            assert 0.01 < float(module.weight.std()) < 0.03
    batch = lay_end_to_end((9, 14, 6))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(40):
        sums = model(**batch)
        optimizer.zero_grad()
        (sums.mlm_sum + sums.nsp_sum).backward()
        optimizer.step()
    assert (int(sums.mlm_correct), int(sums.nsp_correct)) == (6, 3)
