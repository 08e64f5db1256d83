"""The loader against its peers, on the same pairs: sequences a second of one worker, bytes a pair on disk.

In: generated pairs (nine of ten fill the sequence, as in real shards). Out: a table; every row is measured once
a round, rounds interleave the rows, and medians and ratios of the round's own pair are printed.

    masking   the function alone, on 256 sequences in memory: bertpipe's (each strategy) and transformers'
              collator's
    loading   micro-batches of 256 through a real DataLoader with one worker, start not counted:
              bertpipe       tars → masked micro-batches (tokens, mlm+nsp; other masks and objectives below)
              transformers   a `datasets` table → DataCollatorForLanguageModeling (torch, numpy)
              webdataset     tars with one member a pair → padded batches, masked by bertpipe's function

Example:
    python benchmarks/loader.py --rounds 3 --length 128
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
import webdataset
from datasets import Dataset
from torch.utils.data import DataLoader

from pipeline.batches.loader import TrainLoader
from pipeline.batches.masking import MaskingConfig, mask_keys, mask_tokens
from pipeline.batches.sources import Source
from pipeline.batches.special_ids import SpecialIds
from pipeline.corpus.manifest import Manifest
from pipeline.corpus.shard_table import ShardTable
from pipeline.corpus.shards import Block, write_shard
from pipeline.objectives import OBJECTIVES

VOCABULARY = 30_522
BATCH = 256
SPECIAL = SpecialIds(
    size=VOCABULARY,
    pad_id=0,
    cls_id=101,
    sep_id=102,
    mask_id=103,
    special_ids=tuple(range(104)),
    # Every sixth piece of English text continues a word.
    continuing_ids=tuple(range(104, VOCABULARY, 6)),
)
OURS = "bertpipe"


def generate(pairs: int, length: int, seed: int = 0) -> Block:
    rng = np.random.default_rng(seed)
    lengths = np.where(
        rng.random(pairs) < 0.9, length - 3 - rng.integers(0, 3, pairs), rng.integers(2, length - 2, pairs)
    )
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return Block(
        tokens=rng.integers(104, VOCABULARY, offsets[-1]).astype(np.uint16),
        offsets=offsets,
        a_lengths=rng.integers(1, lengths).astype(np.uint16),
        random_next=rng.random(pairs) < 0.5,
        document_a=rng.integers(0, 1 << 62, pairs).astype(np.uint64),
        document_b=rng.integers(0, 1 << 62, pairs).astype(np.uint64),
    )


def sequence(block: Block, pair: int) -> np.ndarray:
    tokens = block.tokens[block.offsets[pair] : block.offsets[pair + 1]]
    a = int(block.a_lengths[pair])
    return np.concatenate([[101], tokens[:a], [102], tokens[a:], [102]]).astype(np.uint16)


def features(block: Block, pair: int) -> dict[str, Any]:
    ids = sequence(block, pair).tolist()
    return {"input_ids": ids, "token_type_ids": [0] * (int(block.a_lengths[pair]) + 2) + [1] * (
        len(ids) - int(block.a_lengths[pair]) - 2), "next_sentence_label": int(block.random_next[pair])}  # fmt: skip


def collator(tensors: str) -> Any:
    """transformers' collator over a toy BERT tokeniser of full size, built here."""
    from tokenizers import Tokenizer, models
    from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerFast

    names = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]"}
    ids = {names.get(index, f"token{index}"): index for index in range(VOCABULARY)}
    specials = {f"{name[1:-1].lower()}_token": name for name in names.values()}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordPiece(ids, unk_token="[UNK]")), **specials
    )
    return DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15, return_tensors=tensors)


def masked_flat(sequences: list[np.ndarray], keys: np.ndarray, length: int) -> Any:
    starts = np.concatenate([[0], np.cumsum([len(tokens) for tokens in sequences])])
    return mask_tokens(np.concatenate(sequences), starts, keys, MaskingConfig(), SPECIAL, length)


class Padded:
    """What a plain webdataset pipeline's collation does: padded int64 matrices, here with a fast mask."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __call__(self, samples: list[dict[str, Any]]) -> list[torch.Tensor]:
        """input_ids, token_type_ids, attention_mask and labels of some members."""
        tokens = [np.frombuffer(sample["pair"], np.uint16)[2:] for sample in samples]
        keys = mask_keys(seed=1, phase=0, epochs=np.zeros(len(tokens)), samples=np.arange(len(tokens)))
        masked = masked_flat(tokens, keys, self.length)
        inside = np.arange(self.length) < np.array([len(row) for row in tokens])[:, None]
        seen = np.zeros(inside.shape, np.int64)
        seen[inside] = masked.tokens
        labels = np.full(len(masked.tokens), -100)
        labels[masked.places] = masked.labels
        expected = np.full(inside.shape, -100)
        expected[inside] = labels
        heads = np.array([np.frombuffer(sample["pair"][:4], np.uint16) for sample in samples], np.int64)
        segments = (np.arange(self.length) >= heads[:, :1]) & inside
        return [
            torch.from_numpy(a) for a in (seen, segments.astype(np.int64), inside.astype(np.int64), expected)
        ]


def masking_rows(block: Block, length: int) -> dict[str, Callable[[], float]]:
    rows = [sequence(block, pair) for pair in range(BATCH)]
    starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    flat, keys = np.concatenate(rows), np.arange(BATCH, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    examples = [features(block, pair) for pair in range(BATCH)]
    by_torch, by_numpy = collator("pt"), collator("np")

    def ours(strategy: str) -> float:
        config = MaskingConfig(strategy=strategy)
        return rate(lambda: mask_tokens(flat, starts, keys, config, SPECIAL, length), 200)

    return {
        OURS: lambda: ours("token"),
        f"{OURS}, whole words": lambda: ours("whole_word"),
        f"{OURS}, spans": lambda: ours("span"),
        "transformers, torch": lambda: rate(lambda: by_torch(examples), 5),
        "transformers, numpy": lambda: rate(lambda: by_numpy(examples), 5),
    }


def rate(call: Callable[[], Any], times: int) -> float:
    call()
    began = time.perf_counter()
    for _ in range(times):
        call()
    return times * BATCH / (time.perf_counter() - began)


def stream_rate(batches: Iterator[Any], warm: int, count: int) -> float:
    """Sequences a second over `count` batches, once the worker runs."""
    for _ in range(warm):
        next(batches)
    began = time.perf_counter()
    for _ in range(count):
        next(batches)
    return count * BATCH / (time.perf_counter() - began)


def loading_rows(
    folder: str, block: Block, length: int
) -> tuple[dict[str, Callable[[], float]], dict[str, float]]:
    pairs = len(block)
    shard = write_shard(folder, "train-00000.tar", "train", block)
    manifest = Manifest(
        settings={"max_seq_length": length},
        vocabulary={"hash": "generated"},
        corpus={},
        counts={},
        versions={},
        shards=ShardTable.of([shard]),
    )
    plain = os.path.join(folder, "plain.tar")
    with webdataset.TarWriter(plain, encoder=False, mtime=0) as tar:
        for pair in range(pairs):
            head = np.array([int(block.a_lengths[pair]) + 2, int(block.random_next[pair])], np.uint16)
            tar.write({"__key__": f"{pair:08d}", "pair": head.tobytes() + sequence(block, pair).tobytes()})
    examples = Dataset.from_list([features(block, pair) for pair in range(min(pairs, 40 * BATCH))])

    def loader(**more: Any) -> TrainLoader:
        given = {"masking": MaskingConfig(), "lanes": 64} | more
        return TrainLoader(
            sources=[Source(folder=folder, manifest=manifest)], seed=1, phase=0, global_batch=BATCH,
            micro_batch=BATCH, sequence_length=length, special=SPECIAL, **given,
        )  # fmt: skip

    def ours(**more: Any) -> float:
        with loader(workers=1, **more) as made:
            # Past the first windows, which all lanes load at once, and over whole epochs.
            return stream_rate(iter(made), 20, max(200, 2 * pairs // BATCH))

    for step in (10, 10_000_000):
        times = []
        for _ in range(5):
            began = time.perf_counter()
            next(iter(loader(start_step=step)))
            times.append(time.perf_counter() - began)
        print(f"a run taken up at step {step:,} has its micro-batches after {statistics.median(times):.3f} s")

    def theirs(tensors: str) -> float:
        batches = DataLoader(
            examples,  # type: ignore[arg-type]
            batch_size=BATCH,
            collate_fn=collator(tensors),
            num_workers=1,
            shuffle=True,
            multiprocessing_context="fork",
        )
        return stream_rate(iter(batches), 3, 16)

    def member_a_pair() -> float:
        dataset = webdataset.WebDataset(plain, shardshuffle=False).batched(BATCH, collation_fn=Padded(length))
        batches = DataLoader(dataset, batch_size=None, num_workers=1, multiprocessing_context="fork")
        return stream_rate(iter(batches), 3, 24)

    def asked(name: str) -> Callable[[], float]:
        return lambda: ours(objective=OBJECTIVES[name])

    rows = {
        OURS: ours,
        f"{OURS}, whole words": lambda: ours(masking=MaskingConfig(strategy="whole_word")),
        f"{OURS}, spans": lambda: ours(masking=MaskingConfig(strategy="span")),
        f"{OURS}, mlm+sop": asked("mlm+sop"),
        f"{OURS}, mlm (text; pairs/s)": asked("mlm"),
        f"{OURS}, ltr (text; pairs/s)": asked("ltr"),
        "webdataset, a member a pair": member_a_pair,
        "transformers, torch": lambda: theirs("pt"),
        "transformers, numpy": lambda: theirs("np"),
    }
    sizes = {OURS: shard.bytes / pairs, "webdataset, a member a pair": os.path.getsize(plain) / pairs}
    return rows, sizes


def measure(rows: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(rounds):
        for name, row in rows.items():
            found[name].append(row())
    return found


def report(title: str, found: dict[str, list[float]], sizes: dict[str, float]) -> None:
    print(f"\n{title:<34}{'sequences/s':>12}{'lowest – highest':>22}{OURS + ' is':>14}{'bytes/pair':>12}")
    for name, values in found.items():
        ratio = statistics.median(ours / value for ours, value in zip(found[OURS], values, strict=True))
        spread = f"{min(values):,.0f} – {max(values):,.0f}"
        times = "" if name == OURS else f"{ratio:,.1f} ×"
        size = f"{sizes[name]:,.0f}" if name in sizes else ""
        print(f"  {name:<32}{statistics.median(values):>12,.0f}{spread:>22}{times:>14}{size:>12}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="interleaved rounds; medians are printed")
    parser.add_argument("--pairs", type=int, default=40_000, help="pairs generated")
    parser.add_argument("--length", type=int, default=128, help="sequence length, special tokens included")
    asked = parser.parse_args()
    # One core a process is what is compared.
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    block = generate(max(asked.pairs, 8 * BATCH), asked.length)
    tokens = float(block.lengths.mean()) + 3
    print(f"{len(block):,} generated pairs, {tokens:.1f} tokens each at a length of {asked.length}")
    report(f"masking {BATCH} × {asked.length}", measure(masking_rows(block, asked.length), asked.rounds), {})
    with tempfile.TemporaryDirectory() as folder:
        rows, sizes = loading_rows(folder, block, asked.length)
        report("loading, one DataLoader worker", measure(rows, asked.rounds), sizes)


if __name__ == "__main__":
    main()
