"""Sequences laid end to end, as `transformers` takes them."""

from itertools import pairwise
from typing import Any

import torch


def padded(batch: dict[str, Any]) -> dict[str, Any]:
    """The same sequences as transformers takes them: a (B, S) grid, and a label for each slot."""
    starts, longest = batch["sequence_starts_B1"].tolist(), batch["longest"]
    shape = (len(starts) - 1, longest)
    names = "input_ids", "token_type_ids", "attention_mask"
    grid = {name: torch.zeros(shape, dtype=torch.int64) for name in names}
    labels = torch.full(shape, -100)
    for b, (start, end) in enumerate(pairwise(starts)):
        grid["input_ids"][b, : end - start] = batch["tokens_T"][start:end]
        grid["token_type_ids"][b, : end - start] = batch["segments_T"][start:end]
        grid["attention_mask"][b, : end - start] = 1
        inside = (batch["masked_positions_M"] >= start) & (batch["masked_positions_M"] < end)
        inside &= batch["masked_labels_M"] != -100
        labels[b, batch["masked_positions_M"][inside] - start] = batch["masked_labels_M"][inside]
    return {**grid, "labels": labels}
