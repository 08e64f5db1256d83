"""Every kernel of attention is the plain formula over each sequence alone, its gradients and dropout included."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from model.attention import attend, lay_out
from model.banded_attention import Bands, lay_bands
from model.dropout import Dropout, kept
from model.flash_attention import LONGEST_TAIL, Ends, has_kernel, lay_ends
from model.grid_attention import Grid, lay_grid
from pipeline.batches.microbatch import BUCKETS

Lengths = tuple[int, ...]


def on_grid(lengths: Lengths, tail: int, heads: int) -> Grid:
    starts = torch.tensor([0, *lengths]).cumsum(0).int()
    return lay_grid(tokens=int(starts[-1]) + tail, sequence_starts_B1=starts, longest=max(1, *lengths))


def in_bands(lengths: Lengths, tail: int, heads: int) -> Bands:
    starts = [0, *torch.tensor(lengths).cumsum(0).tolist()]
    return lay_bands(tokens=starts[-1] + tail, starts=starts, heads=heads)


# The flash kernel runs on CUDA alone: benchmarks/gpu/check.py holds it against the same formula.
FORMS: dict[str, Callable[[Lengths, int, int], Grid | Bands]] = {"grid": on_grid, "bands": in_bands}


def formula(states: Tensor, lengths: Lengths, *, causal: bool) -> Tensor:
    expected, start = torch.zeros_like(states[0]), 0
    for length in lengths:
        query, key, value = (x.transpose(0, 1) for x in states[:, start : start + length])
        scores = query @ key.transpose(1, 2) / query.shape[-1] ** 0.5
        if causal:
            scores = scores + torch.full((length, length), -torch.inf, dtype=scores.dtype).triu(1)
        expected[start : start + length] = (scores.softmax(-1) @ value).transpose(0, 1)
        start += length
    return expected


@pytest.mark.parametrize("form", FORMS)
@given(
    lengths=st.lists(st.integers(0, 40), min_size=2, max_size=9).filter(any).map(tuple),
    tail=st.integers(0, 9),
    heads=st.integers(1, 3),
    causal=st.booleans(),
)
def test_it_is_softmax_over_each_sequence_alone_and_so_are_its_gradients(form, lengths, tail, heads, causal):
    tokens = sum(lengths) + tail
    states = torch.randn(3, tokens, heads, 8, dtype=torch.float64, requires_grad=True)
    context = attend(*states, FORMS[form](lengths, tail, heads), dropout=0.0, causal=causal)
    expected = formula(states, lengths, causal=causal)
    torch.testing.assert_close(context, expected, rtol=1e-12, atol=1e-12)
    weights = torch.randn_like(context)
    (found,) = torch.autograd.grad((context * weights).sum(), states)
    (wanted,) = torch.autograd.grad((expected * weights).sum(), states)
    torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-11)
    assert torch.all(found[:, sum(lengths) :] == 0)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("causal", [False, True])
def test_a_neighbours_values_change_no_bit(form, causal):
    lengths, layout = (5, 13, 8), FORMS[form]((5, 13, 8), 3, 2)
    states = torch.randn(3, 29, 2, 8)
    changed = states.clone()
    changed[:, 5:18] = torch.randn(3, 13, 2, 8)
    before, after = (attend(*x, layout, dropout=0.0, causal=causal) for x in (states, changed))
    untouched = torch.tensor([*range(5), *range(18, sum(lengths))])
    assert torch.equal(before[untouched], after[untouched])
    assert not torch.equal(before[5:18], after[5:18])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("lengths", [(64, 64), (64, 40)], ids=["equal", "mixed"])
def test_dropout_drops_its_share_of_probabilities_and_scales_the_rest(form, lengths):
    total = sum(lengths)
    flat = torch.zeros(total, 1, 64)  # equal scores: every probability of the first sequence is 1/64
    value = torch.cat([torch.eye(64), torch.zeros(total - 64, 64)])[:, None, :]  # shows the probabilities
    probabilities = attend(flat, flat, value, FORMS[form](lengths, 0, 1), dropout=0.25)[:64, 0]
    left = probabilities != 0
    assert abs(float(left.float().mean()) - 0.75) < 0.03  # 4,096 draws
    torch.testing.assert_close(probabilities[left], torch.full((int(left.sum()),), 1 / 64 / 0.75))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("causal", [False, True])
def test_gradients_under_dropout_are_those_of_the_very_probabilities_that_were_left(form, causal):
    layout = FORMS[form]((7, 4, 9), 2, 2)

    def under_one_mask(*states: Tensor) -> Tensor:
        torch.manual_seed(3)
        return attend(*states, layout, dropout=0.3, causal=causal)

    states = torch.randn(3, 22, 2, 8, dtype=torch.float64).requires_grad_().unbind()
    assert torch.autograd.gradcheck(under_one_mask, states)


def test_the_kernel_is_chosen_by_device_and_precision():
    starts = torch.tensor([0, 3, 7], dtype=torch.int32)
    shape = {"tokens": 8, "longest": 4, "heads": 2}
    assert isinstance(lay_out(**shape, sequence_starts_B1=starts, precision=torch.bfloat16), Bands)
    there = starts.to("meta")  # a device that is no CPU
    assert isinstance(lay_out(**shape, sequence_starts_B1=there, precision=torch.bfloat16), Ends)
    assert isinstance(lay_out(**shape, sequence_starts_B1=there, precision=torch.float32), Grid)
    # A head that the flash kernel has no room for.
    wide = lay_out(**shape, sequence_starts_B1=there, precision=torch.float16, head_size=300)
    assert isinstance(wide, Grid)


@pytest.mark.parametrize(
    ("capability", "has"), [((7, 0), False), ((7, 5), False), ((8, 0), True), ((9, 0), True)]
)
def test_gpus_before_ampere_have_no_flash_kernel_and_attend_on_the_grid(monkeypatch, capability, has):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    there = torch.device("cuda", 0)
    assert has_kernel(there, torch.float16, 64) is has
    assert has_kernel(there, torch.bfloat16, 64) is has
    assert not has_kernel(there, torch.float32, 64)


def test_the_tail_that_a_bucket_leaves_is_computed_to_its_end():
    # Rows that no sequence reaches would be whatever lay in memory, their gradients too.
    assert BUCKETS.tokens <= LONGEST_TAIL
    starts = torch.tensor([0, 2], dtype=torch.int32, device="meta")
    assert lay_ends(tokens=2 + LONGEST_TAIL, sequence_starts_B1=starts, longest=2).longest == LONGEST_TAIL


def test_the_flash_kernel_is_called_as_this_torch_has_it():
    starts = torch.tensor([0, 3, 7], dtype=torch.int32, device="meta")
    ends = lay_ends(tokens=8, sequence_starts_B1=starts, longest=4)
    assert ends.starts_B2.shape == (4,)
    states = torch.empty(8, 2, 64, dtype=torch.bfloat16, device="meta", requires_grad=True)
    context = attend(states, states, states, ends, dropout=0.1)
    assert context.shape == states.shape
    context.sum().backward()
    assert states.grad is not None


@given(lengths=st.lists(st.integers(0, 200), min_size=1, max_size=40).filter(any))
def test_bands_hold_each_token_once_and_pad_little(lengths):
    bands = in_bands(tuple(lengths), 5, 3)
    real = bands.row_TN[: sum(lengths) * 3]
    assert len(set(real.tolist())) == sum(lengths) * 3
    assert torch.equal(bands.source_R[real], torch.arange(sum(lengths) * 3))
    # What computes the tail is a row of zeros behind all.
    assert set(bands.row_TN[sum(lengths) * 3 :].tolist()) == {len(bands.source_R)}
    assert len(bands.source_R) <= sum(lengths) * 3 / 0.8


def test_bands_are_small_enough_for_a_cache():
    sizes = [band.sequences * 12 * band.longest**2 for band in in_bands((128,) * 64, 0, 12).bands]
    assert len(sizes) > 1
    assert all(size <= 1 << 19 for size in sizes)
    # One sequence is never divided.
    assert len(in_bands((2048,), 0, 12).bands) == 1


@given(rate=st.floats(0.01, 0.9), seed=st.integers(0, 1000))
def test_dropout_keeps_the_mean_and_follows_the_seed(rate, seed):
    module, states = Dropout(rate), torch.ones(64, 256)

    def drawn() -> Tensor:
        torch.manual_seed(seed)
        return module(states)

    found = drawn()
    assert torch.equal(found, drawn())
    left = float((found != 0).float().mean())
    assert left == pytest.approx(1 - rate, abs=5 * (rate * (1 - rate) / states.numel()) ** 0.5 + 1e-4)
    assert found[found != 0].unique().numel() == 1
    assert float(found.max()) == pytest.approx(1 / (1 - rate), rel=1e-3)
    torch.manual_seed(seed)
    # Another call draws other elements.
    assert not torch.equal(kept(states, rate), kept(states, rate))
    assert torch.equal(module.eval()(states), states)


def test_dropouts_elements_are_drawn_apart_from_one_another():
    # Of four that one random number decides, and of rows: no pair goes together.
    left = kept(torch.empty(4096, 64), 0.5)
    centred = left.flatten() - 0.5
    for lag in (1, 2, 3, 4, 63, 64, 65):
        correlation = float((centred[lag:] * centred[:-lag]).mean()) / 0.25
        assert abs(correlation) < 5 / len(centred) ** 0.5, lag


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_half_precision_is_computed_in_fp32_on_a_cpu(precision):
    states = torch.randn(3, 20, 2, 8).to(precision)
    found = attend(*states, in_bands((12, 8), 0, 2), dropout=0.0)
    assert found.dtype == precision
    expected = formula(states.double(), (12, 8), causal=False)
    torch.testing.assert_close(
        found.double(), expected, rtol=0, atol=1e-6 if precision == torch.float32 else 8e-3
    )
