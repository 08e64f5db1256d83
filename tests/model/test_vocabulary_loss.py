"""The loss over the vocabulary in chunks is the plain formula's, and never holds all logits."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from model import vocabulary_loss as module
from model.vocabulary_loss import IGNORED, vocabulary_loss

HIDDEN, VOCAB = 6, 11


def parts(masked: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    shapes = ((masked, HIDDEN), (VOCAB, HIDDEN), (VOCAB,))
    return [torch.randn(shape).to(dtype).requires_grad_() for shape in shapes]


def plain(hidden: Tensor, weight: Tensor, bias: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    logits = functional.linear(hidden, weight, bias)
    loss = functional.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum")
    return loss, (logits.argmax(-1) == labels).sum()


@given(
    labels=st.lists(st.one_of(st.just(IGNORED), st.integers(0, VOCAB - 1)), max_size=20),
    at_once=st.sampled_from([1, 3 * VOCAB, 1 << 20]),
)
def test_it_is_the_plain_formula_whatever_the_chunks(labels, at_once):
    given_, labels_M = parts(len(labels)), torch.tensor(labels, dtype=torch.int64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(module.LOGITS_AT_ONCE, "cpu", at_once)
        found, correct = vocabulary_loss(*given_, labels_M)
    expected, expected_correct = plain(*given_, labels_M)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert correct == expected_correct
    assert correct.dtype == torch.int64
    # Scaled, as the global batch's count scales it.
    gradients = torch.autograd.grad(found / 7, given_)
    wanted = torch.autograd.grad(expected / 7, given_)
    torch.testing.assert_close(gradients, wanted, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("labels", [[], [IGNORED] * 5])
def test_nothing_to_guess_is_a_loss_of_exactly_0_with_gradients_of_0(labels):
    given_ = parts(len(labels))
    loss, correct = vocabulary_loss(*given_, torch.tensor(labels, dtype=torch.int64))
    loss.backward()
    assert (float(loss), int(correct)) == (0.0, 0)
    assert all(torch.all(part.grad == 0) for part in given_)


def test_far_apart_logits_lose_no_digit():
    hidden, weight, bias = parts(4)
    labels = torch.tensor([0, 1, 2, 3])
    for scale in (1e-3, 1.0, 1e3, 1e5):
        scaled = (hidden * scale, weight, bias)
        found, expected = vocabulary_loss(*scaled, labels)[0], plain(*scaled, labels)[0]
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_without_gradients_none_are_made():
    given_, labels = parts(5), torch.arange(5)
    with torch.no_grad():
        loss, correct = vocabulary_loss(*given_, labels)
    assert not loss.requires_grad
    assert (loss, correct) == tuple(x.detach() for x in plain(*given_, labels))


def test_a_second_backward_pass_is_refused_and_not_scaled_twice():
    given_ = parts(5)
    loss, _ = vocabulary_loss(*given_, torch.arange(5))
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_bf16_sums_in_fp32_over_many_chunks(monkeypatch):
    given_ = parts(4000, torch.bfloat16)
    labels = torch.randint(VOCAB, (4000,))
    monkeypatch.setitem(module.LOGITS_AT_ONCE, "cpu", 100 * VOCAB)
    loss, _ = vocabulary_loss(*given_, labels)
    exact = [part.detach().double().requires_grad_() for part in given_]
    expected, _ = plain(*exact, labels)
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(float(expected), rel=2e-3)
    found, wanted = torch.autograd.grad(loss, given_), torch.autograd.grad(expected, exact)
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == torch.bfloat16
        assert float((one.double() - other).norm() / other.norm()) < 6e-3


class _Largest(TorchDispatchMode):
    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        results = func(*args, **(kwargs or {}))
        for one in results if isinstance(results, (tuple, list)) else (results,):
            if isinstance(one, Tensor):
                self.elements = max(self.elements, one.numel())
        return results


def test_no_tensor_holds_all_logits(monkeypatch):
    monkeypatch.setitem(module.LOGITS_AT_ONCE, "cpu", 10 * VOCAB)
    given_ = parts(300)
    with _Largest() as largest:
        vocabulary_loss(*given_, torch.randint(VOCAB, (300,)))[0].backward()
    assert largest.elements == 300 * HIDDEN < 300 * VOCAB
