"""Gradients summed bucket by bucket: the same sums and messages, whatever order gradients come in and however cut."""

import random
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.training.gradient_sum import GradientSum, in_buckets, own_gradient
from workshop.pretend_ranks import Ranks, as_ranks

sizes = st.lists(st.integers(1, 40), min_size=1, max_size=12)


def weights(counts: list[int]) -> list[Tensor]:
    return [torch.nn.Parameter(torch.zeros(count)) for count in counts]


def gradient(rank: int, micro_batch: int, number: int, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(1000 * rank + 100 * micro_batch + number)
    return torch.randn(count, generator=generator)


class Rank:
    """A rank's weights and what it sends."""

    def __init__(
        self, rank: int, ranks: Ranks, counts: list[int], elements: int, *, overlaps: bool, late: bool = False
    ) -> None:
        self.rank, self.ranks, self.messages = rank, ranks, []  # type: int, Ranks, list[int]
        self.weights = weights(counts)
        self._late = late
        self.sum = GradientSum(
            self.weights,
            own_gradient,
            elements=elements,
            dtype=torch.float32,
            begin_sum=self._begin,
            overlaps=overlaps,
        )

    def _begin(self, flat: Tensor) -> Callable[[], object]:
        self.messages.append(flat.numel())
        total = self.ranks.mean(self.rank, flat) * self.ranks.count
        if not self._late:
            flat.copy_(total)
        # What is under way arrives when it is waited for, at the latest.
        return lambda: flat.copy_(total)

    def backward(self, micro_batch: int, order: list[int]) -> None:
        """Gradients come in this order."""
        for number in order:
            given = gradient(self.rank, micro_batch, number, self.weights[number].numel())
            (self.weights[number] * given).sum().backward()


@settings(max_examples=20)  # two threads each
@given(sizes, st.integers(1, 100), st.integers(1, 3), st.booleans(), st.booleans(), st.randoms())
def test_gradients_are_the_sums_of_all_ranks_and_micro_batches(
    counts: list[int], elements: int, micro_batches: int, overlaps: bool, late: bool, shuffler: random.Random
) -> None:
    orders = [[shuffler.sample(range(len(counts)), len(counts)) for _ in range(micro_batches)] for _ in "ab"]

    def work(rank: int, ranks: Ranks) -> tuple[list[Tensor], list[int]]:
        one = Rank(rank, ranks, counts, elements, overlaps=overlaps, late=late)
        for micro_batch, order in enumerate(orders[rank]):
            last = micro_batch == micro_batches - 1
            assert not one.messages
            if last:
                one.sum.begin()
            one.backward(micro_batch, order)
        one.sum.finish()
        return [own_gradient(each) for each in one.weights], one.messages

    (ours, messages), (theirs, others) = as_ranks(2, work)
    assert messages == others
    assert sum(messages) == sum(counts)
    for number, count in enumerate(counts):
        expected = sum(
            gradient(rank, micro_batch, number, count)
            for rank in range(2)
            for micro_batch in range(micro_batches)
        )
        torch.testing.assert_close(ours[number], expected)
        assert torch.equal(ours[number], theirs[number])


@given(sizes, st.integers(1, 100))
def test_buckets_hold_every_parameter_once_from_the_last_to_the_first(
    counts: list[int], elements: int
) -> None:
    parameters = weights(counts)
    buckets = in_buckets(parameters, elements)
    assert [id(each) for bucket in buckets for each in bucket] == [id(each) for each in reversed(parameters)]
    for bucket, following in zip(buckets, [*buckets[1:], None], strict=True):
        size = sum(each.numel() for each in bucket)
        assert size <= elements or len(bucket) == 1
        # None is smaller than it need be.
        assert following is None or size + following[0].numel() > elements


def test_a_bucket_leaves_while_earlier_layers_have_no_gradient_yet() -> None:
    def work(rank: int, ranks: Ranks) -> list[list[int]]:
        one = Rank(rank, ranks, [10, 20, 30], 30, overlaps=True)
        one.sum.begin()
        seen = []
        for number in (2, 1, 0):
            one.backward(0, [number])
            seen.append(list(one.messages))
        one.sum.finish()
        return seen

    assert as_ranks(2, work) == [[[30], [30], [30, 30]]] * 2


def test_a_parameter_without_a_gradient_counts_as_zero() -> None:
    def work(rank: int, ranks: Ranks) -> list[float]:
        one = Rank(rank, ranks, [1, 1], 1, overlaps=True)
        one.sum.begin()
        one.backward(0, [0] if rank else [0, 1])
        one.sum.finish()
        return [float(own_gradient(each)) for each in one.weights]

    expected = [float(gradient(0, 0, 0, 1) + gradient(1, 0, 0, 1)), float(gradient(0, 0, 1, 1))]
    assert as_ranks(2, work) == [pytest.approx(expected)] * 2


def test_a_rank_alone_sends_nothing_and_keeps_its_gradient() -> None:
    parameters = weights([3, 4])
    alone = GradientSum(
        parameters, own_gradient, elements=5, dtype=torch.bfloat16, begin_sum=None, overlaps=True
    )
    alone.begin()
    (parameters[0] * gradient(0, 0, 0, 3)).sum().backward()
    alone.finish()
    # In fp32, as it was summed; none are zeros, as with more ranks.
    assert torch.equal(own_gradient(parameters[0]), gradient(0, 0, 0, 3))
    assert parameters[1].grad is not None
