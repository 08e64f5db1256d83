"""Spills: what a map task leaves on disk, as it comes.

In: batches of tokenised documents. Out: runs. What always holds: memory is bounded by a run, which is written as soon
as enough has come.

Example:
    writer = SpillWriter("SHARDS/.work", "spill-0")
    writer.add(batch)
    runs = writer.finish()
"""

from pipeline.corpus.runs import Run, Tokenised, joined, write_runs

# Tokens held before they are written: 32 MB as uint16 (57 MB of English), and three times that while being sorted.
_HELD_TOKENS = 16 << 20


class SpillWriter:
    """Gathers documents and writes runs whenever enough have come."""

    def __init__(self, folder: str, stem: str, *, held_tokens: int = _HELD_TOKENS) -> None:
        self._folder, self._stem, self._limit = folder, stem, held_tokens
        self._held: list[Tokenised] = []
        self._held_tokens = self._written = 0
        self._runs: list[Run] = []

    def add(self, batch: Tokenised) -> None:
        """Take `batch` in."""
        if not len(batch.high):
            return
        self._held.append(batch)
        self._held_tokens += len(batch.tokens)
        if self._held_tokens >= self._limit:
            self._flush()

    def finish(self) -> tuple[Run, ...]:
        """Write what is left; returns all runs."""
        if self._held:
            self._flush()
        return tuple(self._runs)

    def _flush(self) -> None:
        documents = joined(self._held)
        self._held, self._held_tokens = [], 0
        self._runs += write_runs(self._folder, f"{self._stem}-{self._written:04d}", documents)
        self._written += 1
