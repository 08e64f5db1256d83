"""URLs taken out of a text.

In: a text in canonical form. Out: the text without its URLs, and how many there were. What always holds: a text
without a URL comes back as it is; what is left holds none, so doing it again changes nothing; words on either side
stay two words; brackets and quotation marks that held a URL alone go with it, as does a line.

A URL begins with http://, https://, ftp:// or www. It goes on through the characters that RFC 3986 allows and the
letters of Latin, Greek and Cyrillic, which browsers show in it, and gives the sentence its punctuation back. Chinese
may follow it without a space. Names without such a beginning (example.com) are words like others and stay.

Example:
    strip_urls("See https://example.com/a (www.example.com).")  # ("See.", 2)
"""

import re
from collections.abc import Iterator

from pipeline.corpus.characters import WORD
from pipeline.corpus.text_files import stripped_lines

_CHARACTERS = rf"[{WORD}\-._~:/?#@!$&'*+,;=%]"
# A class of characters stands before what chooses among them: a pattern that begins so is searched for several times
# faster. A placeholder stands where something was redacted in a URL. What is possessive (`++`) is never tried again.
_URL = re.compile(
    rf"[HhFfWw](?:(?<=[Hh])[Tt][Tt][Pp][Ss]?://|(?<=[Ff])[Tt][Pp]://|(?<=[Ww])(?<![{WORD}].)(?:ww|WW)\.)"
    rf"(?=[{WORD}\[])"
    rf"(?:{_CHARACTERS}++|\({_CHARACTERS}*+\)|\[[a-z0-9-]++\])++"
)
_SPACES = " \t\u00a0"
_PUNCTUATION = ".,;:!?'*"
_AROUND = {"(": ")", "[": "]", "<": ">", '"': '"', "'": "'", "“": "”", "«": "»", "（": "）", "《": "》"}
_NO_SPACE_BEFORE = re.compile(rf"[{_PUNCTUATION}]+(?:\s|\Z)|[)\]>\"”»）]")


def strip_urls(text: str) -> tuple[str, int]:
    """`text` without URLs, its lines stripped and none blank, and how many there were."""
    if "://" not in text and "ww." not in text and "WW." not in text:
        return text, 0
    pieces: list[str] = []
    at = count = 0
    for start, end in _urls(text):
        start, end = _widened(text, start, end, at)
        # Never nothing between two words, which together might be a URL.
        space = "" if _NO_SPACE_BEFORE.match(text, end) else " "
        if count and start == at:
            pieces[-1] = space
        else:
            pieces += [text[at:start], space]
        at, count = end, count + 1
    if not count:
        return text, 0
    return "\n".join(stripped_lines("".join([*pieces, text[at:]]))), count


def _urls(text: str) -> Iterator[tuple[int, int]]:
    for found in _URL.finditer(text):
        yield found.start(), found.start() + len(found[0].rstrip(_PUNCTUATION))


def _widened(text: str, start: int, end: int, floor: int) -> tuple[int, int]:
    """The place with what encloses it and the spaces around, from `floor` on."""
    while start > floor and (closing := _AROUND.get(text[start - 1])) and text.startswith(closing, end):
        start, end = start - 1, end + 1
    while start > floor and text[start - 1] in _SPACES:
        start -= 1
    while end < len(text) and text[end] in _SPACES:
        end += 1
    return start, end
