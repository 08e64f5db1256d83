"""Bundles: small files together, large ones apart, and nothing lost or changed places."""

import os
from itertools import chain, pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.corpus.bundles import gather_bundles
from pipeline.corpus.pieces import piece_bytes
from pipeline.corpus.readers import Split
from pipeline.corpus.sources import Source, SourceBundle, bundle_sources, find_sources

KIB = 1 << 10


def split_of(size: int, name: object = "") -> Split:
    return Split(path=f"{name}.txt", kind="text", bytes=size)


def bundles_of(folder: Path, piece: int) -> list[SourceBundle]:
    return bundle_sources(find_sources([Source(corpus=(str(folder),))]), piece)


@given(
    sizes=st.lists(st.integers(0, 300).map(lambda kibibytes: kibibytes * KIB)),
    piece=st.integers(1, 400 * KIB),
)
def test_bundles_hold_each_split_once_in_order_and_are_no_larger_than_a_piece(
    sizes: list[int], piece: int
) -> None:
    splits = [split_of(size, index) for index, size in enumerate(sizes)]
    bundles = gather_bundles(splits, piece)
    assert list(chain.from_iterable(bundles)) == splits
    weights = [sum(max(16 * KIB, split.bytes) for split in bundle) for bundle in bundles]
    assert all(weight <= piece or len(bundle) == 1 for weight, bundle in zip(weights, bundles, strict=True))
    assert all(first + second > piece for first, second in pairwise(weights)), "no two that would fit in one"


def test_a_hundred_thousand_small_files_are_some_hundred_bundles() -> None:
    for size in (0, 100, 10 * KIB, 100 * KIB):
        bundles = gather_bundles([split_of(size)] * 100_000, piece_bytes(size * 100_000))
        assert 200 < len(bundles) < 600
    assert len(gather_bundles([split_of(8 << 20)] * 10, 4 << 20)) == 10


@pytest.fixture
def spills(tmp_path: Path) -> object:
    for index in range(40):
        (tmp_path / f"{index:02d}.txt").write_text(f"{index} " * (8000 + 1000 * (index % 7)))

    def named() -> dict[str, list[str]]:
        """The names of spills, and of the files in each."""
        return {
            each.stem: [os.path.basename(split.path) for split in each.bundle]
            for each in bundles_of(tmp_path, 150 * KIB)
        }

    return named


def test_a_changed_file_has_its_bundle_alone_made_anew(spills: object, tmp_path: Path) -> None:
    assert callable(spills)
    before = spills()
    assert len(before) > 5
    assert spills() == before
    with open(tmp_path / "17.txt", "a") as file:
        file.write("more")
    after = spills()
    (gone,) = before.keys() - after.keys()
    (new,) = after.keys() - before.keys()
    assert before[gone] == after[new]
    assert "17.txt" in after[new]


def test_equal_bundles_have_names_of_their_own(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.txt").write_text("the same")
        os.utime(tmp_path / f"{name}.txt", (1, 1))
    first, second = (each.stem for each in bundles_of(tmp_path, 1))
    assert first[:-1] == second[:-1]
    assert first != second


def test_pieces_of_a_file_have_names_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("one\n\ntwo\n\n" * 100)
    monkeypatch.setattr("pipeline.corpus.splits.piece_bytes", lambda corpus_bytes: 100)
    bundles = bundles_of(tmp_path, 1)
    assert len({each.stem for each in bundles}) == len(bundles) == 10
