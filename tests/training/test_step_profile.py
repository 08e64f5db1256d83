"""`pretrain --profile`: the run is the same run, and its folder says where a step's time and memory go."""

import gzip
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from model.bert import BertForPretraining
from model.counts import step_flops
from pipeline.recipe import read_recipe
from pipeline.training.metrics import read_metrics
from pipeline.training.plan import Plan, make_plan
from pipeline.training.step_parts import MARK, PARTS
from pipeline.training.step_profile import FirstRanksProfile, NoProfile, kinds_of, open_profile
from pipeline.training.world import World
from workshop import processes
from workshop.recipes import small_recipe

# One process trains for all of them.
pytestmark = pytest.mark.xdist_group("profiled run")


@pytest.fixture(scope="module")
def folder(shards: Path, cli: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of the same 12 steps, `plain` and `profiled`, and what the latter said."""
    folder = tmp_path_factory.mktemp("profiled")
    values = small_recipe(folder / "plain", shards, steps=12)
    values |= {"evaluate": {"every": 0}, "checkpoint": {"every": 5, "keep_last": 2}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values))
    for run, options in (("plain", []), ("profiled", ["--profile"])):
        done = cli("pretrain", folder / "recipe.yaml", f"run={folder / run}", *options)
        assert done.returncode == 0, done.stderr
    (folder / "said").write_text(done.stderr)
    return folder


@pytest.fixture(scope="module")
def values(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "profiled" / "profile" / "profile.json").read_text()))


def test_profiled_steps_are_ordinary_steps_to_the_last_bit(folder: Path) -> None:
    assert processes.learned(folder / "profiled") == processes.learned(folder / "plain")
    assert not (folder / "plain" / "profile").exists()


def test_a_few_steps_are_let_pass_then_timed_then_measured_then_traced(values: dict[str, Any]) -> None:
    assert (values["plain"], values["measured"], values["traced"]) == ([3, 4, 5], [6, 7], [8, 9, 10])
    assert (values["rank"], values["ranks"], values["device"]) == (0, 1, "cpu")


def test_the_parts_of_a_step_add_up_to_it(values: dict[str, Any]) -> None:
    time = values["time"]
    parts = time["parts"]
    assert set(parts) <= set(PARTS)
    assert sum(parts.values()) == pytest.approx(time["step_seconds"])
    assert sum(cost["seconds"] for cost in time["operators"]) == pytest.approx(time["step_seconds"], rel=0.01)
    for place in ("embeddings", "attention", "feed-forward", "dropout, sums and LayerNorm", "heads and loss"):
        assert parts[f"forward: {place}"] > 0
        assert parts[f"backward: {place}"] > 0
    assert parts["data"] > 0
    assert parts["optimizer"] > 0
    assert "aten::addmm" in {cost["name"] for cost in time["operators"]}


def test_memory_is_seen_beside_its_estimate_in_each_part_of_a_step(values: dict[str, Any]) -> None:
    parts = {"data", "forward", "backward", "optimizer"}
    assert set(values["estimate"]) == parts
    assert set(values["memory"]) in (parts, set())  # none where the system keeps no record
    assert all(size > 100 << 20 for size in values["memory"].values())


def test_the_page_shows_parts_operators_and_memory(folder: Path) -> None:
    page = (folder / "profiled" / "profile" / "profile.txt").read_text()
    assert "rank 0 of 1, cpu, fp32, zero1" in page
    for words in (
        "forward",
        "  attention",
        "backward",
        "optimizer",
        "operators, by their own time",
        "aten::mm",
    ):
        assert f"\n{words}" in page
    assert max(map(len, page.splitlines())) <= 100


def test_the_end_of_it_says_where_it_is_and_the_five_largest_parts(
    folder: Path, values: dict[str, Any]
) -> None:
    said = (folder / "said").read_text()
    lines = said[said.index("profile: ") :].splitlines()[:6]
    assert lines[0].startswith(f"profile: {folder / 'profiled' / 'profile' / 'profile.txt'}")
    largest = sorted(values["time"]["parts"].items(), key=lambda part: -part[1])[:5]
    for line, (part, _) in zip(lines[1:], largest, strict=True):
        assert line.strip().startswith(part)
    assert "USDT" not in said


def test_the_trace_is_one_that_perfetto_opens(folder: Path) -> None:
    with gzip.open(folder / "profiled" / "profile" / "trace.json.gz", "rt") as file:
        events = json.load(file)["traceEvents"]
    named = {event["name"] for event in events if event.get("ph") == "X"}
    assert {f"{MARK}step {step}" for step in (8, 9, 10)} <= named
    assert [path.name for path in (folder / "profiled" / "profile").iterdir() if path.name[0] == "."] == []


def test_mfu_is_of_the_rate_that_stands_beside_it(folder: Path) -> None:
    recipe = read_recipe(str(folder / "recipe.yaml"))
    model = make_plan(recipe, 1).model
    for line in read_metrics(folder / "profiled"):
        assert set(line) >= processes.CONTRACT
        seconds = 16 / line["sequences_per_second"]
        operations = line["mfu"] * line["matmul_flops_per_second"] * seconds
        tokens = line["tokens_per_second"] * seconds
        least = step_flops(model, [tokens / 16] * 16, masked=0)
        assert least < operations < 1.5 * step_flops(model, [64] * 16, masked=16 * 10)


def test_ranks_and_stages_are_profiled_alike(folder: Path, cli: Any) -> None:
    run = folder / "ranks"
    arguments = ["--ranks", 2, "deepspeed=zero3", "--profile", "phases.0.steps=5", "phases.0.warmup_steps=1"]
    done = cli("pretrain", folder / "recipe.yaml", f"run={run}", *arguments)
    assert done.returncode == 0, done.stderr
    values = json.loads((run / "profile" / "profile.json").read_text())
    assert (values["ranks"], values["deepspeed"], values["traced"]) == (2, "zero3", [4, 5])
    assert values["time"]["parts"]["communication"] > 0


@pytest.mark.parametrize(
    ("steps_left", "kinds"),
    [
        (2, "memory time"),
        (5, "plain memory memory time time"),
        (8, "plain plain plain memory memory time time time"),
        (1000, "warm-up warm-up plain plain plain memory memory time time time"),
    ],
)
def test_a_run_with_few_steps_left_goes_without_what_matters_least(steps_left: int, kinds: str) -> None:
    assert kinds_of(steps_left) == kinds.split()


class PlainEngine:
    """A network without DeepSpeed, and without an update."""

    def __init__(self, network: BertForPretraining) -> None:
        self.module = network  # where DeepSpeed's engine has it

    @property
    def network(self) -> "PlainEngine":
        return self

    def __call__(self, **tensors: Any) -> Any:
        return self.module(**tensors)

    def backward(self, loss: torch.Tensor, *, last: bool) -> None:
        loss.backward()

    def step(self, learning_rate: float, *, update: bool = True) -> float:
        return learning_rate


@pytest.fixture
def plan(shards: Path, tmp_path: Path, write_recipe: Any) -> Plan:
    return make_plan(read_recipe(str(write_recipe(small_recipe(tmp_path / "run", shards)))), 1)


def take_steps(profile: Any, engine: Any, steps: int) -> list[Any]:
    """Steps of nothing but a forward, a backward and an update; the engines that they were given."""
    tokens = torch.zeros(8, dtype=torch.int32)
    starts = torch.tensor([0, 8], dtype=torch.int32)
    batches = iter(profile.data(range(steps)))
    given = []
    for number in range(1, steps + 1):
        with profile.step(engine, number) as watched:
            next(batches)
            one = torch.zeros(1, dtype=torch.int64)
            loss, *_ = watched.network(
                tokens_T=tokens, segments_T=tokens, positions_T=tokens, sequence_starts_B1=starts, longest=8,
                masked_positions_M=one, masked_labels_M=one, next_labels_B=one,
            )  # fmt: skip
            watched.backward(loss, last=True)
            watched.step(0.1)
        given.append(watched)
    return given


def hooks_of(network: torch.nn.Module) -> int:
    return sum(len(each._forward_hooks) + len(each._forward_pre_hooks) for each in network.modules())


def test_nothing_is_left_in_the_network_and_later_steps_have_the_engine_itself(
    plan: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = BertForPretraining(plan.model, recompute="full")
    engine = PlainEngine(network)
    profile = FirstRanksProfile(plan, World.alone(), "cpu", steps_left=2)
    watched = take_steps(profile, engine, 4)
    profile.close()
    assert [each is engine for each in watched] == [False, False, True, True]
    assert hooks_of(network) == 0
    parts = json.loads((tmp_path / "run" / "profile" / "profile.json").read_text())["time"]["parts"]
    # Each layer was computed again for the backward pass.
    assert parts["backward: forward, once more"] > 0
    assert "warning" not in capsys.readouterr().err


def test_watching_compiled_layers_compiles_nothing_and_still_knows_attention(
    shards: Path, tmp_path: Path, write_recipe: Any
) -> None:
    recipe = write_recipe(small_recipe(tmp_path / "run", shards) | {"compile": True})
    plan = make_plan(read_recipe(str(recipe)), 1)
    network = BertForPretraining(plan.model)
    network.compile_layers("aot_eager")
    profile = FirstRanksProfile(plan, World.alone(), "cpu", steps_left=3)
    torch._dynamo.reset()
    take_steps(profile, PlainEngine(network), 2)
    before = torch._dynamo.utils.counters["frames"]["total"]
    assert before > 0
    take_steps(profile, PlainEngine(network), 1)
    assert torch._dynamo.utils.counters["frames"]["total"] == before
    torch._dynamo.reset()
    profile.close()
    parts = json.loads((tmp_path / "run" / "profile" / "profile.json").read_text())["time"]["parts"]
    assert parts["forward: attention"] > 0
    assert parts["backward: attention"] > 0
    # Fused with dropout, sums and LayerNorms.
    assert "forward: feed-forward" not in parts


def test_a_disk_that_takes_nothing_costs_the_profile_alone(
    plan: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "profile").write_text("in the way")
    network = BertForPretraining(plan.model)
    profile = FirstRanksProfile(plan, World.alone(), "cpu", steps_left=2)
    take_steps(profile, PlainEngine(network), 3)
    profile.close()
    assert f"warning: cannot write the profile {tmp_path / 'run' / 'profile'}" in capsys.readouterr().err


def test_a_run_that_ends_before_says_so(plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    network = BertForPretraining(plan.model)
    profile = FirstRanksProfile(plan, World.alone(), "cpu", steps_left=2)
    take_steps(profile, PlainEngine(network), 1)
    profile.close()
    assert "warning: no profile: the run ended before" in capsys.readouterr().err


def test_who_asks_for_none_other_ranks_and_finished_runs_have_their_own_engine_back(
    plan: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    second = World(rank=1, size=2, local_rank=1, local_size=2, address="127.0.0.1", port=1)
    # One step is too few for anything to be seen.
    for world, asked, left in ((World.alone(), False, 9), (second, True, 9), (World.alone(), True, 1)):
        profile = open_profile(plan, world, "cpu", asked=asked, steps_left=left)
        assert isinstance(profile, NoProfile)
        engine, steps = SimpleNamespace(), [1, 2]
        with profile.step(engine, 1) as given:  # type: ignore[arg-type]
            assert given is engine
        assert profile.data(steps) is steps
        profile.close()
    assert f"no profile: {plan.recipe.run} has 1 step left" in capsys.readouterr().err
