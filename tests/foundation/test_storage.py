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
