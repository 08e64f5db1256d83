"""Telephone numbers in a text, recognised by how they are written.

In: a text, its digits ASCII's. Out: the places of such numbers, from left to right, none overlapping. What always
holds: a number has 8 to 15 digits (E.164's most), begins as one that is dialled does, and no letter or digit adjoins
it; dates are none.

    +49 (0)30 123 456   an international number: `+` or 00 and 8 to 15 digits, in any groups
    (415) 555-2671      North America's: area and exchange begin with 2 to 9; parentheses, or the same sign between all
                        groups; a leading 1
    030 123456          a national number that begins with 0, in groups of two digits or more, 9 to 12 in all
    (030) 12345         the same, its area in parentheses, 8 to 15 in all
    01701234567         the same without groups, 10 or 11 digits, unless ISBN stands before it
    138 1234 5678       China's mobile numbers: 1, then 3 to 9, 11 digits

Local numbers without their area (555-2671) are left: so are written many other things.

Example:
    list(phone_numbers("Call 030 123456."))  # [(5, 15)]
"""

import re
from collections.abc import Iterator

from pipeline.corpus.characters import DASHES, SPACES, WORD
from pipeline.corpus.long_numbers import LOOSE, Span, long_numbers

_SEPARATOR = f"[{SPACES}.{DASHES}]"
_PHONE = re.compile(
    rf"""
      (?<![{WORD}+])\+\(?[1-9](?:{LOOSE}\d){{7,14}}(?!\d)
    | (?<![{WORD}_])(?<!\d[./,-])(?:
          00[{SPACES}]?[1-9](?:{LOOSE}\d){{7,14}}
        | (?:1{_SEPARATOR})?(?:\([2-9]\d\d\)[{SPACES}]?|[2-9]\d\d(?P<sign>{_SEPARATOR}))
              [2-9]\d\d(?(sign)(?P=sign)|{_SEPARATOR})\d{{4}}
        | \(0\d{{1,5}}\)[{SPACES}/{DASHES}]{{0,3}}\d(?:[{SPACES}./{DASHES}]?\d){{4,8}}
        | 1[3-9]\d(?:\d{{8}}|(?P<mobile>[{SPACES}{DASHES}])\d{{4}}(?P=mobile)\d{{4}})
        | (?P<whole>0[1-9]\d{{8,9}})
        | (?P<groups>0[1-9]\d{{0,4}}(?:[{SPACES}./{DASHES}]{{1,3}}\d{{2,8}}){{1,5}})
      )(?![{WORD}_]|[.-]\d)
    """,
    re.VERBOSE,
)
_DATE = re.compile(rf"\d\d({_SEPARATOR}|/)\d\d\1(?:1[5-9]|20)\d\d(?!\d)")
_GROUP = re.compile(r"\d+")
_ISBN = re.compile(r"isbn[\w .:()-]{0,12}$", re.IGNORECASE)
_NATIONAL_DIGITS = range(9, 13)
# Characters around a run of digits that belong to a number, or decide whether it is one.
_BEFORE, _BEYOND = 2, 4
_CONTEXT = 20  # characters in which ISBN may stand before a number


def phone_numbers(text: str) -> Iterator[Span]:
    """Where telephone numbers stand."""
    for run in long_numbers(text):
        at = max(0, run.start() - _BEFORE)
        while found := _PHONE.search(text, at, run.end() + _BEYOND):
            end = _end(text, found)
            if end is not None:
                yield found.start(), end
            at = end or found.end()


def _end(text: str, found: re.Match[str]) -> int | None:
    """Where the number ends that begins where `found` does; None where it is something else."""
    start, end = found.span()
    if found["whole"]:
        return None if _ISBN.search(text[max(0, start - _CONTEXT) : start]) else end
    if not found["groups"]:
        return end
    if _DATE.match(text, start):
        return None
    digits, national_end = 0, None
    for group in _GROUP.finditer(text, start, end):
        digits += len(group[0])
        if digits in _NATIONAL_DIGITS:
            national_end = group.end()
    return national_end
