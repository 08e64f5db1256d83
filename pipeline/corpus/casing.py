"""What text loses where it is read uncased: marks on letters.

In: beginnings of documents. Out: by script, how many letters they hold and how many of these lose a mark; of one
document, its script. What always holds: the counts depend on the documents alone, and add up.

BERT's uncased normaliser takes every text apart (NFD) and drops its marks: é becomes e, as Devlin et al. meant,
but the same step drops Hindi's vowel signs (किताब becomes कताब), turns Japanese が into か, and takes the tones off
Vietnamese and Thai. Cased, nothing is dropped. Korean loses nothing; its syllables fall apart into letters.

Example:
    letters = Letters()
    letters.add("हिन्दी में")
    marks_notice(letters.lost())  # 'uncased text loses marks: …'
"""

import unicodedata
from collections import Counter
from collections.abc import Mapping
from functools import lru_cache

_BEGINNING = 100  # characters of a document looked at: enough over a corpus, and 0.5 % of the map's time
_LEAST_SHARE = 0.01  # of the letters, for a script to be the corpus's own
_MANY_LOST = 0.05  # German loses 2 % of its letters' marks and French 4 %, as Devlin et al. accept
_LATIN = "Latin"
_MARK = "Mn"  # Unicode's category of marks that take no place of their own


class Letters:
    """Counts by script: letters, and those among them that lose a mark."""

    def __init__(self, counts: Mapping[str, tuple[int, int]] | None = None) -> None:
        self.counts: dict[str, tuple[int, int]] = dict(counts or {})

    def add(self, text: str) -> None:
        """Count in the beginning of a document."""
        text = text[:_BEGINNING]
        if text.isascii():
            self._count(_LATIN, sum(map(str.isalpha, text)), 0)
            return
        kinds = list(map(_kind, unicodedata.normalize("NFD", text)))
        for script, letters in Counter(kinds).items():
            if script and script != _MARK:
                self._count(script, letters, 0)
        if _MARK not in kinds:
            return
        script, marked = "", True
        for kind in kinds:
            if kind == _MARK and not marked:  # those that the normaliser drops
                marked = True
                self._count(script, 0, 1)
            elif kind and kind != _MARK:
                script, marked = kind, False

    def merge(self, other: "Letters") -> None:
        """Count in another's."""
        for script, (letters, lost) in other.counts.items():
            self._count(script, letters, lost)

    def _count(self, script: str, letters: int, lost: int) -> None:
        before = self.counts.get(script, (0, 0))
        self.counts[script] = before[0] + letters, before[1] + lost

    def lost(self) -> dict[str, float]:
        """By script, the share of letters that lose a mark, where that is much of a script that is used."""
        total = sum(letters for letters, _ in self.counts.values())
        return {
            script: round(lost / letters, 4)
            for script, (letters, lost) in sorted(self.counts.items())
            if letters > _LEAST_SHARE * total and lost > _MANY_LOST * letters
        }


def script_of(text: str) -> str:
    """The script of most letters in a document's beginning (ties: the first by name); `none` without letters."""
    letters = Letters()
    letters.add(text)
    found = [(-count, script) for script, (count, _) in letters.counts.items() if count]
    return min(found)[1] if found else "none"


@lru_cache(maxsize=1 << 16)
def _kind(character: str) -> str:
    """A letter's script, `_MARK`, or nothing."""
    category = unicodedata.category(character)
    if category == _MARK:
        return _MARK
    # The names of a script's letters begin with it; ideographs' are one word, hyphen and number.
    return (
        unicodedata.name(character, "other").replace("-", " ").split()[0].capitalize()
        if category[0] == "L"
        else ""
    )


def marks_notice(lost: Mapping[str, float]) -> str | None:
    """What a person should know of an uncased vocabulary's text; None where it loses little."""
    if not lost:
        return None
    said = ", ".join(f"{share:.0%} of the {script} letters" for script, share in lost.items())
    return (
        f"uncased, {said} lose marks (vowel signs, tones, accents), since BERT's uncased normaliser drops them all; "
        "a vocabulary made with --cased keeps them"
    )
