"""A configuration that exists can be built; what can't is refused in one line with value and remedy."""

from dataclasses import FrozenInstanceError

import pytest

from model.config import PRESETS, ModelConfig, preset

SHAPE = {"vocab_size": 100, "hidden_size": 32, "layers": 2, "heads": 4, "intermediate_size": 64}


def test_presets_are_the_published_shapes():
    shapes = {name: preset(name, vocab_size=30522) for name in PRESETS}
    found = {name: (shape.layers, shape.hidden_size, shape.heads) for name, shape in shapes.items()}
    assert found == {
        "tiny": (2, 128, 2),
        "mini": (4, 256, 4),
        "small": (4, 512, 8),
        "medium": (8, 512, 8),
        "base": (12, 768, 12),
        "large": (24, 1024, 16),
    }
    for shape in shapes.values():
        assert shape.head_size == 64
        assert shape.intermediate_size == 4 * shape.hidden_size
        assert (shape.max_positions, shape.type_vocab_size, shape.activation) == (512, 2, "gelu")
        assert (shape.norm, shape.position, shape.bias) == ("post", "learned", True)
        assert (shape.hidden_dropout, shape.attention_dropout) == (0.1, 0.1)
        assert (shape.initializer_range, shape.layer_norm_eps) == (0.02, 1e-12)


def test_any_field_of_a_preset_may_be_overridden():
    changed = preset("mini", vocab_size=8192, layers=6, hidden_dropout=0)
    assert (changed.layers, changed.hidden_dropout, changed.hidden_size) == (6, 0, 256)


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("smal", {"vocab_size": 9}, "model.preset 'smal' is unknown: did you mean 'small'?"),
        (
            "xyz",
            {"vocab_size": 9},
            "model.preset 'xyz' is unknown: known are base, large, medium, mini, small, tiny",
        ),
        ("tiny", {"vocab_size": 9, "layer": 3}, "model.layer is unknown: did you mean 'layers'?"),
        (
            "tiny",
            {"vocab_size": 9, "hidden_dropuot": 0},
            "model.hidden_dropuot is unknown: did you mean 'hidden_dropout'?",
        ),
        ("tiny", {}, "model.vocab_size is missing for preset 'tiny': give the vocabulary's size"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest_known_one(name, overrides, message):
    with pytest.raises(ValueError, match="model") as refusal:
        preset(name, **overrides)
    assert str(refusal.value) == message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": 0}, "model.layers is 0: give a whole number of at least 1"),
        ({"layers": 2.0}, "model.layers is 2.0: give a whole number of at least 1"),
        ({"heads": True}, "model.heads is True: give a whole number of at least 1"),
        ({"vocab_size": "30522"}, "model.vocab_size is '30522': give a whole number of at least 1"),
        ({"heads": 5}, "model.hidden_size 32 is not a multiple of model.heads 5: set heads to 4"),
        ({"hidden_dropout": 1}, "model.hidden_dropout is 1: give a share from 0 to below 1, such as 0.1"),
        (
            {"attention_dropout": -1},
            "model.attention_dropout is -1: give a share from 0 to below 1, such as 0.1",
        ),
        (
            {"hidden_dropout": float("nan")},
            "model.hidden_dropout is nan: give a share from 0 to below 1, such as 0.1",
        ),
        (
            {"layer_norm_eps": "1e-12"},
            "model.layer_norm_eps is '1e-12': give a number between 0 and 1, such as 1.0e-12",
        ),
        (
            {"initializer_range": 0},
            "model.initializer_range is 0: give a number between 0 and 1, such as 1.0e-12",
        ),
        ({"pair_head": 1}, "model.pair_head is 1: give true or false"),
        (
            {"causal": True},
            "model.causal is true and so is model.pair_head: [CLS] sees no token on its right, so nothing can be "
            "asked of it; set pair_head to false",
        ),
        ({"activation": "gelu_new"}, "model.activation 'gelu_new' is unknown: did you mean 'gelu'?"),
        ({"norm": "per"}, "model.norm 'per' is unknown: did you mean 'pre'?"),
        ({"norm": None}, "model.norm None is unknown: known are post, pre"),
        ({"position": "rotery"}, "model.position 'rotery' is unknown: did you mean 'rotary'?"),
        ({"bias": "no"}, "model.bias is 'no': give true or false"),
        (
            {"position": "rotary", "hidden_size": 36},
            "model.position is 'rotary', which turns a head's numbers two by two, and model.hidden_size 36 / "
            "model.heads 4 is 9: set hidden_size to a multiple of 8",
        ),
    ],
)
def test_what_cannot_be_built_is_refused_with_value_and_remedy(change, message):
    with pytest.raises(ValueError, match="model") as refusal:
        ModelConfig(**{**SHAPE, **change})
    assert str(refusal.value) == message


def test_a_configuration_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        ModelConfig(**SHAPE).layers = 3  # type: ignore[misc]
