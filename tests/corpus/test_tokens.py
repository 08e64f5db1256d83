"""Token ids: those of Hugging Face's BERT tokeniser."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.corpus import tokens
from pipeline.corpus.tokens import encode_sentences
from pipeline.corpus.vocabulary import Vocabulary, load_vocabulary

VARIED = [
    "The quick brown fox jumped over 13 lazy dogs, didn't it?",
    "Crème brûlée à la façon de Zürich; ÀÉÎ",
    "我喜欢北京烤鸭 and 東京 too",
    "a literal [MASK] and [SEP], [unused5] and [mask]",
    "x" * 150 + " then a word",
    "한국어 हिन्दी العربية ελληνικά Ὀδυσσεύς İstanbul ß ﬁ",
    "emoji 👩‍👩‍👧 tab\there nbsp\u00a0zero\u200bwidth\ufeff nul\0 soft\u00adhyphen \ufffd",
    "e\u0301 versus é, Å versus Å",
    "$#@!--…“”«»",
    "",
    "\u200b",
]


@pytest.fixture(scope="module", params=[False, True], ids=["uncased", "cased"])
def ours_and_theirs(
    request: pytest.FixtureRequest, shared_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Vocabulary, object]:
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("google")
    path = folder / "vocab.txt"
    shutil.copy(shared_data / "vocab" / "bert-base-uncased-vocab.txt", path)
    theirs = transformers.BertTokenizerFast(str(path), do_lower_case=not request.param)
    return load_vocabulary(str(folder), cased=request.param), theirs


def assert_equal_ids(ours_and_theirs: tuple[Vocabulary, object], sentences: list[str]) -> None:
    ours, theirs = ours_and_theirs
    expected = [theirs(text, add_special_tokens=False)["input_ids"] for text in sentences]  # type: ignore[operator]
    ids, lengths = encode_sentences(ours, sentences)
    assert lengths.tolist() == [len(one) for one in expected]
    assert ids.tolist() == [index for one in expected for index in one]


def test_ids_are_those_of_hugging_face(ours_and_theirs: tuple[Vocabulary, object]) -> None:
    assert_equal_ids(ours_and_theirs, VARIED)
    ours, theirs = ours_and_theirs
    assert len(theirs) == ours.size == 30522  # type: ignore[arg-type]
    pair = ours.tokenizer.encode("one", "two")
    assert pair.ids == theirs("one", "two")["input_ids"]  # type: ignore[operator]
    assert pair.type_ids == theirs("one", "two", return_token_type_ids=True)["token_type_ids"]  # type: ignore[operator]


@given(sentences=st.lists(st.text(max_size=40), max_size=5))
def test_ids_of_any_text_are_those_of_hugging_face(
    ours_and_theirs: tuple[Vocabulary, object], sentences: list[str]
) -> None:
    assert_equal_ids(ours_and_theirs, sentences)


def test_a_long_document_is_encoded_a_slice_at_a_time(
    monkeypatch: pytest.MonkeyPatch, ours_and_theirs: tuple[Vocabulary, object]
) -> None:
    ours, _ = ours_and_theirs
    whole = encode_sentences(ours, VARIED * 3)
    monkeypatch.setattr(tokens, "_SLICE_CHARACTERS", 100)
    slices = list(tokens._slices(VARIED * 3))
    assert [sentence for part in slices for sentence in part] == VARIED * 3
    assert all(sum(map(len, part[:-1])) < 100 for part in slices)
    assert len(slices) > 9
    for one, other in zip(whole, encode_sentences(ours, VARIED * 3), strict=True):
        assert one.dtype == other.dtype
        assert one.tolist() == other.tolist()


def test_sentences_lie_end_to_end(ours_and_theirs: tuple[Vocabulary, object]) -> None:
    ours, _ = ours_and_theirs
    ids, lengths = encode_sentences(ours, ["one two", "", "three"])
    assert ids.dtype == np.uint32
    assert lengths.tolist() == [2, 0, 1]
    assert [ours.tokens[index] for index in ids] == ["one", "two", "three"]
    ids, lengths = encode_sentences(ours, [])
    assert len(ids) == len(lengths) == 0
