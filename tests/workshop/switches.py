"""The networks that `ModelConfig`'s architectural switches make, for tests that hold for all of them."""

import itertools
from typing import Any

import pytest

NORMS, POSITIONS, BIASES, ACTIVATIONS = (
    ("post", "pre"),
    ("learned", "rotary"),
    (True, False),
    ("gelu", "geglu"),
)

# Each is what `ModelConfig` takes; the first is the published one.
COMBINATIONS: list[dict[str, Any]] = [
    {"norm": norm, "position": position, "bias": bias, "activation": activation}
    for norm, position, bias, activation in itertools.product(NORMS, POSITIONS, BIASES, ACTIVATIONS)
]


def name_of(form: dict[str, Any]) -> str:
    """`pre-rotary-biased-gelu`."""
    return "-".join(
        [form["norm"], form["position"], "biased" if form["bias"] else "bare", form["activation"]]
    )


every_form = pytest.mark.parametrize("form", COMBINATIONS, ids=name_of)
