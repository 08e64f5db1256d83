"""The same weights and configuration under two sets of names, there and back."""

import pytest
import torch

from model.bert import BertForPretraining
from model.config import ModelConfig, preset
from model.hf_names import from_hf, from_hf_config, hf_config, tied_names, to_hf

transformers = pytest.importorskip("transformers")


@pytest.fixture
def ours(make_model):
    return make_model()


@pytest.fixture
def theirs(config):
    return transformers.BertForPreTraining(transformers.BertConfig(**hf_config(config)))


def test_our_names_become_exactly_those_of_transformers(ours, theirs):
    renamed, expected = to_hf(ours.state_dict(), ours.config), theirs.state_dict()
    assert renamed.keys() == expected.keys()
    assert all(renamed[name].shape == expected[name].shape for name in expected)


def test_there_and_back_gives_the_same_tensors(ours):
    state = ours.state_dict()
    back = from_hf(to_hf(state, ours.config))
    assert back.keys() == state.keys()
    assert all(back[name] is state[name] for name in state)


def test_weights_of_transformers_load_into_our_network(ours, theirs):
    ours.load_state_dict(from_hf(theirs.state_dict()))
    keys = theirs.bert.encoder.layer[2].attention.self.key
    assert torch.equal(ours.bert.layers[2].attention.key.weight, keys.weight)
    assert torch.equal(ours.mlm_head.bias, theirs.cls.predictions.bias)


def test_tied_entries_and_buffers_may_be_missing_or_present(ours):
    state = to_hf(ours.state_dict(), ours.config)
    without = {name: tensor for name, tensor in state.items() if name not in tied_names()}
    assert len(state) - len(without) == 2
    with_buffers = {**without, "bert.embeddings.position_ids": torch.arange(40)[None]}
    for variant in (without, with_buffers):
        assert from_hf(variant).keys() == ours.state_dict().keys()


def test_names_too_many_or_too_few_are_refused_by_name(ours):
    state = to_hf(ours.state_dict(), ours.config)
    lost = "bert.encoder.layer.1.output.dense.bias"
    damaged = {name: tensor for name, tensor in state.items() if name != lost}
    with pytest.raises(ValueError, match=rf"missing {lost}$"):
        from_hf(damaged)
    with pytest.raises(ValueError, match=rf"missing {lost}; unexpected classifier\.weight$"):
        from_hf({**damaged, "classifier.weight": torch.zeros(1)})
    own = ours.state_dict()
    del own["bert.embeddings.norm.bias"]
    with pytest.raises(ValueError, match=r"missing bert\.embeddings\.norm\.bias$"):
        to_hf(own, ours.config)
    with pytest.raises(ValueError, match=r"missing bert\.embeddings"):
        from_hf({})


def test_a_decoder_that_is_not_tied_is_refused(ours):
    state = to_hf(ours.state_dict(), ours.config)
    with pytest.raises(ValueError, match=r"decoder\.weight differs from bert\.embeddings\.word_embeddings"):
        from_hf({**state, "cls.predictions.decoder.weight": torch.zeros(97, 32)})


def test_the_configuration_goes_there_and_back():
    shape = preset("mini", vocab_size=8192, hidden_dropout=0.2, max_positions=128, activation="relu")
    assert from_hf_config(hf_config(shape)) == shape
    through = transformers.BertConfig(**hf_config(shape)).to_dict()
    assert from_hf_config(through) == shape


def test_the_default_configuration_of_transformers_is_bert_base():
    assert from_hf_config(transformers.BertConfig().to_dict()) == preset("base", vocab_size=30522)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_act": "silu"}, "hidden_act 'silu'"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type 'relative_key'"),
        ({"is_decoder": True}, "is_decoder True"),
        ({"model_type": "roberta"}, "model_type 'roberta'"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings False"),
    ],
)
def test_configurations_of_other_networks_are_refused(config: ModelConfig, change, message):
    with pytest.raises(ValueError, match=message):
        from_hf_config({**hf_config(config), **change})
    with pytest.raises(ValueError, match="lacks vocab_size"):
        from_hf_config({name: value for name, value in hf_config(config).items() if name != "vocab_size"})


def test_biases_and_norms_are_recognisable_by_name(config):
    model = BertForPretraining(config)
    flat = {name for name, parameter in model.named_parameters() if parameter.dim() == 1}
    assert flat == {name for name, _ in model.named_parameters() if name.endswith("bias") or "norm" in name}
