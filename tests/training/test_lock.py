"""The run folder's lock: at most one trains, and the dead lose it."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import InputError, RunFailed
from pipeline.process_identity import this_process
from pipeline.training import lock
from pipeline.training.lock import LOCK, Lease, take

QUICK = Lease(beat=0.05, expiry=0.6, look=0.05, orphans=0.3)
# Where another lives: a stalled disk must not make it look dead, or this process would take over and end when it wakes.
PATIENT = Lease(look=0.05)
_HOLDER = """
import sys, time
from pathlib import Path
from pipeline.training.lock import take
held = take(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def leave_record(run: Path, **changes: Any) -> None:
    """What an owner on another host leaves behind."""
    record = this_process() | {"host": "n7", "boot": "another", "pid": 4711, "since": "noon", "beats": 1}
    text = json.dumps(record | {"time": time.time()} | changes)
    # As owners do, in one write over the last: a file that is empty for a moment would be nobody's.
    file = os.open(run / LOCK, os.O_WRONLY | os.O_CREAT, 0o666)
    os.pwrite(file, text.encode().ljust(1023) + b"\n", 0)
    os.close(file)


def keep_beating(run: Path, ended: threading.Event) -> threading.Thread:
    def beat() -> None:
        beats = 1
        while not ended.wait(0.05):
            beats += 1
            leave_record(run, beats=beats, slurm_job="12")

    thread = threading.Thread(target=beat)
    thread.start()
    return thread


def test_a_second_owner_is_refused_at_once_in_one_line_that_names_the_first(tmp_path: Path) -> None:
    held = take(tmp_path, QUICK)
    with pytest.raises(InputError) as refused:
        take(tmp_path)
    assert "is being trained by another process" in str(refused.value)
    assert f"{os.getpid()} on " in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1
    held.close()


def test_a_folder_that_was_let_go_is_free_on_every_host(tmp_path: Path) -> None:
    take(tmp_path, QUICK).close()
    assert (tmp_path / LOCK).read_bytes() == b""
    take(tmp_path).close()


def test_on_one_host_a_killed_owner_loses_the_folder_without_any_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [sys.executable, "-c", _HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "held\n"
        with pytest.raises(InputError):
            take(tmp_path)
        os.kill(owner.pid, signal.SIGKILL)
        owner.wait()
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it waited"))
    assert json.loads((tmp_path / LOCK).read_text())["pid"] == owner.pid
    take(tmp_path).close()


def test_an_owner_on_another_host_that_gives_signs_of_life_is_alive_whatever_the_local_lock_says(
    tmp_path: Path,
) -> None:
    ended = threading.Event()
    leave_record(tmp_path)
    thread = keep_beating(tmp_path, ended)
    try:
        with pytest.raises(InputError, match=r"another process: 4711 on n7 of SLURM job 12, since noon"):
            take(tmp_path, PATIENT)
    finally:
        ended.set()
        thread.join()


def test_an_owner_on_another_host_that_gives_none_is_waited_for_and_then_dead(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Its clock may run ahead, or behind.
    leave_record(tmp_path, time=time.time() + 1000)
    began = time.monotonic()
    held = take(tmp_path, QUICK)
    assert time.monotonic() - began >= QUICK.expiry
    assert held.is_ours()
    held.close()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{tmp_path} was left by another process: 4711 on n7")


def test_an_owner_that_was_on_another_host_days_ago_is_not_waited_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    leave_record(tmp_path, time=time.time() - 2 * 86400)
    take(tmp_path, QUICK).close()
    assert capsys.readouterr().err == ""


def test_a_job_that_is_started_again_while_its_first_start_lives_on_fails_so_that_it_is_tried_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    ended = threading.Event()
    leave_record(tmp_path, slurm_job="12")
    thread = keep_beating(tmp_path, ended)
    try:
        with pytest.raises(RunFailed, match="SLURM job 12"):
            take(tmp_path, PATIENT)
    finally:
        ended.set()
        thread.join()


def test_a_lock_that_a_server_keeps_for_a_dead_owner_on_another_host_is_given_up_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_record(tmp_path)
    monkeypatch.setattr(lock, "_flock", lambda run, file: False)
    with pytest.raises(RunFailed, match="no sign of life; unmount its disk there"):
        take(tmp_path, QUICK)


def test_of_two_that_wait_for_the_same_owner_to_die_one_gets_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A disk whose locks don't span nodes: each believes it has the lock, and the other is on another host.
    leave_record(tmp_path)
    monkeypatch.setattr(lock, "_flock", lambda run, file: True)
    monkeypatch.setattr(lock, "is_on_this_kernel", lambda record: False)
    identities = iter([{"host": "a", "pid": 1}, {"host": "b", "pid": 2}])
    monkeypatch.setattr(lock, "this_process", lambda: next(identities))
    results: list[Any] = []

    def start() -> None:
        try:
            results.append(take(tmp_path, Lease(beat=60, expiry=0.6, look=0.5)))
        except InputError as error:
            results.append(error)

    threads = [threading.Thread(target=start) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    held = [result for result in results if isinstance(result, lock.RunLock)]
    assert len(held) == 1, results
    assert held[0].is_ours()
    held[0].close()


def test_an_owner_that_slept_past_its_lease_ends_when_another_has_the_folder(tmp_path: Path) -> None:
    code = _HOLDER.replace("take(Path(sys.argv[1]))", "take(Path(sys.argv[1]), Lease(beat=0.05))").replace(
        "import take", "import Lease, take"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as owner:  # type: ignore[call-overload]
        assert owner.stdout.readline() == "held\n"
        until = time.monotonic() + 20
        # Again and again: the owner may be about to write its own sign over the first one.
        while owner.poll() is None and time.monotonic() < until:
            leave_record(tmp_path)
            time.sleep(0.2)
        said = owner.communicate(timeout=20)[1]
    assert owner.returncode == 1
    assert "was taken over by another process" in said


def test_a_record_that_is_none_is_nobodys(tmp_path: Path) -> None:
    for content in (b"", b"{", b"[]", b"\xff\xfe", b'"text"'):
        (tmp_path / LOCK).write_bytes(content)
        take(tmp_path, QUICK).close()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / LOCK).mkdir()
    with pytest.raises(RunFailed, match=str(tmp_path / LOCK)):
        take(tmp_path)
