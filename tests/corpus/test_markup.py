"""Markup and URLs are taken out, the text they stand in stays."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.corpus.documents import canonical
from pipeline.corpus.markup import strip_markup
from pipeline.corpus.text_files import stripped_lines
from pipeline.corpus.urls import strip_urls


@pytest.mark.parametrize(
    ("text", "left", "count"),
    [
        ("See https://example.com/a?b=c#d, or not.", "See, or not.", 1),
        ("See https://example.com/a (www.example.com).", "See.", 2),
        ("(http://x.com) «http://x.com» <ftp://x.y/z> a", "a", 3),
        ('He wrote "http://x.com" on it', "He wrote on it", 1),
        ("one\nhttp://x.com\ntwo", "one\ntwo", 1),
        ("http://x.com", "", 1),
        ("见 http://en.wikipedia.org/wiki/Foo_(bar)。", "见 。", 1),
        ("请访问http://www.abc.com查看。", "请访问 查看。", 1),
        ("siehe https://de.wikipedia.org/wiki/Änderung.", "siehe.", 1),
        ("VISIT HTTP://X.COM AND WWW.Y.ORG!", "VISIT AND!", 2),
        ("at http://[email]/a and http://x.com/[phone] b", "at and b", 2),
    ],
)
def test_urls_go_and_words_beside_them_stay_apart(text: str, left: str, count: int) -> None:
    assert strip_urls(text) == (left, count)


@pytest.mark.parametrize(
    "text", ["http:// and www. begin one", "example.com", "a://b", "awww.x.y", "C++/CLI 1/2"]
)
def test_what_only_resembles_a_url_stays(text: str) -> None:
    assert strip_urls(text) == (text, 0)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("<p>The <b>cat</b> sat<br/>on H<sub>2</sub>O.</p><p>Two</p>", "The cat sat\non H2O.\nTwo"),
        ('<a href="http://x.com/?a=1">here</a> <img src=x.png /> <x:note>there</x:note>', "here    there"),
        ("<table><tr><td>a</td><td>b</td></tr></table>", "a  b"),
        ("<?xml version='1.0'?><!DOCTYPE html>a<!-- b\n -->c <![CDATA[d]]>", "ac d"),
        ("a<script>var b = '<i>';</script><STYLE a='b'>c</STYLE>d", "ad"),
        ('Text.<ref name="a">Smith, <math>x</math> 2003</ref><ref name="a"/> More.', "Text. More."),
        ("AT&amp;T &eacute;t&#233; &#x41;&nbsp;b e&#769; &unknown; &", "AT&T été A\u00a0b é &unknown; &"),
        ("one &amp;lt;br&amp;gt; two", "one\ntwo"),
        ("The [[cat]] sat on [[mat|the mat]]. [[a|]]", "The cat sat on the mat. a"),
        ("[[:Category:X]][[Category:Y]]", "Category:X"),
        ("[[File:x.jpg|thumb|A [[small]] cat]]Text {{cite|a={{b}}|{{{1}}}}}.", "Text ."),
        ("{| class=a\n| b\n{|\n| c\n|}\n|}\nText", "Text"),
        ("== History ==\n'''Bold''', ''italic''. __NOTOC__", "History\nBold, italic."),
        ("[https://x.com the site] and [that](http://y.com/a) ![b](http://z.com)", "the site and that b"),
        ("[[Foo [phone] bar]] [[[email]]]", "Foo [phone] bar [email]"),
        ("&#10;a&#13;&#0;b\u0301", "a\n\ufffdb\u0301"),
    ],
)  # fmt: skip
def test_markup_goes_and_what_it_holds_stays(text: str, left: str) -> None:
    assert strip_markup(text)[0] == left


@pytest.mark.parametrize(
    "text",
    [
        "a < b, b > c, <b and c>, 1 <2> 3, <3",
        "``quoted'' and ``two'', it's 'so'",
        "AT&T, R&D; & c; &; a&b;",
        "__init__, x == y, ==, =====",
        "<john@example.com> {a} [b] [1] [[ {{ <!-- {| [email]",
    ],
)
def test_what_only_resembles_markup_stays(text: str) -> None:
    assert strip_markup(text) == (text, 0)


PIECES = [
    "http://", "www.", "x", "a b", "ex.org", ".com", ".", ",", "(", ")", "[", "]", "<", ">", "</", "b", "br", "ref",
    "script", "<!--", "-->", "{{", "}}", "[[", "]]", "|", "{|", "|}", "\n", "''", "'''", "==", "__TOC__", "&amp;",
    "&lt;", "&gt;", "&", "amp;", "#64;", "=", "/", " ", "\u0301", "字", "é", "&#769;", "&#10;", "\u00a0", "'", '"',
]  # fmt: skip


@settings(max_examples=300)
@given(st.lists(st.sampled_from(PIECES), max_size=25).map("".join))
def test_what_is_left_is_canonical_and_holds_nothing_more_to_take(text: str) -> None:
    text = "\n".join(stripped_lines(canonical(text)))
    for strip in (strip_urls, strip_markup):
        left, count = strip(text)
        assert (left == text) == (count == 0)
        assert left == "\n".join(stripped_lines(canonical(left)))
        assert strip(left) == (left, 0)


def test_text_that_opens_markup_a_hundred_thousand_times_takes_no_longer_than_other_text() -> None:
    for sign in ("<ref>", "<!--", "{{", "[[", "{|\n", "<b a=", "[http://x ", "&amp;", "'''", "=="):
        text = "\n".join(stripped_lines(sign * 20_000 + "end"))
        assert strip_markup(text)[0].endswith("end")
