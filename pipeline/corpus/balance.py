"""The labels' balance: with which chance a chunk that has a choice becomes a random-next pair.

In: what a rehearsal of the walk met, document by document. Out: a probability for each unforced chunk.
What always holds: the random-next share of a partition ends within a pair or so of one half, unless more
than half of its pairs are random-next by force.

A chunk of one sentence has no next sentence, so it is random-next by force: about one in ten of English,
and all of a document whose drawn target is shorter than its sentences. Left alone, labels come to 55 %
random. With f the forced share of what is still to come, the others draw with p = (0.5 - f) / (1 - f), set
right at each pair by how far the labels so far are from one half. f can't be guessed from what is behind:
one book with a short target may be half of a small partition's forced pairs. So the walk is rehearsed. Its
chunks depend on the labels, as a random-next pair puts sentences back, so it is rehearsed twice: with a fixed
chance, and steered by what that met. Where half of the documents are of long sentences, one rehearsal counts
on free pairs that never come, and the labels end at 51.6 % random; two end at 50.0 %. Counting per document
keeps the differences that are left from adding up.

Example:
    balance = Balance(rehearsed=[Met(forced=1, free=9), Met(forced=4, free=0)])
    balance.begin(0)
    balance.probability()  # 0.25 …: 7 wanted of 14 pairs, 5 forced, 9 free
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

REHEARSALS = 2
# The chance for a forced share of one in ten; the first rehearsal's.
_REHEARSED = (0.5 - 0.1) / (1.0 - 0.1)


@dataclass(kw_only=True)
class Met:
    """Pairs of a document: random-next by force, and free to be either."""

    forced: int = 0
    free: int = 0


class Balance:
    """Counts a walk's labels, and steers those of chunks that have a choice.

    rehearsed: each document's pairs as a rehearsal met them; None: this is the first one.
    """

    def __init__(self, rehearsed: Sequence[Met] | None = None) -> None:
        self.met: list[Met] = []
        self._pairs = self._random_next = 0
        self._rehearsed = rehearsed
        if rehearsed is not None:
            self._forced_from = _sums_from([met.forced for met in rehearsed])
            self._free_from = _sums_from([met.free for met in rehearsed])

    def begin(self, document: int) -> None:
        """The walk comes to `document`; documents come in order."""
        assert document == len(self.met)
        self.met.append(Met())

    def probability(self) -> float:
        """The chance with which the chunk at hand, an unforced one, is to be random-next."""
        if self._rehearsed is None:
            return _REHEARSED
        document = len(self.met) - 1
        here, expected = self.met[document], self._rehearsed[document]
        forced_left = max(0, expected.forced - here.forced) + self._forced_from[document + 1]
        free_left = max(1, expected.free - here.free) + self._free_from[document + 1]
        wanted = (self._pairs + forced_left + free_left) / 2 - self._random_next - forced_left
        return min(1.0, max(0.0, wanted / free_left))

    def count(self, random_next: bool, forced: bool) -> None:
        """Take note of the chunk at hand."""
        self._pairs += 1
        self._random_next += random_next
        if forced:
            self.met[-1].forced += 1
        else:
            self.met[-1].free += 1


def _sums_from(values: Sequence[int]) -> list[int]:
    """The sum of `values` from each place on, and 0 behind the last."""
    return [0, *accumulate(reversed(values))][::-1]
