"""Sequences laid end to end: each is computed as if alone, and the tail past the last is nothing."""

from itertools import pairwise

import pytest
import torch

from model.attention import lay_out

LAYOUTS = {"mixed": (3, 11, 1, 7), "equal": (6, 6, 6)}


@pytest.mark.parametrize("lengths", LAYOUTS.values(), ids=LAYOUTS)
def test_a_tail_changes_neither_results_nor_gradients(make_model, lay_end_to_end, gradients, lengths):
    model = make_model()
    with_tail = lay_end_to_end(lengths, tail=9)
    without = dict(with_tail)
    for name in ("tokens_T", "segments_T", "positions_T"):
        without[name] = with_tail[name][:-9]
    other_tail = {**with_tail, "tokens_T": with_tail["tokens_T"].clone()}
    other_tail["tokens_T"][-9:] = torch.arange(1, 10)

    results = [model(**batch) for batch in (without, with_tail, other_tail)]
    found = [gradients(model, sums.mlm_sum + sums.nsp_sum) for sums in results]
    for sums, gradient in zip(results[1:], found[1:], strict=True):
        torch.testing.assert_close(tuple(sums), tuple(results[0]), rtol=1e-6, atol=0)
        torch.testing.assert_close(gradient, found[0], rtol=1e-5, atol=1e-5)
    assert results[1] == results[2]
    for name, gradient in found[1].items():
        assert torch.equal(gradient, found[2][name]), f"the tail's tokens reach the gradient of {name}"


def test_a_sequence_is_computed_as_if_it_were_alone(make_model, lay_end_to_end, encoder_inputs):
    model = make_model()
    batch = lay_end_to_end((5, 13, 8), tail=3)
    hidden, pooled = model.encode(**encoder_inputs(batch))
    starts = batch["sequence_starts_B1"].tolist()
    for b, (start, end) in enumerate(pairwise(starts)):
        alone = model.encode(
            *(batch[name][start:end] for name in ("tokens_T", "segments_T", "positions_T")),
            torch.tensor([0, end - start], dtype=torch.int32),
            end - start,
        )
        torch.testing.assert_close(hidden[start:end], alone.hidden_TH, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(pooled[b], alone.pooled_BH[0], rtol=1e-5, atol=1e-5)


def test_a_neighbours_tokens_change_no_bit(make_model, lay_end_to_end, encoder_inputs):
    model = make_model()
    batch = encoder_inputs(lay_end_to_end((5, 13, 8)))
    changed = {**batch, "tokens_T": batch["tokens_T"].clone()}
    changed["tokens_T"][5:18] = torch.randint(1, 97, (13,))
    before, after = model.encode(**batch), model.encode(**changed)
    untouched = torch.tensor([*range(5), *range(18, 26)])
    assert torch.equal(before.hidden_TH[untouched], after.hidden_TH[untouched])
    assert not torch.equal(before.hidden_TH[5:18], after.hidden_TH[5:18])


def test_reordering_the_sequences_reorders_the_results(make_model, lay_end_to_end, encoder_inputs):
    model, lengths, order = make_model(), (5, 13, 8), (2, 0, 1)
    batch = encoder_inputs(lay_end_to_end(lengths))
    spans = [torch.arange(*span) for span in pairwise(batch["sequence_starts_B1"].tolist())]
    moved = torch.cat([spans[b] for b in order])
    reordered = {name: batch[name][moved] for name in ("tokens_T", "segments_T", "positions_T")}
    starts = torch.tensor([0, *(lengths[b] for b in order)]).cumsum(0).int()
    hidden, pooled = model.encode(**batch)
    found = model.encode(**reordered, sequence_starts_B1=starts, longest=13)
    torch.testing.assert_close(found.hidden_TH, hidden[moved], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.pooled_BH, pooled[list(order)], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("place", [0, 1, 2], ids=["first", "middle", "last"])
def test_an_empty_sequence_changes_nothing_and_poisons_nothing(
    make_model, lay_end_to_end, gradients, place, mode
):
    model = getattr(make_model(), mode)()
    full = lay_end_to_end((6, 4))
    starts = full["sequence_starts_B1"].tolist()
    empty = {
        **full,
        "sequence_starts_B1": torch.tensor(sorted([*starts, starts[place]]), dtype=torch.int32),
        "next_labels_B": torch.cat(
            [full["next_labels_B"][:place], torch.tensor([-100]), full["next_labels_B"][place:]]
        ),
    }
    wanted, found = model(**full), model(**empty)
    torch.testing.assert_close(tuple(found), tuple(wanted), rtol=1e-5, atol=0)
    expected = gradients(model, wanted.mlm_sum + wanted.nsp_sum)
    torch.testing.assert_close(
        gradients(model, found.mlm_sum + found.nsp_sum), expected, rtol=1e-4, atol=1e-4
    )


def test_sequences_that_do_not_fit_what_the_caller_says_are_refused(make_model, lay_end_to_end):
    starts = torch.tensor([0, 4, 9], dtype=torch.int32)
    with pytest.raises(ValueError, match="do not fit longest=4"):
        lay_out(tokens=9, sequence_starts_B1=starts, longest=4, heads=4)
    with pytest.raises(ValueError, match="tokens=8"):
        lay_out(tokens=8, sequence_starts_B1=starts, longest=5, heads=4)
    with pytest.raises(ValueError, match="41 tokens is longer than max_positions 40"):
        make_model()(**lay_end_to_end((41, 3)))
