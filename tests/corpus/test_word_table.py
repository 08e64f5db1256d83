"""Words: cut where BERT's tokeniser cuts, and told apart exactly."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from pipeline.corpus.ragged import starts_of
from pipeline.corpus.word_cutting import cut_words
from pipeline.corpus.word_table import WordTable


def pieces(text: str) -> list[str]:
    data = text.encode()
    starts, ends = cut_words(data)
    return [data[start:end].decode() for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]


def berts(text: str, cased: bool) -> list[str]:
    normal = BertNormalizer(lowercase=not cased).normalize_str(text)
    return [word for word, _ in BertPreTokenizer().pre_tokenize_str(normal)]


def test_pieces_are_what_stands_between_white_space_and_marks() -> None:
    assert pieces("don't  stop—now,\n“so”") == ["don", "'", "t", "stop", "—", "now", ",", "“", "so", "”"]
    assert pieces("我喜欢ABC。でした、か") == ["我", "喜", "欢", "ABC", "。", "でした", "、", "か"]
    assert pieces("") == pieces(" \t\r\n") == []


awkward = st.text(
    st.one_of(st.sampled_from("ab .-'中文—“。、の\u0301\u00a0\t\n"), st.characters(exclude_categories=["Cs"]))
)


@given(awkward, st.booleans())
def test_the_words_of_the_pieces_are_the_words_of_the_text(text: str, cased: bool) -> None:
    assert [word for piece in pieces(text) for word in berts(piece, cased)] == berts(text, cased)


words = st.lists(
    st.one_of(
        st.binary(min_size=1, max_size=40).map(lambda word: word.replace(b"\0", b"x")),
        st.integers(0, 40).map(lambda number: b"w%d" % number),
        st.sampled_from([b"a" * length for length in range(1, 20)]),
    ),
    max_size=200,
)


@given(st.lists(words, max_size=5))
def test_equal_words_have_equal_numbers_and_no_others(parts: list[list[bytes]]) -> None:
    table, known = WordTable(), list[bytes]()
    for part in parts:
        text = b"".join(part)
        bounds = starts_of(np.array(list(map(len, part)), np.int64))
        numbers, new = table.look_up(text, bounds[:-1], bounds[1:])
        known += new
        assert [known[number] for number in numbers.tolist()] == part
    assert len(set(known)) == len(known) == len(table)


def test_a_table_grows_with_its_words() -> None:
    table = WordTable()
    text = b" ".join(b"%d" % number for number in range(100_000))
    numbers, new = table.look_up(text, *cut_words(text))
    assert len(table) == len(new) == len(set(numbers.tolist())) == 100_000
    again, none = table.look_up(text, *cut_words(text))
    assert again.tolist() == numbers.tolist()
    assert none == []
