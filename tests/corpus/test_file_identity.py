"""The corpus's files as an identity, and outputs that would become part of it."""

import os
from pathlib import Path

import pytest

from pipeline import storage
from pipeline.corpus import file_identity
from pipeline.corpus.file_identity import bundle_identity, describe, look_at, refuse_overlap
from pipeline.corpus.splits import Split, find_splits
from pipeline.errors import InputError

MIB = 1 << 20


def sample(path: Path) -> object:
    return describe(look_at([Split(path=str(path), kind="text", bytes=0)]))["sample"]


@pytest.mark.parametrize("place", [0, 75 * MIB, 64 * MIB + 7, 149 * MIB + 500_000, 150 * MIB - 1])
def test_a_change_at_either_end_in_the_middle_or_at_a_stride_is_seen(tmp_path: Path, place: int) -> None:
    path = tmp_path / "large.txt"
    with open(path, "wb") as file:
        file.truncate(150 * MIB)  # a hole: it takes no disk
    before = sample(path)
    assert sample(path) == before
    with open(path, "r+b") as file:
        file.seek(place)
        file.write(b"x")
    assert sample(path) != before


@pytest.mark.parametrize("size", [0, 1, MIB, MIB + 1, 3 * MIB, 200 * MIB])
def test_samples_cover_both_ends(size: int) -> None:
    starts = file_identity._sampled(size)
    assert starts[0] == 0
    assert starts[-1] + MIB >= size
    assert starts == sorted(set(starts))
    assert len(starts) <= 3 + size // (64 * MIB)


def test_each_file_is_sampled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text(name)
    opened: list[str] = []
    open_read = storage.open_read

    def counted(path: str) -> object:
        opened.append(path)
        return open_read(path)

    monkeypatch.setattr(storage, "open_read", counted)
    splits = find_splits([str(tmp_path)])
    found = look_at(splits)
    assert describe(found)["files"] == len({bundle_identity((split,), found) for split in splits}) == 3
    assert sorted(opened) == [str(tmp_path / f"{name}.txt") for name in "abc"]


@pytest.mark.parametrize(
    ("spec", "output", "refused"),
    [
        ("corpus", "corpus/out", True),
        ("corpus", "corpus", True),
        ("./corpus/", "link/out", True),
        ("corpus/*.txt", "corpus/out", True),
        ("corpus/d*/*.txt", "corpus/out", True),
        ("*.txt", "out", True),
        ("corpus/**", "corpus/deep/out", True),
        ("corpus", "corpus-2", False),
        ("corpus/*.txt", "out", False),
        ("corpus/a.txt", "corpus/out", False),
        ("corpus", "s3://bucket/corpus", False),
        ("corpus", "file://{here}/corpus/out", True),
        ("file://{here}/corpus", "corpus/out", True),
        ("file://{here}/corpus", "out", False),
        ("s3://bucket/x/*.txt?region=y", "s3://bucket/x/out", True),
        ("s3://bucket/x/*.txt?region=y", "s3://bucket/y", False),
        ("s3://bucket/x/*.txt", "out", False),
    ],
)
def test_an_output_where_the_corpus_is_looked_for_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str, output: str, refused: bool
) -> None:
    (tmp_path / "corpus" / "deep").mkdir(parents=True)
    (tmp_path / "corpus" / "a.txt").write_text("a")
    os.symlink("corpus", tmp_path / "link")
    monkeypatch.chdir(tmp_path)
    spec, output = spec.format(here=tmp_path), output.format(here=tmp_path)
    if refused:
        with pytest.raises(InputError, match=r"lies inside the corpus .* name a folder outside"):
            refuse_overlap(["corpus/a.txt", spec], output)
    else:
        refuse_overlap([spec], output)
