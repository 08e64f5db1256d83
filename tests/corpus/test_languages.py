"""Languages: sentences, marks and alphabets of scripts other than English's, on real text."""

import gzip
import html
import json
import re
import unicodedata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.corpus.alphabet import choose_alphabet
from pipeline.corpus.casing import Letters, marks_notice
from pipeline.corpus.documents import Fingerprint
from pipeline.corpus.readers import ReadOptions, find_splits, read_documents
from pipeline.corpus.sentences import rules_notice, segment
from pipeline.corpus.sharding import ShardConfig
from pipeline.corpus.sharding import run as shard
from pipeline.corpus.tally import unknown_note
from pipeline.corpus.vocab import VocabConfig
from pipeline.corpus.vocab import run as train
from pipeline.corpus.vocabulary import SPECIALS, Vocabulary
from pipeline.corpus.word_counts import RawCounts, bert_words

# Natsume Soseki, I Am a Cat (1905), chapter 1; the Universal Declaration of Human Rights, articles 1 and 3, in
# Arabic; questions and answers of our own.
JAPANESE = (
    "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。何でも薄暗いじめじめした所で"
    "ニャーニャー泣いていた事だけは記憶している。吾輩はここで始めて人間というものを見た。"
)
ARABIC = (
    "يولد جميع الناس أحراراً متساوين في الكرامة والحقوق. وقد وهبوا عقلاً وضميراً وعليهم أن يعامل بعضهم بعضاً بروح الإخاء. "
    "لكل فرد الحق في الحياة والحرية وسلامة شخصه. هل قرأت ذلك؟ نعم!"
)
HINDI = "यह एक किताब है। क्या आपने इसे पढ़ा है? हाँ!"


@pytest.mark.parametrize(
    ("language", "text", "sentences"),
    [
        ("ja", JAPANESE, 5),
        ("zh", "在音乐中，三重奏是乐曲。“你去哪儿？”他问。圆周率约为3.14。真的吗？！是的。", 6),
        ("ar", ARABIC, 5),
        ("hi", HINDI, 3),
        ("ko", "그는 서울에서 태어났다. 1999년에 3.5점을 받았다! 정말입니까? 네.", 4),
        ("de", "Am 3. Mai kam Dr. Müller z. B. nach Berlin. »Wirklich?« fragte sie. Ja!", 3),
    ],
)
def test_sentences_end_where_the_language_ends_them(language: str, text: str, sentences: int) -> None:
    assert rules_notice(language) is None
    found = segment(text, language)
    assert len(found) == sentences, found
    assert "".join("".join(found).split()) == "".join(text.split())


@pytest.mark.parametrize(
    ("text", "script"),
    [
        (HINDI, "Devanagari"),
        ("がっこうでべんきょうする。だれですか。", "Hiragana"),
        ("Tiếng Việt có dấu", "Latin"),
    ],
)
def test_marks_that_uncased_text_would_lose_are_seen(text: str, script: str) -> None:
    letters = Letters()
    letters.add(text)
    lost = letters.lost()
    assert list(lost) == [script]
    # What the normaliser itself drops, counted another way.
    marked = sum(
        any(unicodedata.category(mark) == "Mn" for mark in unicodedata.normalize("NFD", letter))
        for letter in text
        if unicodedata.category(letter)[0] == "L"
    )
    assert lost[script] * letters.counts[script][0] >= marked - 1
    assert "--cased" in str(marks_notice(lost))
    assert script in str(marks_notice(lost))


@pytest.mark.parametrize(
    "text", ["Plain English.", "Die Männer sagten Effi, es war gut so.", "한국어 문장입니다.", "三重奏是乐曲。"]
)  # fmt: skip
def test_languages_that_lose_little_are_not_warned_of(text: str) -> None:
    letters = Letters()
    letters.add(text)
    assert letters.lost() == {}
    assert marks_notice(letters.lost()) is None


def test_a_few_foreign_letters_are_no_script_of_the_corpus() -> None:
    letters = Letters()
    for _ in range(200):
        letters.add("Plain English, and much of it.")
    letters.add("क़ि")
    assert letters.lost() == {}


def test_the_alphabet_covers_its_share_and_a_thousand_in_any_case() -> None:
    words = bert_words(
        [("".join(map(chr, range(0x4E00, 0x4E00 + 1500))), 1), ("\u4e00", 1_000_000)], cased=True
    )
    kept, record = choose_alphabet(words, coverage=0.9995, limit=None)
    assert len(kept) == 1000, "one character covers enough"
    kept, record = choose_alphabet(words, coverage=1.0, limit=None)
    assert len(kept) == 1500
    assert record == {"characters": 1500, "kept": 1500, "coverage": 1.0}
    even = bert_words([(chr(0x4E00 + place), 10) for place in range(2000)], cased=True)
    kept, record = choose_alphabet(even, coverage=0.9, limit=None)
    assert kept == [chr(0x4E00 + place) for place in range(1800)], "of equals, the lower code points"
    assert len(choose_alphabet(even, coverage=0.9, limit=3)[0]) == 3


def test_chinese_is_counted_by_characters_in_little_memory() -> None:
    with RawCounts() as raw:
        raw.add("三重（trio）三人。" * 3)
        assert dict(raw.sorted_items()) == {"三": 6, "重": 3, "（trio）": 3, "人": 3, "。": 3}


@pytest.mark.parametrize("cased", [False, True])
@pytest.mark.parametrize(
    ("name", "size", "options"),
    [
        ("zh.txt", 5000, {"sentences": "lines"}),
        ("ko.txt", 5000, {}),
        ("de.txt", 5000, {}),
        ("hi.txt", 5000, {}),
        ("all.jsonl.gz", 10000, {}),
    ],
)
def test_a_samples_own_vocabulary_knows_it_by_the_defaults(
    shared_data: Path, tmp_path: Path, name: str, size: int, options: dict[str, Any], cased: bool
) -> None:
    language = name.split(".")[0] if name.endswith(".txt") else "und"
    manifest = shard(
        ShardConfig(
            corpus=(str(shared_data / "multilingual" / name),),
            output=str(tmp_path / "shards"),
            vocab_size=size,
            cased=cased,
            language=language,
            workers=1,
            read=ReadOptions(**options),
        )
    )
    assert manifest.counts["unknown_share"] < 0.005
    assert list(manifest.counts["marks_lost"]) == (
        [] if cased or language in ("zh", "ko", "de") else ["Devanagari"]
    )
    assert abs(manifest.counts["random_share"] - 0.5) < 0.01


@pytest.mark.parametrize(("language", "text"), [("ja", JAPANESE), ("ar", ARABIC)], ids=["ja", "ar"])
def test_japanese_and_arabic_know_their_own_vocabulary(tmp_path: Path, language: str, text: str) -> None:
    sentences = segment(text, language)
    turned = [sentences[place:] + sentences[:place] for place in range(len(sentences))]
    joint = "" if language == "ja" else " "
    (tmp_path / "a.txt").write_text("\n\n".join(joint.join(each) for each in turned), encoding="utf-8")
    manifest = shard(
        ShardConfig(
            corpus=(str(tmp_path / "a.txt"),),
            output=str(tmp_path / "shards"),
            vocab_size=210,
            cased=True,
            language=language,
            workers=1,
        )
    )
    assert manifest.counts["unknown_share"] < 0.005
    assert manifest.counts["sentences"] == len(sentences) ** 2
    assert manifest.counts["marks_lost"] == {}


def test_words_that_run_on_are_unknown_and_the_remedy_is_said() -> None:
    thai = "ภาษาไทยเขียนโดยไม่เว้นวรรคระหว่างคำ" * 4
    letters = sorted(set(thai))
    known = Vocabulary(tokens=(*SPECIALS, *letters, *(f"##{letter}" for letter in letters)), cased=True)
    found = [known.tokenizer.encode(word, add_special_tokens=False).ids for word in (thai[:100], thai[:101])]
    assert known.unk_id not in found[0]
    assert found[1] == [known.unk_id]
    assert "over 100 characters" in str(unknown_note({"unknown_share": 0.2}))


def test_the_wikiextractor_sample_is_read_whole(shared_data: Path) -> None:
    (split,) = find_splits([str(shared_data / "english" / "wikiextractor")])
    found = [document.text for document in read_documents(split, ReadOptions())]
    assert len(found) == 1439
    assert sum(map(bool, found)) == 493
    assert not any(re.search("&(amp|lt|gt|quot);|</?doc", text) for text in found)


def test_a_size_below_the_alphabets_names_the_remedies(shared_data: Path, tmp_path: Path) -> None:
    from pipeline.errors import InputError

    corpus = (str(shared_data / "multilingual" / "zh.txt"),)
    with pytest.raises(InputError, match=r"size is 2000; .*alphabet of 4\d\d\d characters.*--limit-alphabet"):
        train(VocabConfig(corpus=corpus, output=str(tmp_path / "v"), size=2000))


def fingerprint(*specs: Path) -> dict[str, Any]:
    found = Fingerprint()
    for split in find_splits([str(spec) for spec in specs]):
        for document in read_documents(split, ReadOptions()):
            found.add(document.text)
    return found.as_dict()


def test_the_shared_corpus_is_one_in_all_forms(
    shared_data: Path, tmp_path: Path, word_vocabulary: str
) -> None:
    """JSON Lines and Parquet as they are, text and wikiextractor's form written from them; shards of a part."""
    english = shared_data / "english"
    whole = fingerprint(english / "jsonl" / "part-000.jsonl.gz")
    assert whole == fingerprint(english / "parquet" / "part-000.parquet")
    with gzip.open(english / "jsonl" / "part-000.jsonl.gz", "rt", encoding="utf-8") as stream:
        objects = [json.loads(line) for line in stream]
    assert whole["documents"] == len(objects)
    # Its text form leaves out sentences of under 10 characters: as many documents, with other hashes.
    lines = find_splits([str(english / "text" / "part-000.txt.gz")])[0]
    assert sum(1 for _ in read_documents(lines, ReadOptions(sentences="lines"))) == len(objects)

    some = objects[::12]
    forms = {
        "a.jsonl": "".join(json.dumps(each) + "\n" for each in some),
        "a.txt": "\n\n".join(
            "\n".join(line for line in each["text"].split("\n") if line.strip()) for each in some
        ),
        "wiki_00": "".join(
            f'<doc id="{each["id"]}" url="?" title="{html.escape(each["title"], quote=False)}">\n'
            f"{html.escape(each['title'], quote=False)}\n\n{html.escape(each['text'], quote=False)}\n\n</doc>\n"
            for each in some
        ),
    }
    for name, text in forms.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    pq.write_table(pa.Table.from_pylist(some), tmp_path / "a.parquet")
    made = []
    for name in (*forms, "a.parquet"):
        manifest = shard(
            ShardConfig(
                corpus=(str(tmp_path / name),),
                output=str(tmp_path / f"shards-{name}"),
                vocab_size=4000,
                workers=1,
            )
        )
        made.append((manifest.corpus["fingerprint"], manifest.vocabulary["hash"], manifest.hash))
    assert len(set(made)) == 1


def test_the_multilingual_sample_is_one_as_json_and_parquet(shared_data: Path) -> None:
    folder = shared_data / "multilingual"
    as_json = fingerprint(folder / "all.jsonl.gz")
    assert as_json == fingerprint(folder / "all.parquet")
    assert as_json["documents"] == 402
