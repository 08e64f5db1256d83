"""The stage `bertpipe vocab`: the same bytes however it runs, Google's layout, and errors that name sizes."""

import gzip
import json
import os
import pydoc_data.topics
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from pipeline import storage
from pipeline.corpus import vocab, vocab_training, word_counts
from pipeline.corpus.documents import canonical, document_hash, tidy
from pipeline.corpus.readers import ReadOptions
from pipeline.corpus.text_files import stripped_lines
from pipeline.corpus.tokens import Encoder
from pipeline.corpus.vocab import VocabConfig, load_vocabulary, run
from pipeline.corpus.vocabulary import SPECIALS
from pipeline.corpus.word_counts import RawCounts, bert_words
from pipeline.errors import InputError, RunFailed

# Real English and some other scripts, with plenty of pairs that occur equally often.
DOCUMENTS = [topic[:3000].strip() for _, topic in sorted(pydoc_data.topics.topics.items())][:60]
DOCUMENTS += [
    "Crème brûlée, naïve café. Ærøskøbing",
    "北京烤鸭 东京 北京",
    "한국어 문장 한국어",
    "हिन्दी वाक्य हिन्दी",
]
SIZE = 1200
FILES = ["lineage.json", "tokenizer.json", "vocab.txt"]


def write_corpus(path: Path, documents: Sequence[str] = DOCUMENTS) -> str:
    text = "\n\n".join(re.sub(r"\n\s*\n", "\n", document) for document in documents)
    path.write_text(text, encoding="utf-8")
    return str(path)


def make(tmp_path: Path, documents: Sequence[str] = DOCUMENTS, **settings: Any) -> vocab.Vocabulary:
    """Train on `documents` in a folder of their own."""
    number = len(list(tmp_path.glob("*.txt")))
    place = tmp_path / f"corpus-{number}.txt"
    output = str(place.with_suffix(""))
    return run(
        VocabConfig(corpus=(write_corpus(place, documents),), output=output, **{"size": SIZE} | settings)
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_bytes_are_the_same_for_any_process_threads_and_order(tmp_path: Path) -> None:
    write_corpus(tmp_path / "forward.txt")
    write_corpus(tmp_path / "backward.txt", DOCUMENTS[::-1])
    script = (
        "import sys; from pipeline.corpus.vocab import VocabConfig, run; "
        f"run(VocabConfig(corpus=(sys.argv[1],), output=sys.argv[2], size={SIZE}))"
    )
    runs = [
        ("forward", "0", {"RAYON_NUM_THREADS": "1"}),
        ("forward", "1", {"RAYON_NUM_THREADS": "2"}),
        ("forward", "2", {"TOKENIZERS_PARALLELISM": "false"}),
        ("backward", "3", {"RAYON_NUM_THREADS": "2", "TOKENIZERS_PARALLELISM": "true"}),
        ("backward", "4", {"RAYON_NUM_THREADS": "3"}),
    ]
    root = Path(vocab.__file__).parents[2]
    for name, seed, environment in runs:
        subprocess.run(
            [sys.executable, "-c", script, str(tmp_path / f"{name}.txt"), str(tmp_path / f"v{seed}")],
            check=True,
            cwd=root,
            env=os.environ | {"PYTHONHASHSEED": seed} | environment,
        )
    first = contents(tmp_path / "v0")
    assert sorted(first) == FILES
    assert all(contents(tmp_path / f"v{seed}") == first for _, seed, _ in runs)


def test_bytes_are_the_same_from_any_kind_and_number_of_files(tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    rows = [re.sub(r"\n\s*\n", "\n", document) for document in DOCUMENTS]
    (folder / "z.txt.gz").write_bytes(gzip.compress("\n\n".join(rows[:20]).encode()))
    pq.write_table(pa.table({"text": [*rows[20:50], None]}), folder / "a.parquet")
    (folder / "b.txt").write_text("\n\n".join(rows[50:]), encoding="utf-8")
    make(tmp_path)
    for number, corpus in enumerate([("many",), ("many/b.txt", "many/*.gz", "many/a.parquet")]):
        specs = tuple(str(tmp_path / spec) for spec in corpus)
        run(VocabConfig(corpus=specs, output=str(tmp_path / f"v{number}"), size=SIZE))
        assert contents(tmp_path / f"v{number}") == contents(tmp_path / "corpus-0")


def test_ids_lie_as_in_googles_file(tmp_path: Path) -> None:
    tokens = make(tmp_path).tokens
    assert len(tokens) == SIZE
    assert (tmp_path / "corpus-0" / "vocab.txt").read_text(encoding="utf-8") == "\n".join(tokens) + "\n"
    assert tokens[0] == "[PAD]"
    assert tokens[1:100] == tuple(f"[unused{index}]" for index in range(99))
    assert tokens[100:104] == ("[UNK]", "[CLS]", "[SEP]", "[MASK]")
    letters = [token for token in tokens[104:] if len(token) == 1]
    continuations = [token for token in tokens[104:] if re.fullmatch("##.", token)]
    start = 104 + len(letters)
    assert list(tokens[104:start]) == sorted(letters)
    assert list(tokens[start : start + len(continuations)]) == sorted(continuations)
    assert "the" in tokens[start + len(continuations) :]


def test_without_unused_tokens_the_special_ones_come_first(tmp_path: Path) -> None:
    assert make(tmp_path, unused=0).tokens[:5] == ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def test_the_tokeniser_written_is_bert_s_and_only_five_tokens_are_special(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    vocabulary = make(tmp_path)
    path = tmp_path / "corpus-0"
    stated = json.loads((path / "tokenizer.json").read_text(encoding="utf-8"))
    assert [token["id"] for token in stated["added_tokens"]] == [0, 100, 101, 102, 103]
    written = Tokenizer.from_file(str(path / "tokenizer.json"))
    theirs = transformers.BertTokenizerFast(str(path / "vocab.txt"))
    # "abc" must not fall apart into characters, as it would if the alphabet stayed special.
    for text in [*DOCUMENTS[:5], *DOCUMENTS[-4:], "the function is called", "Ω unknown"]:
        expected = theirs(text, add_special_tokens=False)["input_ids"]
        assert written.encode(text, add_special_tokens=False).ids == expected
        assert Encoder(vocabulary).encode([text])[0].tolist() == expected
    assert Encoder(vocabulary).encode(["the"])[0].tolist() == [vocabulary.tokens.index("the")]


def test_casing_is_kept_where_asked_for(tmp_path: Path) -> None:
    uncased, cased = make(tmp_path), make(tmp_path, cased=True)
    assert not any(re.search("[A-Zéû]", token) for token in uncased.tokens if not token.startswith("["))
    assert {"The", "é", "##é"} <= set(cased.tokens)
    assert load_vocabulary(str(tmp_path / "corpus-1")) == cased
    assert load_vocabulary(str(tmp_path / "corpus-0")) == uncased


def test_a_corpus_too_small_names_the_largest_size_that_then_works(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        make(tmp_path, DOCUMENTS[:2], size=30522)
    largest = int(re.search(r"allows (\d+) at most", str(caught.value)).group(1))  # type: ignore[union-attr]
    assert "size is 30522" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["corpus-0.txt"]
    assert make(tmp_path, DOCUMENTS[:2], size=largest).size == largest
    with pytest.raises(InputError, match=f"allows {largest} at most"):
        make(tmp_path, DOCUMENTS[:2], size=largest + 1)


def test_a_size_too_small_names_the_smallest_that_then_works(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        make(tmp_path, size=110)
    smallest = int(re.search(r"take (\d+)", str(caught.value)).group(1))  # type: ignore[union-attr]
    assert [path.name for path in tmp_path.iterdir()] == ["corpus-0.txt"]
    assert make(tmp_path, size=smallest).size == smallest
    with pytest.raises(InputError, match=f"take {smallest}, so give that or more"):
        make(tmp_path, size=smallest - 1)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"size": 104}, "size is 104; 99 unused and 5 special tokens alone take 104"),
        ({"output": ""}, "output is empty; name the folder to write"),
        ({"min_frequency": 0}, "min_frequency is 0; it must be 1 or more"),
        ({"unused": -1}, "unused is -1; it must be 0 or more"),
        ({"limit_alphabet": 0}, "limit_alphabet is 0; it must be 1 or more"),
        ({"coverage": 0.0}, "coverage is 0.0; it must be above 0, and 1 at most"),
        ({"coverage": 1.1}, "coverage is 1.1; it must be above 0, and 1 at most"),
        ({"max_bytes": 0}, "max_bytes is 0; it must be 1 or more"),
    ],
)
def test_impossible_settings_are_refused_before_reading(settings: dict[str, Any], expected: str) -> None:
    with pytest.raises(InputError, match=re.escape(expected)):
        VocabConfig(**{"corpus": ("nowhere",), "output": "nowhere"} | settings)


@pytest.mark.parametrize("text", ["", "\n \n\n"])
def test_an_empty_corpus_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError, match=r"corpus-0\.txt holds no text"):
        make(tmp_path, [text])
    assert [path.name for path in tmp_path.iterdir()] == ["corpus-0.txt"]


def test_the_alphabet_is_the_most_frequent_characters_and_other_words_are_unknown(tmp_path: Path) -> None:
    documents = ["aaa bbb ab ccd ab ab", "ba ba d e"]
    vocabulary = make(tmp_path, documents, size=13, unused=0, limit_alphabet=3, min_frequency=1)
    # c and d occur twice each and c is the lower code point; "ccd", "d" and "e" leave the training.
    assert vocabulary.tokens[5:] == ("a", "b", "c", "##a", "##b", "ab", "ba", "aa")
    assert Encoder(vocabulary).encode(["ccd"])[0].tolist() == [vocabulary.unk_id]
    lineage = json.loads((tmp_path / "corpus-0" / "lineage.json").read_text())
    assert lineage["alphabet"]["kept"] == 3
    assert lineage["alphabet"]["characters"] == 5


def test_words_too_long_for_bert_teach_nothing(tmp_path: Path) -> None:
    long = "qz" * 60
    assert not any(
        "qz" in token for token in make(tmp_path, [*DOCUMENTS[:9], f"{long} " * 50], size=600).tokens
    )


def test_pairs_rarer_than_min_frequency_are_not_merged(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"min_frequency 10000, so give that size, a lower min_frequency"):
        make(tmp_path, min_frequency=10000)


def test_max_bytes_takes_whole_documents_by_lowest_hash_whatever_the_order(tmp_path: Path) -> None:
    documents = [re.sub(r"\n\s*\n", "\n", document) for document in DOCUMENTS]
    texts = ["\n".join(tidy(stripped_lines(document))) for document in documents]
    by_hash = sorted(texts, key=document_hash)
    limit = len("".join(by_hash[:25]).encode()) + 10
    sample = make(tmp_path, texts, max_bytes=limit, size=600)
    assert (
        sample
        == make(tmp_path, texts[::-1], max_bytes=limit, size=600)
        == make(tmp_path, by_hash[:25], size=600)
    )
    assert make(tmp_path, texts, max_bytes=10**9, size=600) == make(tmp_path, texts, size=600)
    lineage = json.loads((tmp_path / "corpus-0" / "lineage.json").read_text())
    assert lineage["corpus"]["documents"] == len(documents)
    with pytest.raises(InputError, match=r"max_bytes is 5; the first documents drawn take \d+"):
        make(tmp_path, max_bytes=5)


@pytest.mark.parametrize(("policy", "done"), [("skip", "skipped"), ("replace", "replaced")])
@pytest.mark.parametrize("max_bytes", [None, 1_000_000])
def test_what_was_done_about_broken_utf8_is_said_and_written_down(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], policy: Any, done: str, max_bytes: int | None
) -> None:
    write_corpus(tmp_path / "a.txt")
    (tmp_path / "b.txt").write_bytes(b"caf\xe9\n\nna\xefve\n\nfine\n")
    read = ReadOptions(invalid_utf8=policy)
    corpus = (str(tmp_path / "a.txt"), str(tmp_path / "b.txt"))
    run(VocabConfig(corpus=corpus, output=str(tmp_path / "v"), size=SIZE, read=read, max_bytes=max_bytes))
    assert f"{done} as no UTF-8: 2 documents" in capsys.readouterr().err
    recorded = json.loads((tmp_path / "v" / "lineage.json").read_text())["invalid_utf8"]
    assert recorded == {"replaced": 0, "skipped": 0} | {done: 2}


def test_the_same_command_again_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = VocabConfig(corpus=(write_corpus(tmp_path / "a.txt"),), output=str(tmp_path / "v"), size=SIZE)
    first = run(config)
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "v").iterdir()}
    assert run(config) == first
    assert "holds this vocabulary already" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "v").iterdir()} == times


def test_another_vocabulary_is_never_overwritten(tmp_path: Path) -> None:
    corpus, output = write_corpus(tmp_path / "a.txt"), tmp_path / "v"
    settings: dict[str, Any] = {"output": str(output), "size": SIZE}
    run(VocabConfig(corpus=(corpus,), **settings))
    before = contents(output)
    with pytest.raises(InputError, match=r"another vocabulary \(size: 900 here, 1200 there\); name another"):
        run(VocabConfig(corpus=("nowhere",), **settings | {"size": 900}))
    other = write_corpus(tmp_path / "b.txt", DOCUMENTS[1:])
    with pytest.raises(InputError, match=r"another vocabulary \(.*documents: 63 here, 64 there.*fingerprint"):
        run(VocabConfig(corpus=(other,), **settings))
    assert contents(output) == before
    (output / "vocab.txt").write_text("\n".join(load_vocabulary(str(output)).tokens[:-1]))
    (output / "tokenizer.json").unlink()
    with pytest.raises(InputError, match="was changed"):
        run(VocabConfig(corpus=(corpus,), **settings))
    (output / "lineage.json").write_text("[]")
    with pytest.raises(InputError, match="no lineage of a vocabulary"):
        run(VocabConfig(corpus=(corpus,), **settings))
    (output / "lineage.json").unlink()
    with pytest.raises(InputError, match="unknown origin"):
        run(VocabConfig(corpus=(corpus,), **settings))
    with pytest.raises(InputError, match="is a file"):
        run(VocabConfig(corpus=(corpus,), **settings | {"output": corpus}))


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.txt"])
def test_files_of_another_origin_are_neither_overwritten_nor_removed(tmp_path: Path, name: str) -> None:
    """A model's folder of Hugging Face may hold tokenizer.json without vocab.txt."""
    output = tmp_path / "model"
    output.mkdir()
    (output / name).write_text("precious")
    (output / "config.json").write_text("{}")
    with pytest.raises(InputError, match=f"holds a {name} of unknown origin"):
        run(VocabConfig(corpus=(write_corpus(tmp_path / "a.txt"),), output=str(output), size=SIZE))
    assert contents(output) == {name: b"precious", "config.json": b"{}"}


def test_a_lineage_that_is_none_of_ours_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "lineage.json").write_text('{"artefact": "painting"}')
    with pytest.raises(InputError, match="no lineage of a vocabulary"):
        run(VocabConfig(corpus=(write_corpus(tmp_path / "a.txt"),), output=str(tmp_path / "v"), size=SIZE))


def test_a_disk_that_fills_up_takes_back_only_what_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "v"
    output.mkdir()
    (output / "notes.md").write_text("mine")
    write_whole = storage.write_whole

    def full(path: str, write: Any) -> None:
        if path.endswith("vocab.txt"):
            raise RunFailed("cannot write: No space left on device")
        write_whole(path, write)

    monkeypatch.setattr(storage, "write_whole", full)
    config = VocabConfig(corpus=(write_corpus(tmp_path / "a.txt"),), output=str(output), size=SIZE)
    with pytest.raises(RunFailed, match="No space"):
        run(config)
    assert contents(output) == {"notes.md": b"mine"}
    # And one that is refused at once: tokenizer.json of a run before isn't this call's.
    (output / "tokenizer.json").write_text("kept")
    monkeypatch.setattr(storage, "write_whole", lambda path, write: full("vocab.txt", write))
    with pytest.raises(RunFailed, match="No space"):
        vocab.save_vocabulary(vocab.Vocabulary(tokens=SPECIALS, cased=False), str(output), {"artefact": "x"})
    assert contents(output) == {"notes.md": b"mine", "tokenizer.json": b"kept"}


def test_an_output_inside_the_corpus_is_refused_before_it_becomes_text(tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    write_corpus(tmp_path / "corpus" / "a.txt")
    for spec in ("corpus", "corpus/*.txt", "**/*.txt"):
        with pytest.raises(InputError, match="lies inside the corpus"):
            run(VocabConfig(corpus=(str(tmp_path / spec),), output=str(tmp_path / "corpus" / "v"), size=SIZE))
    assert os.listdir(tmp_path / "corpus") == ["a.txt"]


def test_half_written_files_of_a_killed_run_are_removed(tmp_path: Path) -> None:
    output = tmp_path / "v"
    output.mkdir()
    for name in ("lineage.json.77.tmp", "vocab.txt.78.tmp", "other.tmp"):
        (output / name).write_text("half")
    run(VocabConfig(corpus=(write_corpus(tmp_path / "a.txt"),), output=str(output), size=SIZE))
    assert sorted(contents(output)) == sorted([*FILES, "other.tmp"])


@pytest.mark.parametrize("last", FILES)
def test_killed_after_any_file_the_same_command_makes_it_whole(tmp_path: Path, last: str) -> None:
    config = VocabConfig(corpus=(write_corpus(tmp_path / "a.txt"),), output=str(tmp_path / "v"), size=SIZE)
    run(config)
    whole = contents(tmp_path / "v")
    for name in FILES[FILES.index(last) + 1 :]:
        (tmp_path / "v" / name).unlink()
    run(config)
    assert contents(tmp_path / "v") == whole


def test_what_a_killed_run_left_is_made_whole(tmp_path: Path) -> None:
    config = VocabConfig(corpus=(write_corpus(tmp_path / "a.txt"),), output=str(tmp_path / "v"), size=SIZE)
    run(config)
    whole = contents(tmp_path / "v")
    (tmp_path / "v" / "vocab.txt").unlink()
    (tmp_path / "v" / "tokenizer.json").write_text("{")
    run(config)
    assert contents(tmp_path / "v") == whole


def counts_of_whole_text(text: str, *, cased: bool) -> Counter[str]:
    normalised = BertNormalizer(lowercase=not cased).normalize_str(text)
    words = [word for word, _ in BertPreTokenizer().pre_tokenize_str(normalised)]
    return Counter(word for word in words if len(word) <= 100)


any_text = st.one_of(
    st.text(max_size=300), st.text(st.sampled_from("ab \n.三重\u3400\ufa0e\U0002b820\u0301か"), max_size=60)
)


@given(text=any_text.map(canonical), cased=st.booleans(), piece=st.sampled_from([1, 5, 1 << 20]))
def test_word_counts_are_those_of_bert_on_the_whole_text(text: str, cased: bool, piece: int) -> None:
    with pytest.MonkeyPatch.context() as patch, RawCounts() as raw:
        patch.setattr(word_counts, "_PIECE_CHARACTERS", piece)
        raw.add(text)
        assert bert_words(raw.sorted_items(), cased=cased) == counts_of_whole_text(text, cased=cased)


def test_word_counts_on_disk_or_merged_are_those_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word_counts, "_SLICE_CHARACTERS", 200)
    monkeypatch.setattr(word_counts, "_MERGED_WORDS", 7)
    with RawCounts() as memory, RawCounts(limit=50) as disk, RawCounts(limit=90) as merged:
        for document in DOCUMENTS:
            memory.add(document)
            disk.add(document)
        assert len(disk._runs) > 10
        assert list(disk.sorted_items()) == list(memory.sorted_items())
        for _ in range(2):
            merged.merge(*disk.items())
            merged.merge(*memory.items())
        quadrupled = [(word, 4 * count) for word, count in memory.sorted_items()]
        assert list(merged.sorted_items()) == quadrupled
        folder = disk._folder
    assert folder is not None
    assert not os.path.exists(folder.name)


@pytest.mark.parametrize("there", [True, False])
def test_a_full_temporary_folder_is_one_line_that_names_it_and_tmpdir(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path if there else tmp_path / "gone"))
    monkeypatch.setattr(word_counts, "open", _refuse, raising=False)
    with RawCounts(limit=1) as raw:
        raw.add("one two")
        with pytest.raises(RunFailed, match=f"cannot write {tmp_path}.*TMPDIR") as failed:
            list(raw.sorted_items())
        assert "\n" not in str(failed.value)


def _refuse(*_: Any, **__: Any) -> Any:
    raise OSError(28, "No space left on device")


def test_past_the_limit_the_rarest_words_go_whatever_the_order(tmp_path: Path) -> None:
    found = []
    for documents in (DOCUMENTS, DOCUMENTS[::-1]):
        with RawCounts() as raw:
            for document in documents:
                raw.add(document)
            found.append(bert_words(raw.sorted_items(), cased=False, limit=200))
    assert found[0] == found[1]
    assert len(found[0]) == 200
    assert {"the", "of", "a"} <= set(found[0])


def test_counts_beyond_the_trainers_32_bits_are_scaled() -> None:
    items = [("the", 6_000_000_000), ("cat", 4_000_000_000), ("typo", 3)]
    assert vocab_training.scaled(items, 100) == ([("the", 120_000_000), ("cat", 80_000_000)], 2)
    assert vocab_training.scaled([("the", 60)], 2) == ([("the", 60)], 2)
