"""Markup taken out of a text: HTML, XML, and what is left of a wiki's.

In: a text in canonical form. Out: the text without markup, in canonical form, and how many pieces there were. What
always holds: a text without markup comes back as it is; what is left has none, so doing it again changes nothing
(markup may stand in markup up to 32 deep; what is deeper stays).

    gone, with what they hold    comments, declarations, <script>, <style>, <ref>, <math>, <gallery>, <timeline>;
                                 {{templates}}, {|tables|}, [[File:…]], [[Category:…]], __TOC__
    gone, what they hold stays   other <tags>, [[links]] and [[targets|labels]], [http://… labels],
                                 [labels](http://…), '''bold''', ''italics'', == headings ==, <![CDATA[…]]>
    as the character it means    &amp; &#233; &nbsp; and other entities

A tag is a name right behind `<`, alone or with attributes (`=`) behind it, so that `a < b` and `<b and c>` stay. One
that ends a paragraph ends the line, one that ends a cell or isn't HTML's leaves a space, others nothing.

Example:
    strip_markup("<p>The <b>cat</b> sat on [[mat|the mat]].</p>")  # ("The cat sat on the mat.", 5)
"""

import html
import re
from collections.abc import Callable, Sequence

from pipeline.corpus.documents import canonical
from pipeline.corpus.text_files import stripped_lines

_DEEPEST = 32  # times that markup is looked for in what is left

_INLINE = re.compile(
    "a|abbr|acronym|b|bdi|bdo|big|cite|code|data|del|dfn|em|font|i|ins|kbd|mark|nowiki|q|ref|rp|rt|ruby|s|samp|small|"
    "span|strike|strong|sub|sup|time|tt|u|var|wbr",
    re.IGNORECASE,
)
_PARAGRAPH = re.compile(
    "address|article|aside|blockquote|body|br|caption|center|dd|details|div|dl|dt|fieldset|figcaption|figure|footer|"
    "form|h[1-6]|head|header|hr|html|li|main|nav|ol|option|p|pre|section|summary|table|tbody|tfoot|thead|title|tr|ul",
    re.IGNORECASE,
)

_NAME = r"[A-Za-z][A-Za-z0-9]*(?:[:-][A-Za-z0-9]+)*"
_TAG = re.compile(rf"</?({_NAME})(?:\s[^<>=]*=[^<>]*|\s*/?)>")
_DECLARATION = re.compile(r"<!(?:DOCTYPE|doctype)[^<>]*>|<\?[A-Za-z][^<>]*\?>")
_CDATA = re.compile(r"<!\[CDATA\[|\]\]>")
_COMMENT = re.compile(r"(?P<opens><!--)|-->")
_ELEMENT = re.compile(
    r"<(?P<closes>/)?(?P<name>script|style|ref|math|gallery|timeline)(?:\s[^<>]*)?(?<!/)>", re.IGNORECASE
)
_TABLE = re.compile(r"(?P<opens>^[ :]*\{\|)|^\|\}", re.MULTILINE)
_TEMPLATE = re.compile(r"\{\{\{[^{}]*\}\}\}|\{\{[^{}]*\}\}")
_LINK = re.compile(r"\[\[((?:[^\[\]]|\[[a-z][a-z0-9-]*\])*+)\]\]")
_NO_TEXT = re.compile(
    r"\s*(?:file|image|media|category|datei|bild|kategorie|fichier|catégorie|archivo|categoría)\s*:",
    re.IGNORECASE,
)
_LABELLED = re.compile(
    r"\[(?:https?|ftp)://[^\s\[\]]+[ \t]+([^\[\]\n]*)\]|!?\[([^\[\]\n]*)\]\((?:https?|ftp)://[^\s()]+\)"
)
_BOLD = re.compile(r"'''([^'\n]+)'''")
# Two apostrophes are quotation marks, too, in text set for TeX or cut into tokens: those close behind a word.
_ITALIC = re.compile(r"(?<![\w'.,;:!?`])''(?=[^\W_])([^'\n]*[^\s'])''(?!\w)")
_HEADING = re.compile(r"^(={2,6})[ \t]*([^=\n](?:.*[^=\s])?)[ \t]*\1$", re.MULTILINE)
_SWITCH = re.compile(r"__[A-Z]{3,24}__")
_ENTITY = re.compile(r"&(?:amp;)*(#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")


def strip_markup(text: str) -> tuple[str, int]:
    """`text` without markup, its lines stripped and none blank, and how many pieces of markup there were."""
    found, left = 0, text
    for _ in range(_DEEPEST):
        before = left
        for signs, strip in _STEPS:
            if any(sign in left for sign in signs):
                left, count = strip(left)
                found += count
        if left == before:
            break
        left = "\n".join(stripped_lines(canonical(left)))
    return left, found


def _without(pattern: re.Pattern[str], instead: str = "") -> Callable[[str], tuple[str, int]]:
    return lambda text: pattern.subn(instead, text)


def _comments(text: str) -> tuple[str, int]:
    opened: int | None = None
    spans = []
    for mark in _COMMENT.finditer(text):
        if mark["opens"] and opened is None:
            opened = mark.start()
        elif opened is not None and not mark["opens"]:
            spans.append((opened, mark.end()))
            opened = None
    return _cut(text, spans)


def _elements(text: str) -> tuple[str, int]:
    opened: re.Match[str] | None = None
    spans = []
    for tag in _ELEMENT.finditer(text):
        if opened is None:
            opened = None if tag["closes"] else tag
        elif tag["closes"] and tag["name"].lower() == opened["name"].lower():
            spans.append((opened.start(), tag.end()))
            opened = None
    return _cut(text, spans)


def _tables(text: str) -> tuple[str, int]:
    """Tables that hold none; those around them come next."""
    opened: int | None = None
    spans = []
    for mark in _TABLE.finditer(text):
        if mark["opens"]:
            opened = mark.start()
        elif opened is not None:
            spans.append((opened, mark.end()))
            opened = None
    return _cut(text, spans)


def _cut(text: str, spans: Sequence[tuple[int, int]]) -> tuple[str, int]:
    # In one walk, as are the searches above: a pattern from one end to the other would look for the end of each
    # unclosed beginning through all the text.
    pieces, at = [], 0
    for start, end in spans:
        pieces.append(text[at:start])
        at = end
    return "".join([*pieces, text[at:]]), len(spans)


def _tags(text: str) -> tuple[str, int]:
    def instead(tag: re.Match[str]) -> str:
        return "" if _INLINE.fullmatch(tag[1]) else "\n" if _PARAGRAPH.fullmatch(tag[1]) else " "

    return _TAG.subn(instead, text)


def _links(text: str) -> tuple[str, int]:
    def label(link: re.Match[str]) -> str:
        target, *others = link[1].split("|")
        if _NO_TEXT.match(target):
            return ""
        return (others[-1] if others else "").strip() or target.strip().removeprefix(":")

    return _LINK.subn(label, text)


def _labels(text: str) -> tuple[str, int]:
    return _LABELLED.subn(lambda link: link[1] or link[2] or "", text)


def _entities(text: str) -> tuple[str, int]:
    count = 0

    def meant(entity: re.Match[str]) -> str:
        nonlocal count
        spelled = f"&{entity[1]};"
        character = html.unescape(spelled)
        count += character != entity[0]
        return character

    return _ENTITY.sub(meant, text), count


# What to do, and the signs without which there is nothing to do.
_STEPS: tuple[tuple[tuple[str, ...], Callable[[str], tuple[str, int]]], ...] = (
    (("<!--",), _comments),
    (("<!", "<?"), _without(_DECLARATION)),
    (("<![CDATA[",), _without(_CDATA)),
    (("</",), _elements),
    (("<",), _tags),
    (("{|",), _tables),
    (("{{",), _without(_TEMPLATE)),
    (("[[",), _links),
    (("://",), _labels),
    (("'''",), _without(_BOLD, r"\1")),
    (("''",), _without(_ITALIC, r"\1")),
    (("==",), _without(_HEADING, r"\2")),
    (("__",), _without(_SWITCH)),
    (("&",), _entities),
)
