"""MB/s per core of sharding, beside its floor and the published algorithm run plainly; and how it grows.

In: a corpus (default: the docstrings of Python's own library) and a vocabulary (default: trained on it); where the
corpus holds less than `--megabytes`, copies of its documents are added that are documents of their own.
Out, all from one run on the same text:
  bertpipe  `bertpipe shard` with one worker as a whole process: read, hash, segment, tokenise, spill, pair, shuffle,
            write; run on a third of the text and on all of it, so that start-up is told from the rate
  floor     Hugging Face's `tokenizers` alone, on sentences already cut, nothing kept
  plain     the published algorithm: `transformers`' tokeniser, lists of tokens, the published pairs, written; on
            sentences already cut (what the two leave out stands in `parts/sharding_sides.py`)
and with `--scaling` a table of sizes and workers.

All run in turns, so that a slow spell of the machine hits all; ratios are taken within a round. Rates are per second of
processor time (user and system, of all the command's processes), which other work on the machine disturbs least.

Example:
    python benchmarks/sharding.py corpus/*.parquet --vocab VOCAB --megabytes 35
    python benchmarks/sharding.py corpus/*.parquet --vocab VOCAB --megabytes 35 --scaling 1,10,100 --scratch /big
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout, installed or not

from parts.generated_text import copy_of, docstrings, grow, take, write_texts
from parts.watched_process import Cost, watch

from pipeline.corpus.manifest import read_manifest
from pipeline.corpus.readers import ReadOptions, read_documents
from pipeline.corpus.sentences import segment
from pipeline.corpus.splits import find_splits
from pipeline.corpus.vocabulary import load_vocabulary, save_vocabulary

ROOT = Path(__file__).resolve().parents[1]
SIDES = ROOT / "benchmarks" / "parts" / "sharding_sides.py"
_SMALL = 1 / 3  # of the text: what the rate's slope begins at
_RUNS = 2  # of bertpipe in a round, averaged: they are the shortest
_DISK = 2.5  # bytes a byte of text, while the largest size is made: text, spills and shards


@dataclass(frozen=True, kw_only=True)
class Sharding:
    """One run of `bertpipe shard`; `tokens`, `bytes`: of its shards."""

    cost: Cost
    tokens: int
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Round:
    """What one round found: MB a second of processor time, and of the clock; under `start`, seconds for no text."""

    cpu: dict[str, float]
    wall: dict[str, float]


def main() -> None:
    options = _options()
    os.environ["PYTHONPATH"] = str(ROOT)  # of the commands that are measured
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        scratch = Path(folder)
        texts = grow(_documents(options.corpus), options.megabytes * 1e6)
        vocabulary = _vocabulary(options.vocab, texts, scratch)
        _compare(texts, vocabulary, scratch, options.rounds)
        if options.scaling:
            _scale(texts, vocabulary, scratch, options.scaling, options.workers)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", nargs="*", help="files or folders; default: Python's docstrings")
    parser.add_argument("--vocab", help="a vocabulary's folder; default: 8,192 tokens of the corpus")
    parser.add_argument("--megabytes", type=float, default=12.0, help="how much text to take, or to make")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scaling", type=_numbers, help="also sizes in multiples of that text, as 1,10,100")
    parser.add_argument("--workers", type=_numbers, default=[1, 2], help="of each of those sizes, as 1,2")
    parser.add_argument("--scratch", help="where text and shards are made and removed again")
    return parser.parse_args()


def _numbers(given: str) -> list[int]:
    return [int(each) for each in given.split(",")]


def _documents(corpus: list[str]) -> Iterator[str]:
    if not corpus:
        return docstrings()
    splits = find_splits(corpus)
    return (document.text for split in splits for document in read_documents(split, ReadOptions()))


def _vocabulary(folder: str | None, texts: list[str], scratch: Path) -> Path:
    vocabulary = scratch / "vocab"
    if folder is not None:
        save_vocabulary(load_vocabulary(folder), str(vocabulary))
        return vocabulary
    write_texts(scratch / "learned.txt", texts)
    watch(
        [*_BERTPIPE, "vocab", str(scratch / "learned.txt"), "-o", str(vocabulary), "--size", "8192", *_QUIET]
    )
    return vocabulary


_BERTPIPE = (sys.executable, "-m", "pipeline.cli")
_QUIET = ("--progress", "quiet")


def shard(corpus: Sequence[Path], vocabulary: Path, output: Path, workers: int) -> Sharding:
    """Run `bertpipe shard` as a process; its shards are removed again."""
    given = [*map(str, corpus), "--vocab", str(vocabulary), "-o", str(output), "--workers", str(workers)]
    cost = watch([*_BERTPIPE, "shard", *given, *_QUIET], spills=output / ".work")
    manifest = read_manifest(str(output))
    sharding = Sharding(cost=cost, tokens=manifest.counts["tokens"], bytes=manifest.shards.total("bytes"))
    shutil.rmtree(output)
    return sharding


def _compare(texts: list[str], vocabulary: Path, scratch: Path, rounds: int) -> None:
    size = _megabytes(texts)
    small = take(texts, size * 1e6 * _SMALL)
    write_texts(scratch / "small.txt", small)
    write_texts(scratch / "all.txt", texts)
    write_texts(scratch / "sentences.txt", ("\n".join(segment(text, "en")) for text in texts))
    print(f"{len(texts):,} documents, {size:.2f} MB of text; medians of {rounds} rounds [lowest, highest]")
    shard([scratch / "small.txt"], vocabulary, scratch / "shards", 1)  # so that files are in memory
    found = []
    for _ in range(rounds):
        few, ours = [], []
        floor, floor_cost = _side("floor", scratch, vocabulary)
        for _ in range(_RUNS):
            few.append(shard([scratch / "small.txt"], vocabulary, scratch / "shards", 1))
            ours.append(shard([scratch / "all.txt"], vocabulary, scratch / "shards", 1))
        plain, plain_cost = _side("plain", scratch, vocabulary, str(scratch / "plain.bin"))
        rates = {}
        for clock in ("cpu", "wall"):
            little, big = (statistics.fmean(getattr(run.cost, clock) for run in runs) for runs in (few, ours))
            slope = (big - little) / (size - _megabytes(small))
            rates[clock] = {"bertpipe": 1 / slope, "whole": size / big, "start": big - size * slope}
            rates[clock] |= {"floor": size / floor[clock], "plain": size / plain[clock]}
        found.append(Round(**rates))
    last = ours[-1]
    memory = {"bertpipe": last.cost.peak, "floor": floor_cost.peak, "plain": plain_cost.peak}
    written = {"bertpipe": last.bytes / last.tokens, "plain": plain["bytes"] / plain["tokens"]}
    _tell(found, memory, written)
    spilled = last.cost.spill / (size * 1e6)
    print(f"bertpipe's spills, while they lasted: {spilled:.2f} bytes a byte of text")


def _side(name: str, scratch: Path, vocabulary: Path, *more: str) -> tuple[dict[str, float], Cost]:
    given = [str(scratch / "sentences.txt"), str(vocabulary), *more]
    cost = watch([sys.executable, str(SIDES), name, *given])
    return json.loads(cost.output), cost


def _tell(found: list[Round], memory: dict[str, int], written: dict[str, float]) -> None:
    names = {
        "bertpipe": "bertpipe, beyond start-up",
        "whole": "bertpipe, start-up included",
        "floor": "floor: tokenizers alone",
        "plain": "plain: the published way",
    }
    print(
        f"{'':<28}{'MB a core-second':>24}{'of the floor':>24}{'of plain':>24}"
        f"{'MB/s by the clock':>24}{'peak MB':>9}{'bytes a token':>15}"
    )
    for name, words in names.items():

        def column(value: Callable[[Round], float]) -> str:
            return f"{_median([value(each) for each in found]):>24}"

        side = name.replace("whole", "bertpipe")
        size = f"{written[side]:.2f}" if side in written else ""
        print(
            f"{words:<28}{column(lambda each: each.cpu[name])}"  # noqa: B023 - called at once
            f"{column(lambda each: each.cpu[name] / each.cpu['floor'])}"  # noqa: B023
            f"{column(lambda each: each.cpu[name] / each.cpu['plain'])}"  # noqa: B023
            f"{column(lambda each: each.wall[name])}{memory[side] / 1e6:>9.0f}{size:>15}"  # noqa: B023
        )
    cpu, wall = (
        _median([each.cpu["start"] for each in found]),
        _median([each.wall["start"] for each in found]),
    )
    print(f"bertpipe's start-up: {cpu} core-seconds, {wall} by the clock")


def _median(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.2f} [{min(values):.2f}, {max(values):.2f}]"


def _megabytes(texts: Sequence[str]) -> float:
    return sum(len(text.encode()) for text in texts) / 1e6


def _scale(
    texts: list[str], vocabulary: Path, scratch: Path, times: Sequence[int], workers: Sequence[int]
) -> None:
    """Print a table of sizes, multiples of `texts`, and workers."""
    needed, free = _megabytes(texts) * max(times) * _DISK, shutil.disk_usage(scratch).free / 1e6
    if needed > free:
        sys.exit(
            f"{max(times)} times the text needs {needed:,.0f} MB of disk, {free:,.0f} are free: see --scratch"
        )
    files: list[Path] = []
    print(
        f"\n{'times':>6}{'MB':>8}{'workers':>8}{'seconds':>9}{'core-s':>9}{'MB/s':>8}{'MB/core-s':>11}"
        f"{'against ' + str(workers[0]):>11}{'peak MB: main':>15}{'a worker':>10}"
        f"{'bytes a token':>15}{'spills/text':>13}"
    )
    for each in sorted(times):
        while len(files) < each:
            files.append(scratch / f"copy-{len(files):04d}.txt")
            write_texts(files[-1], copy_of(texts, len(files) - 1))
        size = sum(file.stat().st_size for file in files) / 1e6
        first = 0.0
        for processes in workers:
            made = shard(files, vocabulary, scratch / "shards", processes)
            cost = made.cost
            first = first or cost.wall
            main_peak, *others = cost.peaks
            print(
                f"{each:>6}{size:>8,.0f}{processes:>8}{cost.wall:>9.1f}{cost.cpu:>9.1f}{size / cost.wall:>8.2f}"
                f"{size / cost.cpu:>11.2f}{first / cost.wall:>11.2f}{main_peak / 1e6:>15.0f}"
                f"{max(others, default=main_peak) / 1e6:>10.0f}{made.bytes / made.tokens:>15.3f}"
                f"{cost.spill / (size * 1e6):>13.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
