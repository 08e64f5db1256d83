"""A run goes on with other ranks and another ZeRO stage: the same samples, the same state, the same losses."""

import errno
import itertools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.errors import InputError, RunFailed
from pipeline.training import elastic
from pipeline.training.checkpoints import CheckpointInfo, read_checkpoint
from pipeline.training.settings import ZeroSettings, read_settings
from workshop import elastic_runs
from workshop.elastic_runs import Leg

# Every stage, and state that is offloaded.
ADAMW = [f"{name} fp32 adamw" for name in ("zero0", "zero1", "zero2_offload", "zero3")]
BF16 = [f"{name} bf16 adamw" for name in ("zero1", "zero3")]
BERT_ADAM = [f"{name} fp32 bert_adam" for name in ("zero2", "zero3")]
LAMB = [f"{name} fp32 lamb" for name in ("zero1", "zero3")]
# Of two ranks, one holds nothing of the smallest weight.
GROUPS = [f"{name} fp32 a group each" for name in ("zero0", "zero1", "zero3")]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small networks' checkpoints, written by two ranks, and what two ranks made of some of them."""
    folder = tmp_path_factory.mktemp("states")
    again = [*zip(GROUPS, [*GROUPS[1:], GROUPS[0]], strict=True), (ADAMW[0], ADAMW[2]), (ADAMW[3], ADAMW[3])]
    elastic_runs.states(folder, 2, [*ADAMW, *BF16, *BERT_ADAM, *LAMB, *GROUPS], again)
    return folder


@pytest.mark.xdist_group("elastic states")
def test_weights_moments_and_counts_are_the_checkpointed_ones_to_the_last_bit_at_any_stage(
    written: Path,
) -> None:
    pairs = [
        *itertools.product(ADAMW, ADAMW),
        *[pair for each in (BF16, BERT_ADAM, LAMB) for pair in (each, each[::-1])],
    ]
    alone = elastic_runs.states(written, 1, pairs=pairs)
    together = json.loads((written / "found-2.json").read_text())
    assert (len(alone), len(together)) == (22, 5)
    found = [*alone.items(), *together.items()]
    assert [(pair, each["differs"]) for pair, each in found if each["differs"]] == []
    # So is what a step makes of them.
    assert [(pair, each["after"]) for pair, each in found if not each["after"] < 1e-6] == []
    # Nothing of what was converted is left.
    assert list(written.glob(".*")) == []


@pytest.mark.long
def test_losses_go_on_over_other_ranks_and_stages_as_if_nothing_had_changed(
    cli: Any, shards: Path, tmp_path: Path
) -> None:
    legs = [Leg(4, "zero1"), Leg(2, "zero1"), Leg(1, "zero3", micro_batch=16), Leg(2, "zero1", micro_batch=8)]
    # DeepSpeed makes patterns of paths.
    tmp_path = tmp_path / "a+b (odd) [1]"
    tmp_path.mkdir()
    elastic_runs.train(cli, tmp_path, shards, 4, Leg(1, "zero0", micro_batch=16), "undisturbed")
    run = tmp_path / "run"
    folder = run / "checkpoints"
    said = []
    for number, leg in enumerate(legs):
        if number == 1:
            # What a start leaves that is killed while it converts.
            (folder / ".step-00000012.universal" / "universal" / "zero").mkdir(parents=True)
            (folder / ".step-00000012.universal" / "universal" / "zero" / "optimizer_state.pt").write_bytes(
                b"half"
            )
        if number == 2:
            # The two ranks' own checkpoint is of no use, so that of the four before them is.
            part = next((folder / "step-00000025" / "engine").glob("*1_mp_rank_00_optim_states.pt"))
            part.write_bytes(part.read_bytes()[:-1])
        said.append(elastic_runs.train(cli, tmp_path, shards, number + 1, leg, "run").stderr)
        assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []
    assert "converting" not in said[0]
    assert (
        f"resuming {run} after step 12 on 2 ranks (checkpointed by 4): converting the optimizer's state"
        in said[1]
    )
    assert "trying the checkpoint before it" in said[2]
    assert (
        f"resuming {run} after step 12 on 1 rank (checkpointed by 4) with ZeRO 3 instead of 1: converting"
        in said[2]
    )
    assert "after step 38 on 2 ranks (checkpointed by 1) with ZeRO 1 instead of 3: converting" in said[3]
    assert elastic_runs.largest_difference(run, tmp_path / "undisturbed") < 1e-5

    starts = json.loads((run / "environment.json").read_text())
    assert [(start["ranks"], start["zero_stage"]) for start in starts] == [(4, 1), (2, 1), (1, 3), (2, 1)]
    infos = [read_checkpoint(folder / f"step-{step:08d}") for step in (12, 38, 50)]
    assert [(info.world_size, info.zero_stage) for info in infos] == [(4, 1), (1, 3), (2, 1)]
    assert [info.deepspeed for info in infos[1:]] == [
        read_settings(name).values for name in ("zero3", "zero1")
    ]


def info(**said: Any) -> CheckpointInfo:
    known: dict[str, Any] = {"step": 7, "samples": 0, "tokens": 0, "held_out": {}, "recipe": {}, "model": {}}
    known |= {"vocabulary": {}, "shards": [], "versions": {}, "world_size": 2, "zero_stage": 1}
    return CheckpointInfo(**known | said)


def test_what_has_changed_is_said_in_words() -> None:
    one, three = read_settings("zero1"), read_settings("zero3")
    before = info(deepspeed=one.values)
    assert elastic.changes(before, one, 2) == []
    assert elastic.changes(before, one, 4) == ["on 4 ranks (checkpointed by 2)"]
    assert elastic.changes(before, three, 1) == ["on 1 rank (checkpointed by 2)", "with ZeRO 3 instead of 1"]
    other = {"zero_optimization": one.values["zero_optimization"] | {"reduce_bucket_size": 7}}
    assert elastic.changes(before, ZeroSettings(path="", values=other), 2) == [
        "with another DeepSpeed configuration (zero_optimization.reduce_bucket_size: 7 here, 32000000 there)"
    ]
    # A release that did not say.
    assert elastic.changes(info(), one, 2) == []


@pytest.mark.parametrize(
    "own",
    [
        {"offload_optimizer": {"device": "nvme"}},
        {"offload_param": {"device": "nvme"}},
        {"mics_shard_size": 2},
    ],
)
def test_parts_that_no_other_ranks_can_take_up_are_refused(own: dict[str, Any]) -> None:
    fixed = ZeroSettings(path="", values={"zero_optimization": {"stage": 3} | own})
    before = info(zero_stage=3, deepspeed=fixed.values)
    elastic.refuse_fixed_parts(before, fixed, 2)
    for settings, ranks in ((fixed, 1), (read_settings("zero3"), 2), (read_settings("zero0"), 2)):
        with pytest.raises(InputError, match="resume with --ranks 2 and that configuration"):
            elastic.refuse_fixed_parts(before, settings, ranks)
    with pytest.raises(InputError, match="step 7 was checkpointed by 2 ranks at ZeRO 1"):
        elastic.refuse_fixed_parts(info(), fixed, 2)


@pytest.mark.parametrize(
    "refusal",
    [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("No space left on device\nat frame #0")],
)
def test_a_disk_that_is_full_in_mid_conversion_is_said_in_one_line(
    refusal: Exception, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fill(source: Path, output: Path) -> None:
        raise refusal

    checkpoint = tmp_path / "step-00000007"
    (checkpoint / "engine").mkdir(parents=True)
    monkeypatch.setattr(elastic, "convert", fill)
    remedy = "free some room, or resume with what wrote it, --ranks 2 at ZeRO 1"
    with pytest.raises(RunFailed) as failed:
        elastic._convert(checkpoint, tmp_path / "converted", info())
    said = f"cannot convert the optimizer's state of {checkpoint}: No space left on device; {remedy}"
    assert str(failed.value) == said
    # So is one that is too full to begin with.
    (checkpoint / "engine" / "zero_pp_rank_0_mp_rank_00_optim_states.pt").write_bytes(bytes(1 << 20))
    monkeypatch.setattr(elastic.shutil, "disk_usage", lambda path: SimpleNamespace(free=1 << 20))
    with pytest.raises(RunFailed) as failed:
        elastic._convert(checkpoint, tmp_path / "converted", info())
    said = f"to convert the optimizer's state of {checkpoint} takes 2 MiB of its disk for a while, and 1 MiB are free"
    assert str(failed.value) == f"{said}; {remedy}"
