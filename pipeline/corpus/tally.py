"""What the shards came to: counts for the manifest, and a few lines for a person.

In: spills and finished shards. Out: the manifest's `corpus` and `counts`, and a summary.
What always holds: a random share off one half by more than 1 % comes with the reason.

Example:
    corpus, counts = tally(spills, reduced)
    counts["random_share"]  # 0.500012
"""

from collections.abc import Sequence
from typing import Any

from pipeline.corpus.documents import Fingerprint
from pipeline.corpus.mapper import Spill
from pipeline.corpus.pairs import PairCounts
from pipeline.corpus.reducer import Reduced
from pipeline.corpus.shards import SPLITS, Manifest
from pipeline.progress import duration

_TOLERANCE = 0.01  # of the random share around one half


def tally(spills: Sequence[Spill], reduced: Sequence[Reduced]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The manifest's entries `corpus` and `counts`."""
    fingerprint = Fingerprint()
    for spill in spills:
        fingerprint.merge(spill.fingerprint)
    total = PairCounts()
    sides = {split: PairCounts() for split in SPLITS}
    for each in reduced:
        total.merge(each.counts)
        sides[each.shard.split].merge(each.counts)
    empty = sum(spill.empty for spill in spills)
    came = sum(run.documents for spill in spills for run in spill.runs)
    counts = {
        **_counts(total),
        "duplicates": came - total.documents,
        "empty": empty,
        "balance": _balance_note(total),
        "splits": {split: _counts(side) for split, side in sides.items() if side.pairs},
    }
    return fingerprint.as_dict(), counts


def _counts(counts: PairCounts) -> dict[str, Any]:
    return {
        "documents": counts.documents,
        "sentences": counts.sentences,
        "pairs": counts.pairs,
        "tokens": counts.tokens,
        "random_next": counts.random_next,
        "random_share": _share(counts.random_next, counts.pairs),
        "forced_share": _share(counts.forced, counts.pairs),
        "short_document_share": _share(counts.short_documents, counts.documents),
        "short_pair_share": _share(counts.short_pairs, counts.pairs),
    }


def _share(part: int, whole: int) -> float:
    return round(part / whole, 6) if whole else 0.0


def _balance_note(counts: PairCounts) -> str | None:
    random_share, forced_share = _share(counts.random_next, counts.pairs), _share(counts.forced, counts.pairs)
    if abs(random_share - 0.5) <= _TOLERANCE:
        return None
    if forced_share > 0.5 - _TOLERANCE:
        return (
            f"{random_share:.1%} of the pairs are random-next instead of 50 %: {forced_share:.1%} have a "
            "chunk of one sentence, which has no next one (documents of one sentence, or sentences longer than a "
            "sequence); join such documents, split such sentences, or drop next-sentence prediction"
        )
    return (
        f"{random_share:.1%} of the pairs are random-next instead of 50 %: {counts.pairs} pairs are too few "
        "to come closer"
    )


def headline(manifest: Manifest) -> str:
    """The shards in half a line."""
    sides = ", ".join(
        f"{manifest.pairs(split):,} pairs in {len(shards)} {split} shard{'s' if len(shards) > 1 else ''}"
        for split in SPLITS
        if (shards := manifest.of_split(split))
    )
    return f"{sides}, of up to {manifest.max_seq_length} tokens"


def summary(manifest: Manifest, *, seconds: float, continued: bool) -> list[str]:
    """What was made, for a person, a line a fact; a rate only where all was made in these seconds."""
    counts, megabytes = manifest.counts, manifest.corpus["bytes"] / 1e6
    rate = "continued" if continued else f"{megabytes / max(seconds, 1e-9):.2f} MB/s"
    lines = [
        f"documents  {counts['documents']:,} of {megabytes:,.1f} MB text ({counts['duplicates']:,} repeated "
        f"and {counts['empty']:,} empty ones dropped), {counts['sentences']:,} sentences",
        f"pairs      {headline(manifest)}",
        f"labels     {counts['random_share']:.2%} random-next ({counts['forced_share']:.1%} by force)",
        f"time       {duration(seconds)}, {rate}",
    ]
    if counts["balance"]:
        lines.append(f"balance    {counts['balance']}")
    return lines
