"""Redaction: what names or reaches a person is replaced by a placeholder.

In: what the user asks for (`email`, or a name and a regular expression of the user's own), then texts. Out: the texts
with `[email]` for each match, and how much was replaced. What always holds: a text without a match comes back as it
is; a text from which everything was redacted holds no match of bertpipe's own any more, and redacting it again
changes nothing; the order in which redactions are asked for decides nothing; what can't be done is refused before
anything is read.

The user's own go first, by name, as they know the text best; then `email`, `id-number` and `phone`, from what is
certain to what is likely. A regular expression is Python's, looked for once from the start of a document to its end,
with `^` and `$` at the ends of lines. One that backtracks without end takes without end: nothing stops it.

Example:
    redactions = parse_redactions(["email", "mrn=MRN \\\\d+"])
    redact("Ask ann@example.com about MRN 77.", redactions).text  # "Ask [email] about [mrn]."
"""

import difflib
import re
import unicodedata
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from pipeline.corpus.characters import WORD
from pipeline.corpus.id_numbers import digit_numbers, lettered_numbers
from pipeline.corpus.long_numbers import Span, has_long_number, in_ascii_digits
from pipeline.corpus.phone_numbers import phone_numbers
from pipeline.errors import InputError
from pipeline.lineage import hash_bytes

Finder = Callable[[str], Iterator[Span]]

_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")
# In vocabularies and tokenisers these are no text, and [unused7] is a place kept for other words.
_SPECIAL = re.compile(r"pad|unk|cls|sep|mask|unused[0-9]*")
# A pattern that matches nothing at all does so somewhere in this.
_PROBE = "Ab 1-\n\nc.é字"


@dataclass(frozen=True)
class Redaction:
    """One thing to look for.

    finders: one after the other, each in what the one before left
    regex: the user's own, None for bertpipe's
    """

    name: str
    finders: tuple[Finder, ...] = field(repr=False)
    regex: str | None = None

    @property
    def placeholder(self) -> str:
        """What stands in the text instead."""
        return f"[{self.name}]"

    @property
    def setting(self) -> str:
        """As settings name it: by a hash, since a regular expression may spell out what it hides."""
        return "built in" if self.regex is None else f"regex {hash_bytes(self.regex.encode())}"


@dataclass(frozen=True)
class Redacted:
    """A text without its matches; by redaction, where there were any, their number and their characters."""

    text: str
    found: dict[str, tuple[int, int]]


def redact(text: str, redactions: Sequence[Redaction]) -> Redacted:
    """`text` with placeholders for all matches of `redactions`."""
    found: dict[str, tuple[int, int]] = {}
    text = _round(text, [each for each in redactions if each.regex is not None], found)
    own = [each for each in redactions if each.regex is None]
    # Again where there was something: a number may have stood too close to another to be seen. Placeholders hold
    # neither digits nor @, so this ends.
    while own and (left := _round(text, own, found)) != text:
        text = left
    return Redacted(text, found)


def _round(text: str, redactions: Sequence[Redaction], found: dict[str, tuple[int, int]]) -> str:
    """`text` after each of `redactions` once; counts into `found`."""
    numbers: bool | None = None  # looked for at most once: most texts have none, and two finders need them
    for redaction in redactions:
        for finder in redaction.finders:
            if finder in _AMONG_LONG_NUMBERS:
                numbers = has_long_number(text) if numbers is None else numbers
                spans = list(finder(in_ascii_digits(text))) if numbers else []
            else:
                spans = list(finder(text))
            if spans:
                matches, characters = found.get(redaction.name, (0, 0))
                characters += sum(end - start for start, end in spans)
                found[redaction.name] = (matches + len(spans), characters)
                text = _replaced(text, spans, redaction.placeholder)
    return text


def _replaced(text: str, spans: Sequence[Span], placeholder: str) -> str:
    pieces, at = [], 0
    for start, end in spans:
        pieces += [text[at:start], placeholder]
        at = end
    return "".join([*pieces, text[at:]])


_LOCAL_PART = re.compile(rf"[{WORD}_][{WORD}._%+'-]*\Z")
_DOMAIN = re.compile(rf"(?:[{WORD}-]+\.)+[{WORD}][{WORD}-]*[{WORD}]")
_LONGEST_LOCAL_PART = 64  # RFC 5321


def email_addresses(text: str) -> Iterator[Span]:
    """Where mail addresses stand."""
    after, at = 0, text.find("@")
    while at >= 0:
        local = _LOCAL_PART.search(text, max(after, at - _LONGEST_LOCAL_PART), at)
        domain = _DOMAIN.match(text, at + 1) if local else None
        if local and domain:
            after = domain.end()
            yield local.start(), after
        at = text.find("@", max(after, at + 1))


# In the order in which they are looked for.
_OWN: dict[str, tuple[Finder, ...]] = {
    "email": (email_addresses,),
    "id-number": (lettered_numbers, digit_numbers),
    "phone": (phone_numbers,),
}
_AMONG_LONG_NUMBERS = (digit_numbers, phone_numbers)


def parse_redactions(asked: Sequence[str]) -> tuple[Redaction, ...]:
    """The redactions that `NAME` and `NAME=REGEX` stand for, in the order in which they are looked for.

    Raises InputError for an unknown, odd or repeated name and for a regular expression that can't be used.
    """
    found: dict[str, Redaction] = {}
    for each in asked:
        name, given, regex = each.partition("=")
        name = name.strip().lower()
        if name in found:
            raise InputError(f"redaction {name} is named twice; name it once")
        found[name] = _users(name, regex) if given else _own(name)
    users = sorted((each for each in found.values() if each.regex is not None), key=lambda each: each.name)
    redactions = (*users, *(found[name] for name in _OWN if name in found))
    for redaction in redactions:
        for other in redactions:
            if any(True for finder in redaction.finders for _ in finder(other.placeholder)):
                raise InputError(
                    f"redaction {redaction.name} matches in {other.placeholder}, which stands for what was redacted; "
                    "make its regular expression stricter, or choose another name"
                )
    return redactions


def _own(name: str) -> Redaction:
    if name not in _OWN:
        near = difflib.get_close_matches(name, _OWN, n=1, cutoff=0.0)[0]
        raise InputError(
            f"unknown redaction {name!r}; the nearest known is {near} (known: {', '.join(_OWN)}; a pattern of your "
            f"own is NAME=REGEX)"
        )
    return Redaction(name, _OWN[name])


def _users(name: str, regex: str) -> Redaction:
    if name in _OWN:
        raise InputError(f"redaction {name} is bertpipe's own; give your regular expression another name")
    if _SPECIAL.fullmatch(name):
        raise InputError(
            f"redaction {name!r} would put [{name}] into the text, a special token's name; choose another"
        )
    if not _NAME.fullmatch(name):
        raise InputError(
            f"redaction {name!r}: a name has up to 32 letters of a to z, digits and hyphens, and begins with a letter"
        )
    regex = unicodedata.normalize("NFC", regex)  # as the text is, whatever the shell made of an accent
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of how a later Python may read it
            pattern = re.compile(regex, re.MULTILINE)
    except (re.error, OverflowError, RecursionError) as error:
        said = str(error).splitlines()[0]
        raise InputError(f"the regular expression of redaction {name} can't be read: {said}") from error
    if not all(found.group() for text in ("", _PROBE) for found in pattern.finditer(text)):
        raise InputError(
            f"the regular expression of redaction {name} matches the empty string; it must ask for a character"
        )
    return Redaction(name, (lambda text: _matches(pattern, text),), regex)


def _matches(pattern: re.Pattern[str], text: str) -> Iterator[Span]:
    return (found.span() for found in pattern.finditer(text) if found.group())
