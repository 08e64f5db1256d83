"""Sentences: the language's rules, every line's end, nothing lost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.corpus import sentences
from pipeline.corpus.documents import tidy
from pipeline.corpus.sentences import check_language, has_own_rules, rules_notice, segment
from pipeline.errors import InputError


def test_abbreviations_do_not_end_a_sentence() -> None:
    text = 'Dr. Smith ate 3.5 apples, e.g. red ones. "Really?" he said. Yes!'
    assert segment(text, "en") == ["Dr. Smith ate 3.5 apples, e.g. red ones.", '"Really?" he said.', "Yes!"]


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("zh", "你好。世界！好吗？", ["你好。", "世界！", "好吗？"]),
        ("hi", "यह एक है। यह दो है।", ["यह एक है।", "यह दो है।"]),
        ("de", "Das kostet z. B. drei Euro. Er kam am 3. Mai.", None),
        ("ko", "첫 문장입니다. 둘째입니다.", ["첫 문장입니다.", "둘째입니다."]),
        ("und", "One. Two.", ["One.", "Two."]),
    ],
)
def test_sentences_end_by_the_languages_own_marks(
    language: str, text: str, expected: list[str] | None
) -> None:
    check_language(language)
    found = segment(text, language)
    assert found == expected if expected else len(found) == 2


def test_a_lines_end_ends_a_sentence_and_empty_ones_are_dropped() -> None:
    assert segment("A heading\nand then\n\n\ntext.", "en") == ["A heading", "and then", "text."]
    assert segment("", "en") == segment("\n", "en") == []


@pytest.mark.parametrize("space", ["\u00a0", "\u2009", "\u2028", "\u3000"])
def test_an_initial_after_a_wide_space_does_not_break_the_segmenter(space: str) -> None:
    assert segment("\n".join(tidy([f"By{space}J.{space}R.{space}Tolkien. Next."])), "en")[0].startswith(
        "By J. R."
    )


tricky = st.lists(
    st.one_of(
        st.sampled_from([" ", "\n", ". ", "J.", "\u00a0", "(1)", "“", "'", "U.S.", "..."]),
        st.text(max_size=9),
    ),
    max_size=20,
).map("".join)


@given(text=tricky, language=st.sampled_from(["en", "de", "zh", "hi", "my", "und"]))
def test_nothing_but_white_space_is_lost(text: str, language: str) -> None:
    found = segment("\n".join(tidy([line.strip() for line in text.split("\n")])), language)
    assert "".join("".join(found).split()) == "".join(text.split())
    assert all(sentence and sentence == sentence.strip() for sentence in found)


def test_a_line_without_end_is_cut_at_a_space(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentences, "_LONGEST_LINE", 10)
    assert segment("word word word", "en") == ["word word", "word"]
    assert segment("x" * 25, "en") == ["x" * 10, "x" * 10, "x" * 5]


@pytest.mark.parametrize(
    ("language", "near"), [("EN", "en"), ("en-US", "en"), ("deu", "de"), ("english", "en"), ("xx", "")]
)
def test_an_unknown_language_is_refused_with_the_nearest(language: str, near: str) -> None:
    with pytest.raises(InputError, match=f"{language!r} is unknown; the nearest known is '{near}.*'und'"):
        check_language(language)


def test_own_rules_are_told_from_borrowed_ones() -> None:
    assert has_own_rules("en")
    assert not has_own_rules("ko")
    assert rules_notice("en") is None is rules_notice("und")
    assert rules_notice("ko") is None is rules_notice("zh"), "the general rules have their sentence ends"
    assert "'sw' has no sentence rules of its own" in str(rules_notice("sw"))
    assert all(code in sentences._KNOWN for code in sentences._OWN_RULES.split())
