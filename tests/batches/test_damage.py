"""What a missing, damaged or failing tar does: named, waited for, or left out and counted."""

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.batches import block_source
from pipeline.batches.microbatch import IGNORED
from pipeline.batches.special_ids import SpecialIds
from pipeline.corpus.manifest import write_manifest
from pipeline.errors import RunFailed
from workshop.small_loader import GLOBAL, contents, loader, steps


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


def test_a_missing_tar_is_named(own_shards: Any, special: SpecialIds) -> None:
    os.remove(Path(own_shards[0]) / "train-00000.tar")
    with pytest.raises(RunFailed, match=r"cannot read .*train-00000.tar: No such file"):
        steps(loader(own_shards, special), 100)


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
