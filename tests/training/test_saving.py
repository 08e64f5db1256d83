"""Checkpoints written while training goes on: the same bytes as those it waited for, whole or not there."""

import json
import os
import random
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from pipeline import storage
from pipeline.training.checkpoints import check_files, newest_first, read_checkpoint
from pipeline.training.state_files import Copies, HashingFile, size_of, write_state, write_tensors
from workshop import processes
from workshop.left_out import same


def test_a_copy_shares_nothing_and_keeps_what_shares_storage_so(tmp_path: Path) -> None:
    flat = torch.arange(12, dtype=torch.float32)
    state = {"a": flat[:6].view(2, 3), "b": [flat[6:], {"step": torch.tensor(3)}], "c": (None, "text", 1.5)}
    copies = Copies()
    copied = copies.of(state)
    assert size_of(state) == size_of(copied) == copies.size == 12 * 4 + 8
    flat.zero_()
    assert copied["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert copied["b"][0].tolist() == [6, 7, 8, 9, 10, 11]
    assert copied["a"].untyped_storage().data_ptr() == copied["b"][0].untyped_storage().data_ptr()
    size, content = write_state(tmp_path / "state.pt", copied)
    assert (size, content) == (
        (tmp_path / "state.pt").stat().st_size,
        storage.hash_file(str(tmp_path / "state.pt")),
    )
    read = torch.load(tmp_path / "state.pt", weights_only=False)
    assert torch.equal(read["a"], copied["a"])
    assert read["c"] == (None, "text", 1.5)


def test_the_next_copy_lies_where_the_last_one_lay_and_fits_what_has_grown() -> None:
    copies = Copies()
    first = copies.of([torch.ones(4), torch.ones(3)])
    second = copies.of([torch.full((4,), 2.0), torch.full((5,), 3.0)])
    assert second[0].data_ptr() == first[0].data_ptr()
    assert [each.tolist() for each in second] == [[2.0] * 4, [3.0] * 5]


def test_weights_are_written_as_the_library_reads_and_writes_them(tmp_path: Path) -> None:
    tensors = {
        "a.weight": torch.randn(3, 5),
        "b": torch.randn(4).t(),
        "empty": torch.zeros(0, 2),
        "one": torch.tensor(2.5),
    }
    size, content = write_tensors(tmp_path / "x", tensors)
    assert (size, content) == ((tmp_path / "x").stat().st_size, storage.hash_file(str(tmp_path / "x")))
    read = load_file(tmp_path / "x")
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())


@given(st.lists(st.binary(max_size=200), max_size=8))
def test_a_hashing_file_knows_what_is_on_disk(tmp_path_factory: Any, pieces: list[bytes]) -> None:
    path = tmp_path_factory.mktemp("file") / "x"
    file = HashingFile(path)
    for piece in pieces:
        file.write(piece)
    assert file.close() == [path.stat().st_size, storage.hash_file(str(path))]


@pytest.mark.long
def test_written_in_the_background_or_not_a_checkpoint_is_the_same(
    recipe: dict[str, Any], write_recipe: Any, cli: Any, tmp_path: Path
) -> None:
    recipe["checkpoint"] = {"every": 5, "keep_last": 9}
    path = write_recipe(recipe)
    for name, asynchronous in (("ahead", "true"), ("waits", "false")):
        done = cli("pretrain", path, f"run={tmp_path / name}", f"checkpoint.asynchronous={asynchronous}")
        assert done.returncode == 0, done.stderr
    ahead, waits = (newest_first(tmp_path / name / "checkpoints") for name in ("ahead", "waits"))
    assert [folder.name for folder in ahead] == [folder.name for folder in waits]
    assert len(ahead) == 4
    for ours, theirs in zip(ahead, waits, strict=True):
        mine, other = read_checkpoint(ours), read_checkpoint(theirs)
        check_files(ours, mine)
        assert mine.files.keys() == other.files.keys()
        for name in mine.files:
            if name.endswith("optim_states.pt"):  # a pickle shows which of its objects were one
                optimizers = [torch.load(folder / name, weights_only=False) for folder in (ours, theirs)]
                assert same(*optimizers)
            else:
                assert mine.files[name] == other.files[name]
        assert {path.suffix for path in (ours / "engine").iterdir()} == {".pt"}
    newest = read_checkpoint(ahead[0])
    assert newest.position == {"phase": 0, "step": 20}
    assert newest.learning_rate == pytest.approx(json.loads(
        (tmp_path / "ahead/metrics.jsonl").read_text().splitlines()[-1]
    )["learning_rate"])  # fmt: skip


@pytest.mark.long
def test_killed_while_checkpoints_are_written_none_is_half_there(
    recipe: dict[str, Any], write_recipe: Any, tmp_path: Path
) -> None:
    """A checkpoint each step, and a kill at some moment: what stands under a whole one's name is whole."""
    recipe["checkpoint"] = {"every": 1, "keep_last": 2}
    recipe["phases"][0]["steps"] = 100_000
    path, run = write_recipe(recipe), Path(recipe["run"])
    chance = random.Random(1)
    process = processes.begin(path, f"run={run}")
    processes.wait_for_checkpoint(run, 3, process)
    time.sleep(chance.random() / 4)
    processes.kill_all(run)
    process.wait()
    there = newest_first(run / "checkpoints")
    assert there
    for folder in there:
        check_files(folder, read_checkpoint(folder))
    assert (run / "checkpoints" / "latest").resolve() in [folder.resolve() for folder in there]


def test_a_rank_that_cannot_write_ends_the_wait_of_the_others(tmp_path: Path) -> None:
    from pipeline.training.saving import _Job

    seen = threading.Event()

    def commit(job: Any) -> None:
        while not job.abandoned.wait(0.01):
            pass
        seen.set()

    job = _Job(tmp_path, lambda: None, commit)
    job.begin(background=True)
    job.wait_for_write()
    job.finish(abandoned=True)
    assert seen.is_set()
    assert job.failure is None
    failing = _Job(tmp_path, lambda: os.stat(tmp_path / "none") and None, None)
    failing.begin(background=True)
    failing.wait_for_write()
    failing.finish(abandoned=True)
    assert isinstance(failing.failure, FileNotFoundError)
