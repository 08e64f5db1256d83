"""Text → sentences, by `sentencex`'s rules for the language.

In: a document's text and the code of its language. Out: its sentences, stripped, none empty.
What always holds: a line's end ends a sentence; nothing but white space is lost.

`sentencex` holds abbreviations and sentence ends for some thirty languages and, for others, borrows a
relative's or, in silence, English's, under any code at all: `enn` would do as well as `en`. So codes are
checked here against those of ISO 639-1; `und` (BCP 47: undetermined) asks for the general rules by name.

Example:
    >>> segment("Dr. Smith sat. He slept.", "en")
    ['Dr. Smith sat.', 'He slept.']
"""

import difflib
from collections.abc import Iterator

import sentencex

from pipeline.errors import InputError

# Those with rules of their own in sentencex 1.0.
_OWN_RULES = "am ar bg bn ca da de el en es fi fr gu hi hy it ja kk kn ml mr my nl pa pl pt ru sk ta te uk"
# Those whose sentence ends are among the general rules', and which write no abbreviations with a full stop.
_GENERAL_RULES = "ko zh"
_ISO_639_1 = """
    aa ab ae af ak am an ar as av ay az ba be bg bh bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz
    ee el en eo es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik
    io is it iu ja jv ka kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml
    mn mr ms mt my na nb nd ne ng nl nn no nr nv ny oc oj om or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd
    se sg sh si sk sl sm sn so sq sr ss st su sv sw ta te tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve
    vi vo wa wo xh yi yo za zh zu
"""
_KNOWN = frozenset(_ISO_639_1.split())
UNDETERMINED = "und"

# In characters. sentencex's time is quadratic in a line's apostrophes: 0.6 s for 600,000 characters of
# dialogue in single quotes, hours for a file without line ends. Longer lines are cut at a space.
_LONGEST_LINE = 200_000


def check_language(language: str) -> None:
    """Raise InputError where `language` is no code that `segment` takes, naming the nearest that is."""
    if language in _KNOWN or language == UNDETERMINED:
        return
    start = language.lower()[:2]  # en-US, eng, English
    near = start if start in _KNOWN else difflib.get_close_matches(language, sorted(_KNOWN), n=1, cutoff=0)[0]
    raise InputError(
        f"language {language!r} is unknown; the nearest known is {near!r} (two letters, ISO 639-1), "
        f"and {UNDETERMINED!r} stands for any language without a code"
    )


def has_own_rules(language: str) -> bool:
    """Whether the segmenter knows the language itself, rather than a relative of it or English."""
    return language in _OWN_RULES.split()


def rules_notice(language: str) -> str | None:
    """What a person should know of how the language's sentences are found; None where its rules fit."""
    if has_own_rules(language) or language in (UNDETERMINED, *_GENERAL_RULES.split()):
        return None
    return (
        f"language {language!r} has no sentence rules of its own; a relative's or English-like ones are used "
        "(--sentences lines takes text that is cut already)"
    )


def segment(text: str, language: str) -> list[str]:
    """The sentences of a `Document.text`; `language` has passed `check_language`."""
    # sentencex 1.0 panics on an initial after a no-break or ideographic space ("\u00a0K."): here is none but spaces.
    return [
        sentence
        for line in text.split("\n")
        for piece in ((line,) if len(line) <= _LONGEST_LINE else _pieces(line))
        for found in sentencex.segment(language, piece)
        if (sentence := found.strip())
    ]


def _pieces(line: str) -> Iterator[str]:
    start = 0
    while len(line) - start > _LONGEST_LINE:
        end = line.rfind(" ", start, start + _LONGEST_LINE) + 1 or start + _LONGEST_LINE
        yield line[start:end]
        start = end
    yield line[start:]
