"""`bertpipe doctor` as a user sees it: lines, the table, exit codes."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from model.config import preset
from pipeline.doctor.examination import checkpoints_of, table
from pipeline.doctor.fit import Devices, fit, parse_gpus, verdict
from pipeline.errors import InputError
from pipeline.recipe import Recipe, read_recipe
from pipeline.training.memory import Batch, estimate
from pipeline.training.room import SHIPPED
from pipeline.training.settings import read_settings

ROOT = Path(__file__).resolve().parents[2]
LARGE = str(ROOT / "recipes" / "large.yaml")
BASE = str(ROOT / "recipes" / "base.yaml")
GIB = 1 << 30


def large(*overrides: str) -> Recipe:
    return read_recipe(LARGE, ("precision=fp32", *overrides))


def test_each_line_says_state_name_and_what_was_found(cli: Any, tmp_path: Path) -> None:
    done = cli("doctor", cwd=tmp_path)
    lines = done.stdout.splitlines()
    assert done.returncode == int(any(line.startswith("error") for line in lines)), done.stdout
    assert {line.split()[0] for line in lines} <= {"ok", "warning", "error"}
    assert all(" — " in line for line in lines if not line.startswith("ok"))
    for name in ("python", "packages", "torch", "deepspeed", "cpu", "disk here", "slurm", "tracking"):
        assert any(line[9:].startswith(name) for line in lines), name
    assert "\x1b" not in done.stdout
    assert done.stderr == ""


def test_a_machine_reads_the_same_findings(cli: Any, tmp_path: Path) -> None:
    done = cli("doctor", "--json", cwd=tmp_path)
    report = json.loads(done.stdout)
    assert {"name", "state", "found", "remedy"} == set(report["findings"][0])
    assert report["fit"] is None


def test_what_hangs_holds_up_nothing(cli: Any, tmp_path: Path) -> None:
    for name in ("sinfo", "srun", "sbatch", "nvidia-smi", "c++"):
        (tmp_path / name).write_text("#!/bin/sh\nexec sleep 100\n")
        (tmp_path / name).chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "CXX": str(tmp_path / "c++")}
    started = time.monotonic()
    done = cli("doctor", cwd=tmp_path, env=environment)
    assert time.monotonic() - started < 60
    assert "the controller doesn't answer" in done.stdout


def test_a_recipe_that_fits_passes_and_one_that_does_not_fails(cli: Any, tmp_path: Path) -> None:
    planned = cli("doctor", "--recipe", LARGE, "--gpus", "8x80GB", cwd=tmp_path)
    assert planned.returncode == 0, planned.stderr
    assert "a vocabulary of 30,522 tokens is assumed" in planned.stdout
    assert all(name in planned.stdout for name in SHIPPED)
    tight = cli("doctor", "--recipe", LARGE, "--gpus", "2x7GB", "--json", cwd=tmp_path)
    assert tight.returncode == 1
    report = json.loads(tight.stdout)["fit"]
    assert not report["recipe"]["fits"]
    assert report["choose"] is not None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--gpus", "8x80GB"), "add --recipe"),
        (("--recipe", LARGE, "--gpus", ""), "--gpus is ''"),
        (("--recipe", LARGE, "--gpus", "8 big ones"), "write how many and how large, e.g. 8x80GB"),
        (("--recipe", LARGE, "--gpus", "0x80GB"), "must be above 0"),
        (("--recipe", "nowhere.yaml"), "does not exist"),
        (("seed=2",), "add --recipe"),
        (("--recipe", LARGE, "--prepare", "--gpus", "8x80GB"), "give one of them"),
        (("--recipe", LARGE, "deepspeed=zero9"), "zero9"),
    ],
)
def test_wrong_input_is_one_line_with_the_remedy(
    cli: Any, tmp_path: Path, arguments: tuple[str, ...], said: str
) -> None:
    done = cli("doctor", *arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


def test_preparing_a_recipe_that_needs_nothing_builds_nothing(cli: Any, tmp_path: Path) -> None:
    done = cli("doctor", "--prepare", "--recipe", LARGE, "--extensions", "ext", cwd=tmp_path)
    assert done.returncode == 0
    assert "nothing to build" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "ranks", "gib"),
    [("8x80GB", 8, 80), ("80GB", 1, 80), ("8×80GiB", 8, 80), ("4 x 40 gb", 4, 40), ("2*23.5G", 2, 23.5)],
)
def test_gpus_are_read_as_people_write_them(text: str, ranks: int, gib: float) -> None:
    assert parse_gpus(text) == Devices(ranks=ranks, memory=int(gib * GIB))


@pytest.mark.parametrize("text", ["", "8x", "80", "x80GB", "8x80MB", "-1x80GB", "8x0GB", "4x8x80GB"])
def test_other_gpus_are_refused_by_their_text(text: str) -> None:
    with pytest.raises(InputError, match="--gpus is"):
        parse_gpus(text)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("gpus", ["1x12GB", "2x16GB", "8x80GB"])
def test_the_micro_batch_that_is_named_fits_and_twice_as_many_do_not(gpus: str, precision: str) -> None:
    devices = parse_gpus(gpus)
    result = fit(large(f"precision={precision}"), devices)
    for row in result.rows:
        for phase, size in zip(large().phases, row.micro_batches, strict=False):

            def need(sequences: int, row: Any = row, phase: Any = phase) -> int:
                length = phase.sequence_length
                batch = Batch(sequences=sequences, length=length, masked=-(-length * 15 // 100))
                return estimate(
                    preset("large", vocab_size=30522), read_settings(row.name), precision=precision,
                    ranks=devices.ranks, batch=batch, accumulates=phase.global_batch > devices.ranks * sequences,
                ).with_margin  # fmt: skip

            if size is None:
                assert need(1) > devices.memory
            else:
                assert need(size) <= devices.memory
                assert (phase.global_batch // devices.ranks) % size == 0
                if 2 * size <= phase.global_batch // devices.ranks:
                    assert need(2 * size) > devices.memory


def test_the_lowest_stage_that_fits_is_chosen() -> None:
    ample = fit(large(), parse_gpus("8x80GB"))
    assert (ample.choice and ample.choice.name, ample.own_fits) == ("zero1", True)
    assert "keep it" in verdict(ample)[-1]
    alone = fit(large("deepspeed=zero3"), parse_gpus("80GB"))
    assert alone.choice is not None
    assert alone.choice.name == "zero0"
    assert "choose deepspeed=zero0" in verdict(alone)[-1]
    tight = fit(large(), parse_gpus("8x8GB"))
    assert tight.choice is not None
    assert not any(
        row.fits for row in tight.rows[1 : [row.name for row in tight.rows].index(tight.choice.name)]
    )
    nothing = fit(large(), parse_gpus("8x1GB"))
    assert nothing.choice is None
    assert "activation_checkpointing=full" in verdict(nothing)[-1]


def test_stage_0_with_bf16_is_refused_in_its_row_not_by_the_command() -> None:
    rows = fit(large("precision=bf16"), parse_gpus("8x80GB")).rows
    assert rows[0].needs is None
    assert "ZeRO stage 1 or more" in rows[0].refused
    assert all(row.fits for row in rows[1:])


def test_recomputing_activations_makes_room() -> None:
    kept, recomputed = (
        fit(large(f"activation_checkpointing={mode}"), parse_gpus("8x16GB")).rows[1]
        for mode in ("none", "full")
    )
    assert kept.needs is not None
    assert recomputed.needs is not None
    assert recomputed.needs.activations < kept.needs.activations / 4


def test_a_configuration_of_ones_own_has_a_row(tmp_path: Path) -> None:
    own = tmp_path / "own.json"
    own.write_text('{"zero_optimization": {"stage": 2}}')
    result = fit(large(f"deepspeed={own}"), parse_gpus("8x80GB"))
    assert result.rows[-1].name == str(own)
    assert result.own_fits


def test_the_vocabulary_of_shards_that_are_there_counts(shards: Path) -> None:
    paths = [f"phases.{index}.shards={shards}" for index in (0, 1)]
    result = fit(large(*paths), parse_gpus("8x80GB"))
    assert (result.vocabulary, result.assumed) == (2000, False)
    assert "assumed" not in table(result)[0]


@pytest.mark.parametrize("gpus", ["3x80GB", "512x80GB", "99999999999999x80GB"])
def test_ranks_that_pretrain_would_refuse_do_not_fit_however_large_they_are(gpus: str) -> None:
    result = fit(read_recipe(BASE), parse_gpus(gpus))
    (line,) = verdict(result)
    assert "`pretrain` would refuse this: phases.0: " in line
    assert "don't divide the plan's 64 lanes; use " in line
    assert (result.own_fits, result.choice) == (False, None)
    assert not any(any(row.micro_batches) for row in result.rows)


def test_a_micro_batch_that_the_ranks_cannot_take_does_not_fit_and_one_that_they_can_is_named(
    cli: Any, tmp_path: Path
) -> None:
    refused = cli("doctor", "--recipe", BASE, "--gpus", "16x80GB", cwd=tmp_path)
    assert refused.returncode == 1
    assert "phases.0: micro_batch 32 doesn't divide the 16 sequences" in refused.stdout
    assert "set micro_batch=16" in refused.stdout
    assert "fits, " not in refused.stdout
    assert "keep it" not in refused.stdout
    changes = next(line for line in refused.stdout.splitlines() if line.startswith("choose "))
    overrides = changes.removeprefix("choose ").partition(":")[0].split()
    assert "phases.0.micro_batch=16" in overrides
    assert fit(read_recipe(BASE, overrides), parse_gpus("16x80GB")).own_fits


def test_an_optimizer_that_a_configuration_refuses_is_said_in_its_row(tmp_path: Path) -> None:
    own = tmp_path / "own.json"
    own.write_text('{"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}}')
    result = fit(large(f"deepspeed={own}", "phases.0.optimizer=bert_adam"), parse_gpus("16x80GB"))
    assert "bert_adam" in result.rows[-1].refused
    one_bit = [f"phases.{index}.optimizer=onebit_adam" for index in (0, 1)]
    result = fit(large("precision=fp32", "onebit.freeze_step=9", *one_bit), parse_gpus("16x80GB"))
    refused = {row.name: row.refused for row in result.rows}
    assert not refused["zero0"]
    assert refused["zero1"] == "optimizer onebit_adam goes with ZeRO stage 0 in fp32"
    assert not result.own_fits


def test_checkpoints_need_room_for_those_that_stay_and_one_more() -> None:
    two, five = (checkpoints_of(large(f"checkpoint.keep_last={keep}")) for keep in (2, 5))
    assert five == 2 * two
    # 336 million parameters of 16 bytes, three times.
    assert two == pytest.approx(3 * 16 * 336e6, rel=0.01)
