"""What a vocabulary learns from and what it is measured on: sides by hash, figures that are the tokeniser's own."""

import json
import random
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from pipeline.corpus import counting, coverage, vocab_report
from pipeline.corpus.casing import script_of
from pipeline.corpus.counting import Counts, Group, GroupCounts, count_corpus
from pipeline.corpus.coverage import Coverage, Report, measure, table
from pipeline.corpus.documents import canonical
from pipeline.corpus.sources import Source, find_sources
from pipeline.corpus.splits import find_splits
from pipeline.corpus.vocab import VocabConfig, run
from pipeline.corpus.vocab_report import ReportConfig
from pipeline.corpus.vocab_training import ImpossibleSize
from pipeline.corpus.vocabulary import SPECIALS, Vocabulary, save_vocabulary
from pipeline.corpus.word_counts import bert_words
from pipeline.errors import InputError

TOKENS = (*SPECIALS, ".", "'", "a", "b", "##a", "##b", "ab", "##ab", "été", "##é", "猫", "ㅎ", "##か")


def write(path: Path, documents: Sequence[str]) -> str:
    path.write_text("\n\n".join(documents), encoding="utf-8")
    return str(path)


def many_documents(count: int = 2000) -> list[str]:
    """Documents that each have a word of their own, of nine characters, beside common ones."""
    draw, common = random.Random(5), ("cat", "dog", "the", "sat")
    return [
        " ".join([*draw.choices(common, k=6), "own" + "".join(draw.choices("abcdefghij", k=6))])
        for _ in range(count)
    ]


def count(*corpus: str, **settings: Any) -> Counts:
    return count_corpus(find_sources([Source(corpus=corpus)]), **settings)


def own_words(words: Counter[str]) -> set[str]:
    return {word for word in words if word.startswith("own")}


def held_out_words(counts: Counts) -> Counter[str]:
    groups = counts.held_out
    return sum((bert_words(groups.of(group), cased=False) for group in groups.documents), Counter[str]())


def test_what_is_held_out_is_not_learned_and_both_together_are_the_corpus(tmp_path: Path) -> None:
    documents = many_documents()
    with count(write(tmp_path / "a.txt", documents)) as counts:
        assert counts.unseen
        assert 0.005 < counts.held_out.documents.total() / len(documents) < 0.02
        learned, held_out = counts.words(cased=False), held_out_words(counts)
    assert own_words(learned).isdisjoint(own_words(held_out))
    assert len(own_words(held_out)) == counts.held_out.documents.total()
    assert learned + held_out == Counter(word for document in documents for word in document.split())


@pytest.mark.parametrize("max_bytes", [None, 20_000])
def test_sides_depend_on_the_documents_alone(tmp_path: Path, max_bytes: int | None) -> None:
    documents = many_documents()
    write(tmp_path / "one.txt", documents)
    write(tmp_path / "first.txt", documents[::-2])
    write(tmp_path / "second.txt", documents[-2::-2])
    found = []
    for names in (["one.txt"], ["second.txt", "first.txt"]):
        with count(*(str(tmp_path / name) for name in names), max_bytes=max_bytes) as counts:
            found.append((counts.whole.corpus, counts.words(cased=False), held_out_words(counts)))
    assert found[0] == found[1]


def test_a_sample_and_what_is_held_out_beside_it_share_nothing(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", many_documents())
    with count(path, max_bytes=20_000) as sample, count(path) as whole:
        learned, held_out = sample.words(cased=False), held_out_words(sample)
        assert held_out == held_out_words(whole)
        assert own_words(learned).isdisjoint(own_words(held_out))
        assert 15_000 < sum(len(word) * times for word, times in learned.items()) < 20_000


@pytest.mark.parametrize("max_bytes", [None, 10**9])
def test_a_small_corpus_loses_nothing_to_the_measurement(tmp_path: Path, max_bytes: int | None) -> None:
    documents = many_documents(800)
    with count(write(tmp_path / "a.txt", documents), max_bytes=max_bytes) as counts:
        assert not counts.unseen
        assert counts.words(cased=False) == Counter(
            word for document in documents for word in document.split()
        )


def test_the_vocabulary_learns_nothing_from_what_it_is_measured_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = (write(tmp_path / "a.txt", many_documents()),)
    config: dict[str, Any] = {"corpus": corpus, "output": str(tmp_path / "v"), "min_frequency": 1}
    with pytest.raises(ImpossibleSize) as caught:
        run(VocabConfig(**config, size=30522))
    largest = int(re.search(r"allows (\d+) at most", str(caught.value)).group(1))  # type: ignore[union-attr]
    vocabulary = run(VocabConfig(**config, size=largest))
    with count(*corpus) as counts:
        assert set(counts.words(cased=False)) <= set(vocabulary.tokens)
        apart = own_words(held_out_words(counts))
    # All that it learned from is whole now, and what it is measured on is not.
    assert apart.isdisjoint(vocabulary.tokens)
    said = capsys.readouterr().err
    assert f"coverage of {len(apart)} documents held out, which nothing was learned from:" in said
    recorded = json.loads((tmp_path / "v" / "lineage.json").read_text())["coverage_report"]
    assert recorded["text"] == "held out"
    assert recorded["all"]["documents"] == len(apart)
    assert recorded["all"]["words"] == 7 * len(apart)
    assert recorded["all"]["unknown_words"] == 0
    assert recorded["all"]["whole_words"] == pytest.approx(6 / 7, abs=1e-6)
    assert recorded["scripts"] == {"Latin": recorded["all"]}


def test_a_corpus_too_small_to_hold_any_out_is_measured_itself_which_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus = write(tmp_path / "a.txt", ["one two two", "drei zwei zwei"])
    run(VocabConfig(corpus=(corpus,), output=str(tmp_path / "v"), size=120, min_frequency=1))
    assert (
        "coverage of the corpus itself, which it learned from (2 documents are too few"
        in capsys.readouterr().err
    )
    recorded = json.loads((tmp_path / "v" / "lineage.json").read_text())["coverage_report"]
    assert recorded["text"] == "corpus"
    assert recorded["all"]["words"] == 6


def test_where_the_corpus_lies_is_no_part_of_the_lineage(tmp_path: Path) -> None:
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        corpus = (write(tmp_path / name / f"{name}.txt", ["one two two", "drei zwei zwei"]),)
        run(VocabConfig(corpus=corpus, output=str(tmp_path / f"v-{name}"), size=120, min_frequency=1))
    lineages = [(tmp_path / f"v-{name}" / "lineage.json").read_text() for name in ("here", "there")]
    assert lineages[0] == lineages[1]
    assert "here" not in lineages[0]


words = st.text(st.sampled_from("abé猫ㅎ한か.' \n\u0301xZ"), max_size=40)


@given(texts=st.lists(words.map(canonical), min_size=1, max_size=3), cased=st.booleans())
def test_the_figures_are_the_tokenisers_own(texts: list[str], cased: bool) -> None:
    vocabulary = Vocabulary(tokens=TOKENS, cased=cased)
    with GroupCounts() as counts:
        for text in texts:
            counts.add("here", text)
        found = measure(vocabulary, counts).all
    expected = Coverage(documents=len(texts))
    for text in texts:
        ids = vocabulary.tokenizer.encode(text, add_special_tokens=False).ids
        normal = BertNormalizer(lowercase=not cased).normalize_str(text)
        each = [
            vocabulary.tokenizer.model.tokenize(word)
            for word, _ in BertPreTokenizer().pre_tokenize_str(normal)
        ]
        expected.words += len(each)
        expected.tokens += len(ids)
        expected.unknown += ids.count(vocabulary.unk_id)
        expected.whole += sum(len(pieces) == 1 and pieces[0].value != "[UNK]" for pieces in each)
    assert found == expected


def test_words_too_long_for_bert_count_as_unknown() -> None:
    with GroupCounts() as counts:
        counts.add("here", f"{'ab' * 50} {'ab' * 51}")
        found = measure(Vocabulary(tokens=TOKENS, cased=False), counts).all
    assert (found.words, found.tokens, found.unknown, found.whole) == (2, 51, 1, 0)
    assert found.unknown_words == 0.5
    assert found.unknown_tokens == 1 / 51
    assert found.pieces_a_word == 25.5


def test_groups_that_go_to_disk_are_counted_as_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    documents = [*many_documents(60), "кот сидит", "кот сидит дома"]
    found = []
    for strings in (10_000, 5):
        monkeypatch.setattr(counting, "_LEAST_STRINGS", strings)
        with GroupCounts(sources=10**7) as counts:
            for number, document in enumerate(documents):
                counts.add("ab"[number % 2], document)
            found.append({group: list(counts.of(group)) for group in counts.documents})
    assert found[0] == found[1]
    assert set(found[0]) == {Group(source, script) for source in "ab" for script in ("Latin", "Cyrillic")}


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("The cat", "Latin"),
        ("é ü", "Latin"),
        ("кот и cat", "Cyrillic"),
        ("हिन्दी", "Devanagari"),
        ("한국어", "Hangul"),
        ("北京烤鸭 model", "Latin"),
        ("北京烤鸭，好", "Cjk"),
        ("12 + 3 = 15", "none"),
        ("…", "none"),
        ("ab яю", "Cyrillic"),
    ],
)
def test_a_documents_script_is_that_of_most_letters_at_its_beginning(text: str, script: str) -> None:
    assert script_of(text) == script


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """A corpus of two sources and two scripts, and a vocabulary without a lineage."""
    for name, documents in {"english": ["a cat", "a bab"], "mixed": ["ab ab a", "кот"]}.items():
        (tmp_path / name).mkdir()
        write(tmp_path / name / "text.txt", documents)
    save_vocabulary(Vocabulary(tokens=TOKENS, cased=False), str(tmp_path / "v"))
    (tmp_path / "v" / "tokenizer.json").unlink()
    return tmp_path


def test_any_vocabulary_is_measured_by_source_and_script_as_the_user_named_them(
    folders: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folders)
    before = sorted(folders.rglob("*"))
    config: dict[str, Any] = {"corpus": ("mixed", "english/*.txt"), "vocabulary": "v"}
    stated = vocab_report.run(ReportConfig(**config, json=True))
    assert json.loads(capsys.readouterr().out) == stated
    found = stated["coverage"]
    assert set(found["sources"]) == {"mixed", "english/*.txt"}
    assert set(found["scripts"]) == {"Latin", "Cyrillic"}
    assert found["scripts"]["Cyrillic"] == {
        "documents": 1, "words": 1, "tokens": 1,
        "pieces_a_word": 1, "unknown_words": 1, "unknown_tokens": 1, "whole_words": 0,
    }  # fmt: skip
    # "a", "[UNK]", "a", "b ##ab"
    assert found["sources"]["english/*.txt"]["tokens"] == 5
    assert found["sources"]["english/*.txt"]["unknown_words"] == 0.25
    for parts in (found["sources"], found["scripts"]):
        for name in ("documents", "words", "tokens"):
            assert sum(part[name] for part in parts.values()) == found["all"][name]
    vocab_report.run(ReportConfig(**config))
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.startswith("v: 18 tokens, uncased, hash ")
    assert [row.split()[0] for row in rows[1:]] == ["all", "english/*.txt", "mixed", "Latin", "Cyrillic"]
    assert len({len(row) for row in rows}) == 1
    assert sorted(folders.rglob("*")) == before


def test_a_report_takes_the_casing_that_the_folder_leaves_open(folders: Path) -> None:
    write(folders / "upper.txt", ["AB ab"])
    config: dict[str, Any] = {"corpus": (str(folders / "upper.txt"),), "vocabulary": str(folders / "v")}
    assert vocab_report.run(ReportConfig(**config))["coverage"]["all"]["unknown_words"] == 0
    assert vocab_report.run(ReportConfig(**config, cased=True))["coverage"]["all"]["unknown_words"] == 0.5


@pytest.mark.parametrize("text", ["", "\n \n\n"])
def test_a_report_on_no_text_is_refused(folders: Path, text: str) -> None:
    corpus = (write(folders / "empty.txt", [text]),)
    with pytest.raises(InputError, match=r"empty\.txt holds no text"):
        vocab_report.run(ReportConfig(corpus=corpus, vocabulary=str(folders / "v")))


def test_a_file_named_twice_belongs_to_one_source_whatever_the_order(folders: Path) -> None:
    specs = [str(folders / "mixed"), str(folders / "mixed" / "*.txt"), str(folders / "mixed" / "text.txt")]
    sources = [{split.source for split in find_splits(order)} for order in (specs, specs[::-1])]
    assert sources[0] == sources[1] == {specs[0]}


def test_many_sources_are_shown_as_the_largest_and_the_others() -> None:
    report = Report()
    for number in range(coverage._MOST_ROWS + 5):
        report.sources[f"{'far/' * 10}{number:03d}.txt"] = Coverage(words=1000 - number)
    rows = table(report)
    assert len(rows) == 2 + coverage._MOST_ROWS + 1
    assert rows[2].startswith("…")
    assert "/000.txt " in rows[2]
    assert rows[-1].split()[:4] == ["5", "others", "0", f"{5 * 978:,}"]
