"""Files appear whole or not at all, on local disks and behind URIs alike."""

import os
from pathlib import Path
from typing import IO

import pytest

from pipeline import storage
from pipeline.errors import InputError, RunFailed


@pytest.fixture(params=["plain", "uri"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder named as a path, and the same as a URI that goes through pyarrow."""
    return str(tmp_path) if request.param == "plain" else f"file://{tmp_path}"


def test_what_is_written_is_read(folder: str) -> None:
    path = storage.join(folder, "a.json")
    storage.write_json(path, {"words": ["Straße", "北京"]})
    assert storage.read_json(path) == {"words": ["Straße", "北京"]}
    assert storage.exists(path)
    assert not storage.is_folder(path)
    assert storage.is_folder(folder)
    with storage.open_read(path) as stream:
        assert len(stream.read()) == storage.size(path)


def test_listing_is_deep_sorted_and_spelled_like_the_folder(folder: str) -> None:
    storage.make_folder(storage.join(folder, "deep", "er"))
    for name in ("b", "a", "deep/er/c"):
        storage.write_text(storage.join(folder, name), name)
    assert storage.list_files(folder) == [storage.join(folder, name) for name in ("a", "b", "deep/er/c")]


@pytest.mark.parametrize("spelling", [".", "./", "./deep", "deep//er", "deep/", "../{}/deep", "link"])
def test_a_listing_keeps_the_folders_spelling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spelling: str
) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "deep" / "er" / "c").touch()
    (tmp_path / "link").symlink_to("deep")
    monkeypatch.chdir(tmp_path)
    folder = spelling.format(tmp_path.name)
    found = storage.list_files(folder)
    assert [os.path.realpath(path) for path in found] == [str(tmp_path / "deep" / "er" / "c")]
    assert found[0].startswith(folder)


def test_linked_folders_are_followed_once_and_never_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "up").symlink_to(tmp_path / "in")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a").touch()
    for name in ("one", "two"):
        (tmp_path / "in" / name).symlink_to(tmp_path / "out")
    assert storage.list_files(str(tmp_path / "in")) == [str(tmp_path / "in" / "one" / "a")]


def test_links_to_what_is_gone_are_listed_for_the_reader_to_stumble_over(folder: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).symlink_to(tmp_path / "gone" / name)
    (tmp_path / "b").unlink()
    os.mkfifo(tmp_path / "c")
    assert storage.list_files(folder) == [storage.join(folder, "a")]
    assert not storage.is_file(storage.join(folder, "a"))
    assert not storage.is_file(storage.join(folder, "c"))
    assert not storage.is_file(folder)


def test_a_file_uri_is_a_path_and_others_are_none() -> None:
    assert storage.local_path("file:///a/b%20c") == "/a/b c"
    assert storage.local_path("a/b%20c") == "a/b%20c"
    assert storage.local_path("s3://bucket/a") is None


def test_a_name_that_is_no_utf8_is_refused() -> None:
    with pytest.raises(InputError, match=r"'caf\\udce9' is no UTF-8"):
        storage.check_name(os.fsdecode(b"caf\xe9"))
    storage.check_name("café")


def test_hidden_files_are_left_out_by_their_names_below_the_folder(tmp_path: Path, folder: str) -> None:
    for name in (".home/a", ".home/.b", ".home/.c/d", ".home/e/f"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    home = storage.join(folder, ".home")
    assert storage.list_files(home, hidden=False) == [storage.join(home, name) for name in ("a", "e/f")]
    assert len(storage.list_files(home)) == 4


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "locked").mkdir()
    scan = os.scandir

    def refusing(path: str) -> object:  # the mode alone doesn't stop root
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    monkeypatch.setattr(os, "scandir", refusing)
    with pytest.raises(
        InputError, match=f"cannot read the folder {tmp_path}/locked: Permission denied; make"
    ):
        storage.list_files(str(tmp_path))


def test_uris_keep_their_escapes_and_options(tmp_path: Path) -> None:
    (tmp_path / "a b%").mkdir()
    (tmp_path / "a b%" / "ü.txt").write_text("x")
    folder = f"file://{tmp_path}/a%20b%25"
    assert storage.list_files(folder) == [f"{folder}/%C3%BC.txt"]
    assert storage.size(storage.list_files(folder)[0]) == 1
    assert storage.join("s3://bucket/a?region=x", "b") == "s3://bucket/a/b?region=x"
    assert storage.last_name("s3://bucket/a.txt?region=x") == "a.txt"
    assert storage.last_name("really?.txt") == "really?.txt"
    for uri, inner, expected in (
        ("s3://key:secret@bucket/x?region=y", "bucket/x/a b", "s3://key:secret@bucket/x/a%20b?region=y"),
        ("gs://bucket", "bucket/a", "gs://bucket/a"),
        ("hdfs://host:8020/x", "/x/a", "hdfs://host:8020/x/a"),
    ):
        assert storage._respell(uri, inner) == expected


def test_an_empty_folder_name_is_refused() -> None:
    with pytest.raises(InputError, match="empty"):
        storage.join("", "vocab.txt")


def test_what_killed_writers_left_beside_a_file_is_removed_and_nothing_else(
    folder: str, tmp_path: Path
) -> None:
    for name in ("a.txt.12.tmp", "a.txt", "b.txt.12.tmp"):
        (tmp_path / name).touch()
    storage.remove_temporaries(storage.join(folder, "a.txt"))
    assert sorted(os.listdir(tmp_path)) == ["a.txt", "b.txt.12.tmp"]


def test_a_write_that_fails_leaves_the_old_file_and_no_other(folder: str, tmp_path: Path) -> None:
    path = storage.join(folder, "kept.txt")
    storage.write_text(path, "old")

    def half(stream: IO[bytes]) -> None:
        stream.write(b"new and lo")
        raise ValueError("cut short")

    with pytest.raises(ValueError, match="cut short"):
        storage.write_whole(path, half)
    assert os.listdir(tmp_path) == ["kept.txt"]
    assert (tmp_path / "kept.txt").read_text() == "old"


def test_a_disk_that_refuses_is_named(tmp_path: Path) -> None:
    path = str(tmp_path / "missing" / "file")
    with pytest.raises(RunFailed, match=f"cannot write {path}"):
        storage.write_text(path, "x")


@pytest.mark.parametrize(("content", "complaint"), [(None, "does not exist"), ("{", "is no JSON")])
def test_json_that_cannot_be_read_is_named(tmp_path: Path, content: str | None, complaint: str) -> None:
    path = tmp_path / "x.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=complaint):
        storage.read_json(str(path))


def test_an_unknown_scheme_names_the_known_ones() -> None:
    with pytest.raises(InputError, match="s3"):
        storage.exists("ftp://host/file")


def test_hashes_of_files_follow_their_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 3_000_000)
    (tmp_path / "b").write_bytes(b"x" * 3_000_000)
    (tmp_path / "c").write_bytes(b"x" * 2_999_999 + b"y")
    first, second, third = (storage.hash_file(str(tmp_path / name)) for name in "abc")
    assert first == second != third
