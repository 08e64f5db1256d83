"""A training step of bertpipe beside one of `transformers`: how much faster, in how much less memory.

In: a preset, a batch size, a sequence length, and pairs: those of a shard folder, or drawn ones of a given fill. Out:
one line a side, their ratio, and the ratio that the saved arithmetic alone would give. What always holds: both sides
have the same initial weights (checked by their losses, dropout off) and train on the same pairs with the same masks;
each side is a process of its own, and their rounds alternate, so that what else the machine does meets both. Shown are
the median and range of each side, and the median of the rounds' ratios.

bertpipe takes the pairs unpadded and predicts at masked positions. transformers' `BertForPreTraining` takes them padded
to the batch's longest and predicts at every position, as its own examples do. fp32 and AdamW (fused) on both sides,
dropout 0.1.

    $ python benchmarks/step.py --shards SHARDS/128 --preset mini --batch 16 --length 128
"""

import argparse
import multiprocessing
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

# Threads that spin while they wait would slow the other side down. Read when torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout, installed or not

from parts.hugging_face import padded
from parts.step_pairs import SEED, VOCAB_SIZE, drawn, from_shards

from model.bert import BertForPretraining
from model.config import PRESETS, ModelConfig, preset
from model.counts import step_flops
from model.hf_names import hf_config, to_hf
from pipeline.batches.microbatch import MicroBatch

SIDES = ("bertpipe", "transformers")


def pairs_of(options: argparse.Namespace) -> list[MicroBatch]:
    """A micro-batch for each round, one to warm up with before."""
    count = 1 + options.rounds
    if options.shards:
        return from_shards(options.shards, batch=options.batch, length=options.length, count=count)
    return drawn(batch=options.batch, length=options.length, fill=options.fill, count=count)


def shape_of(options: argparse.Namespace) -> ModelConfig:
    """The network of both sides."""
    return preset(options.preset, vocab_size=VOCAB_SIZE, max_positions=max(512, options.length))


def prepare(
    side: str, options: argparse.Namespace, pairs: Sequence[MicroBatch]
) -> tuple[torch.nn.Module, Callable[[int], torch.Tensor]]:
    """The side's network, and a function that gives its loss on a round's pairs."""
    torch.manual_seed(SEED)
    ours = BertForPretraining(shape_of(options)).to(options.device)
    if side == "bertpipe":
        batches = [micro_batch.tensors(options.device) for micro_batch in pairs]

        def loss(number: int) -> torch.Tensor:
            sums = ours(**batches[number])
            return sums.mlm_sum / pairs[number].masked + sums.nsp_sum / pairs[number].labelled

        return ours, loss

    from transformers import BertConfig, BertForPreTraining

    theirs = BertForPreTraining(BertConfig(**hf_config(ours.config))).to(options.device)
    theirs.load_state_dict(to_hf(ours.state_dict(), ours.config))
    grids = [padded(micro_batch, options.device) for micro_batch in pairs]
    return theirs, lambda number: theirs(**grids[number]).loss


def work(side: str, options: argparse.Namespace, door: Connection) -> None:
    """One side's process: says its loss with dropout off, then a round's seconds for each number it gets."""
    torch.set_num_threads(options.threads)
    cuda = options.device.startswith("cuda")
    pairs = pairs_of(options)
    # Code is loaded on both sides before memory is measured; a first AdamW loads more of torch.
    from transformers import BertForPreTraining  # noqa: F401

    torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], fused=True).step()
    before = memory(cuda)
    model, loss = prepare(side, options, pairs)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.01, fused=True)
    model.eval()
    with torch.no_grad():
        door.send(float(loss(0)))
    model.train()
    while (number := door.recv()) is not None:
        start = time.perf_counter()
        optimizer.zero_grad()
        loss(number).backward()
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


def ceiling(config: ModelConfig, pairs: Sequence[MicroBatch]) -> float:
    """How many times the operations of bertpipe those of the padded side, with a prediction at each slot, are."""
    ours = sum(step_flops(config, one.lengths, one.masked) for one in pairs)
    slots = [one.sequences * one.longest for one in pairs]
    theirs = sum(
        step_flops(config, np.full(one.sequences, one.longest), every)
        for one, every in zip(pairs, slots, strict=True)
    )
    return theirs / ours


def main() -> None:
    parser = argparse.ArgumentParser(description="a training step of bertpipe beside one of transformers")
    parser.add_argument("--shards", help="a folder that `bertpipe shard` wrote; without, pairs are drawn")
    parser.add_argument("--preset", choices=list(PRESETS), default="tiny")
    parser.add_argument("--batch", type=int, default=32, help="pairs a step")
    parser.add_argument("--length", type=int, default=128, help="longest sequence, in tokens")
    parser.add_argument(
        "--fill", type=float, default=0.9, help="of drawn pairs: mean length as a share of --length, 0.6 to 1"
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
    for number in range(1 + options.rounds):
        for side in SIDES:
            doors[side].send(number)
            seconds[side].append(doors[side].recv())
    peak = {}
    for side in SIDES:
        doors[side].send(None)
        peak[side] = doors[side].recv()
    for worker in workers:
        worker.join()

    pairs = pairs_of(options)[1:]
    fill = sum(one.tokens for one in pairs) / sum(one.sequences * options.length for one in pairs)
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
        f"[{ratios[0]:.2f} to {ratios[-1]:.2f}], the saved arithmetic alone would give "
        f"{ceiling(shape_of(options), pairs):.2f}; {peak[ours] / peak[theirs]:.2f} times the peak memory"
    )


if __name__ == "__main__":
    main()
