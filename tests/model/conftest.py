"""A small network, its twin from `transformers`, and pairs laid end to end, for the tests of `model`."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from model.bert import BertForPretraining
from model.config import ModelConfig

Batch = dict[str, Any]


@pytest.fixture(autouse=True)
def one_thread_and_a_seed():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def config() -> ModelConfig:
    return ModelConfig(
        vocab_size=97, hidden_size=32, layers=3, heads=4, intermediate_size=48, max_positions=40,
        hidden_dropout=0.0, attention_dropout=0.0,
    )  # fmt: skip


@pytest.fixture
def make_model(config: ModelConfig) -> Callable[..., BertForPretraining]:
    """A network whose biases and LayerNorms are drawn too, so that none can hide behind 0 or 1."""

    def make(**changes: Any) -> BertForPretraining:
        model = BertForPretraining(replace(config, **changes))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
        return model.eval()

    return make


@pytest.fixture
def lay_end_to_end(config: ModelConfig) -> Callable[..., Batch]:
    """Random pairs of the given lengths as `BertForPretraining.forward` takes them."""

    def lay(lengths: Sequence[int], *, tail: int = 0, masked_each: int = 2, masked_pads: int = 0) -> Batch:
        starts = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32)
        total = int(starts[-1])
        end_of_a = [length // 2 for length in lengths]
        segments = [0 if step < end_of_a[b] else 1 for b, n in enumerate(lengths) for step in range(n)]
        positions = [step for n in lengths for step in range(n)]
        masked = [
            int(starts[b]) + 1 + step
            for b, n in enumerate(lengths)
            for step in range(min(masked_each, n - 1))
        ]
        labels = torch.randint(config.vocab_size, (len(masked) + masked_pads,))
        labels[len(masked) :] = -100
        return {
            "tokens_T": torch.randint(1, config.vocab_size, (total + tail,), dtype=torch.int32),
            "segments_T": torch.tensor(segments + [0] * tail, dtype=torch.int32),
            "positions_T": torch.tensor(positions + [0] * tail, dtype=torch.int32),
            "sequence_starts_B1": starts,
            "longest": max(lengths),
            "masked_positions_M": torch.tensor(masked + [0] * masked_pads, dtype=torch.int64),
            "masked_labels_M": labels,
            "next_labels_B": torch.randint(2, (len(lengths),)),
        }

    return lay


@pytest.fixture
def encoder_inputs() -> Callable[[Batch], Batch]:
    """The part of a batch that `encode` takes."""
    names = ("tokens_T", "segments_T", "positions_T", "sequence_starts_B1", "longest")
    return lambda batch: {name: batch[name] for name in names}


@pytest.fixture
def gradients() -> Callable[[nn.Module, torch.Tensor], dict[str, torch.Tensor]]:
    def of(model: nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
        model.zero_grad()
        loss.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    return of


@pytest.fixture
def saved_bytes() -> Callable[[BertForPretraining, Batch], int]:
    """Bytes of the storages that autograd keeps for the backward pass, each once, weights left out."""

    def of(model: BertForPretraining, batch: Batch) -> int:
        weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        kept: dict[int, torch.Tensor] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            address = tensor.untyped_storage().data_ptr()
            if address not in weights:
                kept[address] = tensor  # held, so that no other storage gets this address
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            model(**batch)
        return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())

    return of
