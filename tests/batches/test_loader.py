"""Laws 3, 4 and 6 with real tars, and DataLoader workers that live, fail and are killed."""

import errno
import gc
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.batches import block_source
from pipeline.batches.held_out import held_out_micro_batches
from pipeline.batches.loader import StepBatches, TrainLoader
from pipeline.batches.masking import MaskingConfig
from pipeline.batches.microbatch import IGNORED, Buckets, MicroBatch
from pipeline.batches.sources import Source
from pipeline.batches.special_ids import SpecialIds
from pipeline.corpus.manifest import Manifest, read_manifest, write_manifest
from pipeline.corpus.shards import ShardInfo, read_block
from pipeline.errors import InputError, RunFailed
from workshop.micro_batches import by_all_readers, each_sequence

LENGTH = 32
# A tar of one pair beside one of 2,610 (blocks of 1,024, 1,024 and 562). A lane's epoch is 337 of the 2,701
# pairs and a step takes 6 of each lane, so the first epoch ends inside step 56.
TRAIN = (1, 2610, 90)
LANES, GLOBAL, ACROSS = 8, 48, 56


@pytest.fixture(scope="module")
def shards(make_shards: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Manifest]:
    folder = tmp_path_factory.mktemp("shards")
    return str(folder), make_shards(folder, train=TRAIN, validation=(70, 40), longest=LENGTH)


def loader(shards: tuple[str, Manifest], special: SpecialIds, **more: Any) -> TrainLoader:
    given: dict[str, Any] = {"seed": 1, "phase": 0, "lanes": LANES, "global_batch": GLOBAL, "micro_batch": 6}
    given |= {"sequence_length": LENGTH, "masking": MaskingConfig(), "special": special}
    return TrainLoader(sources=[Source(folder=shards[0], manifest=shards[1])], **(given | more))


def steps(made: TrainLoader, count: int) -> list[StepBatches]:
    with made:
        return list(islice(made, count))


def contents(batches: list[MicroBatch]) -> dict[tuple[int, int], tuple[bytes, ...]]:
    """What each sequence of some micro-batches looks like, by (epoch, sample)."""
    found = {}
    for batch in batches:
        for identity, content in each_sequence(batch):
            assert identity not in found
            found[identity] = content
    return found


def same(one: MicroBatch, other: MicroBatch) -> bool:
    numbers = (
        "step", "micro_step", "sequences", "longest", "masked", "labelled", "lost", "short_of_candidates",
    )  # fmt: skip
    return all(getattr(one, name) == getattr(other, name) for name in numbers) and all(
        array.dtype == other.arrays()[name].dtype and array.tobytes() == other.arrays()[name].tobytes()
        for name, array in one.arrays().items()
    )


def test_a_micro_batch_is_the_shards_pairs_laid_out_and_masked(shards: Any, special: SpecialIds) -> None:
    folder, manifest = shards
    blocks = [
        read_block(folder, shard, index)
        for shard in manifest.of_split("train")
        for index in range(len(shard.block_pairs))
    ]
    firsts = np.cumsum([0] + [len(block) for block in blocks])
    (step,) = steps(loader(shards, special, micro_batch=16), 1)
    assert len(step.micro_batches) == 3
    assert step.masked == sum(int((b.masked_labels_M != IGNORED).sum()) for b in step.micro_batches)
    assert step.tokens == sum(int(b.sequence_starts_B1[-1]) for b in step.micro_batches)
    for index, batch in enumerate(step.micro_batches):
        assert batch.position == (0, index)
        assert batch.sequences == 16 == len(batch.next_labels_B)
        original = batch.tokens_T.copy()
        counted = batch.masked_labels_M != IGNORED
        assert counted.sum() == batch.masked
        assert counted[: batch.masked].all()
        original[batch.masked_positions_M[counted]] = batch.masked_labels_M[counted]
        for row, sample in enumerate(batch.samples_B):
            number = int(np.searchsorted(firsts, sample, side="right")) - 1
            block, pair = blocks[number], int(sample - firsts[number])
            tokens = block.tokens[block.offsets[pair] : block.offsets[pair + 1]].tolist()
            a = int(block.a_lengths[pair])
            here = slice(*batch.sequence_starts_B1[row : row + 2])
            expected = [2, *tokens[:a], 3, *tokens[a:], 3]
            assert original[here].tolist() == expected
            assert batch.segments_T[here].tolist() == [0] * (a + 2) + [1] * (len(tokens) - a + 1)
            assert batch.positions_T[here].tolist() == list(range(len(expected)))
            assert batch.next_labels_B[row] == block.random_next[pair]
        assert batch.longest == np.diff(batch.sequence_starts_B1).max()


def test_buckets_pad_with_what_counts_nowhere(shards: Any, special: SpecialIds) -> None:
    (step,) = steps(loader(shards, special, buckets=Buckets(tokens=256, masked=64)), 1)
    for batch in step.micro_batches:
        assert len(batch.tokens_T) == len(batch.segments_T) == len(batch.positions_T)
        assert len(batch.tokens_T) % 256 == 0 == len(batch.masked_positions_M) % 64
        assert not batch.tokens_T[batch.tokens :].any()
        assert (batch.masked_labels_M[batch.masked :] == IGNORED).all()
        assert not batch.masked_positions_M[batch.masked :].any()


@given(
    st.sampled_from([1, 2, 4, 8]),
    st.sampled_from([1, 2, 3, 6]),
    st.integers(1, 4),
    st.sampled_from([0, 1, 55, ACROSS, 57, 112, 10_000_000]),
)
def test_a_step_is_the_same_whatever_ranks_micro_batches_workers_and_restarts(
    shards: Any, special: SpecialIds, world_size: int, micro_batch: int, workers: int, step: int
) -> None:
    (alone,) = steps(loader(shards, special, micro_batch=GLOBAL, start_step=step), 1)
    assert len(np.unique(alone.micro_batches[0].epochs_B)) == (2 if step in (ACROSS, 112) else 1)
    found = []
    for rank in range(world_size):
        share = {"rank": rank, "world_size": world_size, "micro_batch": micro_batch, "workers": workers}
        made = by_all_readers(loader(shards, special, start_step=step, **share), step)
        assert [batch.micro_step for batch in made] == list(range(GLOBAL // (world_size * micro_batch)))
        found += made
    assert contents(found) == contents(list(alone.micro_batches))
    assert sum(batch.masked for batch in found) == alone.masked


@given(st.lists(st.sampled_from([1, 2, 9, 400, 1500]), min_size=1, max_size=5), st.integers(0, 3))
def test_an_epoch_of_any_shards_gives_every_pair_once(
    make_shards: Any, special: SpecialIds, tmp_path_factory: Any, sizes: list[int], epoch: int
) -> None:
    folder = tmp_path_factory.mktemp("sizes")
    manifest = make_shards(folder, train=[*sizes, GLOBAL], longest=12)
    pairs = sum(sizes) + GLOBAL
    length = pairs // LANES
    first, last = epoch * length * LANES // GLOBAL, -(-(epoch + 1) * length * LANES // GLOBAL)
    made = loader((str(folder), manifest), special, micro_batch=24, start_step=first, stop_step=last)
    times = Counter(
        int(sample)
        for step in made
        for batch in step.micro_batches
        for sample, its_epoch in zip(batch.samples_B, batch.epochs_B, strict=True)
        if its_epoch == epoch
    )
    assert set(times.values()) == {1}
    assert set(times) == set(range(pairs)) - set(made.plan.sitting_out(epoch).tolist())


def test_stopped_at_any_step_a_new_loader_goes_on_exactly(shards: Any, special: SpecialIds) -> None:
    whole = steps(loader(shards, special), 70)
    for stop in (1, 31, 56, 69):
        rest = steps(loader(shards, special, start_step=stop, stop_step=70), 100)
        assert [step.step for step in rest] == list(range(stop, 70))
        for step, expected in zip(rest, whole[stop:], strict=True):
            assert all(map(same, step.micro_batches, expected.micro_batches))


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


def test_each_block_is_read_by_one_worker_of_one_rank(
    make_shards: Any, special: SpecialIds, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = make_shards(tmp_path, train=(5000, 3000, 700, 4000), longest=12)
    blocks = sum(len(shard.block_pairs) for shard in manifest.of_split("train"))
    reads: Counter[tuple[str, int]] = Counter()
    real = block_source.read_block_from

    def counted(stream: Any, path: str, shard: ShardInfo, index: int) -> Any:
        reads[path, index] += 1
        return real(stream, path, shard, index)

    monkeypatch.setattr(block_source, "read_block_from", counted)
    readers_of: Counter[tuple[str, int]] = Counter()
    for rank in range(2):
        made = loader(
            (str(tmp_path), manifest), special, rank=rank, world_size=2, workers=2, stop_step=12_700 // GLOBAL
        )
        for reader in range(made.share.readers):
            reads.clear()
            for _ in made._assembly.chunks(reader):
                pass
            lanes = len(made.share.lanes_of(reader))
            # Once each, but for a block that a cut between two of this worker's lanes falls in.
            assert sum(reads.values()) - len(reads) <= lanes - 1
            readers_of.update(reads.keys())
    assert len(readers_of) == blocks
    # Three cuts between four workers.
    assert sum(count - 1 for count in readers_of.values()) <= 3


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


@pytest.fixture
def own_shards(make_shards: Any, tmp_path: Path) -> tuple[str, Manifest]:
    return str(tmp_path), make_shards(tmp_path, train=(300, 300), validation=(5,), longest=LENGTH)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_block_is_named_with_its_file_before_anything_learns_from_it(
    own_shards: Any, special: SpecialIds, workers: int
) -> None:
    folder, _ = own_shards
    with open(Path(folder) / "train-00001.tar", "r+b") as tar:
        tar.seek(5000)
        tar.write(b"damage")
    with pytest.raises(RunFailed, match=r"train-00001.tar at byte 0 .block 0. .* hash") as failure:
        steps(loader(own_shards, special, workers=workers), 100)
    assert "\n" not in str(failure.value)


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


def test_a_missing_tar_is_named(own_shards: Any, special: SpecialIds) -> None:
    os.remove(Path(own_shards[0]) / "train-00000.tar")
    with pytest.raises(RunFailed, match=r"cannot read .*train-00000.tar: No such file"):
        steps(loader(own_shards, special), 100)


def test_a_moving_rate_is_that_of_the_step_whoever_loads_it(shards: Any, special: SpecialIds) -> None:
    masking = MaskingConfig(strategy="span", rate=0.5, final_rate=0.1)
    made = {"masking": masking, "steps": 41}
    whole = steps(loader(shards, special, **made), 41)
    shares = [step.masked / step.tokens for step in whole]
    assert shares[0] == pytest.approx(0.5, abs=0.03)
    assert shares[20] == pytest.approx(0.3, abs=0.03)
    assert shares[40] == pytest.approx(0.1, abs=0.03)
    (late,) = steps(loader(shards, special, **made, start_step=40, micro_batch=3, workers=1), 1)
    assert contents(list(late.micro_batches)) == contents(list(whole[40].micro_batches))
    # A stop before the end is no other phase.
    (early,) = steps(loader(shards, special, **made, start_step=20, stop_step=21), 1)
    assert contents(list(early.micro_batches)) == contents(list(whole[20].micro_batches))
    with pytest.raises(InputError, match="give the phase's steps"):
        loader(shards, special, masking=masking)


def test_static_masks_are_those_of_the_epoch_before(shards: Any, special: SpecialIds) -> None:
    def masks(epochs: int | None) -> list[dict[int, tuple[bytes, ...]]]:
        found: list[dict[int, tuple[bytes, ...]]] = [{}, {}]
        for step in steps(loader(shards, special, masking=MaskingConfig(epochs=epochs)), 2 * ACROSS):
            for (epoch, sample), content in contents(list(step.micro_batches)).items():
                if epoch < 2:
                    found[epoch][sample] = content
        return found

    first, second = masks(1)
    both = first.keys() & second.keys()
    assert len(both) > 2000
    assert all(first[sample] == second[sample] for sample in both)
    first, second = masks(None)
    assert sum(first[sample] == second[sample] for sample in both) < len(both) / 10


def test_held_out_pairs_are_masked_at_the_last_rate(shards: Any, special: SpecialIds) -> None:
    folder, manifest = shards

    def share(masking: MaskingConfig) -> float:
        batches = list(
            held_out_micro_batches(
                folder, manifest, sequences=100, micro_batch=10, masking=masking, special=special, seed=1
            )
        )
        return sum(batch.masked for batch in batches) / sum(batch.tokens for batch in batches)

    assert share(MaskingConfig(rate=0.5, final_rate=0.2)) == share(MaskingConfig(rate=0.2))
    assert share(MaskingConfig(rate=0.5)) > 2 * share(MaskingConfig(rate=0.2))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("fault", ["flipped", "cut", "gone"])
def test_damage_that_is_skipped_costs_its_own_pairs_and_nothing_else(
    own_shards: Any, special: SpecialIds, fault: str, workers: int, capfd: pytest.CaptureFixture[str]
) -> None:
    folder, _ = own_shards
    whole = steps(loader(own_shards, special), 30)
    path = Path(folder) / "train-00001.tar"
    data = path.read_bytes()
    if fault == "gone":
        path.unlink()
    else:
        path.write_bytes(data[:5000] + (b"" if fault == "cut" else b"damage" + data[5006:]))
    left = steps(loader(own_shards, special, workers=workers, damage="skip"), 30)
    # The second tar holds samples 300 to 599.
    everything, others = {}, {}
    for before, after in zip(whole, left, strict=True):
        samples = np.concatenate([batch.samples_B for batch in after.micro_batches])
        assert after.lost == (samples >= 300).sum()
        assert (before.labelled, after.labelled) == (GLOBAL, GLOBAL - after.lost)
        assert after.masked == sum(int((b.masked_labels_M != IGNORED).sum()) for b in after.micro_batches)
        everything |= contents(list(before.micro_batches))
        others |= contents(list(after.micro_batches))
    assert sum(step.lost for step in left) > 100
    assert everything.keys() == others.keys()
    for identity, content in others.items():
        if identity[1] < 300:
            assert content == everything[identity]
        else:
            # [CLS] [SEP] [SEP], nothing to guess, no label.
            tokens, *_, places, _, label = content
            assert np.frombuffer(tokens, np.int32).tolist() == [2, 3, 3]
            assert (places, np.frombuffer(label, np.int8)[0]) == (b"", IGNORED)
    if not workers:  # theirs goes where the fork server's did
        said = capfd.readouterr().err
        assert "train-00001.tar" in said
        assert "Its 300 pairs are left out" in said


class Flaky:
    """A tar on a disk that fails some reads."""

    def __init__(self, failures: int) -> None:
        self.failures, self.opened = failures, 0

    def open_read(self, path: str) -> Any:
        self.opened += 1
        if self.failures:
            self.failures -= 1
            raise OSError(errno.EIO, "Input/output error")
        return open(path, "rb")


def test_a_failed_read_is_tried_again_and_then_named(
    own_shards: Any, special: SpecialIds, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = [contents(list(step.micro_batches)) for step in steps(loader(own_shards, special), 5)]
    monkeypatch.setattr(block_source, "_SECONDS_BEFORE_TRYING_AGAIN", (0.0, 0.0, 0.0))
    disk = Flaky(3)
    monkeypatch.setattr(block_source.storage, "open_read", disk.open_read)
    again = [contents(list(step.micro_batches)) for step in steps(loader(own_shards, special), 5)]
    assert again == whole
    assert capfd.readouterr().err.count("trying again") == 3
    disk.failures = 4
    with pytest.raises(RunFailed, match=r"cannot read .*tar: Input/output error; restore it"):
        steps(loader(own_shards, special), 5)


def test_pairs_too_long_for_the_phase_are_refused_at_planning(own_shards: Any, special: SpecialIds) -> None:
    with pytest.raises(InputError, match="pairs of up to 32 tokens, the phase's sequence_length is 16"):
        loader(own_shards, special, sequence_length=16)


def test_pairs_longer_than_the_manifest_says_are_not_learned_from(
    own_shards: Any, special: SpecialIds
) -> None:
    folder, manifest = own_shards
    object.__setattr__(manifest, "settings", {"max_seq_length": 16})
    write_manifest(folder, manifest)
    with pytest.raises(RunFailed, match="its manifest promises at most 16"):
        steps(loader(own_shards, special, sequence_length=16), 1)


def test_few_tars_are_open_at_once(make_shards: Any, special: SpecialIds, tmp_path: Path) -> None:
    manifest = make_shards(tmp_path, train=[20] * 30, longest=12)
    made = loader((str(tmp_path), manifest), special)
    running = iter(made)
    for _ in range(30):
        next(running)
        open_tars = [fd for fd in os.listdir("/proc/self/fd") if _target(fd).startswith(str(tmp_path))]
        assert len(open_tars) <= 8


def _target(descriptor: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:
        return ""


def test_tensors_have_the_names_and_types_that_the_network_takes(shards: Any, special: SpecialIds) -> None:
    (step,) = steps(loader(shards, special), 1)
    batch = step.micro_batches[0]
    tensors = batch.tensors("cpu")
    assert tensors["longest"] == batch.longest
    types = {name: tensor.dtype for name, tensor in tensors.items() if isinstance(tensor, torch.Tensor)}
    int32 = ("tokens_T", "segments_T", "positions_T", "sequence_starts_B1")
    int64 = ("masked_positions_M", "masked_labels_M", "next_labels_B")
    assert types == dict.fromkeys(int32, torch.int32) | dict.fromkeys(int64, torch.int64)
    for name in types:
        tensor = tensors[name]
        assert isinstance(tensor, torch.Tensor)
        assert tensor.tolist() == getattr(batch, name).tolist()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_tensors_on_cuda_are_those_on_cpu(shards: Any, special: SpecialIds) -> None:
    (step,) = steps(loader(shards, special), 1)
    for batch in step.micro_batches:
        here, there = batch.tensors("cpu"), batch.tensors("cuda")
        for name, tensor in here.items():
            other = there[name]
            if isinstance(tensor, torch.Tensor):
                assert isinstance(other, torch.Tensor)
                assert other.is_cuda
                assert torch.equal(other.cpu(), tensor)
                assert other.dtype == tensor.dtype


def held_out(shards: Any, special: SpecialIds, **more: Any) -> list[MicroBatch]:
    given: dict[str, Any] = {"sequences": 77, "micro_batch": 8, "masking": MaskingConfig(), "seed": 1}
    return list(held_out_micro_batches(*shards, special=special, **(given | more)))


def test_held_out_pairs_are_the_same_whatever_ranks_and_micro_batches(
    shards: Any, special: SpecialIds
) -> None:
    alone = contents(held_out(shards, special))
    assert len(alone) == 77
    for world_size in (1, 2, 3, 7, 16):
        for micro_batch in (1, 8, 77, 100):
            ranks = [
                held_out(shards, special, micro_batch=micro_batch, rank=rank, world_size=world_size)
                for rank in range(world_size)
            ]
            assert len({len(batches) for batches in ranks}) == 1, "ranks call the network unequally often"
            assert contents([batch for batches in ranks for batch in batches]) == alone
    assert len(held_out(shards, special, sequences=1000, micro_batch=110)[0].samples_B) == 110
    assert contents(held_out(shards, special, seed=2)) != alone


def test_an_empty_micro_batch_counts_nowhere(shards: Any, special: SpecialIds) -> None:
    empty = held_out(shards, special, micro_batch=100, rank=1, world_size=2)[0]
    assert empty.sequences == empty.masked == empty.tokens == 0
    assert (empty.masked_labels_M == IGNORED).all()
    assert (empty.next_labels_B == IGNORED).all()
    assert empty.tokens_T[:3].tolist() == [2, 3, 3]
    assert set(empty.tensors()) == set(held_out(shards, special)[0].tensors())


def test_no_held_out_pairs_is_an_error(make_shards: Any, special: SpecialIds, tmp_path: Path) -> None:
    made = str(tmp_path), make_shards(tmp_path, train=(10,))
    with pytest.raises(InputError, match="holds no held-out pairs"):
        held_out(made, special)
