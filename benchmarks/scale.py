"""A million shards, thousands of ranks: what one of the ranks pays to know what it reads.

In: how many shards and ranks. Out: tables: time and memory of opening an index and planning an epoch, against
reading the same bytes once and against a manifest of JSON; what a step costs to find; what a node reads; how
evenly tokens fall to ranks; and how all of it grows with the shards.
What always holds: the index is written and read by the pipeline's own code (its contents are generated: 10^12
tokens in a million shards); each measured side is a process of its own, so that its peak is its own; lengths are
those of published pairs, 80 % full and the rest any.

A rank is two kinds of process: the trainer, which opens the folder and plans, and its loader workers, which are
sent table and plan and look up an epoch. `private` is what a process has for itself when it is done, `peak` is
its highest, shared pages included.

    $ python benchmarks/scale.py
    $ python benchmarks/scale.py --shards 10000 --ranks 64 --global-batch 4096
"""

import argparse
import json
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout's `pipeline`, installed or not

from pipeline.batches.order import OrderPlan
from pipeline.batches.phase_order import phase_order
from pipeline.batches.samples import Samples
from pipeline.batches.share import Share
from pipeline.batches.sources import Source
from pipeline.corpus.index import Columns
from pipeline.corpus.manifest import INDEX, Manifest, read_manifest, write_manifest
from pipeline.corpus.shard_table import ShardTable
from pipeline.corpus.shards import BLOCK_PAIRS, ShardInfo
from pipeline.counter_random import draw, key, unit
from pipeline.dealing import STRATA, stratum_of

SEED = 1
LENGTH = 128  # tokens of a full sequence, its three special tokens included
SHORTEST = 8
FULL = 0.8
PAIRS = 8_547  # of a mean shard: 10^12 tokens in a million of them, at 117 a sequence
PAIR_BYTES = 22  # of a pair in a block beside its tokens' two bytes each
A_NODE = 8  # ranks
NEAR, FAR = 10, 10_000_000  # steps
JSON_SHARDS = 100_000  # the most for which JSON is tried: a million takes minutes and tens of GB
STEPS = 64  # over which ranks are compared


def lengths_of(samples: Samples) -> np.ndarray:
    """The tokens of each sample: 80 % full, the rest any from 8 up, laid in blocks as `dealing` lays them."""
    drawn = (stratum_of(samples.row) + unit(draw(key(SEED), samples.sample))) / STRATA
    short = SHORTEST + drawn / (1 - FULL) * (LENGTH - SHORTEST)
    return np.where(drawn < 1 - FULL, short, LENGTH).astype(np.int64)


def make_folder(folder: str, shards: int) -> None:
    """A shard folder without its tars: manifest and index, of shards of varying size."""
    rng = np.random.default_rng(SEED)
    held_out = max(1, shards // 1000)
    mean_tokens = FULL * LENGTH + (1 - FULL) * (LENGTH + SHORTEST) / 2 - 3
    pairs = rng.integers(int(PAIRS * 0.7), int(PAIRS * 1.3), shards)
    blocks = -(-pairs // BLOCK_PAIRS)
    first_blocks = np.concatenate([[0], np.cumsum(blocks)])
    block_pairs = np.full(first_blocks[-1], BLOCK_PAIRS)
    block_pairs[first_blocks[1:] - 1] = pairs - (blocks - 1) * BLOCK_PAIRS
    members = 512 * (3 + (block_pairs * (PAIR_BYTES + 2 * mean_tokens) / 512).astype(np.int64))
    ends = np.cumsum(members)
    tar_starts = np.concatenate([[0], ends])[first_blocks[:-1]]
    tokens = (pairs * mean_tokens).astype(np.int64)
    names = [f"train-{number:05d}.tar" for number in range(shards - held_out)]
    names += [f"val-{number:05d}.tar" for number in range(held_out)]
    columns = Columns(
        name_starts=np.concatenate([[0], np.cumsum([len(name) for name in names])]).astype(np.int32),
        names=np.frombuffer("".join(names).encode(), np.uint8),
        splits=(np.arange(shards) >= shards - held_out).astype(np.int8),
        hashes=np.frombuffer(rng.bytes(16 * shards), np.uint8).reshape(-1, 16),
        bytes=np.diff(np.append(tar_starts, ends[-1])) + 1024,
        pairs=pairs,
        tokens=tokens,
        random_next=pairs // 2,
        first_blocks=first_blocks.astype(np.int32),
        block_offsets=(ends - members - np.repeat(tar_starts, blocks)).astype(np.uint64),
        block_pairs=block_pairs.astype(np.uint16),
        block_hashes=np.frombuffer(rng.bytes(16 * len(block_pairs)), np.uint8).reshape(-1, 16),
    )
    manifest = Manifest(
        settings={"max_seq_length": LENGTH},
        vocabulary={"hash": "generated"},
        corpus={},
        counts={"pairs": int(pairs.sum()), "tokens": int(tokens.sum())},
        versions={},
        shards=ShardTable.of_columns(columns),
    )
    write_manifest(folder, manifest)


class Watch:
    """Seconds by what was done in them, and the memory at the end."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._before = _memory()

    @contextmanager
    def time(self, name: str) -> Iterator[None]:
        """Time what is done inside, as `name`."""
        began = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - began

    def report(self, **more: Any) -> dict[str, Any]:
        """What was measured, memory as bytes above what the process had begun with."""
        now = _memory()
        memory = {name: now[name] - self._before[name] for name in now}
        return {"seconds": self.seconds, "all": sum(self.seconds.values()), **memory, **more}


def _memory() -> dict[str, int]:
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        name: int(lines[line].split()[0]) * 1024
        for name, line in (("peak", "VmHWM"), ("private", "RssAnon"), ("mapped", "RssFile"))
    }


def plan_of(folder: str, manifest: Manifest, ranks: int, global_batch: int) -> OrderPlan:
    order = phase_order(
        [Source(folder=folder, manifest=manifest)],
        seed=SEED,
        phase=0,
        lanes=ranks,
        global_batch=global_batch,
        sequence_length=LENGTH,
    )
    assert isinstance(order, OrderPlan)
    return order


def floor(folder: str) -> dict[str, Any]:
    """Reading the index's bytes once, into one small buffer."""
    watch, buffer = Watch(), bytearray(1 << 20)
    with watch.time("read"), open(os.path.join(folder, INDEX), "rb", buffering=0) as file:
        while file.readinto(buffer):
            pass
    return watch.report()


def trainer(folder: str, ranks: int, global_batch: int) -> dict[str, Any]:
    """What a rank's own process does before its workers start; leaves what it would send them."""
    watch = Watch()
    with watch.time("open"):
        manifest = read_manifest(folder)
    with watch.time("identity"):
        manifest.hash  # noqa: B018 - worked out once
    with watch.time("plan"):
        plan = plan_of(folder, manifest, ranks, global_batch)
        micro_batch = global_batch // ranks
        Share(plan=plan, rank=ranks - 1, world_size=ranks, micro_batch=micro_batch)
    sent = {"table": pickle.dumps(manifest.of_split("train")), "plan": pickle.dumps(plan)}
    with open(os.path.join(folder, "sent.pickle"), "wb") as file:
        pickle.dump(sent, file)
    return watch.report(sent={name: len(data) for name, data in sent.items()})


def worker(folder: str, ranks: int, global_batch: int) -> dict[str, Any]:
    """What a loader worker does until it knows its first window and where its first block lies."""
    watch = Watch()
    with open(os.path.join(folder, "sent.pickle"), "rb") as file:
        sent = pickle.load(file)
    with watch.time("receive"):
        table, plan = pickle.loads(sent["table"]), pickle.loads(sent["plan"])
        sent.clear()
    lane = ranks - 1
    with watch.time("first window"):
        samples = plan.window_samples(lane, 0)
    with watch.time("first block"):
        row, block = table.locate_block(int(samples.blocks[0]))
        table[row].block_offsets[block]
    found = watch.report(first=[int(samples.sample[0]), table[row].name, block])

    def step(number: int) -> float:
        began = time.perf_counter()
        plan.locate(lane, number * plan.per_lane, (number + 1) * plan.per_lane)
        return time.perf_counter() - began

    # The far step lies in another epoch, whose order is worked out once.
    return found | {"steps": {"near": step(NEAR), "new epoch": step(FAR), "far": step(FAR + 1)}}


def json_objects(folder: str, ranks: int, global_batch: int) -> dict[str, Any]:
    """The same by format 1: the manifest's JSON as Python objects, which are what workers are sent."""
    watch = Watch()
    with watch.time("open"):
        listed = json.loads(Path(folder, "listed.json").read_bytes())
        lists = ("block_offsets", "block_pairs", "block_hashes")
        tars = tuple(ShardInfo(**(tar | {name: tuple(tar[name]) for name in lists})) for tar in listed)
        listed.clear()
    with watch.time("plan"):
        training = tuple(tar for tar in tars if tar.split == "train")
        plan = OrderPlan(
            block_pairs=[pairs for tar in training for pairs in tar.block_pairs],
            seed=SEED, phase=0, lanes=ranks, global_batch=global_batch,
        )  # fmt: skip
    with watch.time("first window"):
        samples = plan.window_samples(ranks - 1, 0)
    with watch.time("first block"):
        starts = np.cumsum([0] + [len(tar.block_pairs) for tar in training])
        row = int(np.searchsorted(starts, samples.blocks[0], side="right")) - 1
        block = int(samples.blocks[0] - starts[row])
    found = watch.report(first=[int(samples.sample[0]), training[row].name, block])
    return found | {"sent": {"table": len(pickle.dumps(training))}}


def list_as_json(folder: str) -> None:
    tars = [asdict(tar) for tar in read_manifest(folder).shards]
    Path(folder, "listed.json").write_text(json.dumps(tars, indent=1))


def reading(folder: str, ranks: int, global_batch: int) -> dict[str, Any]:
    """What the first node reads in an epoch, lane by lane, and how tokens fall to ranks."""
    manifest = read_manifest(folder)
    table, plan = manifest.of_split("train"), plan_of(folder, manifest, ranks, global_batch)
    node = min(A_NODE, ranks)
    node_bytes, tars, tokens = 0, [], []
    for lane in range(node):
        position, last, opened, lane_tokens = 0, -1, set(), 0
        while position < plan.lane_length:
            samples = plan.window_samples(lane, position)
            lane_tokens += int(lengths_of(samples).sum())
            # As `Lane` does: the block that a window ends in is kept for the next one.
            for number in samples.blocks[1:] if samples.blocks[0] == last else samples.blocks:
                row, block = table.locate_block(int(number))
                offsets = (*table[row].block_offsets, table[row].bytes - 1024)
                node_bytes += offsets[block + 1] - offsets[block]
                opened.add(row)
            last, position = samples.blocks[-1], plan.window_bounds(lane, position)[1]
        tars.append(len(opened))
        tokens.append(lane_tokens)
    steps = min(STEPS, plan.lane_length // plan.per_lane)
    a_step = np.array(
        [
            lengths_of(plan.locate(lane, 0, steps * plan.per_lane)).reshape(steps, -1).sum(axis=1)
            for lane in range(ranks)
        ]
    )
    return {
        "node": node_bytes,
        "ideal": (table.total("bytes") - 1024 * len(table)) * node / ranks,
        "tars": [min(tars), max(tars), len(table)],
        "epoch": [min(tokens) / np.mean(tokens), max(tokens) / np.mean(tokens)],
        "step": [float((a_step.min(axis=0) / a_step.mean(axis=0)).mean()),
                 float((a_step.max(axis=0) / a_step.mean(axis=0)).mean())],
    }  # fmt: skip


SIDES: dict[str, Callable[..., dict[str, Any]]] = {
    each.__name__: each for each in (floor, trainer, worker, json_objects, reading)
}


def in_a_process(side: str, *arguments: Any) -> dict[str, Any]:
    """What `side` measured in a fresh process."""
    command = [sys.executable, __file__, "--side", json.dumps([side, *arguments])]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout)


def forget(path: str) -> None:
    """Ask the system to drop the file from its page cache."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(
    folder: str, shards: int, ranks: int, global_batch: int, run: Callable[..., Any]
) -> dict[str, Any]:
    """All sides but JSON, on a folder of `shards` shards."""
    began = time.perf_counter()
    make_folder(folder, shards)
    made = time.perf_counter() - began
    index = os.path.join(folder, INDEX)
    forget(index)
    found = {name: run("trainer", folder, ranks, global_batch) for name in ("cold", "warm")}
    found["worker"] = run("worker", folder, ranks, global_batch)
    found["floor"] = run("floor", folder)
    return found | {"made": made, "bytes": os.path.getsize(index)}


def row(name: str, found: dict[str, Any], floor_seconds: float) -> str:
    parts = ", ".join(f"{what} {_seconds(seconds)}" for what, seconds in found["seconds"].items())
    return (
        f"  {name:<28}{_seconds(found['all']):>9}{found['all'] / floor_seconds:>9.1f} ×"
        f"{found['private'] / 1e6:>9,.0f} MB{found['peak'] / 1e6:>8,.0f} MB  {parts}"
    )


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 0.1 else f"{seconds * 1000:.2f} ms"


HEAD = f"  {'':<28}{'time':>9}{'of floor':>11}{'private':>12}{'peak':>11}"


def report(folder: str, asked: argparse.Namespace, run: Callable[..., Any]) -> None:
    batch = (asked.ranks, asked.global_batch)
    found = measure(folder, asked.shards, *batch, run)
    read = found["floor"]["all"]
    manifest = read_manifest(folder)
    tokens, blocks = (
        manifest.shards.total("tokens") + 3 * manifest.shards.total("pairs"),
        manifest.shards.blocks,
    )
    print(
        f"{asked.shards:,} shards, {blocks:,} blocks, {manifest.shards.total('pairs'):,} pairs, {tokens:.3g} tokens; "
        f"index.arrow {found['bytes'] / 1e6:,.1f} MB, manifest.json "
        f"{os.path.getsize(os.path.join(folder, 'manifest.json')):,} bytes; made in {found['made']:.1f} s"
    )
    print(f"\none rank of {asked.ranks:,}, global batch {asked.global_batch:,}\n{HEAD}")
    print(row("floor: the index's bytes once", found["floor"], read))
    print(row("trainer, index not cached", found["cold"], read))
    print(row("trainer, index cached", found["warm"], read))
    print(row("a loader worker", found["worker"], read))
    sent, steps = found["warm"]["sent"], found["worker"]["steps"]
    print(f"  a worker is sent {sent['table']:,} bytes of table and {sent['plan'] / 1e6:,.1f} MB of plan")
    print(
        f"  a step is found in {_seconds(steps['near'])} at {NEAR:,} and {_seconds(steps['far'])} at {FAR:,}; the "
        f"first of an epoch in {_seconds(steps['new epoch'])}"
    )

    read_by = run("reading", folder, *batch)
    print(f"\nan epoch, {A_NODE} ranks a node")
    print(
        f"  a node reads {read_by['node'] / 1e9:,.2f} GB of shards, {read_by['node'] / read_by['ideal']:.4f} of its "
        f"even part; a rank opens {read_by['tars'][0]:,} to {read_by['tars'][1]:,} of {read_by['tars'][2]:,} tars"
    )
    for span in ("step", "epoch"):
        least, most = read_by[span]
        print(f"  tokens of a rank, {span} by {span}: {least:.4f} to {most:.4f} of the mean")

    print(f"\ngrowth\n  {'shards':>10}{'trainer':>12}{'worker':>12}{'worker, private':>18}{'index':>14}")
    sizes = [
        size for size in (asked.shards // 100, asked.shards // 10) if size * PAIRS * 0.7 > asked.global_batch
    ]
    for size in (*sizes, asked.shards):
        grown = found if size == asked.shards else measure(folder, size, *batch, run)
        print(
            f"  {size:>10,}{_seconds(grown['warm']['all']):>12}{_seconds(grown['worker']['all']):>12}"
            f"{grown['worker']['private'] / 1e6:>15,.0f} MB{grown['bytes'] / 1e6:>11,.1f} MB"
        )

    size = min(asked.shards, JSON_SHARDS)
    small = measure(folder, size, *batch, run)
    list_as_json(folder)
    listed = run("json_objects", folder, *batch)
    assert listed["first"] == small["worker"]["first"], "both sides look up the same samples"
    bytes_listed = os.path.getsize(os.path.join(folder, "listed.json"))
    print(f"\nJSON and objects, {size:,} shards\n{HEAD}")
    print(row("trainer and worker: index", _both(small["warm"], small["worker"]), small["floor"]["all"]))
    print(row("one process: JSON, objects", listed, small["floor"]["all"]))
    print(
        f"  on disk {small['bytes'] / 1e6:,.1f} MB and {bytes_listed / 1e6:,.1f} MB; a worker is sent "
        f"{sum(small['warm']['sent'].values()) / 1e6:,.1f} MB and {listed['sent']['table'] / 1e6:,.1f} MB of tars"
    )


def _both(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    summed = {name: one[name] + other[name] for name in ("all", "private", "peak")}
    return summed | {"seconds": one["seconds"] | other["seconds"]}


def main(arguments: list[str] | None = None, run: Callable[..., Any] = in_a_process) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", type=int, default=1_000_000)
    parser.add_argument("--ranks", type=int, default=4_096, help="one lane each")
    parser.add_argument("--global-batch", type=int, default=65_536, help="sequences a step, over all ranks")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.side:
        side, *given = json.loads(asked.side)
        print(json.dumps(SIDES[side](*given)))
        return
    with tempfile.TemporaryDirectory() as folder:
        report(folder, asked, run)


if __name__ == "__main__":
    main()
