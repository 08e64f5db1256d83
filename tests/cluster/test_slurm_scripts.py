"""Each script of slurm/ under a real SLURM of two nodes: jobs end as the scripts' heads say."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted((ROOT / "slurm").glob("*.sh"))
SUBMITTED = [path.name for path in SCRIPTS if path.name != "environment.sh"]
PRETRAIN = "sbatch slurm/pretrain_large.sh recipes/mine.yaml"
# What a run learned, as against how fast it was.
LEARNED = ("step", "samples", "tokens", "loss", "mlm_loss", "nsp_loss", "learning_rate", "gradient_norm")
pytestmark = pytest.mark.timeout(600)


def metrics(folder: Path) -> list[dict[str, Any]]:
    path = folder / "RUNS/mine/metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def learned(folder: Path) -> list[dict[str, Any]]:
    return [{name: line[name] for name in LEARNED} for line in metrics(folder)]


def recorded(folder: Path) -> tuple[str, list[int]]:
    """The status of the one run that MLflow holds, and its steps in their order."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'RUNS/mlflow.db'}")
    (experiment,) = client.search_experiments(filter_string="name = 'cluster'")
    (run,) = client.search_runs([experiment.experiment_id], "tags.`bertpipe.stage` = 'pretrain'")
    points = client.get_metric_history(run.info.run_id, "train/loss")
    return run.info.status, [point.step for point in points]


def wait_for_steps(site: Any, job: int, count: int) -> None:
    until = time.monotonic() + 300
    while len(metrics(site.folder)) < count:
        assert time.monotonic() < until, site.output(job)
        assert site.shown(job)["JobState"] in ("PENDING", "RUNNING"), site.output(job)
        time.sleep(0.05)


@pytest.fixture(scope="module")
def undisturbed(shared_site: Any, shards: Path) -> tuple[Any, int]:
    """A run of 40 steps over both nodes that nobody disturbed, and its job."""
    shared_site.write_recipe(shards)
    job = shared_site.submit(PRETRAIN)
    shared_site.wait(job)
    return shared_site, job


def test_pretraining_spans_both_nodes_and_ends_with_a_checkpoint_and_one_tracked_run(
    undisturbed: Any,
) -> None:
    site, job = undisturbed
    output = site.output(job)
    assert site.shown(job)["JobState"] == "COMPLETED", output
    assert {(rank["node"], rank["rank"]) for rank in site.ranks()} == {("n1", "0"), ("n2", "1")}
    assert "step 40 of 40: RUNS/mine/checkpoints/latest" in output
    assert json.loads((site.folder / "RUNS/mine/environment.json").read_text())[0]["ranks"] == 2
    latest = (site.folder / "RUNS/mine/checkpoints/latest").resolve()
    assert latest.exists()
    assert recorded(site.folder) == ("FINISHED", list(range(1, 41)))


def test_no_job_compiles_or_downloads(undisturbed: Any) -> None:
    site, _ = undisturbed
    assert site.ranks(), "no job has run"
    assert site.was_forbidden() == []


@pytest.mark.parametrize("how", ["told to end", "killed on one node"])
def test_a_stopped_job_leaves_a_checkpoint_and_the_same_command_ends_the_run_as_if_undisturbed(
    how: str, site: Any, shards: Path, undisturbed: Any
) -> None:
    site.write_recipe(shards, checkpoint={"every": 5, "keep_last": 2})
    first = site.submit(PRETRAIN)
    wait_for_steps(site, first, 8)
    if how == "told to end":
        assert site.run(f"scancel --signal=TERM {first}").returncode == 0
    else:
        (on_second_node,) = (rank for rank in site.ranks() if rank["node"] == "n2")
        os.kill(int(on_second_node["pid"]), signal.SIGKILL)
    assert site.wait(first) == ["FAILED"], site.output(first)
    done = len(metrics(site.folder))
    assert 8 <= done < 40, "the run was over before it was stopped"
    if how == "told to end":
        assert site.shown(first)["ExitCode"] == "143:0"
        assert f"stopped by SIGTERM after step {done}" in site.output(first)
        assert (site.folder / f"RUNS/mine/checkpoints/step-{done:08}").is_dir()
        assert recorded(site.folder) == ("KILLED", list(range(1, done + 1)))
    second = site.submit(PRETRAIN)
    assert site.wait(second) == ["COMPLETED"], site.output(second)
    assert re.search(r"resuming RUNS/mine after step \d+ of 40", site.output(second))
    assert learned(site.folder) == learned(undisturbed[0].folder)
    assert recorded(site.folder) == ("FINISHED", list(range(1, 41)))


def chain() -> str:
    """The commands of docs/slurm.md that go from raw text to a model."""
    page = (ROOT / "docs/slurm.md").read_text(encoding="utf-8")
    (commands,) = re.findall(r"<!-- tested: cluster -->\n```bash\n(.*?)```", page, flags=re.DOTALL)
    return str(commands)


def submit_chain(site: Any) -> list[int]:
    """The four jobs of the chain, as docs/slurm.md submits them."""
    site.write_recipe("SHARDS/128", phases=[short_phase()])
    done = site.run(chain() + '\necho "$vocab $shards $training $model"')
    assert done.returncode == 0, done.stderr
    return [int(number) for number in done.stdout.split()]


def short_phase() -> dict[str, Any]:
    return {
        "shards": "SHARDS/128",
        "sequence_length": 128,
        "global_batch": 16,
        "micro_batch": 4,
        "steps": 6,
        "learning_rate": 1e-3,
        "warmup_steps": 2,
    }


def test_four_jobs_that_wait_for_one_another_go_from_raw_text_to_a_model_that_transformers_loads(
    site: Any,
) -> None:
    from pipeline.demo import write_corpus

    write_corpus(site.folder / "corpus/english.txt")
    jobs = submit_chain(site)
    states = site.wait(*jobs)
    assert states == ["COMPLETED"] * 4, [site.output(job) for job in jobs]
    from transformers import AutoTokenizer, BertForPreTraining

    folder = site.folder / "MODELS/mine"
    model, tokenizer = BertForPreTraining.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    logits = model(**tokenizer("Functions are objects.", return_tensors="pt")).prediction_logits
    assert logits.shape[-1] == len((site.folder / "VOCAB/vocab.txt").read_text().splitlines())
    assert {rank["command"].split()[0] for rank in site.ranks()} == {"vocab", "shard", "pretrain", "convert"}
    assert site.was_forbidden() == []


def test_a_broken_first_job_cancels_those_that_wait_for_it(site: Any) -> None:
    (site.folder / "corpus/english.txt").write_text("")
    jobs = submit_chain(site)
    states = site.wait(*jobs)
    assert states == ["FAILED", "CANCELLED", "CANCELLED", "CANCELLED"]
    assert site.shown(jobs[0])["ExitCode"] == "2:0"
    assert "bertpipe: " in site.output(jobs[0])
    assert "Traceback" not in site.output(jobs[0])
    assert [name for name in ("VOCAB", "SHARDS", "RUNS", "MODELS") if (site.folder / name).exists()] == []


MISUSES = {
    "vocab.sh without a corpus": ("slurm/vocab.sh", {}, "say what to read and what to make"),
    "shard.sh without a corpus": ("slurm/shard.sh", {}, "say what to read and what to make"),
    "convert.sh without a checkpoint": ("slurm/convert.sh", {}, "say what to read and what to make"),
    **{
        f"{name} without its environment": (
            f"slurm/{name} x",
            {"BERTPIPE_VENV": "/nowhere"},
            "BERTPIPE_VENV is /nowhere, where there is no bin/bertpipe",
        )
        for name in SUBMITTED
    },
    "a script away from its checkout": (
        "slurm/pretrain_base.sh",
        {"BERTPIPE_ROOT": "/nowhere"},
        "/nowhere is no checkout of bertpipe",
    ),
    "a recipe that is missing": (
        "slurm/pretrain_base.sh recipes/none.yaml",
        {},
        "recipes/none.yaml",
    ),
}


def test_a_job_that_cannot_work_says_why_in_one_line(site: Any) -> None:
    jobs = {
        name: (site.submit(f"sbatch {command}", env=environment), said)
        for name, (command, environment, said) in MISUSES.items()
    }
    site.wait(*(job for job, _ in jobs.values()))
    for name, (job, said) in jobs.items():
        shown = site.shown(job)
        assert (shown["JobState"], shown["ExitCode"]) == ("FAILED", "2:0"), name
        # srun adds which tasks failed.
        lines = [
            line for line in site.output(job).splitlines() if not line.startswith(("srun:", "slurmstepd"))
        ]
        assert len(lines) == 1, f"{name}: {lines}"
        assert said in lines[0], name


def test_paths_may_come_from_the_environment(site: Any, shards: Path) -> None:
    paths = {"CORPUS": "corpus/*.txt", "VOCAB": f"{shards}/vocab", "SHARDS": "SHARDS/128"}
    job = site.submit("sbatch slurm/shard.sh", env={f"BERTPIPE_{name}": path for name, path in paths.items()})
    assert site.wait(job) == ["COMPLETED"], site.output(job)
    assert (site.folder / "SHARDS/128/manifest.json").is_file()
    (rank,) = site.ranks()
    assert rank["command"] == f"shard --workers 1 corpus/*.txt --vocab {shards}/vocab -o SHARDS/128"


@pytest.mark.parametrize("name", SUBMITTED)
def test_a_script_that_is_started_without_sbatch_says_so(name: str, site: Any) -> None:
    done = site.run(f"bash slurm/{name}")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [f"{name}: is for sbatch: sbatch slurm/{name} …"]


@pytest.mark.parametrize(
    "path", [*SCRIPTS, ROOT / "tests/cluster/slurm_local.sh"], ids=lambda path: path.name
)
def test_the_scripts_pass_shellcheck(path: Path) -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("needs shellcheck")
    done = subprocess.run(["shellcheck", "-x", path], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_every_script_is_short_and_explains_itself() -> None:
    assert SUBMITTED == ["convert.sh", "pretrain_base.sh", "pretrain_large.sh", "shard.sh", "vocab.sh"]
    for path in SCRIPTS:
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) < 60, path.name
        if path.name in SUBMITTED:
            head = text[: text.index("#SBATCH")]
            assert all(
                word in head for word in (f"sbatch slurm/{path.name} ", "Arguments:", "Environment:")
            ), path.name
