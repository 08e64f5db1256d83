"""What a phase reads: one shard folder, or several with weights.

In: a phase of a recipe. Out: its `Source`s, manifests read. What always holds: their identity is that of the pairs
and the weights, wherever the folders lie.

Example:
    sources = read_sources(recipe.phases[0])
    identity(sources)  # '4efd1455…', or '7/10 of 4efd1455… + 3/10 of 02ab…'
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from pipeline.corpus.manifest import Manifest, read_manifest
from pipeline.phase import Phase


@dataclass(frozen=True, kw_only=True)
class Source:
    """A shard folder that a phase takes pairs from.

    weight: in proportion to those of the phase's other sources
    """

    folder: str
    manifest: Manifest
    weight: float = 1.0


def read_sources(phase: Phase) -> tuple[Source, ...]:
    """The sources of a phase. Raises InputError where a folder is none, or unfinished."""
    return tuple(
        Source(folder=folder, manifest=read_manifest(folder), weight=weight)
        for folder, weight in phase.weighted_shards.items()
    )


def held_out_counts(most: int, sources: Sequence[Source]) -> list[int]:
    """How many held-out pairs are taken of each source, `most` of all: by weight to within one, at least one each.

    Fewer of all where one source has too few, since more of the others would outweigh it.
    """
    shares = _shares(sources)
    there = [source.manifest.pairs("validation") for source in sources]
    whole = min(most, *(math.floor(pairs / share) for pairs, share in zip(there, shares, strict=True)))
    ends = [round(whole * sum(shares[: number + 1])) for number in range(len(shares))]
    counts = [after - before for before, after in pairwise([0, *ends])]
    return [max(1, min(count, pairs)) for count, pairs in zip(counts, there, strict=True)]


def identity(sources: Sequence[Source]) -> str:
    """What tells the pairs of a phase from others: the manifest's hash, or those of all with their shares."""
    if len(sources) == 1:
        return sources[0].manifest.hash
    parts = zip(_shares(sources), sources, strict=True)
    return " + ".join(f"{share} of {source.manifest.hash}" for share, source in parts)


def _shares(sources: Sequence[Source]) -> list[Fraction]:
    # Exact, as the order's are: rounded, two orders would have one identity.
    weights = [Fraction(str(source.weight)) for source in sources]
    return [weight / sum(weights) for weight in weights]
