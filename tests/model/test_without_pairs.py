"""Networks without a pairs' head, bidirectional and causal, against the classes of `transformers` that compute them."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from model.bert import BertForPretraining
from model.config import ModelConfig
from model.counts import activation_bytes, parameter_count, step_flops
from model.hf_names import architecture, from_hf, from_hf_config, hf_config, tied_names, to_hf
from workshop.padding import padded

transformers = pytest.importorskip("transformers")

FORMS = {
    "BertForMaskedLM": {"pair_head": False},
    "BertLMHeadModel": {"pair_head": False, "causal": True},
}
forms = pytest.mark.parametrize(("name", "form"), FORMS.items(), ids=FORMS)
MIXED, EQUAL = (5, 17, 9, 23, 1, 12), (16, 16, 16, 16)


def twin(ours):
    config = transformers.BertConfig(**hf_config(ours.config), attn_implementation="eager")
    theirs = getattr(transformers, architecture(ours.config))(config).eval()
    theirs.load_state_dict(to_hf(ours.state_dict(), ours.config))
    return theirs


def asking_the_next_token(batch):
    """The batch with a label at every token but each sequence's last: the token that follows."""
    starts = batch["sequence_starts_B1"].tolist()
    positions = torch.tensor([p for start, end in pairwise(starts) for p in range(start, end - 1)])
    labels = batch["tokens_T"][positions + 1].long()
    return {**batch, "masked_positions_M": positions, "masked_labels_M": labels}


@forms
@pytest.mark.parametrize("lengths", [MIXED, EQUAL], ids=["mixed", "equal"])
def test_logits_loss_and_every_gradient_equal_those_of_transformers(
    make_model, lay_end_to_end, encoder_inputs, gradients, name, form, lengths
):
    ours = make_model(**form)
    theirs = twin(ours)
    assert type(theirs).__name__ == name
    batch = lay_end_to_end(lengths, tail=7)
    if ours.config.causal:
        batch = asking_the_next_token(batch)
        grid = padded(batch)
        # Theirs shifts the labels itself.
        labels = torch.where(grid["attention_mask"] == 1, grid["input_ids"], -100)
    else:
        grid = padded(batch)
        labels = grid["labels"]
    expected = theirs(**grid | {"labels": labels})
    hidden, pooled = ours.encode(**encoder_inputs(batch))
    assert pooled is None
    found = ours.mlm_logits(hidden, batch["masked_positions_M"])
    wanted = expected.logits[grid["labels"] != -100]
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5 * float(wanted.detach().abs().max()))

    sums = ours(**batch)
    loss = sums.mlm_sum / len(batch["masked_labels_M"])
    torch.testing.assert_close(loss, expected.loss, rtol=1e-5, atol=0)
    assert sums.mlm_correct == (wanted.argmax(-1) == batch["masked_labels_M"]).sum()
    assert (float(sums.nsp_sum), int(sums.nsp_correct)) == (0.0, 0)
    ours_by_name, theirs_by_name = to_hf(gradients(ours, loss), ours.config), gradients(theirs, expected.loss)
    assert set(ours_by_name) - set(tied_names()) == set(theirs_by_name)
    for weight, gradient in theirs_by_name.items():
        # A key's bias shifts all scores of a query alike: its true gradient is 0.
        scale = theirs_by_name[weight.replace("self.key.bias", "self.query.bias")].abs().max()
        error = (ours_by_name[weight] - gradient).abs().max() / scale
        assert error <= 1e-5, f"{weight}: relative error {error:.1e}"


def test_a_causal_networks_answer_does_not_depend_on_what_follows(make_model, lay_end_to_end, encoder_inputs):
    ours = make_model(**FORMS["BertLMHeadModel"])
    batch = lay_end_to_end((9, 14, 6))
    changed = {**batch, "tokens_T": batch["tokens_T"].clone()}
    changed["tokens_T"][15:23] = torch.arange(1, 9)
    before, after = (ours.encode(**encoder_inputs(each)).hidden_TH for each in (batch, changed))
    same = torch.isclose(before, after, rtol=1e-6, atol=1e-6).all(dim=1)
    assert same.tolist() == [True] * 15 + [False] * 8 + [True] * 6


@forms
def test_there_are_no_parameters_and_no_operations_of_a_pairs_head(make_model, lay_end_to_end, name, form):
    model = make_model(**form, attention_dropout=0.1).train()
    names = {each for each, _ in model.named_parameters()}
    assert not any("pooler" in each or "nsp" in each for each in names)
    assert parameter_count(model.config) == sum(p.numel() for p in model.parameters())
    batch = lay_end_to_end((24,) * 6, masked_each=3)
    counter = FlopCounterMode(display=False)
    with counter:
        model(**batch).mlm_sum.backward()
    assert step_flops(model.config, (24,) * 6, masked=18) == counter.get_total_flops()
    with pytest.raises(ValueError, match="no head for pairs"):
        model.nsp_logits(torch.zeros(1, 32))


@forms
@pytest.mark.parametrize("attention_dropout", [0.1, 0.0])
@pytest.mark.parametrize(("sequences", "length", "layers"), [(8, 24, 3), (1, 512, 2)])
def test_the_activations_are_those_that_autograd_keeps(
    lay_end_to_end, config: ModelConfig, saved_bytes, name, form, attention_dropout, sequences, length, layers
):
    shape = replace(
        config, **form, layers=layers, hidden_size=64, intermediate_size=192, max_positions=512,
        attention_dropout=attention_dropout, hidden_dropout=0.1,
    )  # fmt: skip
    model = BertForPretraining(shape).train()
    lengths = [length] * (sequences - 1) + [length - 1]
    # At every token but the last where the network is causal, as `ltr` has it.
    each = length - 1 if shape.causal else 6
    batch = lay_end_to_end(lengths, masked_each=each) | {"longest": length}
    formula = activation_bytes(shape, sequences=sequences, length=length, masked=each * sequences)
    assert formula.kept == pytest.approx(saved_bytes(model, batch), rel=0.03)


@forms
def test_names_and_configuration_go_there_and_back(make_model, name, form):
    ours = make_model(**form)
    state = ours.state_dict()
    back = from_hf(to_hf(state, ours.config))
    assert back.keys() == state.keys()
    assert all(back[each] is state[each] for each in state)
    theirs = twin(ours)
    assert to_hf(state, ours.config).keys() == theirs.state_dict().keys()
    assert from_hf(theirs.state_dict()).keys() == state.keys()
    assert hf_config(ours.config)["architectures"] == [name]
    assert from_hf_config(hf_config(ours.config)) == ours.config
    assert from_hf_config(theirs.config.to_dict() | {"architectures": [name]}) == ours.config
    with pytest.raises(ValueError, match=r"missing .*predictions\.bias"):
        from_hf(
            {
                each: tensor
                for each, tensor in to_hf(state, ours.config).items()
                if each != "cls.predictions.bias"
            }
        )


def test_half_a_pairs_head_is_neither_form(make_model, config):
    state = to_hf(make_model().state_dict(), config)
    without = {each: tensor for each, tensor in state.items() if "pooler" not in each}
    with pytest.raises(ValueError, match=r"missing bert\.pooler\.dense\.bias, bert\.pooler\.dense\.weight$"):
        from_hf(without)


def test_a_decoder_of_transformers_is_causal_whatever_class_it_lacks(config):
    hf = hf_config(config)
    del hf["architectures"]
    assert from_hf_config(hf) == config
    assert from_hf_config(hf | {"is_decoder": True}) == replace(config, pair_head=False, causal=True)


def test_nothing_to_guess_gives_a_loss_of_exactly_0_and_gradients_everywhere(
    make_model, lay_end_to_end, gradients
):
    for form in FORMS.values():
        model = make_model(**form)
        sums = model(**lay_end_to_end((9, 14, 6), masked_each=0))
        assert [float(value) for value in sums] == [0, 0, 0, 0]
        found = gradients(model, sums.mlm_sum / 5 + sums.nsp_sum / 3)
        assert set(found) == {each for each, _ in model.named_parameters()}
