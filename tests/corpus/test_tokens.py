"""Token ids: those of Hugging Face's BERT tokeniser."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.corpus import tokens
from pipeline.corpus.readers import ReadOptions, find_splits, read_documents
from pipeline.corpus.tokens import Encoder
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
    ids, lengths = Encoder(ours).encode(sentences)
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
    whole = Encoder(ours).encode(VARIED * 3)
    monkeypatch.setattr(tokens, "_SLICE_CHARACTERS", 100)
    slices = list(tokens._slices(VARIED * 3))
    assert [sentence for part in slices for sentence in part] == VARIED * 3
    assert all(sum(map(len, part[:-1])) < 100 for part in slices)
    assert len(slices) > 9
    for one, other in zip(whole, Encoder(ours).encode(VARIED * 3), strict=True):
        assert one.dtype == other.dtype
        assert one.tolist() == other.tolist()


@given(
    sentences=st.lists(
        st.lists(
            st.sampled_from(
                [
                    *"aAeZ09 \n\t\r\0\1\x7f.'[]#-_é\u0301\u0308ß中文の。、，“”—…각हि",
                    *"\u2044\u2028\u3000\u200d\ufeff\ufffd",
                    "[MASK]",
                    "[UNK]",
                    "[mask]",
                    "MASK",
                    "un",
                    "##",
                    "believ",
                    "able",
                    "\U00020000",
                    "\u4dff",
                    "\ua000",
                ]
            ),
            max_size=12,
        ).map("".join),
        max_size=4,
    )
)
def test_ids_of_awkward_text_are_those_of_hugging_face(
    ours_and_theirs: tuple[Vocabulary, object], sentences: list[str]
) -> None:
    assert_equal_ids(ours_and_theirs, sentences)


# Without the insides of the blocks of ideographs and syllables, which are thousands of a kind, and planes without text.
BLOCKS = [
    (0, 0x3410),
    (0x4DA0, 0x4E20),
    (0x9FF0, 0xAC10),
    (0xD790, 0xD800),
    (0xE000, 0x12000),
    (0x1D000, 0x20010),
]


def test_characters_are_read_as_hugging_face_reads_them(ours_and_theirs: tuple[Vocabulary, object]) -> None:
    ours, _ = ours_and_theirs
    characters = [chr(code) for first, last in BLOCKS for code in range(first, last)]
    # Between letters, so that it shows whether the character joins them, parts them or is a word of its own.
    texts = [
        "".join(f"in{character}to " for character in characters[start : start + 64])
        for start in range(0, len(characters), 64)
    ]
    expected = ours.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    encoder = Encoder(ours)
    for start, text in enumerate(texts):
        found = encoder.encode([text])[0].tolist()
        assert found == expected[start].ids, f"among U+{ord(characters[64 * start]):04X} and the 63 behind it"


def test_what_is_remembered_is_bounded_and_changes_no_id(ours_and_theirs: tuple[Vocabulary, object]) -> None:
    ours, _ = ours_and_theirs
    encoder = Encoder(ours, most_words=5)
    for _ in range(3):
        for sentence in VARIED:
            assert encoder.encode([sentence])[0].tolist() == Encoder(ours).encode([sentence])[0].tolist()
            assert len(encoder._words) <= 5 + len(sentence)


@pytest.mark.parametrize(
    "name",
    ["english/parquet/part-000.parquet", "english/text/part-001.txt.gz", "multilingual/all.parquet"],
)
def test_ids_of_the_shared_corpus_are_those_of_tokenizers(
    ours_and_theirs: tuple[Vocabulary, object], shared_data: Path, name: str
) -> None:
    ours, _ = ours_and_theirs
    splits = find_splits([str(shared_data / name)])
    texts = [found.text for split in splits for found in read_documents(split, ReadOptions())]
    sample = texts[:: 1 + len(texts) // 800]
    expected = [each.ids for each in ours.tokenizer.encode_batch_fast(sample, add_special_tokens=False)]
    ids, lengths = Encoder(ours).encode(sample)
    assert len(sample) >= 300
    assert lengths.tolist() == list(map(len, expected))
    assert ids.tolist() == [index for each in expected for index in each]


def test_sentences_lie_end_to_end(ours_and_theirs: tuple[Vocabulary, object]) -> None:
    ours, _ = ours_and_theirs
    ids, lengths = Encoder(ours).encode(["one two", "", "three"])
    assert ids.dtype == np.uint32
    assert lengths.tolist() == [2, 0, 1]
    assert [ours.tokens[index] for index in ids] == ["one", "two", "three"]
    ids, lengths = Encoder(ours).encode([])
    assert len(ids) == len(lengths) == 0
