"""`bertpipe shard` killed, starved and disturbed: the same command continues to the same bytes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from pipeline import storage
from pipeline.corpus.executor import open_executor, run_tasks
from pipeline.corpus.manifest import Manifest, read_manifest
from pipeline.corpus.work_folder import WorkFolder
from pipeline.errors import InputError, RunFailed
from workshop.folders import contents

ROOT = Path(__file__).resolve().parents[2]


def in_a_child(work: Callable[[], object]) -> int:
    """Run `work` in a forked child; returns how it ended: 0, 1 after an exception, or minus the signal."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except RunFailed:
            os._exit(3)
        except BaseException:
            os._exit(1)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    pytest.fail("the child hangs")


def test_killed_at_any_write_the_same_command_continues_to_the_same_bytes(
    shard: Callable[..., Manifest], expected: dict[str, bytes], tmp_path: Path
) -> None:
    """`kill -9` before, in the middle of and after each of the files that the stage writes."""
    output = tmp_path / "shards"
    whole = storage.write_whole
    deaths = 0

    def killed_at(write: int, moment: str) -> Callable[[], object]:
        def work() -> object:
            writes = 0

            def write_whole(path: str, fill: Callable[[Any], None]) -> None:
                nonlocal writes
                writes += 1

                def fill_and_die(stream: Any) -> None:
                    fill(stream)
                    stream.flush()
                    os.kill(os.getpid(), signal.SIGKILL)

                if writes == write and moment == "before":
                    os.kill(os.getpid(), signal.SIGKILL)
                whole(path, fill_and_die if writes == write and moment == "inside" else fill)
                if writes == write:
                    os.kill(os.getpid(), signal.SIGKILL)

            storage.write_whole = write_whole  # this is the forked child, which ends here
            return shard()

        return work

    # Each run gets a little further than the one before, so every file is the last one some time.
    for write, moment in list(product((1, 2, 3), ("before", "inside", "after"))) * 10:
        ended = in_a_child(killed_at(write, moment))
        if ended == 0:
            break
        assert ended == -signal.SIGKILL
        deaths += 1
    else:
        pytest.fail("the stage makes no headway")
    assert deaths > 10
    assert contents(output) == expected


def test_killed_with_its_workers_at_work_the_same_command_continues_to_the_same_bytes(
    shard: Callable[..., Manifest],
    expected: dict[str, bytes],
    corpus: Path,
    word_vocabulary: str,
    tmp_path: Path,
) -> None:
    output = tmp_path / "shards"
    for mark, number in (("spill-*.arrow", signal.SIGKILL), ("train-*.json", signal.SIGINT)):
        script = tmp_path / "shard.py"
        script.write_text(
            "from pipeline.corpus.readers import ReadOptions\n"
            "from pipeline.corpus.sharding import ShardConfig, run\n"
            "if __name__ == '__main__':\n"
            f"    run(ShardConfig(corpus=({str(corpus)!r},), output={str(output)!r}, vocab={word_vocabulary!r},\n"
            "        max_seq_length=64, shards=3, workers=2, read=ReadOptions(sentences='lines')))\n"
        )
        process = subprocess.Popen(
            [sys.executable, str(script)], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        while process.poll() is None and not list((output / ".work").glob(mark)):
            time.sleep(0.002)
        process.send_signal(number)
        process.communicate(timeout=20)
        assert process.returncode == -number or process.returncode in (0, 130)
        deadline = time.monotonic() + 10
        while _session(process.pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not _session(process.pid), "workers outlive the command"
    shard()
    assert contents(output) == expected


def _session(leader: int) -> list[int]:
    """Living processes of the session that `leader` began."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == leader and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def test_a_full_disk_is_one_line_and_a_rerun_continues(
    shard: Callable[..., Manifest], expected: dict[str, bytes], tmp_path: Path
) -> None:
    import resource

    def with_little_room() -> object:
        resource.setrlimit(resource.RLIMIT_FSIZE, (45_000, 45_000))  # spills pass, tars don't
        return shard()

    assert in_a_child(with_little_room) == 3
    assert (tmp_path / "shards" / ".work").is_dir()
    assert not list((tmp_path / "shards").rglob("*.tmp"))
    shard()
    assert contents(tmp_path / "shards") == expected


def interrupted(shard: Callable[..., Manifest], at: str = "manifest.json", **changed: Any) -> None:
    """Leave an unfinished folder: killed at the first file whose name ends so; at the last one of all."""

    def work() -> object:
        storage_write = storage.write_whole

        def write_whole(path: str, fill: Callable[[Any], None]) -> None:
            if path.endswith(at):
                os.kill(os.getpid(), signal.SIGKILL)
            storage_write(path, fill)

        storage.write_whole = write_whole
        return shard(**changed)

    assert in_a_child(work) == -signal.SIGKILL


def test_an_index_without_its_manifest_is_no_folder_of_shards_and_is_written_anew(
    shard: Callable[..., Manifest], expected: dict[str, bytes], tmp_path: Path
) -> None:
    interrupted(shard)
    index = tmp_path / "shards" / "index.arrow"
    assert index.read_bytes() == expected["index.arrow"]
    with pytest.raises(InputError, match="finish it by running its `bertpipe shard` again"):
        read_manifest(str(tmp_path / "shards"))
    index.write_bytes(b"of an attempt on another corpus")
    shard()
    assert contents(tmp_path / "shards") == expected


def test_an_unfinished_folder_refuses_other_settings_and_takes_changed_files_anew(
    shard: Callable[..., Manifest],
    corpus: Path,
    make_documents: Any,
    write_text: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for path in corpus.iterdir():
        (tmp_path / "copy").mkdir(exist_ok=True)
        (tmp_path / "copy" / path.name).write_bytes(path.read_bytes())
    copy = (str(tmp_path / "copy"),)
    interrupted(shard, ".tar", corpus=copy)
    with pytest.raises(InputError, match=r"unfinished.*max_seq_length: 32 here, 64 there"):
        shard(corpus=copy, max_seq_length=32)
    write_text(tmp_path / "copy" / "part-1.txt", make_documents(60, seed=77))
    continued = shard(corpus=copy)
    assert "continuing: 3 of 4 bundles are tokenised already" in capsys.readouterr().err
    fresh = shard(corpus=copy, output=str(tmp_path / "fresh"))
    assert continued == fresh


def test_a_spill_cut_short_is_made_anew(
    shard: Callable[..., Manifest], expected: dict[str, bytes], tmp_path: Path
) -> None:
    interrupted(shard, ".tar")
    spill = next((tmp_path / "shards" / ".work").glob("*.arrow"))
    spill.write_bytes(spill.read_bytes()[:1000])
    shard()
    assert contents(tmp_path / "shards") == expected


def test_two_commands_never_write_one_folder(shard: Callable[..., Manifest], tmp_path: Path) -> None:
    with (
        WorkFolder(str(tmp_path / "shards")),
        pytest.raises(RunFailed, match=f"another bertpipe shard \\(process {os.getpid()}\\)"),
    ):
        shard()
    shard()  # the first one has let go


def test_a_worker_that_dies_is_one_line_with_the_remedy() -> None:
    began = time.monotonic()
    with pytest.raises(RunFailed, match="run the same command again"), open_executor(2) as executor:
        list(run_tasks(executor, os._exit, [9, 9, 9], workers=2))
    assert time.monotonic() - began < 30
