"""Filters: what is asked for, what becomes of a document, what is counted and shown."""

import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.corpus.documents import Document, canonical, document_hash
from pipeline.corpus.filter_counts import as_plain, describe, from_plain, merge_counts
from pipeline.corpus.filters import Filtering, FilterOptions, open_filtering
from pipeline.corpus.text_files import stripped_lines
from pipeline.corpus.text_measures import length, letter_share, repeated_lines, repeated_text
from pipeline.errors import InputError

OWN = ("email", "phone", "id-number")


def filtering(*filters: str, redact: tuple[str, ...] = ()) -> Filtering:
    found = open_filtering(FilterOptions(filters=filters, redactions=redact))
    assert found is not None
    return found


def taken(at_work: Filtering, text: str, **more: Any) -> Document | None:
    kept = at_work.take(Document(text=text, **more), document_hash(text))
    assert kept is None or kept[1] == document_hash(kept[0].text)
    return None if kept is None else kept[0]


def test_without_filters_there_is_nothing_to_call() -> None:
    assert open_filtering(FilterOptions()) is None
    assert FilterOptions().settings == {}


def test_settings_name_what_is_on_whatever_its_order() -> None:
    one = FilterOptions(filters=("urls", "length", "letters=0.5"), redactions=("phone", "b=x", "a=y"))
    other = FilterOptions(filters=("letters=.5", "length=100", "urls"), redactions=("a=y", "b=x", "phone"))
    assert json.dumps(one.settings) == json.dumps(other.settings)
    assert one.settings["filters"] == {"urls": True, "length": 100, "letters": 0.5}
    assert list(one.settings["redactions"]) == ["a", "b", "phone"]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("lenght=3",), "unknown filter 'lenght'; the nearest known is length"),
        (("=3",), "unknown filter ''"),
        (("length=many",), "filter length is 'many'; it must be a whole number"),
        (("length=0",), "filter length is '0'"),
        (("length=",), "filter length is ''"),
        (("length=1.5",), "filter length is '1.5'"),
        (("letters=1.5",), "filter letters is '1.5'; it must be a share, 0 to 1"),
        (("letters=nan",), "filter letters is 'nan'"),
        (("repeated-lines=-1",), "filter repeated-lines is '-1'"),
        (("urls=5",), "filter urls is '5'; it takes no value"),
        (("length", "length=5"), "filter length is named twice"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_in_one_line(asked: tuple[str, ...], said: str) -> None:
    with pytest.raises(InputError, match=said) as refused:
        FilterOptions(filters=asked)
    assert "\n" not in str(refused.value)


def test_a_redaction_does_not_take_a_filters_name() -> None:
    with pytest.raises(InputError, match="redaction urls has a filter's name"):
        FilterOptions(redactions=("urls=x",))


def test_a_letter_has_its_marks_and_white_space_counts_nowhere() -> None:
    assert letter_share("Total: 42") == 5 / 8
    assert letter_share("हिन्दी में लिखा।") == 13 / 14  # seven vowel signs and viramas among them
    assert letter_share("می\u200cخواهم") == 1.0
    assert letter_share("汉字，\u3000日本語 e\u0301") == 7 / 8
    assert letter_share("\n") == letter_share("12 §") == 0.0


def test_length_takes_runs_of_white_space_as_one_and_stops_where_it_is_enough() -> None:
    assert length("a  b\nc", 100) == 5
    assert length("a " * 1000, 10) >= 10
    assert length("", 5) == 0


def test_repetitions_are_those_of_earlier_lines() -> None:
    assert repeated_lines("a\nb\na\na") == 0.5
    assert repeated_text("aaa\nb\naaa") == pytest.approx(3 / 7)
    assert repeated_lines("a") == repeated_text("a\nb") == 0.0


@pytest.mark.parametrize(
    ("asked", "dropped", "kept"),
    [
        ("length=10", "123456789", "1234567890"),
        ("letters=0.5", "a 12", "ab 12"),
        ("repeated-lines=0.5", "a\na\na", "a\na"),
        ("repeated-text=0.5", "abc\nabc\nabc\nd", "abc\nabc"),
    ],
)
def test_a_document_at_the_limit_stays_and_one_beyond_is_dropped(asked: str, dropped: str, kept: str) -> None:
    at_work = filtering(asked)
    assert taken(at_work, kept) == Document(text=kept)
    assert taken(at_work, dropped) is None
    (counts,) = at_work.counts.values()
    assert (counts.documents, counts.dropped, counts.characters) == (1, 1, len(dropped))


def test_redaction_reaches_what_markup_hid_and_limits_measure_what_is_left() -> None:
    at_work = filtering("markup", "urls", "length=20", redact=OWN)
    assert taken(at_work, "<p>ann<b>@</b>example.com</p> john&#64;b.org http://x.org/cc@d.de") is None
    (example,) = at_work.counts["length"].examples
    assert (example.text, example.value) == ("[email] [email]", 15)


def test_the_users_pattern_sees_the_text_as_it_was_read() -> None:
    at_work = filtering("markup", redact=("name=<name>.*?</name>",))
    assert taken(at_work, "Mr <name>John <b>Doe</b></name> came.") == Document(text="Mr [name] came.")


def test_given_sentences_are_filtered_and_emptied_ones_go() -> None:
    sentences = ("See http://x.org.", "http://y.org", "Ask ann@example.com.")
    document = taken(filtering("urls", redact=OWN), "\n".join(sentences), sentences=sentences)
    assert document == Document(text="See.\nAsk [email].", sentences=("See.", "Ask [email]."))


def test_a_document_left_without_text_is_dropped_by_what_took_the_last_of_it() -> None:
    at_work = filtering("urls", "markup", "length", redact=OWN)
    assert taken(at_work, "<p>http://x.org</p>\nhttp://y.org") is None
    assert {name: each.dropped for name, each in at_work.counts.items() if each.dropped} == {"urls": 1}
    assert at_work.counts["urls"].examples == []


def test_what_is_shown_stands_as_all_filters_leave_it() -> None:
    at_work = filtering("urls", "markup", redact=("email", "name=Jekyll|Hyde"))
    taken(at_work, f"{'x' * 99} Dr <b>Jekyll</b> (j<i>@</i>k.org) said on http://jekyll.org, and {'y' * 99}")
    shown = {name: each.examples[0].text for name, each in at_work.counts.items()}
    assert shown["email"].startswith("…xxx")
    assert shown["email"].endswith("yyy…")
    assert "x Dr [name] ([email]) said on, and y" in shown["email"]
    assert "said on[…], and" in shown["urls"]
    assert "[…][name]" in shown["markup"]
    assert not any(secret in str(shown) for secret in ("ekyll", "k.org", "j@"))


def test_what_is_shown_gives_a_terminal_nothing_to_obey() -> None:
    at_work = filtering("length=20", redact=("email",))
    taken(at_work, "a\x1b[2J\x9bb@c.de and\nmore of the text")
    taken(at_work, "\x1b]0;short\x07")
    shown = [each.examples[0].text for each in at_work.counts.values()]
    assert shown == ["a [2J [email] and more of the text", " ]0;short "]


def test_counts_and_examples_are_the_same_in_any_order_and_division() -> None:
    draw = random.Random(0)
    texts = [f"{n} is {'x' * (n % 40)} http://x.org/{n} at ann{n}@example.com" for n in range(60)] * 2

    def gathered(parts: int) -> str:
        draw.shuffle(texts)
        workers = [filtering("urls", "length=30", redact=OWN) for _ in range(parts)]
        for index, text in enumerate(texts):
            taken(workers[index % parts], text)
        marks = [json.loads(json.dumps(as_plain(each.counts))) for each in workers]
        return json.dumps(as_plain(merge_counts(map(from_plain, marks))))

    once = gathered(1)
    assert once == gathered(3) == gathered(7)
    found = json.loads(once)
    assert found["urls"]["documents"] == found["email"]["matches"] == 120
    assert all(len(found[name]["examples"]) == 3 for name in ("urls", "email", "length"))


def test_what_was_done_is_said_in_a_few_words() -> None:
    at_work = filtering("urls", "length=20", redact=("email",))
    for text in ("http://x.org", "short", "ann@example.com and bob@example.com and others"):
        taken(at_work, text)
    assert describe(as_plain(at_work.counts), {"urls": True, "length": 20}) == {
        "email": "2 in 1 document, 30 characters",
        "urls": "1 in 1 document, 12 characters, 1 left empty and dropped",
        "length 20": "1 document dropped, 5 characters",
    }


PIECES = [
    "http://", "www.", "x.org", "ann@b.de", "<b>", "</b>", "<", ">", "&#64;", "&amp;", "@", "030 123456", "219-09-9999",
    "{{", "}}", "[[", "]]", "|", "==", "''", "\n", " ", "word", "字", ".", "[", "]", "(", ")", "=", "1", "+49", "é",
]  # fmt: skip


@settings(max_examples=200)
@given(st.lists(st.sampled_from(PIECES), max_size=20).map("".join), st.booleans())
def test_what_is_filtered_once_is_not_changed_again(text: str, given: bool) -> None:
    lines = stripped_lines(canonical(text)) or ["a"]
    document = Document(text="\n".join(lines), sentences=tuple(lines) if given else None)
    at_work = filtering("markup", "urls", redact=OWN)
    kept = at_work.take(document, document_hash(document.text))
    changed = any(each.documents for each in at_work.counts.values())
    if kept is None:
        assert changed
        return
    left, identity = kept
    assert (left is document) == (not changed)
    assert left.text == "\n".join(stripped_lines(canonical(left.text)))
    assert left.sentences == (tuple(left.text.split("\n")) if given else None)
    again = filtering("markup", "urls", redact=OWN)
    assert again.take(left, identity) == kept
    assert not any(each.documents for each in again.counts.values())
