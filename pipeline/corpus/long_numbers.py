"""Where a text holds long numbers: the few places in which telephone and identity numbers are looked for.

In: a text. Out: its runs of eight digits or more, with up to three separators between two of them. What always
holds: no number of either kind reaches out of a run, a `+`, a parenthesis or a letter at its ends aside. In ordinary
prose one document in ten has such a run, and finding none takes a tenth of looking for telephone numbers. Digits are
those of any script: a number in Arabic's or Hindi's is read like others.

Example:
    [run.group() for run in long_numbers("In 1999, call 030 / 123 456.")]  # ["030 / 123 456"]
"""

import re
import sys
import unicodedata
from collections.abc import Iterator
from functools import lru_cache

from pipeline.corpus.characters import DASHES, SPACES

Span = tuple[int, int]

LOOSE = f"[{SPACES}.()/{DASHES}]{{0,3}}"  # what may stand between two digits

_LONG = re.compile(rf"\d(?:{LOOSE}\d){{7,}}")
_OTHER_DIGIT = re.compile(r"[^\D0-9]")


def has_long_number(text: str) -> bool:
    """Whether there is a run of eight digits."""
    return _LONG.search(text) is not None


def long_numbers(text: str) -> Iterator[re.Match[str]]:
    """All runs, from left to right."""
    return _LONG.finditer(text)


def in_ascii_digits(text: str) -> str:
    """The text, of the same length, with ASCII's digits for those of other scripts."""
    return text if text.isascii() or not _OTHER_DIGIT.search(text) else text.translate(_ascii_digits())


@lru_cache(maxsize=1)
def _ascii_digits() -> dict[int, str]:
    codes = range(128, sys.maxunicode + 1)
    return {code: str(value) for code in codes if (value := unicodedata.decimal(chr(code), None)) is not None}
