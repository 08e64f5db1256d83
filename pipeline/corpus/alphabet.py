"""Which characters a vocabulary keeps.

In: counts of BERT's words. Out: the characters kept, sorted, and what share of the text's they cover. What always
holds: the most frequent stay (ties: the lower code point), so the choice depends on the counts alone.

A word with a character outside of the alphabet is [UNK]. The library keeps the 1,000 most frequent characters,
which is plenty for an alphabet (of English the rest is strays) and a third of what Chinese needs; so that number
is a least, and as many more stay as cover the share asked for.

Example:
    choose_alphabet(Counter({"the": 2, "cat": 1}), coverage=0.9995, limit=None)
"""

from collections import Counter
from typing import Any

_LEAST_CHARACTERS = 1000


def choose_alphabet(
    words: Counter[str], *, coverage: float, limit: int | None
) -> tuple[list[str], dict[str, Any]]:
    """The characters to keep, and what a lineage records of them.

    coverage: share of all occurrences of characters that those kept make up at least
    limit: keep so many and no more, whatever they cover; None: as many as `coverage` needs, at least 1,000
    """
    counts: Counter[str] = Counter()
    for word, count in words.items():
        for character in word:
            counts[character] += count
    total = counts.total()
    kept: list[str] = []
    covered = 0
    for character in sorted(counts, key=lambda character: (-counts[character], character)):
        enough = covered >= coverage * total and len(kept) >= _LEAST_CHARACTERS
        if enough if limit is None else len(kept) == limit:
            break
        kept.append(character)
        covered += counts[character]
    share = round(covered / max(1, total), 6)
    return sorted(kept), {"characters": len(counts), "kept": len(kept), "coverage": share}
