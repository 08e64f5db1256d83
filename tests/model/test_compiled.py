"""Compiled layers compute what plain ones do, and are compiled a bounded number of times."""

from collections.abc import Iterator

import pytest
import torch
from torch._dynamo.utils import counters

from model.bert import BertForPretraining


@pytest.fixture(autouse=True)
def forget_what_was_compiled() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def twin(model: BertForPretraining, **how: str) -> BertForPretraining:
    other = BertForPretraining(model.config, **how)
    other.load_state_dict(model.state_dict())
    return other.train(model.training)


def test_a_compiled_step_is_the_plain_one_within_fp32(make_model, lay_end_to_end, gradients):
    plain = make_model(layers=2).train()
    compiled = twin(plain)
    compiled.compile_layers()
    for lengths in ((9, 14, 6), (30, 2), (17,)):
        batch = lay_end_to_end(lengths)
        wanted, found = plain(**batch), compiled(**batch)
        torch.testing.assert_close(tuple(found), tuple(wanted), rtol=1e-5, atol=1e-5)
        expected = gradients(plain, wanted.mlm_sum + wanted.nsp_sum)
        again = gradients(compiled, found.mlm_sum + found.nsp_sum)
        for name, gradient in expected.items():
            torch.testing.assert_close(
                again[name], gradient, rtol=1e-3, atol=2e-4 * float(gradient.abs().max() + 1)
            )
    assert counters["stats"]["unique_graphs"] > 0


@pytest.mark.parametrize("recompute", ["none", "attention", "full"])
def test_however_many_shapes_there_are_layers_are_compiled_once_for_training_and_once_for_evaluation(
    make_model, lay_end_to_end, recompute
):
    # Its graphs are made as ever, and run as they are: what is counted is when one is made.
    model = twin(make_model(layers=2, hidden_dropout=0.1, attention_dropout=0.1), recompute=recompute)
    model.compile_layers(backend="aot_eager")
    shapes = [(9, 14, 6), (17,), (40, 40), (8,) * 16, (3, 39, 20, 7)]
    made = []
    for mode in ("train", "eval"):
        getattr(model, mode)()
        for lengths in shapes:
            for tail in (0, 3):
                sums = model(**lay_end_to_end(lengths, tail=tail))
                (sums.mlm_sum + sums.nsp_sum).backward()
        made.append(counters["stats"]["unique_graphs"])
    # Before attention and after it, each perhaps once more when the first shape changes.
    assert 2 <= made[0] <= 4
    assert made[1] <= made[0] + 4
    assert not counters["recompile_limit"]


def test_dropout_follows_the_seed_in_compiled_layers_too(make_model, lay_end_to_end):
    model, batch = make_model(hidden_dropout=0.1).train(), lay_end_to_end((9, 14, 6))
    model.compile_layers(backend="aot_eager")

    def loss(seed: int) -> float:
        torch.manual_seed(seed)
        return float(model(**batch).mlm_sum)

    assert loss(1) == loss(1)
    assert loss(1) != loss(2)
