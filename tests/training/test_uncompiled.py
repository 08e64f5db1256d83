"""Keeping torch's compiler away changes nothing that is computed."""

import torch

from pipeline.training.uncompiled import AdamW, without_compiler


def test_the_optimizer_is_torchs_to_the_last_bit() -> None:
    start = torch.randn(7, 5, generator=torch.Generator().manual_seed(1))
    found = []
    for kind in (torch.optim.AdamW, AdamW):
        parameter = torch.nn.Parameter(start.clone())
        optimizer = kind([parameter], lr=0.1, eps=1e-6, weight_decay=0.01, fused=True)
        for step in range(4):
            optimizer.zero_grad()
            (parameter * parameter.detach().cos() * (step + 1)).sum().backward()
            optimizer.step()
        assert torch.is_grad_enabled()
        found.append(parameter.detach())
    assert torch.equal(*found)
    assert not torch.equal(found[0], start)


def test_torch_has_its_own_decorators_again_afterwards() -> None:
    before = torch.compiler.disable, torch._disable_dynamo
    with without_compiler():

        @torch.compiler.disable
        def plain() -> int:
            return 1

        @torch.compiler.disable(recursive=False)
        def configured() -> int:
            return 2

    assert (plain(), configured()) == (1, 2)
    assert (torch.compiler.disable, torch._disable_dynamo) == before
