"""Finding a corpus's files: folders, globs and URIs, each file once, of the kinds there are."""

import bz2
import glob
import gzip
import os
from pathlib import Path

import pytest

from pipeline import storage
from pipeline.corpus import globs, splits
from pipeline.corpus.readers import (
    ReadOptions,
    find_splits,
)
from pipeline.errors import InputError
from workshop.reading import read, texts, write_parquet


def test_splits_of_a_large_parquet_file_cover_each_row_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [f"document {index} " + "word " * 50 for index in range(100)]
    write_parquet(tmp_path / "a.parquet", rows, row_group_size=10, use_dictionary=False)
    monkeypatch.setattr(splits, "piece_bytes", lambda corpus_bytes: 6000)
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


NAMES = [
    "a.txt", "b.txt", "[c].txt", "d*.txt", ".h.txt", "x/a.txt", "x/.h.txt", "x/y/b.txt", ".dot/a.txt", "x/.dot/z/b.txt",
]  # fmt: skip
PATTERNS = [
    "*", "*.txt", "[!a].txt", "[^a].txt", "[a-b].txt", "[b-a].txt", "[[]c[]].txt", "d[*].txt", ".*", ".*.txt", "x/*",
    "x*", "*/", "*/*.txt", "**", "**/", "**/*", "**/*.txt", "**/b.txt", "x/**/b.txt", "**/y/**", "**/y", "**/**/a.txt",
    "**/.dot/*", "**/.dot/**/b.txt", ".dot/*", "**/.h.txt", "**.txt", "*/y/../a.txt", "[!x]/*", "none*",
]  # fmt: skip


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_match_what_the_librarys_do_for_paths_and_uris_alike(tmp_path: Path, pattern: str) -> None:
    """A folder that matches stands for the files in it, without the hidden ones, hence the second step."""
    for name in NAMES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    expected = set()
    for match in glob.glob(f"{tmp_path}/{pattern}", recursive=True):
        inside = storage.list_files(match, hidden=False) if os.path.isdir(match) else [match]
        expected.update(os.path.realpath(each) for each in inside)
    found = globs.matched_files(f"{tmp_path}/{pattern}")
    assert {os.path.realpath(path) for path in found} == expected
    assert len(found) == len(expected) or ".." in pattern
    if ".." not in pattern:  # a URI has no such place
        uris = globs.matched_files(f"{tmp_path.as_uri()}/{pattern}")
        assert {storage.local_path(uri) for uri in uris} == expected


def test_an_escaped_wildcard_in_a_uri_is_part_of_a_name(tmp_path: Path) -> None:
    for name in ("d*.txt", "de.txt"):
        (tmp_path / name).write_text(name)
    assert texts(f"{tmp_path.as_uri()}/[d]%2A.txt") == ["d*.txt"]


def test_patterns_are_spelled_as_they_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "a.txt").touch()
    monkeypatch.chdir(tmp_path)
    for pattern, path in {
        "**": "x/a.txt",
        "*/*": "x/a.txt",
        "./**/a*": "./x/a.txt",
        "x/*": "x/a.txt",
    }.items():
        assert globs.matched_files(pattern) == [path]


def test_links_in_a_circle_are_followed_once_for_each_part_of_a_pattern(tmp_path: Path) -> None:
    """The library's glob goes on for 2 ** 40 folders here."""
    (tmp_path / "data" / "2024").mkdir(parents=True)
    (tmp_path / "data" / "2024" / "a.txt").touch()
    (tmp_path / "data" / "latest").symlink_to("2024")
    for name in ("up", "also"):
        (tmp_path / "data" / name).symlink_to(tmp_path / "data")
    assert len(find_splits([str(tmp_path / "**" / "*.txt")])) == 1
    (found,) = globs.matched_files(str(tmp_path / "data" / "latest" / "**" / "*.txt"))
    assert found.endswith("latest/a.txt")
    assert globs.matched_files(str(tmp_path / "**" / "latest" / "*.txt")), "by whichever name a folder has"


@pytest.mark.parametrize("spec", ["s3://bucket/part-?.txt", "file:///tmp/a?b/*.txt"])
def test_a_question_mark_in_a_uri_that_opens_no_options_is_refused(spec: str) -> None:
    with pytest.raises(InputError, match=r"options, name=value; write \* or \[0-9\].*%3F"):
        find_splits([spec])
    with pytest.raises(InputError, match="bucket's or host's name"):
        find_splits(["s3://buck*/a.txt"])


def test_a_file_named_as_path_and_as_uri_is_one(tmp_path: Path) -> None:
    (tmp_path / "a b.txt").write_text("one")
    specs = [str(tmp_path), tmp_path.as_uri(), f"{tmp_path.as_uri()}/*.txt", (tmp_path / "a b.txt").as_uri()]
    assert len(find_splits(specs)) == 1
    assert find_splits(specs) == find_splits(specs[::-1])


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
