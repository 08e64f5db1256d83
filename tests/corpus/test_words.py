"""Words of languages written without spaces: found by a library, kept with their tokens down to the blocks."""

import importlib.util
import random
import unicodedata
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.batches.choosing import choose_words
from pipeline.batches.masking import mask_keys
from pipeline.batches.samples import Samples
from pipeline.batches.sequences import lay_out
from pipeline.batches.special_ids import SpecialIds
from pipeline.corpus import mapper, spills, words
from pipeline.corpus.inspection import InspectConfig
from pipeline.corpus.inspection import run as inspect
from pipeline.corpus.manifest import Manifest
from pipeline.corpus.readers import ReadOptions
from pipeline.corpus.shard_table import ShardTable
from pipeline.corpus.sharding import ShardConfig
from pipeline.corpus.sharding import run as shard
from pipeline.corpus.shards import SPLITS, Block, read_blocks, write_shard
from pipeline.corpus.sources import Source
from pipeline.corpus.tokens import Encoder, encode_words
from pipeline.corpus.verification import verify
from pipeline.corpus.vocabulary import SPECIALS, Vocabulary, load_vocabulary, save_vocabulary
from pipeline.corpus.words import check_words, is_unspaced, packages_of, word_begins
from pipeline.errors import InputError

LANGUAGES = ("ja", "zh")
# Natsume Soseki, I Am a Cat (1905), chapter 1; sentences of our own.
TEXTS = {
    "ja": "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。"
    "薄暗い所でニャーニャー泣いていた事だけは記憶している。",
    "zh": "我喜欢北京的烤鸭。他在环球影业担任写作实习生。圆周率约为3.14。于是他放弃了iPhone手机，去唱卡拉OK。",
}
LETTERS = sorted({*"".join(TEXTS.values()), *"abekhnoprtuy0123459"})
# Characters, a few longer pieces, and what continues behind a kana or a letter.
VOCABULARY = Vocabulary(
    tokens=(*SPECIALS, *LETTERS, "ne", "play", *(f"##{x}" for x in LETTERS), "##である", "##ing"), cased=True
)
pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for each in LANGUAGES for name in packages_of(each)),
    reason="needs the libraries of pip install 'bertpipe[words]'",
)

characters = st.sampled_from([*LETTERS, " ", "　", "龘", "が", "e\u0301", "👩‍👩‍👧", "한", "-"])
mixed = st.lists(characters, max_size=30).map("".join)
pieces = st.lists(
    st.one_of(mixed, st.sampled_from(["playing", "手机", "北京", "である", "[MASK]", *TEXTS.values()])),
    max_size=6,
)


def in_words(text: str, language: str) -> list[str]:
    bounds = [*np.flatnonzero(word_begins([text], language)).tolist(), len(text)]
    return [text[first:last] for first, last in pairwise(bounds)]


def test_words_are_those_of_the_language() -> None:
    assert in_words("我喜欢北京的烤鸭。", "zh") == ["我", "喜欢", "北京", "的", "烤鸭", "。"]
    assert in_words("名前はまだ無い。", "ja") == ["名前", "は", "まだ", "無い", "。"]
    # UniDic's short units, as Japanese BERTs hide them whole.
    assert in_words("国会議事堂前駅へ行った", "ja") == ["国会", "議事", "堂", "前", "駅", "へ", "行っ", "た"]


@given(st.sampled_from(LANGUAGES), st.lists(mixed, max_size=6))
def test_a_sentences_words_are_its_own(language: str, sentences: list[str]) -> None:
    together = word_begins(sentences, language)
    alone = [word_begins([sentence], language) for sentence in sentences]
    assert together.tolist() == np.concatenate([np.zeros(0, np.bool_), *alone]).tolist()
    assert all(each[0] for each in alone if len(each))


def test_sentences_beyond_the_librarys_limit_are_cut_into_words_too() -> None:
    for text in (TEXTS["ja"] * 400, "ﷺ" * 5000, "㍿" * 20_000):
        assert word_begins([text], "ja").any()
    whole = in_words("猫がいる。" * 600, "ja")
    assert Counter(whole).most_common(4) == [("猫", 600), ("が", 600), ("いる", 600), ("。", 600)]


def test_scripts_without_spaces_are_those_of_unicode() -> None:
    codes = np.array([code for code in range(0x110000) if not 0xD800 <= code < 0xE000], np.uint32)
    found = {chr(code) for code in codes[is_unspaced(codes)].tolist()}
    names = (
        "CJK UNIFIED", "CJK COMPATIBILITY IDEOGRAPH", "HIRAGANA LETTER", "HIRAGANA ITERATION", "HENTAIGANA",
        "KATAKANA LETTER", "KATAKANA-HIRAGANA PROLONGED", "HALFWIDTH KATAKANA LETTER", "BOPOMOFO LETTER",
    )  # fmt: skip
    letters = {chr(code) for code in codes.tolist() if unicodedata.name(chr(code), "").startswith(names)}
    assert letters <= found
    assert {"々", "〆", "〇"} <= found
    others = {unicodedata.name(letter, "").partition(" ")[0] for letter in found - letters}
    assert not others & {"LATIN", "CYRILLIC", "HANGUL", "ARABIC", "DIGIT", "FULLWIDTH", "IDEOGRAPHIC SPACE"}
    assert not {"한", "ㄱ", "。", "、", "Ａ", "ก", " ", "　"} & found


def continues_by_hand(text: str, language: str) -> list[bool]:
    """Each token against the one before it, as the rule is said in words."""
    encoding = VOCABULARY.tokenizer.encode(text, add_special_tokens=False)
    of_character = [
        (number, any(is_unspaced(np.array([ord(each) for each in word], np.uint32))))
        for number, word in enumerate(in_words(text, language))
        for _ in word
    ]
    flags: list[bool] = []
    before = None
    for token, (start, _) in zip(encoding.tokens, encoding.offsets, strict=True):
        number, unspaced = of_character[start]
        if before is None:
            flags.append(False)
        elif unspaced or before[1]:
            flags.append(number == before[0])
        else:
            flags.append(token.startswith("##"))
        before = number, unspaced
    return flags


@given(st.sampled_from(LANGUAGES), st.lists(pieces.map("".join), max_size=5))
def test_tokens_continue_the_librarys_words_and_pieces_those_of_other_scripts(
    language: str, sentences: list[str]
) -> None:
    ids, lengths, continues = encode_words(VOCABULARY, sentences, language)
    plain_ids, plain_lengths = Encoder(VOCABULARY).encode(sentences)
    assert ids.tolist() == plain_ids.tolist()
    assert lengths.tolist() == plain_lengths.tolist()
    assert continues.dtype == np.bool_
    assert continues.tolist() == [flag for text in sentences for flag in continues_by_hand(text, language)]


def tokens_in_words(text: str, language: str) -> list[str]:
    ids, _, continues = encode_words(VOCABULARY, [text], language)
    found: list[str] = []
    for token, follows in zip((VOCABULARY.tokens[number] for number in ids), continues, strict=True):
        if follows:
            found[-1] += token.removeprefix("##")
        else:
            found.append(token.removeprefix("##"))
    return found


def test_a_run_of_kana_is_many_words_though_its_tokens_are_pieces() -> None:
    text = "ここはまだどこかである。"
    tokens = VOCABULARY.tokenizer.encode(text, add_special_tokens=False).tokens
    assert all(token.startswith("##") for token in tokens[1:-1])
    # A piece that is two words, で and ある, belongs to the first.
    assert tokens_in_words(text, "ja") == ["ここ", "は", "まだ", "どこ", "か", "である", "。"]


def test_words_of_other_scripts_go_by_pieces() -> None:
    assert tokens_in_words("playing 3.14手机", "zh") == ["playing", "3", ".", "14", "手机"]


@pytest.mark.parametrize(
    ("language", "message"),
    [
        ("en", "--words is for ja and zh, and the language is 'en', which puts spaces between words"),
        ("ko", "'ko', which puts spaces between words"),
        ("th", "'th', whose text needs spaces between words for BERT's tokeniser"),
        ("und", "'und'; name the text's own with --language"),
    ],
)
def test_languages_without_a_library_are_refused_with_the_reason(language: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ShardConfig(corpus=("a.txt",), output="SHARDS", language=language, words=True)
    assert ShardConfig(corpus=("a.txt",), output="SHARDS", language=language).settings["words"] is None


def test_a_library_that_is_not_installed_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words.importlib.util, "find_spec", lambda name: None)
    remedy = r"not installed here; pip install 'bertpipe\[words\]'"
    with pytest.raises(InputError, match=f"found by sudachipy and sudachidict_small, {remedy}"):
        check_words("ja")
    with pytest.raises(InputError, match=f"found by rjieba, {remedy}"):
        check_words("zh")


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = str(tmp_path_factory.mktemp("vocabulary"))
    save_vocabulary(VOCABULARY, folder)
    return folder


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Eighty documents a language, of its sentences in any order, some of them there twice."""
    found = {}
    for language, text in TEXTS.items():
        draw = random.Random(language)
        sentences = [f"{sentence}。" for sentence in text.split("。")[:-1]]
        documents = ["\n".join(draw.choices(sentences, k=draw.randint(2, 9))) for _ in range(80)]
        path = tmp_path_factory.mktemp(language) / "corpus.txt"
        path.write_text("\n\n".join([*documents, *documents[:20]]), encoding="utf-8")
        found[language] = str(path)
    return found


def make(corpus: str, output: Path, vocabulary: str, language: str, **more: Any) -> Manifest:
    config: dict[str, Any] = {
        "max_seq_length": 24,
        "dupe_factor": 2,
        "workers": 1,
        "validation_fraction": 0.1,
    }
    config |= {"read": ReadOptions(sentences="lines"), "vocab": vocabulary, "language": language}
    return shard(ShardConfig(corpus=(corpus,), output=str(output), **(config | more)))


def blocks_of(folder: Path, manifest: Manifest) -> list[Block]:
    return [
        block
        for split in SPLITS
        for info in manifest.of_split(split)
        for block in read_blocks(str(folder), info)
    ]


@pytest.mark.parametrize("language", LANGUAGES)
def test_words_add_a_column_and_change_nothing_else(
    tmp_path: Path, corpora: dict[str, str], vocabulary: str, language: str
) -> None:
    plain = make(corpora[language], tmp_path / "plain", vocabulary, language)
    known = make(corpora[language], tmp_path / "known", vocabulary, language, words=True)
    names = ("tokens", "offsets", "a_lengths", "random_next", "document_a", "document_b")
    for one, other in zip(
        blocks_of(tmp_path / "plain", plain), blocks_of(tmp_path / "known", known), strict=True
    ):
        assert all(np.array_equal(getattr(one, name), getattr(other, name)) for name in names)
        assert one.continues is None
        assert other.continues is not None
        assert len(other.continues) == len(other.tokens)
    assert (plain.settings["words"], known.settings["words"]) == (None, packages_of(language)[0])
    assert set(known.versions) - set(plain.versions) == set(packages_of(language))
    assert verify(str(tmp_path / "known"), known) == []
    with pytest.raises(InputError, match=rf"settings.words: '{packages_of(language)[0]}' here, None there"):
        make(corpora[language], tmp_path / "plain", vocabulary, language, words=True)


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_segments_words_are_those_of_its_sentences(
    tmp_path: Path, corpora: dict[str, str], vocabulary: str, language: str
) -> None:
    """Through duplicates, copies, truncation and the shuffle: every word that is not at a cut is the library's."""
    manifest = make(corpora[language], tmp_path / "shards", vocabulary, language, words=True)
    sentences = Path(corpora[language]).read_text(encoding="utf-8").split("\n")
    known = Counter(word for sentence in set(sentences) for word in tokens_in_words(sentence, language))
    cut = whole = 0
    for block in blocks_of(tmp_path / "shards", manifest):
        assert block.continues is not None
        edges = np.unique(np.concatenate([block.offsets, block.offsets[:-1] + block.a_lengths]))
        for first, last in pairwise(edges.tolist()):
            assert not block.continues[first], "a segment begins a word"
            begins = [*np.flatnonzero(~block.continues[first:last]) + first, last]
            texts = [
                "".join(VOCABULARY.tokens[number].removeprefix("##") for number in block.tokens[start:stop])
                for start, stop in pairwise(begins)
            ]
            inner = texts[1:-1]
            whole += len(inner)
            assert not [text for text in inner if text not in known]
            cut += sum(text not in known for text in (texts[0], texts[-1]))
    assert whole > 1000
    assert cut > 0, "some segment was cut inside a word"


def test_flags_stay_with_their_tokens_through_runs_and_copies(
    tmp_path: Path, corpora: dict[str, str], vocabulary: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A flag that is a function of its token must be so still, whatever was sorted, dropped and gathered."""

    def by_id(given: Vocabulary, sentences: list[str], language: str) -> Any:
        ids, lengths = Encoder(given).encode(sentences)
        return ids, lengths, ids % 3 == 0

    monkeypatch.setattr(mapper, "encode_words", by_id)
    monkeypatch.setattr(mapper, "_BATCH_CHARACTERS", 300)
    # The default was taken when the class was made.
    monkeypatch.setattr(spills.SpillWriter.__init__, "__kwdefaults__", {"held_tokens": 500})
    manifest = make(corpora["zh"], tmp_path / "shards", vocabulary, "zh", words=True)
    assert manifest.counts["duplicates"] >= 20
    for block in blocks_of(tmp_path / "shards", manifest):
        expected = block.tokens % 3 == 0
        expected[block.offsets[:-1]] = expected[block.offsets[:-1] + block.a_lengths] = False
        assert np.array_equal(block.continues, expected)


def test_sources_that_ask_for_no_words_have_them_by_pieces(
    tmp_path: Path, corpora: dict[str, str], vocabulary: str
) -> None:
    read = ReadOptions(sentences="lines")
    sources = tuple(
        Source(name=name, corpus=(corpora[name],), language=name, words=name == "zh", read=read)
        for name in LANGUAGES
    )
    config: dict[str, Any] = {"vocab": vocabulary, "max_seq_length": 24, "workers": 1}
    manifest = shard(ShardConfig(sources=sources, output=str(tmp_path / "both"), **config))
    assert manifest.settings["words"] == "rjieba"
    assert [manifest.settings["sources"][name]["words"] for name in LANGUAGES] == [None, "rjieba"]
    assert verify(str(tmp_path / "both"), manifest) == []
    joined = {
        "".join(VOCABULARY.tokens[number].removeprefix("##") for number in block.tokens[place : place + 2])
        for block in blocks_of(tmp_path / "both", manifest)
        if block.continues is not None
        for place in (np.flatnonzero(block.continues) - 1).tolist()
        if not VOCABULARY.tokens[block.tokens[place + 1]].startswith("##")
    }
    # What no piece joins, the library does, and in Chinese alone.
    assert {"喜欢", "北京"} <= joined
    assert not joined & {"吾輩", "名前", "記憶", "見当"}


def test_what_inspect_shows_has_a_space_before_each_word(
    tmp_path: Path, corpora: dict[str, str], vocabulary: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make(corpora["zh"], tmp_path / "shards", vocabulary, "zh", words=True)
    report = inspect(InspectConfig(folder=str(tmp_path / "shards"), pairs=40))
    assert "words rjieba" in " ".join(capsys.readouterr().out.split())
    shown = " ".join(pair[segment] for pair in report["pairs"] for segment in "ab")
    assert " 喜欢 北京 的 烤鸭 " in shown
    assert " 放弃 了 iPhone 手机 " in shown
    assert " 3 . 14 " in shown


def test_verification_finds_shards_whose_words_are_not_what_the_manifest_says(
    tmp_path: Path, corpora: dict[str, str], vocabulary: str
) -> None:
    manifest = make(corpora["zh"], tmp_path / "shards", vocabulary, "zh", words=True)
    silent = replace(manifest, settings=manifest.settings | {"words": None})
    assert "has words, its manifest says otherwise" in "\n".join(verify(str(tmp_path / "shards"), silent))
    info = manifest.of_split("validation")[0]
    (block,) = read_blocks(str(tmp_path / "shards"), info)
    broken = replace(block, continues=np.ones(len(block.tokens), np.bool_))
    others = tuple(each for each in manifest.shards if each != info)
    changed = write_shard(str(tmp_path / "shards"), info.name, "validation", broken)
    problems = verify(str(tmp_path / "shards"), replace(manifest, shards=ShardTable.of([*others, changed])))
    assert any(f"{2 * len(block)} segments begin inside a word" in each for each in problems), problems


@pytest.mark.parametrize("source", ["zh.txt", *LANGUAGES])
def test_masks_hide_whole_words(
    source: str, request: pytest.FixtureRequest, tmp_path: Path, corpora: dict[str, str], vocabulary: str
) -> None:
    """Of the shared sample, and of texts of both languages: each word is hidden whole or not at all."""
    if source == "zh.txt":
        path = request.getfixturevalue("shared_data") / "multilingual" / source
        manifest = make(
            str(path), tmp_path / "shards", vocabulary, "zh", words=True, vocab=None, vocab_size=6000,
            cased=True, max_seq_length=128,
        )  # fmt: skip
        tokens_a_word = (1.4, 2.0)  # published lexica: 1.5 to 1.7 characters
    else:
        manifest = make(corpora[source], tmp_path / "shards", vocabulary, source, words=True)
        tokens_a_word = (1.2, 2.0)
    special = SpecialIds.of(load_vocabulary(str(tmp_path / "shards" / "vocab")))
    blocks = blocks_of(tmp_path / "shards", manifest)
    pairs = sum(map(len, blocks))
    slot = np.repeat(np.arange(len(blocks)), [len(block) for block in blocks])
    row = np.concatenate([np.arange(len(block)) for block in blocks])
    samples = Samples(
        blocks=np.arange(len(blocks)),
        slot=slot,
        row=row,
        sample=np.arange(pairs),
        epoch=np.zeros(pairs, np.int64),
        unfinished=np.zeros(0, np.int64),
    )
    laid = lay_out(blocks, samples, special)
    assert laid.continues is not None
    keys = mask_keys(seed=1, phase=0, epochs=laid.epochs, samples=laid.samples)
    wanted = np.maximum(1, np.rint(np.diff(laid.starts) * 0.15)).astype(np.int64)
    chosen = choose_words(laid.tokens, laid.starts, wanted, keys, special, laid.continues)
    hidden = np.zeros(len(laid.tokens), np.bool_)
    hidden[laid.starts[chosen.rows] + chosen.places] = True
    usable = ~special.is_special[laid.tokens]
    joined = laid.continues[1:] & usable[1:] & usable[:-1]
    assert (hidden[1:] == hidden[:-1])[joined].all()
    low, high = tokens_a_word
    assert low < usable.sum() / (usable.sum() - joined.sum()) < high
    # By `##` alone a good part of these words is torn.
    by_pieces = choose_words(laid.tokens, laid.starts, wanted, keys, special)
    torn = np.zeros(len(laid.tokens), np.bool_)
    torn[laid.starts[by_pieces.rows] + by_pieces.places] = True
    assert (torn[1:] != torn[:-1])[joined].mean() > 0.1
