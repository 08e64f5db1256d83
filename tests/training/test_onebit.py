"""1-bit Adam and LAMB: what their bits owe, when they begin, what they leave alone."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.training.bert_adam import BertAdam
from pipeline.training.onebit import OneBit
from pipeline.training.sign_mean import BLOCK, SignMean
from workshop.pretend_ranks import Ranks, as_ranks
from workshop.update_formulas import LambFormula


def sign_mean(elements: int, rank: int, ranks: Ranks) -> SignMean:
    return SignMean(
        elements,
        ranks.count,
        lambda tensor: ranks.exchange(rank, tensor),
        lambda tensor: ranks.gather(rank, tensor),
    )


@given(
    elements=st.integers(1, 3 * BLOCK),
    count=st.integers(1, 4),
    calls=st.integers(1, 5),
    seed=st.integers(0, 99),
)
@settings(max_examples=25, deadline=None)
def test_what_came_out_and_what_is_owed_is_what_went_in(
    elements: int, count: int, calls: int, seed: int
) -> None:
    def work(rank: int, ranks: Ranks) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        generator = torch.Generator().manual_seed(100 * seed + rank)
        mean = sign_mean(elements, rank, ranks)
        given_, came = torch.zeros(elements), torch.zeros(elements)
        for _ in range(calls):
            values = torch.randn(elements, generator=generator)
            given_ += values
            came += mean(values)
        return given_, came, mean.own_error.flatten(), mean.share_error.flatten()

    found = as_ranks(count, work)
    went_in = torch.stack([each[0] for each in found]).mean(0)
    owed = torch.stack([each[2] for each in found]).mean(0) + torch.cat([each[3] for each in found])
    for _, came, _, _ in found:
        # The same on every rank, to the last bit.
        assert torch.equal(came, found[0][1])
        torch.testing.assert_close(came + owed[:elements], went_in, atol=1e-5, rtol=0)


def test_a_mean_is_sent_as_signs_and_a_scale_a_block() -> None:
    sent: list[Tensor] = []

    def noting(tensor: Tensor) -> Tensor:
        sent.append(tensor)
        return tensor

    values = torch.cat([torch.full((BLOCK,), 3.0), -torch.arange(BLOCK) - 0.5])
    came = SignMean(2 * BLOCK, 1, noting, noting)(values)
    assert torch.equal(came, torch.cat([torch.full((BLOCK,), 3.0), torch.full((BLOCK,), -BLOCK / 2)]))
    # Bits and scales, each way.
    assert [tensor.dtype for tensor in sent] == [torch.uint8, torch.float32] * 2
    assert sum(tensor.nbytes for tensor in sent) == 2 * (2 * BLOCK // 8 + 2 * 4)


def gradients(step: int, rank: int = 0, shape: tuple[int, ...] = (6, 5)) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(10 * step + rank))


def train(optimizer: torch.optim.Optimizer, parameter: torch.nn.Parameter, steps: int, **more: Any) -> Tensor:
    for step in range(steps):
        parameter.grad = gradients(step, **more)
        optimizer.step()
    return parameter.detach().clone()


def test_the_warm_up_is_adams_or_lambs_own() -> None:
    start = gradients(99)
    constants: dict[str, Any] = {"lr": 0.01, "weight_decay": 0.01}
    adam, other = torch.nn.Parameter(start.clone()), torch.nn.Parameter(start.clone())
    expected = train(BertAdam([other], **constants), other, 5)
    assert torch.equal(train(OneBit([adam], freeze_step=5, **constants), adam, 5), expected)
    formula = LambFormula(start, decay=0.01, adapts=True, corrected=False)
    for step in range(5):
        formula.update(gradients(step), 0.01)
    lamb = torch.nn.Parameter(start.clone())
    found = train(OneBit([{"params": [lamb], "adapts": True}], freeze_step=5, **constants), lamb, 5)
    torch.testing.assert_close(found.double(), formula.x, atol=1e-6, rtol=0)


@pytest.mark.parametrize("adapts", [False, True])
def test_second_moments_stand_still_once_bits_are_sent_and_ranks_agree(adapts: bool) -> None:
    start = gradients(99)

    def work(rank: int, ranks: Ranks) -> tuple[Tensor, Tensor, Tensor]:
        parameter = torch.nn.Parameter(start.clone())
        optimizer = OneBit([{"params": [parameter], "adapts": adapts}], lr=0.01, freeze_step=4)
        optimizer.join(lambda elements: sign_mean(elements, rank, ranks))
        frozen = torch.zeros(())
        for step in range(9):
            own = gradients(step, rank)
            # What the engine does: it averages until `compresses`.
            assert optimizer.compresses == (step >= 4)
            parameter.grad = own if optimizer.compresses else ranks.mean(rank, own)
            optimizer.step()
            if step == 3:
                frozen = optimizer.state[parameter]["exp_avg_sq"].clone()
        return parameter.detach(), frozen, optimizer.state[parameter]["exp_avg_sq"]

    found = as_ranks(3, work)
    for weights, before, after in found:
        assert torch.equal(weights, found[0][0])
        assert torch.equal(before, after)
    # Near what full precision comes to, in one direction with it.
    full = torch.nn.Parameter(start.clone())
    if not adapts:
        optimizer = BertAdam([full], lr=0.01)
        for step in range(9):
            full.grad = torch.stack([gradients(step, rank) for rank in range(3)]).mean(0)
            optimizer.step()
        moved, wanted = (found[0][0] - start).flatten(), (full.detach() - start).flatten()
        assert float(torch.nn.functional.cosine_similarity(moved, wanted, dim=0)) > 0.8


def test_what_had_no_gradient_in_the_warm_up_stays_where_it_is() -> None:
    start = gradients(99)
    parameter = torch.nn.Parameter(start.clone())
    optimizer = OneBit([parameter], lr=0.01, freeze_step=2, weight_decay=0.0)
    for step in range(6):
        parameter.grad = gradients(step)
        if step < 4:  # the last two rows get one only when second moments no longer move
            parameter.grad[4:] = 0
        optimizer.step()
    assert torch.equal(parameter[4:], start[4:])
    assert bool((parameter[:4] != start[:4]).all())


def test_errors_of_another_number_of_ranks_are_left_out() -> None:
    parameter = torch.nn.Parameter(gradients(99))
    optimizer = OneBit([parameter], lr=0.01, freeze_step=1)
    assert optimizer.errors() == {}
    train(optimizer, parameter, 3)
    owed = {name: tensor.clone() for name, tensor in optimizer.errors().items()}
    assert float(owed["own"].abs().max()) > 0
    other = OneBit([torch.nn.Parameter(gradients(99))], lr=0.01, freeze_step=1)
    other.put_errors({"own": torch.ones(2, 1, BLOCK), "share": torch.ones(1, BLOCK)})
    assert float(other.errors()["own"].abs().max()) == 0
    other.put_errors(owed)
    assert torch.equal(other.errors()["own"], owed["own"])
