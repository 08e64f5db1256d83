"""The disk that shards will take is told, and a small one is warned of."""

import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from pipeline.corpus.disk import disk_notice

Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize(("free", "enough"), [(10**12, True), (7 * 10**8, False)])
def test_a_disk_with_little_room_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, enough: bool
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(free, 0, free))
    said = disk_notice(str(tmp_path / "not" / "yet"), 10**9, copies=2, wide=False)
    assert said is not None
    assert said.startswith("about 650 MB of spills, removed as they become 1.3 GB of shards; ")
    assert ("may not be enough" in said) != enough


def test_wide_ids_take_twice_the_room(tmp_path: Path) -> None:
    assert str(disk_notice(str(tmp_path), 10**7, copies=1, wide=True)).startswith("about 13 MB of spills")
    assert disk_notice(str(tmp_path), 10**7, copies=1, wide=False) is None, "little is not worth a line"
