"""What training relies on: dropout where published, initial weights, and losses where nothing is masked."""

import pytest
import torch

from model.bert import BertForPretraining
from model.config import preset
from model.dropout import Dropout


def test_hidden_dropout_drops_its_share_and_scales_the_rest(make_model, lay_end_to_end):
    model = make_model(hidden_dropout=0.25)
    batch = lay_end_to_end((30, 30, 30, 30))
    inputs = batch["tokens_T"], batch["segments_T"], batch["positions_T"]
    whole = model.bert.embeddings(*inputs)
    dropped = model.train().bert.embeddings(*inputs)
    kept = dropped != 0
    assert abs(float(kept.float().mean()) - 0.75) < 0.03  # 3,840 draws: 4 standard deviations are 0.028
    torch.testing.assert_close(dropped[kept], whole[kept] / 0.75)


def test_hidden_dropout_stands_behind_the_embeddings_and_each_half_of_a_layer(make_model, lay_end_to_end):
    model = make_model(hidden_dropout=0.25).train()
    calls = []
    for module in model.modules():
        if isinstance(module, Dropout):
            module.register_forward_hook(lambda module, *_: calls.append(module.rate))
    model(**lay_end_to_end((4, 9)))
    assert calls == [0.25] * (1 + 2 * model.config.layers)


@pytest.mark.parametrize("rate", ["hidden_dropout", "attention_dropout"])
def test_dropout_acts_in_training_alone_and_follows_the_seed(make_model, lay_end_to_end, rate):
    model, batch = make_model(**{rate: 0.1}), lay_end_to_end((9, 14, 6))

    def loss(seed: int) -> float:
        torch.manual_seed(seed)
        return float(model(**batch).mlm_sum)

    assert loss(1) == loss(2)
    model.train()
    assert loss(1) != loss(2)
    assert loss(1) == loss(1)


def test_training_and_evaluation_agree_where_dropout_is_0(make_model, lay_end_to_end):
    model, batch = make_model(), lay_end_to_end((9, 14, 6))
    evaluated = model(**batch)
    torch.testing.assert_close(tuple(model.train()(**batch)), tuple(evaluated), rtol=1e-6, atol=0)


def test_initial_weights_are_normal_with_deviation_0_02_biases_0_and_norms_the_identity():
    model = BertForPretraining(preset("tiny", vocab_size=1000))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            assert torch.all(parameter == 0), name
        elif "norm" in name:
            assert torch.all(parameter == 1), name
        elif parameter.numel() > 10_000:
            assert float(parameter.std()) == pytest.approx(0.02, rel=0.03), name
            assert abs(float(parameter.mean())) < 0.02 * 4 / parameter.numel() ** 0.5, name
            # A cut at two deviations, as in the first published code, would leave none beyond it.
            assert float((parameter.abs() > 0.04).float().mean()) == pytest.approx(0.0455, rel=0.2), name
        else:
            assert float(parameter.std()) == pytest.approx(0.02, rel=0.25), name


def test_the_seed_decides_the_initial_weights(config):
    states = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        states.append(BertForPretraining(config).state_dict())
    first, same, other = states
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["bert.pooler.dense.weight"], other["bert.pooler.dense.weight"])


@pytest.mark.parametrize("pads", [0, 4], ids=["M is 0", "M is all pads"])
def test_nothing_masked_gives_a_loss_of_exactly_0_and_gradients_of_0_everywhere(
    make_model, lay_end_to_end, gradients, pads
):
    model = make_model()
    batch = lay_end_to_end((9, 14, 6), masked_each=0, masked_pads=pads)
    batch["next_labels_B"][:] = -100
    sums = model(**batch)
    assert [float(value) for value in sums] == [0, 0, 0, 0]
    found = gradients(model, sums.mlm_sum + sums.nsp_sum)
    # Every parameter has one: each module ran, which ZeRO 3 and data-parallel ranks rely on.
    assert set(found) == {name for name, _ in model.named_parameters()}
    assert all(torch.all(gradient == 0) for gradient in found.values())


def test_pads_of_masked_positions_change_no_loss_and_no_gradient(make_model, lay_end_to_end, gradients):
    model, batch = make_model(), lay_end_to_end((9, 14, 6))
    padded = {
        **batch,
        "masked_positions_M": torch.cat([batch["masked_positions_M"], torch.tensor([0, 11, 28])]),
        "masked_labels_M": torch.cat([batch["masked_labels_M"], torch.full((3,), -100)]),
    }
    wanted, found = model(**batch), model(**padded)
    torch.testing.assert_close(tuple(found), tuple(wanted), rtol=1e-6, atol=0)
    expected = gradients(model, wanted.mlm_sum + wanted.nsp_sum)
    torch.testing.assert_close(
        gradients(model, found.mlm_sum + found.nsp_sum), expected, rtol=1e-5, atol=1e-5
    )


def test_the_sums_of_two_halves_add_up_to_the_whole(make_model, lay_end_to_end):
    model, batch = make_model(), lay_end_to_end((9, 14, 6, 11))
    halves = []
    first = slice(0, 3), slice(0, 23), slice(0, 4)  # of starts, tokens and masked positions
    second = slice(2, 5), slice(23, 40), slice(4, 8)
    for pairs, tokens, masked in (first, second):
        half = {name: batch[name][tokens] for name in ("tokens_T", "segments_T", "positions_T")}
        starts = batch["sequence_starts_B1"][pairs] - tokens.start
        half |= {"sequence_starts_B1": starts, "longest": int(starts.diff().max())}
        half["masked_positions_M"] = batch["masked_positions_M"][masked] - tokens.start
        half["masked_labels_M"] = batch["masked_labels_M"][masked]
        half["next_labels_B"] = batch["next_labels_B"][pairs.start : pairs.stop - 1]
        halves.append(model(**half))
    added = tuple(map(sum, zip(*halves, strict=True)))
    torch.testing.assert_close(added, tuple(model(**batch)), rtol=1e-6, atol=0)


def test_losses_are_summed_in_fp32_where_the_network_is_bf16(make_model, lay_end_to_end):
    model, batch = make_model(), lay_end_to_end((9, 14, 6), tail=3)
    full = model(**batch)
    half = model.bfloat16()(**batch)
    assert half.mlm_sum.dtype == half.nsp_sum.dtype == torch.float32
    assert float(half.mlm_sum) == pytest.approx(float(full.mlm_sum), rel=0.05)
    half.mlm_sum.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_a_few_steps_learn_a_batch_by_heart(config, lay_end_to_end):
    model = BertForPretraining(config).train()
    batch = lay_end_to_end((9, 14, 6))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        sums = model(**batch)
        optimizer.zero_grad()
        (sums.mlm_sum + sums.nsp_sum).backward()
        optimizer.step()
    assert sums.mlm_correct == 6
    assert sums.nsp_correct == 3


@pytest.mark.parametrize("recompute", ["attention", "full"])
def test_recomputed_activations_give_the_same_loss_and_gradient_from_less_kept(
    make_model, lay_end_to_end, gradients, recompute
):
    plain = make_model(hidden_dropout=0.1, attention_dropout=0.1).train()
    again = BertForPretraining(plain.config, recompute=recompute).train()
    again.load_state_dict(plain.state_dict())
    batch = lay_end_to_end((9, 14, 6))

    def measure(model: BertForPretraining) -> tuple[float, dict[str, torch.Tensor], int]:
        kept = 0

        def count(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal kept
            kept += tensor.numel()
            return tensor

        torch.manual_seed(5)
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            sums = model(**batch)
        return float(sums.mlm_sum), gradients(model, sums.mlm_sum + sums.nsp_sum), kept

    (loss, expected, kept), (same, found, less) = measure(plain), measure(again)
    assert loss == same
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    # Each layer's and head's probabilities; or nearly all.
    probabilities = 3 * 4 * (9**2 + 14**2 + 6**2)
    assert less == kept - probabilities if recompute == "attention" else less < kept / 2


def test_another_way_to_recompute_is_refused(config):
    with pytest.raises(ValueError, match="recompute is 'some': give one of none, attention, full"):
        BertForPretraining(config, recompute="some")


@pytest.mark.long
def test_a_base_network_learns_two_pairs_by_heart(lay_end_to_end):
    model = BertForPretraining(
        preset("base", vocab_size=100, hidden_dropout=0.0, attention_dropout=0.0)
    ).train()
    batch = lay_end_to_end((24, 17), masked_each=4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    losses = []
    for step in range(16):
        optimizer.param_groups[0]["lr"] = 1e-4 * min(1, (step + 1) / 8)
        sums = model(**batch)
        loss = sums.mlm_sum / 8 + sums.nsp_sum / 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[0] > 4
    assert losses[-1] < 0.06
    assert (int(sums.mlm_correct), int(sums.nsp_correct)) == (8, 2)
