"""DataLoader workers that live, fail, are killed, and end with their trainer."""

import gc
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.batches import block_source
from pipeline.batches.special_ids import SpecialIds
from pipeline.corpus.manifest import read_manifest
from pipeline.errors import RunFailed
from workshop.micro_batches import by_all_readers
from workshop.small_loader import LENGTH, loader, same, steps


@pytest.mark.parametrize(("workers", "chunk_tokens"), [(1, 1 << 16), (2, 256)])
def test_workers_hand_over_what_is_made_in_process_byte_for_byte(
    shards: Any, special: SpecialIds, monkeypatch: pytest.MonkeyPatch, workers: int, chunk_tokens: int
) -> None:
    monkeypatch.setattr("pipeline.batches.assembly._CHUNK_TOKENS", chunk_tokens)
    made = loader(shards, special, micro_batch=3, workers=workers, start_step=50)
    assert made.share.readers == workers
    assert made._assembly.chunks_a_step == (1 if workers == 1 else 4)
    before = torch.random.get_rng_state()
    for step in steps(made, 12):
        expected = by_all_readers(
            loader(shards, special, micro_batch=3, workers=workers, start_step=step.step), step.step
        )
        assert len(expected) == len(step.micro_batches) == 16
        assert all(map(same, step.micro_batches, expected))
    assert torch.equal(before, torch.random.get_rng_state()), "the trainer's random numbers were touched"


def test_one_worker_makes_what_none_makes(shards: Any, special: SpecialIds) -> None:
    ours = steps(loader(shards, special), 8)
    theirs = steps(loader(shards, special, workers=1, stop_step=8), 100)
    assert len(theirs) == 8
    for one, other in zip(ours, theirs, strict=True):
        assert one.masked == other.masked
        assert all(map(same, one.micro_batches, other.micro_batches))


def test_a_killed_worker_is_one_clear_error_and_a_new_loader_goes_on(
    shards: Any, special: SpecialIds
) -> None:
    expected = steps(loader(shards, special, workers=2), 6)
    made = loader(shards, special, workers=2)
    running = iter(made)
    done = [next(running), next(running)]
    time.sleep(0.3)  # until the workers have filled their slots and wait
    victims = made.worker_processes
    assert len(victims) == 2
    os.kill(victims[0], signal.SIGKILL)
    with pytest.raises(RunFailed, match=r"worker was killed .*continues from the last checkpoint") as failure:
        done += list(islice(running, 200))
    assert "\n" not in str(failure.value)
    assert not made.worker_processes
    survivors = [pid for pid in victims[1:] if _alive(pid)]
    assert not survivors
    again = loader(shards, special, workers=2, start_step=len(done))
    done += steps(again, max(0, 6 - len(done)))
    for one, other in zip(done, expected, strict=False):
        assert all(map(same, one.micro_batches, other.micro_batches))


def test_a_worker_killed_in_the_middle_of_its_work_is_an_error_too(shards: Any, special: SpecialIds) -> None:
    for delay in (0.0, 0.05, 0.2):
        made = loader(shards, special, workers=2)
        running = iter(made)
        next(running)
        # The trainer takes faster than two workers make, so they are at work whenever this comes.
        killer = threading.Timer(delay, os.kill, (made.worker_processes[1], signal.SIGKILL))
        killer.start()
        with pytest.raises(RunFailed, match="worker was killed"):
            for _ in islice(running, 100_000):
                pass
        killer.join()
        assert not made.worker_processes


_FORGETFUL = """
import sys
from pipeline.batches.loader import TrainLoader
from pipeline.batches.masking import MaskingConfig
from pipeline.batches.sources import Source
from pipeline.batches.special_ids import SpecialIds
from pipeline.corpus.manifest import read_manifest

if __name__ == "__main__":
    special = SpecialIds(size=1000, pad_id=0, cls_id=2, sep_id=3, mask_id=4, special_ids=tuple(range(20)))
    loader = TrainLoader(
        sources=[Source(folder=sys.argv[1], manifest=read_manifest(sys.argv[1]))],
        seed=1, phase=0, lanes=8, global_batch=48,
        micro_batch=6, sequence_length=32, masking=MaskingConfig(), special=special, workers=2,
    )
    for step in loader:
        print(*loader.worker_processes, flush=True)
        if sys.argv[2] == "raises":
            raise ValueError("no step")
        break
"""


@pytest.mark.parametrize("how", ["ends", "raises"])
def test_a_trainer_that_forgets_to_close_its_loader_still_ends(shards: Any, tmp_path: Path, how: str) -> None:
    script = tmp_path / "forgetful.py"
    script.write_text(_FORGETFUL)
    root = Path(block_source.__file__).resolve().parents[2]
    ended = subprocess.run(
        [sys.executable, str(script), shards[0], how],
        env=os.environ | {"PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == (1 if how == "raises" else 0)
    workers = [int(pid) for pid in ended.stdout.split()]
    assert len(workers) == 2
    assert not any(map(_alive, workers))


def test_a_loader_nobody_holds_any_more_ends_its_workers(shards: Any, special: SpecialIds) -> None:
    made = loader(shards, special, workers=2)
    running = iter(made)
    next(running)
    workers = made.worker_processes
    assert all(map(_alive, workers))
    del running, made
    gc.collect()
    deadline = time.monotonic() + 10
    while any(map(_alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(_alive, workers))


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


_TRAINER = """
import signal, sys, time
from pipeline.batches.loader import TrainLoader
from pipeline.batches.masking import MaskingConfig
from pipeline.batches.sources import Source
from pipeline.batches.special_ids import SpecialIds
from pipeline.corpus.manifest import read_manifest

if __name__ == "__main__":
    stops = []
    signal.signal(signal.SIGTERM, lambda number, frame: stops.append(number))
    signal.signal(signal.SIGUSR1, lambda number, frame: stops.append(number))
    special = SpecialIds(size=1000, pad_id=0, cls_id=2, sep_id=3, mask_id=4, special_ids=tuple(range(20)))
    loader = TrainLoader(
        sources=[Source(folder=sys.argv[1], manifest=read_manifest(sys.argv[1]))],
        seed=1, phase=0, lanes=8, global_batch=48,
        micro_batch=6, sequence_length=32, masking=MaskingConfig(), special=special, workers=2,
    )
    for step in loader:
        if step.step == 0:
            print(*loader.worker_processes, flush=True)
            while len(stops) < 2:
                time.sleep(0.01)
            time.sleep(0.3)
        if step.step == 200:
            print("200 steps later", flush=True)
            time.sleep(60)
"""


@pytest.fixture
def trainer(shards: Any, tmp_path: Path) -> Iterator[Any]:
    script = tmp_path / "trainer.py"
    script.write_text(_TRAINER)
    root = Path(block_source.__file__).resolve().parents[2]
    process = subprocess.Popen(
        [sys.executable, str(script), shards[0]],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(root)},
        start_new_session=True,
    )
    yield process
    process.kill()
    process.wait()


def test_workers_outlive_a_stop_signal_but_not_their_trainer(trainer: Any) -> None:
    workers = [int(pid) for pid in trainer.stdout.readline().split()]
    assert len(workers) == 2
    for number in (signal.SIGTERM, signal.SIGUSR1):  # to all of the group, as schedulers do
        os.killpg(trainer.pid, number)
    assert trainer.stdout.readline() == "200 steps later\n"
    assert all(map(_alive, workers))
    trainer.kill()
    deadline = time.monotonic() + 10
    while any(map(_alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(_alive, workers))


def test_an_index_exchanged_before_its_workers_start_is_words_not_a_traceback(
    own_shards: Any, special: SpecialIds, make_shards: Any
) -> None:
    folder = own_shards[0]
    made = loader((folder, read_manifest(folder)), special)
    sent = pickle.dumps(made._assembly)
    assert len(list(islice(pickle.loads(sent).chunks(0), 2))) == 2
    make_shards(Path(folder), train=(20, 580), longest=LENGTH)
    with pytest.raises(RunFailed, match=r"index\.arrow has changed since"):
        next(pickle.loads(sent).chunks(0))
