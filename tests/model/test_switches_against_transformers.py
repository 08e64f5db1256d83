"""The authority on the switches: the classes of `transformers` that compute them, by logits, losses and gradients."""

from dataclasses import replace

import pytest
import torch

from model.bert import BertForPretraining
from model.config import ModelConfig
from model.hf_families import held, why_none
from model.hf_names import architecture, from_hf, from_hf_config, hf_config, tied_names, to_hf
from workshop.padding import padded
from workshop.switches import every_form

transformers = pytest.importorskip("transformers")

SINUSOIDS = "roformer.encoder.embed_positions.weight"
ALWAYS_BIASED = ("cls.predictions.bias", "lm_head.bias", "bert.pooler", "cls.seq_relationship")
MASKED, CAUSAL = {"pair_head": False}, {"pair_head": False, "causal": True}
# The class that computes a form, and the form.
HELD = [
    ("BertForPreTraining", {"bias": False}),
    ("BertForMaskedLM", {"bias": False, **MASKED}),
    ("BertLMHeadModel", {"bias": False, **CAUSAL}),
    *(
        (name, {"norm": "pre", "bias": bias, **asked})
        for bias in (True, False)
        for name, asked in (
            ("RobertaPreLayerNormForMaskedLM", MASKED),
            ("RobertaPreLayerNormForMaskedLM", {}),
            ("RobertaPreLayerNormForCausalLM", CAUSAL),
        )
    ),
    *(
        (name, {"position": "rotary", "bias": bias, "activation": activation, **asked})
        for bias, activation in ((True, "gelu"), (True, "relu"), (False, "gelu_pytorch_tanh"))
        for name, asked in (
            ("RoFormerForMaskedLM", MASKED),
            ("RoFormerForMaskedLM", {}),
            ("RoFormerForCausalLM", CAUSAL),
        )
    ),
]
held_forms = pytest.mark.parametrize(
    ("name", "form"), HELD, ids=[f"{name} {' '.join(map(str, form.values()))}" for name, form in HELD]
)


def twin(ours, pad_token_id=0):
    """Their network with our weights."""
    config = transformers.AutoConfig.for_model(**hf_config(ours.config, pad_token_id=pad_token_id))
    config._attn_implementation = "eager"
    theirs = getattr(transformers, architecture(ours.config))(config).eval()
    theirs.load_state_dict(to_hf(ours.state_dict(), ours.config, pad_token_id=pad_token_id))
    return theirs


@held_forms
@pytest.mark.parametrize("pad_token_id", [0, 3])
def test_logits_losses_and_every_gradient_equal_those_of_the_class_that_holds_the_form(
    make_model, lay_end_to_end, encoder_inputs, gradients, name, form, pad_token_id
):
    ours = make_model(**form)
    theirs = twin(ours, pad_token_id)
    assert type(theirs).__name__ == name
    batch = lay_end_to_end((5, 17, 9, 23, 1, 12), tail=7)
    # [PAD] is inside no sequence.
    batch["tokens_T"][batch["tokens_T"] == pad_token_id] = 7
    grid = padded(batch)
    grid["input_ids"][grid["attention_mask"] == 0] = pad_token_id
    labels = grid.pop("labels")
    answer = theirs(**grid)
    pairs = held(ours.config).pair_head
    expected = (answer.prediction_logits if pairs else answer.logits)[labels != -100]
    hidden, pooled = ours.encode(**encoder_inputs(batch))
    found = ours.mlm_logits(hidden, batch["masked_positions_M"])
    scale = float(expected.detach().abs().max())
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5 * scale)
    loss, wanted_loss = (
        torch.nn.functional.cross_entropy(logits, batch["masked_labels_M"]) for logits in (found, expected)
    )
    if pairs:
        asked = batch["next_labels_B"]
        loss = loss + torch.nn.functional.cross_entropy(ours.nsp_logits(pooled), asked)
        wanted_loss = wanted_loss + torch.nn.functional.cross_entropy(answer.seq_relationship_logits, asked)
    torch.testing.assert_close(loss, wanted_loss, rtol=1e-5, atol=0)

    # What stays behind has no gradient here.
    own = {each: torch.zeros_like(parameter) for each, parameter in ours.named_parameters()}
    found_gradients = to_hf(own | gradients(ours, loss), ours.config, pad_token_id=pad_token_id)
    wanted_gradients = gradients(theirs, wanted_loss)
    assert wanted_gradients.keys() <= found_gradients.keys()
    for weight, gradient in wanted_gradients.items():
        if not form.get("bias", True) and weight.endswith("bias") and not weight.startswith(ALWAYS_BIASED):
            continue  # ours has none; theirs is 0, and could be trained
        # A key's bias shifts all scores of a query alike: its true gradient is 0.
        size = wanted_gradients[weight.replace("self.key.bias", "self.query.bias")].abs().max()
        error = (found_gradients[weight] - gradient).abs().max() / size
        assert error <= 2e-5, f"{weight}: relative error {error:.1e}"


@held_forms
def test_names_and_configuration_go_there_and_back(make_model, name, form):
    ours, pad = make_model(**form), 3
    theirs, kept = twin(ours, pad), replace(held(ours.config), bias=True)
    assert hf_config(ours.config)["architectures"] == [name]
    assert to_hf(ours.state_dict(), ours.config, pad_token_id=pad).keys() == theirs.state_dict().keys()
    said = hf_config(ours.config, pad_token_id=pad)
    assert from_hf_config(said) == kept
    assert from_hf_config(theirs.config.to_dict() | {"architectures": [name]}) == kept
    # transformers ties the decoder itself, counts positions itself, and computes its sinusoids itself.
    whole = theirs.state_dict()
    for state in (whole, {each: whole[each] for each in whole if each not in (*tied_names(), SINUSOIDS)}):
        back = BertForPretraining(kept)
        back.load_state_dict(from_hf(state, pad_token_id=pad))
        for each, tensor in back.state_dict().items():
            if each in ours.state_dict():
                assert torch.equal(tensor, ours.state_dict()[each]), each
            else:
                assert each.endswith("bias")
                assert not tensor.any(), each


@every_form
def test_what_no_class_computes_is_refused_with_what_is_the_matter(config: ModelConfig, form):
    shape = replace(config, **form)
    if form["activation"] == "geglu":
        reason = "model.activation geglu"
    elif (form["norm"], form["position"]) == ("pre", "rotary"):
        reason = "model.norm pre and model.position rotary"
    else:
        assert why_none(shape) == ""
        assert getattr(transformers, architecture(shape))
        return
    assert why_none(shape) == f"bertpipe knows no class of transformers for a BERT with {reason}"
    for door in (architecture, hf_config, held):
        with pytest.raises(ValueError, match=reason):
            door(shape)


def test_a_head_that_computes_gelu_alone_holds_no_other_activation(config: ModelConfig):
    shape = replace(config, norm="pre", activation="relu")
    with pytest.raises(ValueError, match=r"a BERT with model.norm pre and model.activation relu$"):
        architecture(shape)
    with pytest.raises(ValueError, match="hidden_act 'relu': bertpipe needs 'gelu'"):
        from_hf_config(hf_config(replace(shape, activation="gelu")) | {"hidden_act": "relu"})


@pytest.mark.parametrize(
    ("form", "change", "message"),
    [
        ({"position": "rotary"}, {"rotary_value": True}, "rotary_value True"),
        ({"position": "rotary"}, {"embedding_size": 16}, "embedding_size 16"),
        ({"position": "rotary"}, {"hidden_act": "geglu"}, "hidden_act 'geglu'"),
        ({"norm": "pre"}, {"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ({"norm": "pre"}, {"model_type": "roberta"}, "model_type 'roberta'"),
    ],
)
def test_configurations_of_other_networks_are_refused(config: ModelConfig, form, change, message):
    with pytest.raises(ValueError, match=message):
        from_hf_config({**hf_config(replace(config, **form)), **change})


@pytest.mark.parametrize("positions", [512, 4096])
def test_their_own_sinusoids_are_taken_however_long_the_table_is(make_model, positions):
    from transformers.models.roformer.modeling_roformer import RoFormerSinusoidalPositionalEmbedding

    ours = make_model(position="rotary", pair_head=False, hidden_size=64, heads=1)
    table = RoFormerSinusoidalPositionalEmbedding(positions, ours.config.head_size).create_weight()
    state = to_hf(ours.state_dict(), ours.config)
    assert from_hf(state | {SINUSOIDS: table}).keys() == ours.state_dict().keys()
    with pytest.raises(ValueError, match="does not hold the sines and cosines of rotary positions"):
        from_hf(state | {SINUSOIDS: table.roll(1, 0)})


def test_a_table_of_other_sinusoids_and_missing_weights_are_refused(make_model):
    ours = make_model(position="rotary", pair_head=False)
    state = to_hf(ours.state_dict(), ours.config)
    with pytest.raises(ValueError, match="does not hold the sines and cosines of rotary positions"):
        from_hf(state | {SINUSOIDS: state[SINUSOIDS].flip(0)})
    lost = "roformer.encoder.layer.1.output.dense.bias"
    with pytest.raises(ValueError, match=rf"missing {lost}$"):
        from_hf({name: tensor for name, tensor in state.items() if name != lost})
    own = ours.state_dict()
    del own["bert.embeddings.norm.bias"]
    with pytest.raises(ValueError, match=r"missing bert\.embeddings\.norm\.bias$"):
        to_hf(own, ours.config)
    # Nor are weights that the configuration says are not there.
    with pytest.raises(ValueError, match=r"unexpected .*expand\.bias"):
        to_hf(ours.state_dict(), replace(ours.config, bias=False))
