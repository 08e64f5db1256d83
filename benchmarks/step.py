"""A training step of bertpipe beside one of `transformers`: how much faster, in how much less memory.

In: a preset, a batch size, a sequence length, and how full the sequences are. Out: one line a side, and their
ratio. What always holds: both sides have the same initial weights (checked by their losses, dropout off) and
train on the same pairs, of mixed lengths, drawn from a seed; each side is a process of its own, and their
rounds alternate, so that what else the machine does meets both. Shown are the median and range of each side,
and the median of the rounds' ratios.

bertpipe takes the pairs unpadded and predicts at masked positions. transformers' `BertForPreTraining` takes
them padded to the batch's longest and predicts at every position, as its own examples do. fp32 and AdamW on
both sides, dropout 0.1.

On a machine that does other work too, take `--threads 1`: threads that wait for each other on shared cores
measure the scheduler (seen here: 8 sequences/s instead of 112).

    $ python benchmarks/step.py --preset mini --batch 16 --length 128 --rounds 7
"""

import argparse
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout's `model`, installed or not

from model.bert import BertForPretraining
from model.config import PRESETS, preset
from model.hf_names import hf_config, to_hf

VOCAB_SIZE = 30522  # bert-base-uncased's
SEED = 1
BUCKET = 128  # tokens of a micro-batch are rounded up to a multiple of this, as a loader does
SIDES = ("bertpipe", "transformers")


def draw_lengths(batch: int, length: int, fill: float) -> np.ndarray:
    """Lengths with a mean of about fill × length, shaped as published pairs are: most full, the rest any."""
    shortest = length // 8
    rest = (shortest + length) / 2 / length  # mean fill of lengths spread evenly
    full = round((fill - rest) / (1 - rest) * batch)
    # Spread evenly rather than drawn: a small batch then has the fill that was asked for.
    spread = shortest + (length - shortest) * (np.arange(batch - full) + 0.5) / max(1, batch - full)
    lengths = np.concatenate([np.full(full, length), spread.round().astype(np.int64)])
    return np.random.default_rng(SEED).permutation(lengths)


def draw_pairs(lengths: np.ndarray) -> list[dict[str, np.ndarray]]:
    """Random ids, segments, and 15 % masked positions (Devlin et al. 2018 §3.1), a dictionary a pair."""
    generator = np.random.default_rng(SEED)
    pairs = []
    for length in lengths:
        masked = max(1, round(0.15 * length))
        pairs.append(
            {
                "tokens": generator.integers(1000, VOCAB_SIZE, size=length),
                "segments": (np.arange(length) >= length // 2).astype(np.int64),
                "masked": np.sort(generator.choice(np.arange(1, length), size=masked, replace=False)),
                "labels": generator.integers(1000, VOCAB_SIZE, size=masked),
                "next": generator.integers(2),
            }
        )
    return pairs


def unpadded(pairs: list[dict[str, np.ndarray]], device: torch.device) -> dict[str, Any]:
    """The pairs as `BertForPretraining.forward` takes them."""
    lengths = [len(pair["tokens"]) for pair in pairs]
    starts = np.concatenate([[0], np.cumsum(lengths)])
    tail = np.zeros(-starts[-1] % BUCKET, dtype=np.int64)
    columns = {
        "tokens_T": np.concatenate([*(pair["tokens"] for pair in pairs), tail]).astype(np.int32),
        "segments_T": np.concatenate([*(pair["segments"] for pair in pairs), tail]).astype(np.int32),
        "positions_T": np.concatenate([*map(np.arange, lengths), tail]).astype(np.int32),
        "sequence_starts_B1": starts.astype(np.int32),
        "masked_positions_M": np.concatenate(
            [pair["masked"] + start for pair, start in zip(pairs, starts, strict=False)]
        ),
        "masked_labels_M": np.concatenate([pair["labels"] for pair in pairs]),
        "next_labels_B": np.array([pair["next"] for pair in pairs]),
    }
    return {name: torch.from_numpy(column).to(device) for name, column in columns.items()} | {
        "longest": max(lengths)
    }


def padded(pairs: list[dict[str, np.ndarray]], device: torch.device) -> dict[str, torch.Tensor]:
    """The pairs as `transformers.BertForPreTraining.forward` takes them."""
    shape = (len(pairs), max(len(pair["tokens"]) for pair in pairs))
    grid = {
        name: np.zeros(shape, dtype=np.int64) for name in ("input_ids", "token_type_ids", "attention_mask")
    }
    grid["labels"] = np.full(shape, -100)
    for row, pair in enumerate(pairs):
        length = len(pair["tokens"])
        grid["input_ids"][row, :length] = pair["tokens"]
        grid["token_type_ids"][row, :length] = pair["segments"]
        grid["attention_mask"][row, :length] = 1
        grid["labels"][row, pair["masked"]] = pair["labels"]
    grid["next_sentence_label"] = np.array([pair["next"] for pair in pairs])
    return {name: torch.from_numpy(column).to(device) for name, column in grid.items()}


def prepare(side: str, options: argparse.Namespace) -> tuple[torch.nn.Module, Callable[[], torch.Tensor]]:
    """The side's network, and a function that gives its loss on the batch."""
    device = torch.device(options.device)
    pairs = draw_pairs(draw_lengths(options.batch, options.length, options.fill))
    config = preset(options.preset, vocab_size=VOCAB_SIZE, max_positions=max(512, options.length))
    torch.manual_seed(SEED)
    ours = BertForPretraining(config)
    if side == "bertpipe":
        model, batch = ours.to(device), unpadded(pairs, device)
        masked = len(batch["masked_labels_M"])

        def loss() -> torch.Tensor:
            sums = ours(**batch)
            return sums.mlm_sum / masked + sums.nsp_sum / len(pairs)

        return model, loss

    from transformers import BertConfig, BertForPreTraining

    theirs = BertForPreTraining(BertConfig(**hf_config(config)))
    theirs.load_state_dict(to_hf(ours.state_dict(), config))
    theirs.to(device)
    grid = padded(pairs, device)
    return theirs, lambda: theirs(**grid).loss


def work(side: str, options: argparse.Namespace, door: Connection) -> None:
    """One side's process: says its loss with dropout off, then a step's seconds for each True it gets."""
    torch.set_num_threads(options.threads)
    cuda = options.device.startswith("cuda")
    # Code is loaded on both sides before memory is measured; a first AdamW loads more of torch.
    from transformers import BertForPreTraining  # noqa: F401

    torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))]).step()
    before = memory(cuda)
    model, loss = prepare(side, options)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01)
    model.eval()
    with torch.no_grad():
        door.send(float(loss()))
    model.train()
    while door.recv():
        start = time.perf_counter()
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
        if cuda:
            torch.cuda.synchronize()
        door.send(time.perf_counter() - start)
    door.send(memory(cuda) - before)


def memory(cuda: bool) -> float:
    """The most memory this process has held so far, in MiB: resident on the CPU, allocated on a GPU."""
    if cuda:
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def main() -> None:
    parser = argparse.ArgumentParser(description="a training step of bertpipe beside one of transformers")
    parser.add_argument("--preset", choices=list(PRESETS), default="tiny")
    parser.add_argument("--batch", type=int, default=32, help="pairs a step")
    parser.add_argument("--length", type=int, default=128, help="longest sequence, in tokens")
    parser.add_argument(
        "--fill", type=float, default=0.9, help="mean length as a share of --length, 0.6 to 1"
    )
    parser.add_argument(
        "--rounds", type=int, default=5, help="steps timed on each side, after one unmeasured"
    )
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of each side, which take turns")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    options = parser.parse_args()
    if not 0.6 <= options.fill <= 1:
        parser.error(f"--fill {options.fill} is out of reach: give 0.6 to 1")
    if options.batch < 1 or options.length < 16 or options.rounds < 1:
        parser.error("give --batch and --rounds of at least 1, and --length of at least 16")

    context = multiprocessing.get_context("spawn")
    doors, workers = {}, []
    for side in SIDES:
        doors[side], other_end = context.Pipe()
        workers.append(context.Process(target=work, args=(side, options, other_end), daemon=True))
        workers[-1].start()
        other_end.close()  # so that a worker that dies is an end of file here, not silence
    losses = {side: doors[side].recv() for side in SIDES}
    if abs(losses["bertpipe"] / losses["transformers"] - 1) > 1e-4:
        sys.exit(f"the sides do not compute the same loss: {losses}")

    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    for _ in range(1 + options.rounds):
        for side in SIDES:
            doors[side].send(True)
            seconds[side].append(doors[side].recv())
    peak = {}
    for side in SIDES:
        doors[side].send(False)
        peak[side] = doors[side].recv()
    for worker in workers:
        worker.join()

    fill = draw_lengths(options.batch, options.length, options.fill).mean() / options.length
    print(
        f"{options.preset}, {options.batch} pairs of up to {options.length} tokens, fill {fill:.2f}, fp32, "
        f"{options.device}, {options.threads} threads, torch {torch.__version__}, {options.rounds} rounds"
    )
    for side in SIDES:
        rates = sorted(options.batch / one for one in seconds[side][1:])
        print(
            f"{side:>12}: {statistics.median(rates):8.2f} sequences/s [{rates[0]:.2f} to {rates[-1]:.2f}], "
            f"peak memory {peak[side]:,.0f} MiB above the imports"
        )
    ours, theirs = SIDES
    ratios = sorted(slow / fast for fast, slow in zip(seconds[ours][1:], seconds[theirs][1:], strict=True))
    print(
        f"{'ratio':>12}: {statistics.median(ratios):.2f} times the sequences/s "
        f"[{ratios[0]:.2f} to {ratios[-1]:.2f}], {peak[ours] / peak[theirs]:.2f} times the peak memory"
    )


if __name__ == "__main__":
    main()
