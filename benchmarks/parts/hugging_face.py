"""The same pairs as `transformers` takes them: padded, with a label at every position.

In: micro-batches of bertpipe's. Out: the arguments of `transformers.BertForPreTraining.forward`. What always holds: the
same tokens, masks and labels, each sequence padded to the longest of its micro-batch, as the library's collators do.
"""

import numpy as np
import torch

from pipeline.batches.microbatch import MicroBatch


def padded(micro_batch: MicroBatch, device: str = "cpu") -> dict[str, torch.Tensor]:
    """`input_ids`, `token_type_ids`, `attention_mask`, `labels`, `next_sentence_label`."""
    lengths, real = micro_batch.lengths, micro_batch.tokens
    row_T = np.repeat(np.arange(len(lengths)), lengths)
    column_T = micro_batch.positions_T[:real].astype(np.int64)
    shape = (len(lengths), int(lengths.max()))
    grid = {
        "input_ids": np.zeros(shape, dtype=np.int64),
        "token_type_ids": np.zeros(shape, dtype=np.int64),
        "attention_mask": np.zeros(shape, dtype=np.int64),
        "labels": np.full(shape, -100),
    }
    grid["input_ids"][row_T, column_T] = micro_batch.tokens_T[:real]
    grid["token_type_ids"][row_T, column_T] = micro_batch.segments_T[:real]
    grid["attention_mask"][row_T, column_T] = 1
    asked_M = micro_batch.masked_positions_M[: micro_batch.masked]
    grid["labels"][row_T[asked_M], column_T[asked_M]] = micro_batch.masked_labels_M[: micro_batch.masked]
    grid["next_sentence_label"] = micro_batch.next_labels_B[: len(lengths)].astype(np.int64)
    return {name: torch.from_numpy(column).to(device) for name, column in grid.items()}
