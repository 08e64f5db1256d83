"""Finding a corpus's files: folders, globs and URIs, each file once, of the kinds there are."""

import bz2
import gzip
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.corpus import splits
from pipeline.corpus.readers import (
    Document,
    ReadOptions,
    find_splits,
    read_documents,
)

PARAGRAPHS = ReadOptions()

TEXT = pa.string()


def read(*specs: object, options: ReadOptions = PARAGRAPHS) -> list[Document]:
    found = find_splits([str(spec) for spec in specs], options.format)
    return [document for split in found for document in read_documents(split, options)]


def texts(*specs: object, options: ReadOptions = PARAGRAPHS) -> list[str]:
    return [document.text for document in read(*specs, options=options)]


def write_parquet(path: Path, rows: list[str | None], kind: pa.DataType = TEXT, **more: object) -> None:
    pq.write_table(pa.table({"id": list(range(len(rows))), "text": pa.array(rows, kind)}), path, **more)


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


def test_files_without_a_suffix_are_known_by_their_beginning_and_others_reported(tmp_path: Path) -> None:
    article = '<doc id="1" url="?" title="T">\nT\n\nAn article.\n\n</doc>\n'
    (tmp_path / "AA").mkdir()
    (tmp_path / "AA" / "wiki_00").write_text(article)
    (tmp_path / "AA" / "wiki_01.bz2").write_bytes(bz2.compress(article.encode()))
    (tmp_path / "AA" / "wiki_02").write_text('{"id": "1", "text": "A line."}\n')
    (tmp_path / "c4.00000.json.gz").write_bytes(gzip.compress(b'{"text": "A page."}\n'))
    for name in ("LICENSE", "README.md", "info.json", "_SUCCESS"):
        (tmp_path / name).write_text("{\n}" if name == "info.json" else "")
    said: list[str] = []
    found = find_splits([str(tmp_path)], notice=said.append)
    assert [split.kind for split in found] == ["wikiextractor", "wikiextractor", "jsonl", "jsonl"]
    assert texts(tmp_path) == ["An article.", "An article.", "A line.", "A page."]
    assert len(said) == 1
    assert "4 files of unknown kind" in said[0]
    assert "LICENSE" in said[0]
    assert texts(tmp_path / "LICENSE", options=ReadOptions(format="text")) == []
