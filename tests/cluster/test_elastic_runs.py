"""Every stage over 4, 2, 1 and 2 ranks, and every stage to every other: what `make test` shows of some of them."""

import itertools
import signal
from pathlib import Path
from typing import Any

import pytest

from pipeline.training.checkpoints import read_checkpoint
from workshop import elastic_runs, processes
from workshop.elastic_runs import Leg

CONFIGURATIONS = ("zero0", "zero1", "zero2", "zero2_offload", "zero3", "zero3_offload")
OPTIMIZERS = ("adamw", "bert_adam", "lamb", "a group each")


@pytest.fixture(scope="module")
def undisturbed(cli: Any, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    elastic_runs.train(cli, folder, shards, 4, Leg(1, "zero0", micro_batch=16), "undisturbed")
    return folder / "undisturbed"


@pytest.mark.parametrize("stage", ["zero0", "zero2", "zero3"])
def test_losses_go_on_over_4_2_1_and_2_ranks(
    stage: str, undisturbed: Path, cli: Any, shards: Path, tmp_path: Path
) -> None:
    for number, ranks in enumerate((4, 2, 1, 2)):
        said = elastic_runs.train(cli, tmp_path, shards, number + 1, Leg(ranks, stage), "run").stderr
        assert ("converting" in said) == bool(number and stage != "zero0")
    difference = elastic_runs.largest_difference(tmp_path / "run", undisturbed)
    print(f"{stage}: {difference:.1e}")
    assert difference < 1e-5


def test_any_stage_takes_up_any_other(tmp_path: Path) -> None:
    cases = [[f"{name} fp32 {optimizer}" for name in CONFIGURATIONS] for optimizer in OPTIMIZERS]
    elastic_runs.states(tmp_path, 2, [*itertools.chain(*cases)])
    # Alone, any other; three ranks, the next but one.
    pairs = {
        1: [*itertools.product(cases[0], cases[0])],
        3: [pair for each in cases for pair in zip(each, each[2:] + each[:2], strict=True)],
    }
    for ranks in pairs:
        found = elastic_runs.states(tmp_path, ranks, pairs=pairs[ranks])
        assert len(found) == len(pairs[ranks])
        assert {pair: each["differs"] for pair, each in found.items() if each["differs"]} == {}


def test_killed_in_mid_conversion_the_same_command_converts_anew(
    cli: Any, shards: Path, tmp_path: Path
) -> None:
    elastic_runs.train(cli, tmp_path, shards, 1, Leg(2, "zero2"), "run")
    run = tmp_path / "run"
    before = read_checkpoint(run / "checkpoints" / "latest")
    path = elastic_runs.write_recipe(tmp_path, shards, 2, Leg(1, "zero2"), "run")
    process = processes.begin(path)
    converted = run / "checkpoints" / ".step-00000012.universal"
    while not list(converted.glob("universal/tmp/*")):
        assert process.poll() is None, process.communicate()[0]
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert converted.exists()
    assert read_checkpoint(run / "checkpoints" / "latest") == before
    said = elastic_runs.train(cli, tmp_path, shards, 2, Leg(1, "zero2"), "run").stderr
    assert "on 1 rank (checkpointed by 2): converting" in said
    assert not converted.exists()
