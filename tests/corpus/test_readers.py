"""Readers: the same documents from every form, and an error that names the place for everything else."""

import gzip
import os
import unicodedata
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.corpus import readers, splits
from pipeline.corpus.documents import Fingerprint
from pipeline.corpus.readers import (
    Document,
    ReadOptions,
    document_hash,
    find_splits,
    normalise,
    read_documents,
)
from pipeline.errors import InputError

PARAGRAPHS = ReadOptions()
LINES = ReadOptions(sentences="lines")
TEXT = pa.string()


def read(*specs: object, options: ReadOptions = PARAGRAPHS) -> list[Document]:
    found = find_splits([str(spec) for spec in specs])
    return [document for split in found for document in read_documents(split, options)]


def texts(*specs: object, options: ReadOptions = PARAGRAPHS) -> list[str]:
    return [document.text for document in read(*specs, options=options)]


def write_parquet(path: Path, rows: list[str | None], kind: pa.DataType = TEXT, **more: object) -> None:
    pq.write_table(pa.table({"id": list(range(len(rows))), "text": pa.array(rows, kind)}), path, **more)


line = (
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)
    .map(lambda text: unicodedata.normalize("NFC", " ".join(text.replace("\0", "").split())))
    .filter(lambda text: text.strip() == text != "" and not text.startswith("\ufeff"))
)
corpus = st.lists(st.lists(line, min_size=1, max_size=5), min_size=1, max_size=8)


@given(
    documents=corpus,
    newline=st.sampled_from(["\n", "\r\n", "\r"]),
    bom=st.booleans(),
    block=st.integers(1, 40),
)
def test_documents_come_back_from_every_form(
    tmp_path_factory: pytest.TempPathFactory, documents: list[list[str]], newline: str, bom: bool, block: int
) -> None:
    folder = tmp_path_factory.mktemp("forms")
    text = (newline * 2).join(newline.join(lines) for lines in documents)
    data = (b"\xef\xbb\xbf" if bom else b"") + text.encode()
    (folder / "plain.txt").write_bytes(data)
    (folder / "packed.txt.gz").write_bytes(gzip.compress(data, mtime=0))
    write_parquet(folder / "table.parquet", ["\n".join(lines) for lines in documents], row_group_size=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(readers, "_BLOCK_BYTES", block)
        patch.setattr(readers, "_BATCH_ROWS", 3)
        for name in ("plain.txt", "packed.txt.gz", "table.parquet"):
            assert texts(folder / name) == ["\n".join(lines) for lines in documents]
            assert [
                list(document.sentences or ()) for document in read(folder / name, options=LINES)
            ] == documents


def test_a_blank_line_ends_a_document_and_white_space_alone_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("\n \n one \ntwo\n\t\n\n\nthree\n\n", encoding="utf-8")
    assert read(tmp_path / "a.txt") == [Document(text="one\ntwo"), Document(text="three")]
    lines = read(tmp_path / "a.txt", options=LINES)
    assert [document.sentences for document in lines] == [("one", "two"), ("three",)]


def test_nul_bytes_and_form_feeds_leave_words_apart_and_whole(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"wo\0rd page\x0cnext\x85 e\xcc\x81".replace(b"\x85", b"\xc2\x85"))
    assert texts(tmp_path / "a.txt") == ["word page next  é"]


def test_empty_parquet_rows_come_as_empty_documents_to_be_counted(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", ["one", None, " \n ", "", "two\n\nthree"])
    assert texts(tmp_path / "a.parquet") == ["one", "", "", "", "two\nthree"]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())])
def test_every_kind_of_text_column_is_read(tmp_path: Path, kind: pa.DataType) -> None:
    write_parquet(tmp_path / "a.parquet", ["one", "two", "one"], kind)
    assert texts(tmp_path / "a.parquet") == ["one", "two", "one"]


def test_splits_of_a_large_parquet_file_cover_each_row_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [f"document {index} " + "word " * 50 for index in range(100)]
    write_parquet(tmp_path / "a.parquet", rows, row_group_size=10, use_dictionary=False)
    monkeypatch.setattr(splits, "_SPLIT_BYTES", 6000)
    found = find_splits([str(tmp_path)])
    assert len(found) > 3
    assert [group for split in found for group in range(*split.row_groups)] == list(range(10))
    assert texts(tmp_path) == [row.strip() for row in rows]


def test_files_are_found_in_folders_globs_and_once_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["b.txt", "a.TXT", "deep/er/c.txt.gz", "notes.md", ".hidden.txt", ".cache/d.txt", "_SUCCESS"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        data = name.encode()
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    everything = ["a.TXT", "b.txt", "deep/er/c.txt.gz"]
    assert texts(tmp_path) == everything
    assert texts(tmp_path / "**" / "*") == everything
    assert texts(tmp_path / "*.t*t") == ["b.txt"]
    assert texts(tmp_path / "d*") == ["deep/er/c.txt.gz"]
    assert texts(tmp_path / ".hidden.txt") == [".hidden.txt"]
    os.symlink(tmp_path / "b.txt", tmp_path / "z.txt")
    assert texts(tmp_path / "b.txt", tmp_path, tmp_path / "deep" / ".." / "b.txt") == everything
    monkeypatch.chdir(tmp_path)
    assert find_splits(["deep", "b.txt"]) == find_splits(["b.txt", "deep", "deep/**/*.gz"])


@pytest.mark.parametrize("spec", [".", "./", "./x", "x", "x//y", "../{}", "link", ".dot/../x"])
def test_a_folder_holds_the_same_files_however_it_is_spelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str
) -> None:
    for name in ("x/y/a.txt", "x/y/b.txt", "x/y/.hidden.txt", "x/y/.cache/c.txt", ".dot/d.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(Path(name).name)
    (tmp_path / "link").symlink_to("x")
    monkeypatch.chdir(tmp_path)
    assert [document.text for document in read(spec.format(tmp_path.name))] == ["a.txt", "b.txt"]


def test_uris_with_spaces_are_found_by_folder_and_glob(tmp_path: Path) -> None:
    (tmp_path / "my texts").mkdir()
    (tmp_path / "my texts" / "größe 1.txt").write_text("one")
    for spec in ("my%20texts", "my%20texts/*.txt", "**/gr*.txt", "my%20texts/gr%C3%B6%C3%9Fe%201.txt"):
        assert texts(f"{tmp_path.as_uri()}/{spec}") == ["one"]


def test_uris_are_found_as_paths_are(tmp_path: Path) -> None:
    for name in ("a.txt", "deep/b.txt", "deep/.c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    root = tmp_path.as_uri()
    assert texts(root) == ["a.txt", "deep/b.txt"]
    assert texts(f"{root}/deep/b.txt") == ["deep/b.txt"]
    assert texts(f"{root}/*.txt") == ["a.txt"]
    assert texts(f"{root}/**/[ab].txt") == ["a.txt", "deep/b.txt"]


def bad_inputs(folder: Path) -> dict[str, tuple[str, list[str]]]:
    """Name → what to read, and what the error must say."""
    (folder / "empty").mkdir()
    (folder / "notes.md").write_text("x")
    (folder / "late.txt").write_bytes(b"fine\r\nfine\n\ncaf\xe9\n")
    (folder / "marked.txt").write_bytes(b"\xef\xbb\xbffine\n\xff")
    packed = gzip.compress(os.urandom(5000).hex().encode())
    (folder / "cut.txt.gz").write_bytes(packed[:2000])
    (folder / "none.txt.gz").write_bytes(b"")
    (folder / "plain.txt.gz").write_text("not packed")
    (folder / "garbled.txt.gz").write_bytes(packed[:500] + bytes(50) + packed[550:])
    (folder / "false.parquet").write_text("no table")
    write_parquet(folder / "good.parquet", ["one"])
    data = (folder / "good.parquet").read_bytes()
    (folder / "cut.parquet").write_bytes(data[: len(data) // 2])
    write_parquet(folder / "bytes.parquet", [b"one", b"\xff"], pa.binary())  # type: ignore[list-item]
    raw = pa.array([b"one", b"\xff"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": raw}), folder / "latin.parquet")
    return {
        "missing": ("missing.txt", ["missing.txt", "does not exist"]),
        "empty folder": ("empty", ["empty", ".txt.gz", ".parquet"]),
        "empty glob": ("*.nope", ["*.nope", "matches nothing"]),
        "glob without text": ("*.md", ["*.md", ".parquet"]),
        "unknown suffix": ("notes.md", ["notes.md", ".txt, .txt.gz, .parquet"]),
        "no UTF-8": ("late.txt", ["late.txt", "line 4", "0xe9", "iconv"]),
        "no UTF-8 after a mark": ("marked.txt", ["line 2", "0xff"]),
        "truncated gzip": ("cut.txt.gz", ["cut.txt.gz", "ends too early"]),
        "gzip of no bytes": ("none.txt.gz", ["none.txt.gz", "ends too early"]),
        "no gzip": ("plain.txt.gz", ["plain.txt.gz", "damaged"]),
        "garbled gzip": ("garbled.txt.gz", ["garbled.txt.gz", "damaged"]),
        "no Parquet": ("false.parquet", ["false.parquet", "no whole Parquet file"]),
        "truncated Parquet": ("cut.parquet", ["cut.parquet", "no whole Parquet file"]),
        "column of bytes": ("bytes.parquet", ["'text' holds binary", "none", "--text-column"]),
        "Parquet, no UTF-8": ("latin.parquet", ["row 2", "'text'"]),
    }


def test_bad_input_is_one_line_that_names_value_and_remedy(tmp_path: Path) -> None:
    for name, (spec, expected) in bad_inputs(tmp_path).items():
        with pytest.raises(InputError) as caught:
            read(tmp_path / spec)
        message = str(caught.value)
        assert "\n" not in message, name
        assert all(part in message for part in expected), (name, message)


def test_a_missing_column_names_those_there_are(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", ["one"])
    with pytest.raises(InputError, match="no column 'body'; its columns are id, text"):
        read(tmp_path, options=ReadOptions(text_column="body"))
    with pytest.raises(InputError, match="'id' holds int64, not text; columns of text: text"):
        read(tmp_path, options=ReadOptions(text_column="id"))


def test_unknown_sentences_and_no_corpus_are_refused() -> None:
    with pytest.raises(InputError, match="'words'"):
        ReadOptions(sentences="words")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no corpus given"):
        find_splits([])


def test_hash_sees_content_not_spelling() -> None:
    assert document_hash("caf\u00e9\n one") == document_hash("cafe\u0301 \t one ")
    assert document_hash("one two") != document_hash("onetwo")
    assert all(0 <= half < 1 << 64 for half in document_hash("x"))


def test_fingerprint_is_of_the_documents_in_any_order() -> None:
    def of(documents: list[str]) -> dict[str, object]:
        fingerprint = Fingerprint()
        for document in documents:
            fingerprint.add(document)
        return fingerprint.as_dict()

    first, second = Fingerprint(), Fingerprint()
    first.add("one")
    second.add("zwölf")
    first.merge(second)
    assert of(["one", "zwölf"]) == of(["zwölf", "one"]) == first.as_dict()
    assert of(["one", "one"])["fingerprint"] not in (of([])["fingerprint"], of(["one"])["fingerprint"])
    assert first.as_dict()["bytes"] == 9


def test_the_shared_corpus_has_the_same_documents_and_words_as_text_and_as_parquet(shared_data: Path) -> None:
    """Its text form leaves out sentences of under 10 characters, so the hashes are not the same."""
    english = shared_data / "english"
    whole = read(english / "parquet" / "part-000.parquet")
    lines = read(english / "text" / "part-000.txt.gz", options=LINES)
    assert len(whole) == len(lines)
    for as_row, as_lines in zip(whole, lines, strict=True):
        words = iter(normalise(as_row.text).split())
        missing = [word for word in normalise(as_lines.text).split() if word not in words]
        assert not missing, "words of the text form stand in the row, in the same order"
