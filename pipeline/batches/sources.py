"""What a phase reads: one shard folder, or several with weights.

In: a phase of a recipe. Out: its `Source`s, manifests read. What always holds: their identity is that of the pairs
and the weights, wherever the folders lie.

Example:
    sources = read_sources(recipe.phases[0])
    identity(sources)  # '4efd1455…', or '0.7 of 4efd1455… + 0.3 of 02ab…'
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

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


def shares(whole: int, sources: Sequence[Source]) -> list[int]:
    """`whole` things dealt to the sources by their weights: at least one to each, and else to within one."""
    weights = np.cumsum([source.weight for source in sources])
    ends = np.rint(whole * weights / weights[-1]).astype(int)
    return [max(1, int(count)) for count in np.diff(ends, prepend=0)]


def identity(sources: Sequence[Source]) -> str:
    """What tells the pairs of a phase from others: the manifest's hash, or those of all with their shares."""
    if len(sources) == 1:
        return sources[0].manifest.hash
    whole = sum(source.weight for source in sources)
    return " + ".join(f"{source.weight / whole:.6g} of {source.manifest.hash}" for source in sources)
