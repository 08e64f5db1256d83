"""The work folder: on file systems that keep open files, and on full ones."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline.corpus import work_folder
from pipeline.corpus.work_folder import WorkFolder
from pipeline.errors import InputError, RunFailed


@pytest.fixture
def like_nfs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with a file that this process holds open can't be removed."""
    rmtree = shutil.rmtree

    def refusing(path: str, ignore_errors: bool = False) -> None:
        held = [
            target
            for descriptor in os.listdir("/proc/self/fd")
            if (link := Path("/proc/self/fd") / descriptor).is_symlink()
            and (target := os.readlink(link)).startswith(f"{os.path.abspath(path)}/")
        ]
        if not held:
            rmtree(path, ignore_errors=ignore_errors)
        elif not ignore_errors:
            raise OSError(39, "Directory not empty", path)

    monkeypatch.setattr(work_folder.shutil, "rmtree", refusing)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="looks up open files in /proc")
def test_the_work_folder_goes_though_the_file_system_keeps_open_files(like_nfs: None, tmp_path: Path) -> None:
    with WorkFolder(str(tmp_path / "shards")) as work:
        (tmp_path / "shards" / "train-00000.tar").touch()
        work.finish()
        assert os.listdir(tmp_path / "shards") == ["train-00000.tar"]


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="looks up open files in /proc")
@pytest.mark.parametrize("existing", [False, True])
def test_bad_input_leaves_nothing_on_such_a_file_system_either(
    like_nfs: None, tmp_path: Path, existing: bool
) -> None:
    output = tmp_path / "deep" / "down"
    if existing:
        output.mkdir(parents=True)
    with pytest.raises(InputError, match="bad"), WorkFolder(str(output)):
        raise InputError("bad")
    assert output.exists() == existing
    assert not existing or not os.listdir(output)


def test_a_disk_without_room_for_the_lock_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = open

    class Full:
        def __init__(self, file: Any) -> None:
            self._file = file

        def __getattr__(self, name: str) -> Any:
            return getattr(self._file, name)

        def flush(self) -> None:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(work_folder, "open", lambda *a, **k: Full(real(*a, **k)), raising=False)
    with pytest.raises(RunFailed, match=r"cannot write .*lock: No space left on device; free"):
        WorkFolder(str(tmp_path / "shards")).__enter__()
