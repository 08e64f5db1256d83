"""Which pieces to add to a vocabulary: those that shorten a text most.

In: the text's words that the vocabulary doesn't know whole, with their counts, and its pieces. Out: pieces to add, each
with what it saves, the largest first. What always holds: the choice is a function of counts and pieces, in whole
numbers throughout; words are cut as BERT's tokeniser cuts them, the longest piece first.

Adding what a second vocabulary has and the first lacks (exBERT, Tai et al. 2020; AVocaDo, Hong et al. 2021, arXiv
2110.13434) wastes places on steps of the trainer's and on pieces that the old ones keep from ever being used (Purason
et al. 2025, arXiv 2512.03989). So more candidates are gathered than there are places for, and as in Unigram models
(Kudo 2018) and PathPiece (Schmidt et al. 2024) the one that saves least is dropped, again and again, until they fit;
each time what is left is cut and counted anew. Candidates are

- the pieces of a vocabulary trained on just these words, four times as many as there are places,
- the words themselves,
- the characters that the vocabulary lacks, at a word's beginning and inside (`##x`). A word that holds one is [UNK],
  which costs more than any number of pieces: so an occurrence of such a character counts as ten pieces saved, whatever
  longer pieces hold it, since text to come needs it by itself.

Example:
    choose_pieces({"abab": 9}, frozenset({"a", "##b", "##a"}), places=1, least_gain=2)  # [Piece('abab', 27)]
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from pipeline.corpus.vocab_training import train

# On 35 MB of English, places for 994 and for 10,000: more candidates save nothing more.
_CANDIDATES_A_PLACE = 4
# Of the words looked at, the most frequent; rarer ones gain no place. The 95,000 words in 35 MB of English that
# Google's vocabulary doesn't know whole have 800,000.
_MOST_CHARACTERS = 1_500_000
_LONGEST = 32  # characters of a piece to add; where nobody writes spaces, words go on and on
_SHORT = 4  # pieces of a word that is cut from its beginning as fast as from the piece that goes
_UNKNOWN = 10  # pieces that an [UNK] is as bad as


class Piece(NamedTuple):
    """A piece to add, and how many pieces (in the characters' case, ten for each [UNK]) it saves on the text."""

    token: str
    gain: int


def choose_pieces(
    words: Mapping[str, int], known: frozenset[str], *, places: int, least_gain: int
) -> list[Piece]:
    """The pieces to add to `known`, those that save most first; fewer than `places` where no more save enough.

    words: counts of words that are none of `known`
    least_gain: what a piece has to save; also how often its parts have to stand beside each other
    """
    words = _most_frequent(words)
    characters: Counter[str] = Counter()
    for word, count in words.items():
        for form in _forms(word) - known:
            characters[form] += _UNKNOWN * count
    candidates = _trained(words, _CANDIDATES_A_PLACE * places, least_gain)
    candidates |= {word for word, count in words.items() if count >= least_gain}
    candidates = {piece for piece in candidates if len(piece) <= _LONGEST} - known - characters.keys()
    return _Elimination(words, known, candidates, characters).run(places, least_gain)


def _most_frequent(words: Mapping[str, int]) -> dict[str, int]:
    found: dict[str, int] = {}
    characters = 0
    for word, count in sorted(words.items(), key=lambda item: (-item[1], item[0])):
        characters += len(word)
        if characters > _MOST_CHARACTERS:
            break
        found[word] = count
    return found


def _forms(word: str) -> set[str]:
    """The characters of a word as pieces."""
    return {word[0], *(f"##{character}" for character in word[1:])}


def _trained(words: Mapping[str, int], number: int, min_frequency: int) -> set[str]:
    items = sorted(words.items())
    characters = set[str]().union(*words)
    first = sorted(characters | {f"##{character}" for character in characters})
    tokens = train(items, first, size=len(first) + number, min_frequency=min_frequency)
    return set(tokens[len(first) :])


class _Elimination:
    """Added pieces, what each saves, and who uses it, kept up while the least useful ones are dropped.

    For each word, `_cuts` has its pieces, as far as it can be cut, `_costs` what it costs once, and `_saved` what each
    added piece of its cut saves on all its occurrences.
    """

    def __init__(
        self,
        words: Mapping[str, int],
        known: frozenset[str],
        candidates: Collection[str],
        characters: Mapping[str, int],
    ) -> None:
        self._words = sorted(words.items())
        self._characters = characters
        self._added = {*candidates, *characters}
        self._pieces = {piece: piece for piece in (*known, *self._added)}  # so that each is held once
        self._longest = max(map(len, self._pieces), default=0)
        self._gains = dict.fromkeys(candidates, 0) | dict(characters)
        self._users: defaultdict[str, set[int]] = defaultdict(set)
        self._cuts: list[tuple[str, ...]] = [()] * len(self._words)
        self._costs = [0] * len(self._words)
        self._saved: list[dict[str, int]] = [{} for _ in self._words]
        self._heap: list[tuple[int, int, str]] = []
        for index in range(len(self._words)):
            self._cut_anew(index)

    def run(self, places: int, least_gain: int) -> list[Piece]:
        """Drop until the pieces fit into `places` and each saves `least_gain`."""
        while True:
            self._shrink(places, least_gain)
            # Once more for those that never were the least: the gains as they are in the end.
            chosen = [Piece(piece, self._revised(piece)) for piece in self._added]
            if all(piece.gain >= least_gain for piece in chosen):
                return sorted(chosen, key=lambda piece: (-piece.gain, piece.token))

    def _shrink(self, places: int, least_gain: int) -> None:
        self._heap = [self._entry(piece) for piece in self._added]
        heapq.heapify(self._heap)
        while self._heap:
            gain, _, piece = heapq.heappop(self._heap)
            if piece not in self._added or gain != self._gains[piece]:
                continue  # dropped, or another entry says what it saves now
            if len(self._added) <= places and gain >= least_gain:
                return
            if self._revised(piece) > gain:
                heapq.heappush(self._heap, self._entry(piece))
            else:
                self._drop(piece)

    def _entry(self, piece: str) -> tuple[int, int, str]:
        # Of pieces that save the same the longer goes: the shorter serves more of the words to come.
        return self._gains[piece], -len(piece), piece

    def _next(self, word: str, start: int) -> str | None:
        """The longest piece that a word goes on with."""
        for end in range(min(len(word), start + self._longest), start, -1):
            piece = self._pieces.get(f"##{word[start:end]}" if start else word[:end])
            if piece is not None:
                return piece
        return None

    def _cut(self, word: str) -> tuple[tuple[str, ...], int]:
        """A word's pieces, as far as it can be cut, and its cost: their number, or more than any if it can't."""
        found: list[str] = []
        start, length = 0, len(word)
        while start < length:
            piece = self._next(word, start)
            if piece is None:
                return tuple(found), length + _UNKNOWN
            found.append(piece)
            start += _length(piece, start)
        return tuple(found), len(found)

    def _saves(self, piece: str, index: int) -> int:
        """What a piece saves in a word that uses it."""
        word, count = self._words[index]
        cut, cost = self._cuts[index], self._costs[index]
        afresh = len(cut) <= _SHORT or cost > len(word)  # or an [UNK], whose cut is none
        del self._pieces[piece]
        dearer = self._cut(word)[1] - cost if afresh else self._dearer(piece, word, cut)
        self._pieces[piece] = piece
        return count * dearer

    def _dearer(self, piece: str, word: str, cut: Iterable[str]) -> int:
        """What a word costs more since the piece is gone; it is cut anew only until the old cut is met again."""
        old: dict[int, str] = {}
        start = 0
        for each in cut:
            old[start] = each
            start += _length(each, start)
        difference = at = 0
        for start in (start for start, each in old.items() if each == piece):
            if start < at:
                continue  # cut anew already
            at = start
            while at < len(word) and old.get(at) in (None, piece):
                found = self._next(word, at)
                if found is None:
                    return len(word) + _UNKNOWN - len(old)
                difference += 1
                at += _length(found, at)
            difference -= sum(start <= each < at for each in old)
        return difference

    def _cut_anew(self, index: int) -> Iterable[str]:
        """Cut a word with the pieces that there are now; returns the added ones whose gain it changes."""
        cut, self._costs[index] = self._cut(self._words[index][0])
        self._cuts[index] = cut
        before = self._saved[index]
        self._saved[index] = after = {
            piece: 0 if piece in self._characters else self._saves(piece, index)
            for piece in self._added.intersection(cut)
        }
        for piece in before.keys() - after.keys():
            self._users[piece].discard(index)
        for piece in after.keys() - before.keys():
            self._users[piece].add(index)
        changed = {
            piece: after.get(piece, 0) - before.get(piece, 0) for piece in before.keys() | after.keys()
        }
        for piece, difference in changed.items():
            self._gains[piece] += difference
        return [piece for piece, difference in changed.items() if difference]

    def _revised(self, piece: str) -> int:
        """What the piece saves, now that others are gone which would have stood in for it."""
        if piece not in self._characters:
            for index in self._users[piece]:
                saves = self._saves(piece, index)
                self._gains[piece] += saves - self._saved[index][piece]
                self._saved[index][piece] = saves
        return self._gains[piece]

    def _drop(self, piece: str) -> None:
        self._added.remove(piece)
        del self._pieces[piece]
        changed: set[str] = set()
        for index in self._users.pop(piece, set()):
            changed.update(self._cut_anew(index))
        for other in changed & self._added:
            heapq.heappush(self._heap, self._entry(other))


def _length(piece: str, start: int) -> int:
    """Characters of the word that a piece which begins at `start` takes."""
    return len(piece) - 2 if start else len(piece)
