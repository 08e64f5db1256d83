"""The manifest and its index: what is written is read, older folders too, and nothing that is damaged."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.corpus.manifest import Manifest, read_manifest, write_manifest
from pipeline.corpus.shard_table import ShardTable
from pipeline.corpus.shards import ShardInfo
from pipeline.errors import InputError
from pipeline.lineage import hash_bytes, hash_json
from workshop.shard_folders import make_format_1


def manifest_of(count: int, **more: Any) -> Manifest:
    shards = [
        ShardInfo(
            name=f"{'train' if number < count - 1 else 'val'}-{number:05d}.tar",
            split="train" if number < count - 1 else "validation",
            bytes=10240,
            hash=f"{number:032x}",
            pairs=1025,
            tokens=9000,
            random_next=500,
            block_offsets=(0, 9000),
            block_pairs=(1024, 1),
            block_hashes=("0" * 32, "f" * 32),
        )
        for number in range(count)
    ]
    given: dict[str, Any] = {
        "settings": {"max_seq_length": 128},
        "vocabulary": {"hash": "vé", "size": 30, "cased": False},
        "corpus": {},
        "counts": {},
        "versions": {},
        "shards": ShardTable.of(shards),
    }
    return Manifest(**(given | more))


@pytest.fixture
def written(tmp_path: Path) -> Manifest:
    """The manifest of three shards, as it stands in tmp_path."""
    manifest = manifest_of(3)
    write_manifest(str(tmp_path), manifest)
    return manifest


def test_a_manifest_comes_back_as_it_was_written(written: Manifest, tmp_path: Path) -> None:
    assert read_manifest(str(tmp_path)) == written
    assert read_manifest(f"file://{tmp_path}") == written
    assert (written.pairs("train"), written.pairs("validation"), written.max_seq_length) == (2050, 1025, 128)
    stated = json.loads((tmp_path / "manifest.json").read_text())
    assert (stated["format_version"], stated["shards"]) == (2, 3)
    assert stated["index"]["bytes"] == (tmp_path / "index.arrow").stat().st_size


def test_the_manifest_does_not_grow_with_its_shards(tmp_path: Path) -> None:
    sizes = []
    for count in (2, 2000):
        write_manifest(str(tmp_path), manifest_of(count))
        sizes.append((tmp_path / "manifest.json").stat().st_size)
    assert sizes[1] < sizes[0] + 20


def test_a_folder_of_format_1_is_read_as_the_same_shards(written: Manifest, tmp_path: Path) -> None:
    make_format_1(tmp_path)
    assert not (tmp_path / "index.arrow").exists()
    found = read_manifest(str(tmp_path))
    assert found == replace(written, format_version=1)
    assert found.hash == written.hash
    # Written anew, it is one of today's.
    write_manifest(str(tmp_path), found)
    assert read_manifest(str(tmp_path)) == written


@pytest.mark.parametrize("count", [1, 2, 70_000])
def test_the_identity_is_that_of_the_names_and_hashes(count: int, tmp_path: Path) -> None:
    """Format 1's definition: what was trained on such shards knows them again."""
    manifest = manifest_of(count)
    tars = [[shard.name, shard.hash] for shard in manifest.shards]
    assert manifest.hash == hash_json(["vé", tars])
    write_manifest(str(tmp_path), manifest)
    assert read_manifest(str(tmp_path)).hash == manifest.hash
    assert manifest.hash != replace(manifest, shards=manifest.shards[1:]).hash


def test_no_shards_have_an_identity_too() -> None:
    assert manifest_of(0).hash == hash_json(["vé", []])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"holds no manifest\.json"),
        ("{", "is no JSON"),
        ("[]", "no manifest of bertpipe"),
        ('{"format_version": 99}', "upgrade"),
        ('{"format_version": 1, "shards": [{}]}', "is damaged"),
        ('{"format_version": 2, "shards": 3}', "is damaged"),
        ('{"format_version": 2, "index": {"file": "index.arrow"}}', "is damaged"),
    ],
)
def test_a_folder_without_a_sound_manifest_is_refused(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(InputError, match=message):
        read_manifest(str(tmp_path))
    with pytest.raises(InputError, match="does not exist"):
        read_manifest(str(tmp_path / "nowhere"))


def damage(folder: Path, how: str) -> None:
    path = folder / "index.arrow"
    data = path.read_bytes()
    stated = json.loads((folder / "manifest.json").read_text())
    if how == "gone":
        path.unlink()
    elif how == "a folder":
        path.unlink()
        path.mkdir()
    elif how == "cut":
        path.write_bytes(data[:-1])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "flipped":
        path.write_bytes(data[:1000] + bytes([data[1000] ^ 1]) + data[1001:])
    elif how == "of other shards":
        write_manifest(str(folder), manifest_of(4))
        (folder / "manifest.json").write_text(json.dumps(stated))
    elif how == "miscounted":
        (folder / "manifest.json").write_text(json.dumps(stated | {"shards": 4}))
    elif how == "no index":
        other = b"ARROW1" + bytes(1000)
        path.write_bytes(other)
        stated["index"] |= {"bytes": len(other), "hash": hash_bytes(other)}
        (folder / "manifest.json").write_text(json.dumps(stated))


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("gone", "is missing, its manifest names it"),
        ("a folder", "cannot read"),
        ("cut", r"has \d+ bytes, its manifest says \d+"),
        ("empty", r"has 0 bytes, its manifest says \d+"),
        ("flipped", r"has the hash [0-9a-f]{32}, its manifest says [0-9a-f]{32}"),
        ("of other shards", r"has \d+ bytes, its manifest says"),
        ("miscounted", "lists 3 shards, its manifest says 4"),
        ("no index", "is no index of bertpipe"),
    ],
)
def test_a_damaged_index_is_refused_in_one_line_with_file_and_remedy(
    written: Manifest, tmp_path: Path, how: str, words: str
) -> None:
    damage(tmp_path, how)
    with pytest.raises(InputError, match=words) as refused:
        read_manifest(str(tmp_path))
    assert f"{tmp_path}/index.arrow" in str(refused.value)
    assert "; restore it from its source, or run `bertpipe shard` again" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_copied_folder_is_the_same_shards(written: Manifest, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("index.arrow", "manifest.json"):
        shutil.copy(tmp_path / name, copy / name)
    os.utime(copy / "index.arrow", (0, 0))
    assert read_manifest(str(copy)) == written
