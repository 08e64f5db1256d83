"""Filters: which documents stay, and what of their text does. None is on unless it is named.

In: what the user asks for, then documents one by one. Out: each document as it is left, or nothing where it is
dropped, and counts with examples. What always holds: a document that no filter touches comes back as it is; what is
left is in canonical form; filtering it again changes nothing; the order in which filters are asked for decides
nothing; without filters there is nothing to call.

The order: everything is redacted; markup and URLs are taken out; both again until nothing changes, since what reads
`ann<b>@</b>example.com` is an address once its tags are gone. Then the document is measured, as it is left, and dropped
by the first limit that it breaks. One without text left is dropped by what took the last of it.

    length=N               at least N characters (100)
    letters=SHARE          at least so many letters among the characters (0.6)
    repeated-lines=SHARE   at most so many lines that repeat an earlier one (0.3)
    repeated-text=SHARE    at most so many characters in such lines (0.2)
    markup, urls           taken out of the text

Example:
    filtering = open_filtering(FilterOptions(filters=("length=100", "urls"), redactions=("email",)))
    filtering.take(document, identity)  # (document, its hash), or None
"""

import difflib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from pipeline.corpus import text_measures
from pipeline.corpus.documents import Document, document_hash
from pipeline.corpus.filter_counts import Example, FilterCounts, beginning, excerpt
from pipeline.corpus.markup import strip_markup
from pipeline.corpus.redaction import Redaction, parse_redactions, redact
from pipeline.corpus.urls import strip_urls
from pipeline.errors import InputError

# Rounds of redaction and stripping. A second sees what tags hid, a third finds nothing but in text that was made to
# defeat it; redaction has the last word in any case.
_ROUNDS = 8

Identity = tuple[int, int]


@dataclass(frozen=True)
class Limit:
    """What a document is measured by. `most`: whether the limit is the most allowed, or the least."""

    default: float
    most: bool
    measure: Callable[[str, float], float]

    def breaks(self, value: float, limit: float) -> bool:
        """Whether a document of this value is dropped."""
        return value > limit if self.most else value < limit


# In the order in which they are applied.
_STRIPPERS: dict[str, Callable[[str], tuple[str, int]]] = {"markup": strip_markup, "urls": strip_urls}
_LIMITS = {
    "length": Limit(100, False, lambda text, limit: text_measures.length(text, int(limit))),
    "letters": Limit(0.6, False, lambda text, _: text_measures.letter_share(text)),
    "repeated-lines": Limit(0.3, True, lambda text, _: text_measures.repeated_lines(text)),
    "repeated-text": Limit(0.2, True, lambda text, _: text_measures.repeated_text(text)),
}
_NAMES = (*_STRIPPERS, *_LIMITS)


@dataclass(frozen=True, kw_only=True)
class FilterOptions:
    """What is asked for, as it is spelled on the command line."""

    filters: tuple[str, ...] = ()
    """`NAME` or `NAME=VALUE`."""

    redactions: tuple[str, ...] = ()
    """`NAME`, or `NAME=REGEX` of the user's own (`redaction`)."""

    def __post_init__(self) -> None:
        _rules(self)

    @property
    def settings(self) -> dict[str, Any]:
        """As settings name it; empty where nothing is asked for, as in settings of older releases."""
        rules = _rules(self)
        filters = dict.fromkeys(rules.strippers, True) | rules.limits
        redactions = {each.name: each.setting for each in rules.redactions}
        return ({"filters": filters} if filters else {}) | ({"redactions": redactions} if redactions else {})


@dataclass(frozen=True)
class _Rules:
    """What is asked for, ready to be used."""

    redactions: tuple[Redaction, ...]
    strippers: tuple[str, ...]
    limits: dict[str, float]

    def without(self, name: str) -> "_Rules":
        return _Rules(
            tuple(each for each in self.redactions if each.name != name),
            tuple(each for each in self.strippers if each != name),
            {},
        )


@lru_cache(maxsize=8)
def _rules(options: FilterOptions) -> _Rules:
    """Once a process: regular expressions are compiled here. Raises InputError for what can't be asked for."""
    found = dict(map(_parsed, options.filters))
    if len(found) < len(options.filters):
        names = [each.partition("=")[0] for each in options.filters]
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"filter {twice} is named twice; name it once")
    redactions = parse_redactions(options.redactions)
    if clash := next((each.name for each in redactions if each.name in _NAMES), None):
        raise InputError(f"redaction {clash} has a filter's name; choose another")
    strippers = tuple(name for name in _STRIPPERS if name in found)
    return _Rules(redactions, strippers, {name: found[name] for name in _LIMITS if name in found})


def _parsed(asked: str) -> tuple[str, float]:
    """A filter's name and its limit, 0 for one without."""
    name, given, value = asked.partition("=")
    if name not in _NAMES:
        near = difflib.get_close_matches(name, _NAMES, n=1, cutoff=0.0)[0]
        raise InputError(f"unknown filter {name!r}; the nearest known is {near} (known: {', '.join(_NAMES)})")
    if name not in _LIMITS:
        if given:
            raise InputError(f"filter {name} is {value!r}; it takes no value, so name it alone")
        return name, 0.0
    if not given:
        return name, _LIMITS[name].default
    counts = name == "length"
    try:
        limit: float = int(value) if counts else float(value)
    except ValueError:
        limit = -1
    if counts and limit < 1:
        raise InputError(f"filter {name} is {value!r}; it must be a whole number of characters, 1 or more")
    if not counts and not 0 <= limit <= 1:
        raise InputError(f"filter {name} is {value!r}; it must be a share, 0 to 1")
    return name, limit


@dataclass(kw_only=True)
class _Outcome:
    """What became of a text.

    changes: by redaction or stripper, the pieces that it took and their characters
    dropped: the filter that dropped it; value: what that measured, None where no text was left
    """

    text: str
    changes: dict[str, tuple[int, int]]
    dropped: str | None = None
    value: float | None = None


def _filtered(text: str, rules: _Rules) -> _Outcome:
    outcome = _Outcome(text=text, changes={})
    for _ in range(_ROUNDS):
        _redact(outcome, rules)
        before = outcome.text
        for name in rules.strippers:
            stripped, pieces = _STRIPPERS[name](outcome.text)
            if pieces:
                _count(outcome, name, pieces, len(outcome.text) - len(stripped))
                outcome.text = stripped
            if not stripped:
                outcome.dropped = name
                return outcome
        if outcome.text == before:
            break
    else:
        _redact(outcome, rules)
    for name, limit in rules.limits.items():
        value = _LIMITS[name].measure(outcome.text, limit)
        if _LIMITS[name].breaks(value, limit):
            outcome.dropped, outcome.value = name, value
            break
    return outcome


def _redact(outcome: _Outcome, rules: _Rules) -> None:
    if rules.redactions:
        redacted = redact(outcome.text, rules.redactions)
        outcome.text = redacted.text
        for name, (matches, characters) in redacted.found.items():
            _count(outcome, name, matches, characters)


def _count(outcome: _Outcome, name: str, pieces: int, characters: int) -> None:
    before = outcome.changes.get(name, (0, 0))
    outcome.changes[name] = (before[0] + pieces, before[1] + characters)


class Filtering:
    """Filters at work: documents go through `take`, which counts."""

    def __init__(self, options: FilterOptions) -> None:
        self._rules = rules = _rules(options)
        names = (*(each.name for each in rules.redactions), *rules.strippers, *rules.limits)
        self._marks = {each.name: "" for each in rules.redactions} | dict.fromkeys(rules.strippers, "[…]")
        self.counts = {name: FilterCounts() for name in names}

    def take(self, document: Document, identity: Identity) -> tuple[Document, Identity] | None:
        """A document that has text, as filters leave it, and its hash; None where it is dropped.

        identity: the hash of its text as it was read; that of a text which stays the same is not taken again
        """
        outcome = _filtered(document.text, self._rules)
        if outcome.text and outcome.text != document.text:
            identity = document_hash(outcome.text)
            sentences = None if document.sentences is None else tuple(outcome.text.split("\n"))
            document_left = replace(document, text=outcome.text, sentences=sentences)
        else:
            document_left = document
        self._note(f"{identity[0]:016x}", document.text, outcome)
        return None if outcome.dropped is not None else (document_left, identity)

    def _note(self, document: str, text: str, outcome: _Outcome) -> None:
        """Count; of a text that is left, take examples. `document`, its hash, tells nothing of what was redacted."""
        for name, (pieces, characters) in outcome.changes.items():
            counts = self.counts[name]
            counts.documents += 1
            counts.matches += pieces
            counts.characters += characters
            if outcome.text and counts.wants(document) and (shown := self._shown(text, outcome.text, name)):
                counts.offer(Example(document, shown))
        if outcome.dropped is None:
            return
        counts = self.counts[outcome.dropped]
        counts.dropped += 1
        if outcome.value is not None:
            counts.documents += 1
            counts.characters += len(outcome.text)
            if counts.wants(document):
                counts.offer(Example(document, beginning(outcome.text), round(outcome.value, 4)))

    def _shown(self, text: str, left: str, name: str) -> str | None:
        """Where the filter made a difference, in the text as all of them leave it; None where others took it away.

        Found by leaving this filter out: what the others would have made of the text differs from there on.
        """
        other = _filtered(text, self._rules.without(name)).text
        return None if other == left else excerpt(left, _first_difference(left, other), self._marks[name])


def _first_difference(one: str, other: str) -> int:
    low, high = 0, min(len(one), len(other))
    while low < high:  # the first `low` characters are equal, the first `high + 1` are not
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[low:middle] == other[low:middle] else (low, middle - 1)
    return low


def open_filtering(options: FilterOptions) -> Filtering | None:
    """Filters with nothing counted yet; None where none is on."""
    return Filtering(options) if options.filters or options.redactions else None
