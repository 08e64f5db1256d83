"""The memory estimate: against the ZeRO paper's figures, as laws, and as a refusal that names what would fit."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.config import preset
from model.counts import parameter_count
from pipeline.errors import InputError
from pipeline.recipe import Recipe, recipe_from
from pipeline.training import room as room_module
from pipeline.training.host_memory import host_memory
from pipeline.training.memory import (
    Batch,
    Estimate,
    estimate,
    estimate_phase,
    gib,
    memory_by_moment,
)
from pipeline.training.plan import make_plan
from pipeline.training.room import SHIPPED, Room, check_memory
from pipeline.training.settings import ZeroSettings, read_settings

BASE = preset("base", vocab_size=30522)
PARAMETERS = parameter_count(BASE)
SMALL = Batch(sequences=1, length=8, masked=1)
GIB = 1 << 30


def zero(stage: int, **more: Any) -> ZeroSettings:
    # Buckets of one element: what is looked at are the states.
    buckets = {"reduce_bucket_size": 1, "stage3_prefetch_bucket_size": 1, "stage3_max_live_parameters": 1}
    return ZeroSettings(path="x.json", values={"zero_optimization": {"stage": stage, **buckets, **more}})


def states(need: Estimate) -> float:
    """Bytes a parameter of weights, gradients and optimizer."""
    return (need.weights + need.gradients + need.optimizer + need.master) / PARAMETERS


@pytest.mark.parametrize(
    ("stage", "precision", "alone", "over_1000"),
    # Seen in a process's memory with DeepSpeed 0.19.8; the paper's 2 + 2 + 12 has bf16 gradients, here they are fp32.
    [
        (0, "fp32", 16, 16),
        (1, "fp32", 20, 8),
        (2, "fp32", 20, 4),
        (3, "fp32", 20, 0),
        (1, "bf16", 18, 6),
        (2, "bf16", 18, 2),
        (3, "bf16", 18, 0),
    ],
)
def test_a_parameter_takes_the_bytes_that_deepspeed_was_seen_to_take(
    stage: int, precision: str, alone: int, over_1000: int
) -> None:
    def need(ranks: int) -> float:
        return states(
            estimate(BASE, zero(stage), precision=precision, ranks=ranks, batch=SMALL, accumulates=False)
        )

    assert need(1) == pytest.approx(alone)
    assert need(1000) == pytest.approx(over_1000, abs=0.05)


@pytest.mark.parametrize(
    ("config", "precision", "ranks", "seen"),
    # GiB that a process of one (of two) ranks was seen to take at most, training `base` on CPUs with micro-batches
    # of 2 × 8 tokens, accumulated twice, with the shipped configurations.
    [
        ("zero0", "fp32", 1, 2.14), ("zero1", "fp32", 1, 2.83), ("zero2", "fp32", 1, 3.05),
        ("zero3", "fp32", 1, 3.08), ("zero1", "bf16", 1, 2.33), ("zero2", "bf16", 1, 2.45),
        ("zero3", "bf16", 1, 2.72), ("zero2_offload", "fp32", 1, 3.86), ("zero3_offload", "fp32", 1, 3.49),
        ("zero2_offload", "bf16", 1, 3.18), ("zero3_offload", "bf16", 1, 3.05),
        ("zero0", "fp32", 2, 2.38), ("zero1", "fp32", 2, 2.07), ("zero2", "fp32", 2, 2.07),
        ("zero3", "fp32", 2, 2.28), ("zero1", "bf16", 2, 1.86), ("zero2", "bf16", 2, 1.63),
        ("zero3", "bf16", 2, 1.74), ("zero2_offload", "fp32", 2, 2.65), ("zero3_offload", "fp32", 2, 2.49),
        ("zero2_offload", "bf16", 2, 2.06), ("zero3_offload", "bf16", 2, 1.96),
    ],
)  # fmt: skip
def test_the_estimate_is_near_what_a_process_was_seen_to_take(
    config: str, precision: str, ranks: int, seen: float
) -> None:
    batch = Batch(sequences=2, length=8, masked=1)
    need = estimate(BASE, read_settings(config), precision=precision, ranks=ranks, batch=batch, gpu=False)
    assert need.on_one / GIB == pytest.approx(seen, rel=0.08)


configurations = st.sampled_from(SHIPPED)
precisions = st.sampled_from(["fp32", "bf16"])


@given(configurations, precisions, st.integers(2, 64), st.integers(1, 64), st.booleans())
def test_more_ranks_than_two_never_need_more_and_larger_micro_batches_never_less(
    name: str, precision: str, ranks: int, sequences: int, gpu: bool
) -> None:
    def need(ranks: int, sequences: int) -> Estimate:
        batch = Batch(sequences=sequences, length=128, masked=20)
        return estimate(BASE, read_settings(name), precision=precision, ranks=ranks, batch=batch, gpu=gpu)

    here = need(ranks, sequences)
    assert need(2 * ranks, sequences).device <= here.device
    assert need(2 * ranks, sequences).host <= here.host
    assert need(ranks, sequences + 1).device >= here.device
    assert here.device < here.with_margin
    assert min(dataclasses.astuple(here)) >= 0


@given(precisions, st.integers(2, 64))
def test_each_stage_divides_more_than_the_one_before(precision: str, ranks: int) -> None:
    need = [
        states(estimate(BASE, zero(stage), precision=precision, ranks=ranks, batch=SMALL, accumulates=False))
        for stage in (1, 2, 3)
    ]
    assert need == sorted(need, reverse=True)
    assert len(set(need)) == 3


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_offloading_moves_the_optimizers_part_to_the_host(stage: int) -> None:
    here = estimate(BASE, zero(stage), precision="bf16", ranks=4, batch=SMALL)
    away = estimate(
        BASE, zero(stage, offload_optimizer={"device": "cpu"}), precision="bf16", ranks=4, batch=SMALL
    )
    assert (away.master, away.optimizer) == (0, 0)
    assert here.host == 0
    assert away.host >= here.master + here.optimizer
    on_disk = estimate(
        BASE, zero(stage, offload_optimizer={"device": "nvme"}), precision="bf16", ranks=4, batch=SMALL
    )
    assert on_disk.host == 0


@pytest.fixture
def large(recipe: dict[str, Any]) -> Recipe:
    values = recipe | {"model": {"preset": "large"}, "lanes": 16}
    phase = recipe["phases"][0] | {"sequence_length": 512, "global_batch": 256, "micro_batch": 16}
    return recipe_from(values | {"phases": [phase]}, "recipe")


LARGE = preset("large", vocab_size=30522)


def check(recipe: Recipe, room: Room, ranks: int = 8) -> str | None:
    return check_memory(recipe, LARGE, read_settings(recipe.deepspeed), ranks=ranks, room=room)


def test_a_run_that_the_device_cannot_hold_is_refused_with_need_there_is_and_remedy(large: Recipe) -> None:
    with pytest.raises(InputError, match=r"phases\.0: a rank would need [\d.]+ GiB of GPU memory") as refused:
        check(large, Room(device=12 * GIB, host=64 * GIB, gpu=True))
    assert "its GPU has 12.0 GiB" in str(refused.value)
    assert "phases.0.micro_batch=" in str(refused.value)
    assert "activation_checkpointing=full" in str(refused.value)
    assert check(large, Room(device=80 * GIB, host=64 * GIB, gpu=True)) is None


@pytest.mark.parametrize("gpu", [True, False])
def test_the_micro_batch_that_the_refusal_names_is_accepted(large: Recipe, gpu: bool) -> None:
    room = Room(device=16 * GIB, host=16 * GIB, gpu=gpu)
    with pytest.raises(InputError) as refused:
        check(large, room)
    named = int(str(refused.value).split("phases.0.micro_batch=")[1].split(",")[0])
    phase = dataclasses.replace(large.phases[0], micro_batch=named)
    check(dataclasses.replace(large, phases=(phase,)), room)
    # Twice as many would not have done, margin included.
    twice = dataclasses.replace(large.phases[0], micro_batch=2 * named)
    with pytest.raises(InputError):
        check(dataclasses.replace(large, phases=(twice,)), Room(device=15 * GIB, host=15 * GIB, gpu=gpu))


def test_where_no_micro_batch_fits_another_configuration_is_named_and_at_last_other_machines(
    large: Recipe,
) -> None:
    with pytest.raises(InputError, match=r"set deepspeed=zero3\b|set deepspeed=zero2"):
        check(large, Room(device=int(4.2 * GIB), host=64 * GIB, gpu=True))
    with pytest.raises(InputError, match="take more ranks, larger devices, or a smaller model"):
        check(large, Room(device=GIB, host=64 * GIB, gpu=True))


def test_a_tight_fit_is_warned_of_not_refused(large: Recipe) -> None:
    settings = read_settings(large.deepspeed)
    phase = large.phases[0]
    batch = Batch(sequences=phase.micro_batch, length=512, masked=large.masking.most(512))
    need = estimate(LARGE, settings, precision="fp32", ranks=8, batch=batch).device
    assert "needs about" in str(check(large, Room(device=need, host=0, gpu=True)))
    assert check(large, Room(device=int(need / 0.89), host=0, gpu=True)) is None
    with pytest.raises(InputError):
        check(large, Room(device=need - 1, host=0, gpu=True))


def test_host_memory_counts_where_the_optimizer_is_offloaded(large: Recipe) -> None:
    offloading = dataclasses.replace(large, deepspeed="zero2_offload")
    with pytest.raises(InputError, match=r"of host memory and its share is 0\.5 GiB"):
        check(offloading, Room(device=80 * GIB, host=GIB // 2, gpu=True))
    assert check(offloading, Room(device=80 * GIB, host=64 * GIB, gpu=True)) is None


def test_left_to_right_guesses_nearly_every_token_and_has_no_pairs_head(large: Recipe) -> None:
    room = Room(device=80 * GIB, host=64 * GIB, gpu=True)
    settings = read_settings("zero1")
    need = {}
    for name in ("mlm+nsp", "mlm", "ltr"):
        recipe = dataclasses.replace(large, objective=name)
        model, phase = recipe.model_config(30522), recipe.phases[0]
        need[name] = estimate_phase(recipe, phase, model, settings, ranks=8, gpu=True)
        assert check_memory(recipe, model, settings, ranks=8, room=room) is None
    # 511 of 512 tokens against 77: more vectors for the head, and no more logits than stand at once.
    more = need["ltr"].device - need["mlm"].device
    assert 4 * 16 * (511 - 77) * 1024 * 2 < more < 16 * (511 - 77) * 30522 * 4 / 4
    # A pooler and a head of two classes, with gradients and, over 8 ranks, the optimizer's part.
    assert need["mlm+nsp"].weights - need["mlm"].weights == 4 * (1024 * 1024 + 1024 + 2 * 1024 + 2)


@pytest.mark.parametrize("gpu", [True, False])
@pytest.mark.parametrize("config", SHIPPED)
def test_a_steps_moments_lead_up_to_the_estimate(large: Recipe, config: str, gpu: bool) -> None:
    settings = read_settings(config)
    moments = memory_by_moment(large, large.phases[0], BASE, settings, ranks=4, gpu=gpu)
    need = estimate_phase(large, large.phases[0], BASE, settings, ranks=4, gpu=gpu)
    # What torch allocates on a GPU is no context; what a process on a CPU holds is all of it.
    assert moments["backward"] == (need.device - need.context if gpu else need.on_one)
    assert 0 <= moments["data"] <= moments["forward"] < moments["backward"]
    assert moments["data"] <= moments["optimizer"] < moments["backward"]


def test_memory_that_cannot_be_told_refuses_nothing(large: Recipe) -> None:
    assert check(large, Room(device=0, host=0, gpu=False)) is None


def test_pretrain_refuses_before_it_writes_anything(
    recipe: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = recipe_from(recipe, "recipe")
    make_plan(asked, 1)
    tight = Room(device=1 << 20, host=1 << 20, gpu=False)
    monkeypatch.setattr(room_module, "room_for_a_rank", lambda ranks: tight)
    with pytest.raises(InputError, match=r"phases\.0: a rank would need .* of memory and its share is 1 MiB"):
        make_plan(asked, 1)
    assert not Path(asked.run).exists()


def test_a_control_groups_limit_counts(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text(
        "MemTotal: 64000000 kB\nMemFree: 1 kB\nMemAvailable: 60000000 kB\n"
    )
    unlimited = host_memory(tmp_path)
    assert (unlimited.total, unlimited.available) == (64_000_000 << 10, 60_000_000 << 10)
    # Version 2: the limit stands on a group around this process's own.
    group = tmp_path / "sys/fs/cgroup/job/step"
    group.mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/job/step\n")
    (group / "memory.max").write_text("max\n")
    (group.parent / "memory.max").write_text(f"{8 * GIB}\n")
    (group.parent / "memory.current").write_text(f"{5 * GIB}\n")
    (group.parent / "memory.stat").write_text(f"anon 1\ninactive_file {3 * GIB}\n")
    limited = host_memory(tmp_path)
    assert (limited.total, limited.available) == (8 * GIB, 6 * GIB)
    assert limited.limited_by
    # Version 1.
    (tmp_path / "proc/self/cgroup").write_text("4:cpu,memory:/box\n")
    box = tmp_path / "sys/fs/cgroup/memory/box"
    box.mkdir(parents=True)
    (box / "memory.limit_in_bytes").write_text(f"{4 * GIB}")
    (box / "memory.usage_in_bytes").write_text(f"{GIB}")
    assert host_memory(tmp_path).available == 3 * GIB


def test_nothing_is_claimed_where_nothing_can_be_read(tmp_path: Path) -> None:
    assert host_memory(tmp_path).total == 0


def test_sizes_are_said_as_a_person_says_them() -> None:
    assert (gib(80 * GIB), gib(GIB // 2), gib(1 << 20)) == ("80.0 GiB", "0.5 GiB", "1 MiB")
