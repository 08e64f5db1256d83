"""Sources: weights drawn by content, counts that add up, and no byte decided by where text lies or in which order."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pipeline.corpus import vocab, vocab_report
from pipeline.corpus.filters import FilterOptions
from pipeline.corpus.inspection import InspectConfig
from pipeline.corpus.inspection import run as inspect
from pipeline.corpus.manifest import Manifest
from pipeline.corpus.readers import ReadOptions
from pipeline.corpus.shards import read_blocks
from pipeline.corpus.sources import Source, all_sources, bundle_sources, find_sources
from pipeline.corpus.sources_file import read_sources
from pipeline.corpus.verification import verify
from pipeline.corpus.weights import MOST_SETS, sets_of
from pipeline.errors import InputError
from workshop.folders import contents

LINES = ReadOptions(sentences="lines")
HASHES = [number * 0x9E3779B97F4A7C15 % (1 << 64) for number in range(4000)]
Shard = Callable[..., Manifest]


def source(name: str, *corpus: object, **more: Any) -> Source:
    return Source(**{"name": name, "corpus": tuple(map(str, corpus)), "read": LINES} | more)


def tars(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.tar")}


@pytest.fixture
def two(corpus: Path) -> tuple[Source, Source]:
    """Half of the corpus in each."""
    return (
        source("books", corpus / "part-0.txt", corpus / "part-1.txt"),
        source("wiki", corpus / "part-2.txt", corpus / "part-3.txt"),
    )


@pytest.mark.parametrize("weight", [0.01, 0.5, 1.0, 1.5, 2.0, 2.3, 254.5, MOST_SETS])
def test_documents_give_as_many_sets_as_the_weight_says_on_average(weight: float) -> None:
    sets = [sets_of(weight, 1, high) for high in HASHES]
    assert set(sets) <= {int(weight), int(weight) + 1}
    assert sum(sets) / len(sets) == pytest.approx(weight, abs=0.03)


@given(
    one=st.floats(0.001, MOST_SETS),
    other=st.floats(0.001, MOST_SETS),
    high=st.integers(0, (1 << 64) - 1),
    seed=st.integers(0, 9),
)
def test_a_document_in_two_sources_gives_the_sets_of_the_larger_weight(
    one: float, other: float, high: int, seed: int
) -> None:
    assert max(sets_of(one, seed, high), sets_of(other, seed, high)) == sets_of(max(one, other), seed, high)


def test_another_seed_leaves_other_documents_out() -> None:
    drawn = [[sets_of(0.5, seed, high) for high in HASHES] for seed in (1, 2)]
    same = sum(one == other for one, other in zip(*drawn, strict=True))
    assert same / len(HASHES) == pytest.approx(0.5, abs=0.05)


def test_sources_of_weight_one_are_the_corpus_without_sources(
    shard: Shard, two: tuple[Source, ...], expected: dict[str, bytes], tmp_path: Path
) -> None:
    shard(corpus=(), sources=two)
    made = tars(tmp_path / "shards")
    assert made == {name: data for name, data in expected.items() if name.endswith(".tar")}


def test_neither_the_order_of_sources_nor_files_change_a_byte(
    shard: Shard, two: tuple[Source, ...], corpus: Path, tmp_path: Path
) -> None:
    weighted = (source("books", *two[0].corpus, weight=1.5), source("wiki", *two[1].corpus, weight=0.5))
    first = shard(corpus=(), sources=weighted, output=str(tmp_path / "one"))
    (tmp_path / "moved").mkdir()
    for new, old in {"z.txt": "part-0.txt", "a.txt": "part-1.txt"}.items():
        (tmp_path / "moved" / new).write_bytes((corpus / old).read_bytes())
    moved = (
        source("wiki", *two[1].corpus[::-1], weight=0.5),
        source("books", tmp_path / "moved", weight=1.5),
    )
    again = shard(corpus=(), sources=moved, output=str(tmp_path / "other"))
    assert again == first
    assert contents(tmp_path / "one") == contents(tmp_path / "other")
    # It is the same folder to the stage itself.
    assert shard(corpus=(), sources=moved, output=str(tmp_path / "one")) == first


def test_weights_decide_how_many_documents_and_pairs_a_source_gives(
    shard: Shard, two: tuple[Source, Source], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = shard(corpus=(), sources=two, output=str(tmp_path / "plain")).counts["sources"]
    weighted = (source("books", *two[0].corpus, weight=2), source("wiki", *two[1].corpus, weight=0.5))
    manifest = shard(corpus=(), sources=weighted)
    assert verify(str(tmp_path / "shards"), manifest) == []
    counts = manifest.counts
    books, wiki = counts["sources"]["books"], counts["sources"]["wiki"]
    assert books["documents"] == plain["books"]["documents"] == 120
    assert books["pairs"] == pytest.approx(2 * plain["books"]["pairs"], rel=0.05)
    assert wiki["documents"] == pytest.approx(60, abs=15)
    assert wiki["pairs"] == pytest.approx(plain["wiki"]["pairs"] / 2, rel=0.3)
    assert wiki["left_out"] == counts["left_out"] == 120 - wiki["documents"]
    assert counts["short_document_share"] < 0.2
    for name in ("documents", "pairs", "tokens", "duplicates", "empty"):
        assert sum(each[name] for each in counts["sources"].values()) == counts[name]
    assert sum(each["bytes_read"] for each in counts["sources"].values()) == manifest.corpus["bytes"]
    assert f"{wiki['left_out']} left out by weight" in capsys.readouterr().err
    inspect(InspectConfig(folder=str(tmp_path / "shards"), pairs=0))
    shown = " ".join(capsys.readouterr().out.split())
    assert "sources books: weight 2, 120 documents" in shown
    assert f"wiki: weight 0.5, {wiki['documents']} documents (0 repeated" in shown
    inspect(InspectConfig(folder=str(tmp_path / "shards"), pairs=0, json=True))
    assert json.loads(capsys.readouterr().out)["counts"]["sources"]["wiki"] == wiki


def test_with_a_dupe_factor_a_weight_counts_so_many_times(
    shard: Shard, two: tuple[Source, Source], tmp_path: Path
) -> None:
    twice = tuple(source(each.name, *each.corpus, weight=2) for each in two)
    shard(corpus=(), sources=twice, output=str(tmp_path / "twice"))
    shard(dupe_factor=2, output=str(tmp_path / "factor"))
    assert tars(tmp_path / "twice") == tars(tmp_path / "factor")


def test_a_document_in_two_sources_counts_once_in_that_of_more_weight(
    shard: Shard, corpus: Path, tmp_path: Path
) -> None:
    first, both = corpus / "part-0.txt", (corpus / "part-0.txt", corpus / "part-1.txt")
    sources = (source("a", *both), source("b", first, weight=2))
    counts = shard(corpus=(), sources=sources).counts
    assert counts["documents"] == 120
    assert counts["duplicates"] == counts["sources"]["a"]["duplicates"] == 60
    assert [counts["sources"][name]["documents"] for name in "ab"] == [60, 60]
    # Of equal weight, the first by name has it.
    equal = shard(corpus=(), sources=(source("a", *both), source("b", first)), output=str(tmp_path / "equal"))
    assert [equal.counts["sources"][name]["documents"] for name in "ab"] == [120, 0]
    shard(corpus=tuple(map(str, both)), output=str(tmp_path / "plain"))
    assert tars(tmp_path / "equal") == tars(tmp_path / "plain")


def test_each_source_is_read_by_its_own_options(shard: Shard, corpus: Path, tmp_path: Path) -> None:
    lines = (corpus / "part-0.txt").read_text().split("\n\n")
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"body": text}) + "\n" for text in lines))
    (tmp_path / "bad.txt").write_bytes(b"bab bad \xff.\nbag.\n\nbab bad.\nbak.\n")
    sources = (
        source("json", tmp_path / "a.jsonl", read=ReadOptions(sentences="lines", text_key="body")),
        source("broken", tmp_path / "bad.txt", read=ReadOptions(sentences="lines", invalid_utf8="skip")),
        source(
            "long",
            corpus / "part-1.txt",
            read=ReadOptions(sentences="lines", filters=FilterOptions(filters=("length=400",))),
        ),
    )
    manifest = shard(corpus=(), sources=sources)
    found = manifest.counts["sources"]
    assert list(found) == ["broken", "json", "long"]
    assert (found["broken"]["documents"], found["broken"]["invalid_skipped"]) == (1, 1)
    assert found["json"]["documents"] == 60
    assert found["long"]["filters"]["length"]["dropped"] == 60 - found["long"]["documents"] > 0
    assert "filters" not in manifest.counts
    assert manifest.settings["sources"]["long"]["filters"] == {"length": 400}
    assert str(tmp_path) not in (tmp_path / "shards" / "manifest.json").read_text()


@pytest.mark.parametrize("finished", [True, False])
def test_another_weight_or_option_is_refused_with_the_difference(
    shard: Shard, two: tuple[Source, Source], tmp_path: Path, finished: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if finished:
        shard(corpus=(), sources=two)
    else:
        with monkeypatch.context() as patched:
            patched.setattr("pipeline.corpus.making._reduce", _stop)
            with pytest.raises(KeyboardInterrupt):
                shard(corpus=(), sources=two)
    books, wiki = two
    for changed, said in (
        (
            (books, source("wiki", *wiki.corpus, weight=3)),
            "settings.sources.wiki.weight: 3.0 here, 1.0 there",
        ),
        (
            (books, source("wiki", *wiki.corpus, language="de")),
            "sources.wiki.language: 'de' here, 'en' there",
        ),
        ((source("b", *books.corpus), wiki), "settings.sources.b: {"),
    ):
        with pytest.raises(InputError, match=said) as refused:
            shard(corpus=(), sources=changed)
        assert "\n" not in str(refused.value)
    if finished:
        swapped = (source("books", *wiki.corpus), source("wiki", *books.corpus))
        with pytest.raises(InputError, match=r"corpus\.sources\.books\.sample: '"):
            shard(corpus=(), sources=swapped)
    else:
        done = shard(corpus=(), sources=two, output=str(tmp_path / "whole"))
        assert shard(corpus=(), sources=two) == done


def _stop(*_: Any) -> Any:
    raise KeyboardInterrupt


def test_a_file_in_two_sources_has_a_spill_in_each_whose_name_stays(corpus: Path) -> None:
    def stems(*given: Source) -> list[str]:
        return [each.stem for each in bundle_sources(find_sources(all_sources(given)), 1 << 30)]

    file = corpus / "part-0.txt"
    both = stems(source("a", file), source("b", file))
    assert len(set(both)) == 2
    assert stems(source("b", file), source("a", file)) == both
    assert stems(source("a", file, weight=2), source("b", file))[1] == both[1]
    for other in ({"weight": 2}, {"language": "de"}, {"read": ReadOptions()}):
        assert stems(source("a", file, **other), source("b", file))[0] not in both


def test_a_source_without_files_is_named(two: tuple[Source, Source], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"^source notes: .*empty holds no corpus file"):
        find_sources(all_sources((*two, source("notes", tmp_path / "empty"))))


def test_a_corpus_of_nothing_but_what_weights_leave_out_is_refused_with_the_reason(
    shard: Shard, two: tuple[Source, Source], tmp_path: Path
) -> None:
    least = tuple(source(each.name, *each.corpus, weight=1e-9) for each in two)
    with pytest.raises(InputError, match=r"0 distinct documents .*240 left out by weight"):
        shard(corpus=(), sources=least)
    with pytest.raises(InputError, match="filters and weights leave all 240 documents"):
        vocab.run(vocab.VocabConfig(sources=least, output=str(tmp_path / "v"), size=300))


# The file.

FILE = """
sources:
  wikipedia:
    corpus: [dumps/*.parquet, more/]
    weight: 5e-1
    language: de
    sentences: lines
    format: parquet
    text_key: body
    invalid_utf8: skip
    filter: [length=200, urls]
    redact: email
  books: {corpus: books/}
"""


def written(folder: Path, text: str) -> str:
    path = folder / "sources.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_file_of_sources_says_what_the_command_line_does(tmp_path: Path) -> None:
    wikipedia, books = read_sources(written(tmp_path, FILE), {})
    assert wikipedia == Source(
        name="wikipedia",
        corpus=("dumps/*.parquet", "more/"),
        weight=0.5,
        language="de",
        read=ReadOptions(
            sentences="lines",
            format="parquet",
            text_key="body",
            invalid_utf8="skip",
            filters=FilterOptions(filters=("length=200", "urls"), redactions=("email",)),
        ),
    )
    assert books == Source(name="books", corpus=("books/",))


def test_the_command_lines_options_are_those_of_sources_that_do_not_say_otherwise(tmp_path: Path) -> None:
    given = {"language": "fr", "text_key": "content", "filter": ("markup",), "redact": ()}
    wikipedia, books = read_sources(written(tmp_path, FILE), given)
    assert (wikipedia.language, books.language) == ("de", "fr")
    assert (wikipedia.read.text_key, books.read.text_key) == ("body", "content")
    assert wikipedia.read.filters.filters == ("length=200", "urls")
    assert books.read.filters.filters == ("markup",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it holds no sources"),
        ("- a\n- b\n", "it holds no sources"),
        ("sources:\n", r"sources is None; it must hold sources by name"),
        ("sources: {}\n", r"sources is \{\}; it must hold sources by name"),
        ("sources: [a]\n", r"sources is \['a'\]"),
        ("source: {a: {corpus: x}}\n", "unknown key source; the only one known is sources"),
        (
            "sources: {a: {corpus: x, wieght: 2}}\n",
            r"unknown key sources\.a\.wieght; .* is sources\.a\.weight",
        ),
        ("sources: {a: {weight: 2}}\n", r"sources\.a\.corpus is missing"),
        ("sources: {a: }\n", r"sources\.a is None; it must hold keys"),
        ("sources: {a: x/}\n", r"sources\.a is 'x/'; it must hold keys"),
        ("sources: {a: {corpus: 3}}\n", r"sources\.a\.corpus is 3; it must be a list"),
        ("sources: {a: {corpus: [3]}}\n", r"sources\.a\.corpus\.0 is 3; it must be text"),
        ("sources: {a: {corpus: x, weight: 0}}\n", r"sources\.a: weight is 0; it must be above 0"),
        ("sources: {a: {corpus: x, weight: -1}}\n", r"sources\.a: weight is -1"),
        ("sources: {a: {corpus: x, weight: 256}}\n", r"weight is 256; .* 255 at most"),
        ("sources: {a: {corpus: x, weight: .inf}}\n", r"weight is inf"),
        ("sources: {a: {corpus: x, weight: .nan}}\n", r"weight is nan"),
        ("sources: {a: {corpus: x, weight: two}}\n", r"sources\.a\.weight is 'two'; it must be a number"),
        ("sources: {a: {corpus: x, weight: true}}\n", r"sources\.a\.weight is True; it must be a number"),
        ("sources: {a: {corpus: x, language: no}}\n", r"sources\.a\.language is False; it must be text"),
        ("sources: {a: {corpus: x, language: xx}}\n", r"sources\.a: language 'xx' is unknown"),
        (
            "sources: {a: {corpus: x, sentences: words}}\n",
            r"sources\.a\.sentences is 'words'; known: paragraphs",
        ),
        ("sources: {a: {corpus: x, filter: lenght}}\n", r"sources\.a: unknown filter 'lenght'"),
        ("sources: {a: {corpus: x}, a: {corpus: y}}\n", r"line 1 is no YAML: the key 'a' stands twice"),
        ("sources: {3: {corpus: x}}\n", r"sources\.3: a source's name is text; write it in quotes"),
        ('sources: {"a\\nb": {corpus: x}}\n', "a source's name is text on one line"),
        ("sources: {a: [\n", "is no YAML"),
    ],
)
def test_what_a_file_of_sources_may_not_say_is_refused_in_one_line(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(InputError, match=message) as refused:
        read_sources(written(tmp_path, text), {})
    assert "sources.yaml" in str(refused.value)
    assert "\n" not in str(refused.value)


# The vocabulary.

TEXTS = {"books": ["the cat sat", "a dog ran"], "wiki": ["every cat has a tail", "no dog has two"]}


@pytest.fixture
def texts(tmp_path: Path) -> Callable[..., str]:
    """`texts(books=2.0, wiki=1.0)`: the path of a file of these sources."""

    def make(**weights: float) -> str:
        for name, documents in TEXTS.items():
            (tmp_path / f"{name}.txt").write_text("\n\n".join(documents))
        stated = {
            name: {"corpus": str(tmp_path / f"{name}.txt"), "weight": weight}
            for name, weight in weights.items()
        }
        return written(tmp_path, yaml.safe_dump({"sources": stated}))

    return make


def test_a_vocabulary_learns_from_each_source_by_its_weight(
    tmp_path: Path, texts: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    learned: list[Any] = []
    monkeypatch.setattr(vocab, "_learn", lambda config, words: learned.append(words) or _stop())
    for weights in ({"books": 1, "wiki": 1}, {"books": 3, "wiki": 1}, {"books": 1, "wiki": 1e-9}):
        given = read_sources(texts(**weights), {})
        with pytest.raises(KeyboardInterrupt):
            vocab.run(vocab.VocabConfig(sources=given, output=str(tmp_path / "v"), size=300))
    plain, more, less = learned
    assert (plain["cat"], plain["sat"], plain["tail"]) == (2, 1, 1)
    assert (more["cat"], more["sat"], more["tail"]) == (4, 3, 1)
    assert (less["cat"], less["sat"], less["tail"]) == (1, 1, 0)


def test_the_same_vocabulary_is_made_whatever_the_order_and_another_by_other_weights(
    tmp_path: Path, texts: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    def make(output: str, given: tuple[Source, ...]) -> vocab.Vocabulary:
        config = {"sources": given, "output": str(tmp_path / output), "size": 140, "min_frequency": 1}
        return vocab.run(vocab.VocabConfig(**config))

    given = read_sources(texts(books=2.0, wiki=1.0), {})
    make("v", given)
    make("w", given[::-1])
    assert contents(tmp_path / "v") == contents(tmp_path / "w")
    capsys.readouterr()
    make("v", given)
    assert "holds this vocabulary already" in capsys.readouterr().err
    lineage = json.loads((tmp_path / "v" / "lineage.json").read_text())
    assert lineage["sources"]["wiki"] == {"documents": 2, "left_out": 0}
    assert set(lineage["coverage_report"]["sources"]) == {"books", "wiki"}
    with pytest.raises(InputError, match=r"sources\.books\.weight: 1\.0 here, 2\.0 there"):
        make("v", read_sources(texts(books=1.0, wiki=1.0), {}))
    # The same text in another source is another corpus.
    changed = read_sources(texts(books=2.0, wiki=1.0), {})
    (tmp_path / "books.txt").write_text("\n\n".join(TEXTS["wiki"]))
    (tmp_path / "wiki.txt").write_text("\n\n".join(TEXTS["books"]))
    with pytest.raises(InputError, match=r"sources\.books\.fingerprint"):
        make("v", changed)


def test_a_report_is_told_apart_by_the_names_of_sources(
    tmp_path: Path, texts: Callable[..., str], word_vocabulary: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = read_sources(texts(books=2.0, wiki=1.0), {})
    stated = vocab_report.run(vocab_report.ReportConfig(sources=given, vocabulary=word_vocabulary))
    assert {name: part["words"] for name, part in stated["coverage"]["sources"].items()} == {
        "books": 12,
        "wiki": 9,
    }
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[3:5]] == ["books", "wiki"]


def test_a_vocabulary_trained_at_sharding_learns_from_the_sources(
    shard: Shard, two: tuple[Source, Source], tmp_path: Path
) -> None:
    weighted = (source("books", *two[0].corpus, weight=2), source("wiki", *two[1].corpus, weight=0.5))
    shard(corpus=(), sources=weighted, vocab=None, vocab_size=200)
    config = vocab.VocabConfig(sources=weighted, output=str(tmp_path / "v"), size=200)
    vocab.run(config)
    assert contents(tmp_path / "v") == contents(tmp_path / "shards" / "vocab")


def test_sources_need_names_of_their_own_and_no_corpus_beside_them(two: tuple[Source, Source]) -> None:
    books, _ = two
    with pytest.raises(InputError, match="two sources are named 'books'"):
        all_sources((books, books))
    with pytest.raises(InputError, match=r"a source of a\.txt has no name"):
        all_sources((books, Source(corpus=("a.txt",))))
    with pytest.raises(InputError, match=r"by CORPUS \(a\.txt\) and by --sources"):
        all_sources((books,), corpus=("a.txt",))


def test_documents_of_small_weights_are_in_no_pair(
    shard: Shard, two: tuple[Source, Source], tmp_path: Path
) -> None:
    books, wiki = two
    alone = shard(corpus=books.corpus, output=str(tmp_path / "alone"))
    beside = shard(corpus=(), sources=(books, source("wiki", *wiki.corpus, weight=1e-9)))
    assert beside.counts["sources"]["wiki"] | {"bytes_read": 0} == {
        "documents": 0, "pairs": 0, "tokens": 0, "documents_read": 120, "bytes_read": 0, "left_out": 120,
        "duplicates": 0, "empty": 0, "invalid_replaced": 0, "invalid_skipped": 0, "unknown_share": 0.0,
    }  # fmt: skip
    assert _documents(tmp_path / "alone", alone) == _documents(tmp_path / "shards", beside)


def _documents(folder: Path, manifest: Manifest) -> set[int]:
    blocks = [block for info in manifest.shards for block in read_blocks(str(folder), info)]
    return {document for block in blocks for document in block.document_a.tolist()}
