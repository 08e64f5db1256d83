"""Where the time of sharding goes, step by step.

In: a corpus and a vocabulary. Out: a table: processor milliseconds a MB of text in each step, without what other steps
take inside it, and its share; start-up and imports are not in it. What always holds: it is the stage itself that runs,
with one worker, its functions being timed from outside, so the rows sum to the whole.

Example:
    python benchmarks/parts/sharding_steps.py corpus/*.parquet --vocab VOCAB
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # this checkout, installed or not

from pipeline.corpus import mapper, pairs, reducer, sharding, spills, tokens
from pipeline.corpus.casing import Letters
from pipeline.corpus.documents import Fingerprint
from pipeline.corpus.word_table import WordTable

REST = "the rest: planning, census, batches"
# By owner and name of a function: the step that it is.
STEPS: dict[tuple[Any, str], str] = {
    (mapper, "read_documents"): "read, decompress, bring to one form",
    (Fingerprint, "add"): "hash documents",
    (Letters, "add"): "count letters (uncased)",
    (mapper, "segment"): "segment",
    (tokens, "cut_words"): "encode: cut words",
    (WordTable, "look_up"): "encode: look words up",
    (tokens.Encoder, "_learn"): "encode: tokenise new words",
    (tokens.Encoder, "encode"): "encode: gather ids",
    (spills, "write_runs"): "sort and write spills",
    (reducer, "read_range"): "gather a partition",
    (pairs, "chunks_of"): "pair: chunks and draws",
    (pairs, "balanced_walk"): "pair: balance labels",
    (reducer, "build_pairs"): "pair: cut, shuffle, gather tokens",
    (reducer, "write_shard"): "write shards",
}


class Steps:
    """Processor seconds of each step, without those of the steps that it calls."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys([*STEPS.values(), REST], 0.0)
        self._at = [REST]
        self._since = time.process_time()

    def begin(self) -> None:
        """Begin to count."""
        self._since = time.process_time()

    def end(self) -> None:
        """Count what came after the last step."""
        self._turn()

    def _turn(self) -> None:
        now = time.process_time()
        self.seconds[self._at[-1]] += now - self._since
        self._since = now

    def enter(self, step: str) -> None:
        """From here on time is this step's."""
        self._turn()
        self._at.append(step)

    def leave(self) -> None:
        """From here on time is that of the step around it."""
        self._turn()
        self._at.pop()

    def timed(self, function: Callable[..., Any], step: str) -> Callable[..., Any]:
        """`function`, which is timed; of one that returns an iterator, what each of its items takes."""

        @wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            self.enter(step)
            try:
                found = function(*args, **kwargs)
            finally:
                self.leave()
            return self._items(found, step) if isinstance(found, Iterator) else found

        return run

    def _items(self, items: Iterator[Any], step: str) -> Iterator[Any]:
        while True:
            self.enter(step)
            try:
                item = next(items)
            except StopIteration:
                return
            finally:
                self.leave()
            yield item


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", nargs="+")
    parser.add_argument("--vocab", required=True)
    options = parser.parse_args()
    # A first run, so that what is imported late and made once is not in the table.
    _shard(options)
    steps = Steps()
    for (owner, name), step in STEPS.items():
        setattr(owner, name, steps.timed(getattr(owner, name), step))
    mapper._encoder.cache_clear()
    steps.begin()
    manifest = _shard(options)
    steps.end()
    size = manifest.corpus["bytes"] / 1e6
    whole = sum(steps.seconds.values())
    print(f"{size:.2f} MB, {manifest.counts['pairs']:,} pairs, vocabulary of {manifest.vocabulary['size']:,}")
    for step, seconds in steps.seconds.items():
        print(f"{step:<40}{seconds / size * 1e3:>8.2f} ms/MB {seconds / whole:>8.1%}")
    print(f"{'the whole':<40}{whole / size * 1e3:>8.2f} ms/MB")


def _shard(options: argparse.Namespace) -> Any:
    with tempfile.TemporaryDirectory() as scratch:
        config = sharding.ShardConfig(
            corpus=tuple(options.corpus), output=f"{scratch}/shards", vocab=options.vocab, workers=1
        )
        return sharding.run(config)


if __name__ == "__main__":
    main()
