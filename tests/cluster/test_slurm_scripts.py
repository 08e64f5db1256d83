"""Each script of slurm/ under a real SLURM of two nodes: jobs end as the scripts' heads say."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from workshop.cluster_runs import recorded
from workshop.cluster_site import write_program

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted((ROOT / "slurm").glob("*.sh"))
SOURCED = ("chain.sh", "container.sh", "environment.sh", "requeue.sh")
SUBMITTED = [path.name for path in SCRIPTS if path.name not in (*SOURCED, "pipeline.sh")]
pytestmark = pytest.mark.timeout(600)


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


MISUSES = {
    "vocab.sh without a corpus": ("slurm/vocab.sh", {}, "say what to read and what to make"),
    "shard.sh without a corpus": ("slurm/shard.sh", {}, "say what to read and what to make"),
    "convert.sh without a checkpoint": ("slurm/convert.sh", {}, "say what to read and what to make"),
    "evaluate.sh without a checkpoint": ("slurm/evaluate.sh", {}, "say what to read"),
    "an image that is not there": (
        "slurm/vocab.sh x",
        {"BERTPIPE_CONTAINER": "none.sif"},
        "BERTPIPE_CONTAINER is none.sif, which n",
    ),
    "an image of another kind": ("slurm/vocab.sh x", {"BERTPIPE_CONTAINER": "x.tar"}, "neither an IMAGE.sif"),
    "modules where there are none": (
        "slurm/vocab.sh x",
        {"BERTPIPE_MODULES": "cuda/12.4"},
        "BERTPIPE_MODULES is cuda/12.4, and n",
    ),
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


def test_a_container_and_modules_are_used_where_the_environment_names_them(site: Any) -> None:
    said = site.folder / "said.txt"
    for image in ("bert.sif", "bert.sqsh"):
        (site.folder / image).touch()
    # What these programs would be told; none of them is at hand.
    for name in ("apptainer", "srun", "module"):
        write_program(site.folder / "venv/bin" / name, f'echo "{name} $*" >> {said}')
    (site.folder / "venv/bin/bertpipe").unlink()
    program = {"PATH": f"{site.folder / 'venv/bin'}:{site.environment['PATH']}"}
    modules = {"BERTPIPE_MODULES": "cuda/12.4 gcc/13"}
    root, data = site.folder, "/data:/data"
    for environment in ({"BERTPIPE_CONTAINER": "bert.sif"} | modules, {"BERTPIPE_CONTAINER": "bert.sqsh"}):
        mounts = {"BERTPIPE_MOUNTS": data} if "sqsh" in environment["BERTPIPE_CONTAINER"] else {}
        job = site.submit("sbatch slurm/vocab.sh x -o V", env=program | mounts | environment)
        assert site.wait(job) == ["COMPLETED"], site.output(job)
    assert said.read_text().splitlines() == [
        "module load cuda/12.4 gcc/13",
        f"srun apptainer exec --nv --bind {root}:{root},{root}:{root} --pwd {root} bert.sif bertpipe vocab x -o V",
        f"srun --container-image=bert.sqsh --container-mounts={root}:{root},{root}:{root},{data} "
        f"--container-workdir={root} bertpipe vocab x -o V",
    ]


def test_a_training_that_makes_no_headway_is_tried_again_a_few_times_and_then_ends(site: Any) -> None:
    site.write_recipe("SHARDS/128")
    real = (site.folder / "venv/bin/bertpipe").read_text()
    # A rank that fails before its first step, as on a node with a broken GPU.
    write_program(
        site.folder / "venv/bin/bertpipe", '[ "$1" != pretrain ] || exit 1\n' + real.split("\n", 1)[1]
    )
    job = site.submit("sbatch slurm/pretrain_base.sh recipes/mine.yaml", env={"BERTPIPE_RETRIES": "1"})
    assert site.wait(job) == ["FAILED"], site.output(job)
    shown, output = site.shown(job), site.output(job)
    assert (shown["ExitCode"], shown["Restarts"]) == ("1:0", "1")
    assert output.count("RUNS/mine failed with exit code 1; it continues after step 0") == 1
    assert "RUNS/mine started 2 times without a checkpoint after that of step 0; look into" in output


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
    assert SUBMITTED == [
        "convert.sh", "evaluate.sh", "pretrain_base.sh", "pretrain_large.sh", "shard.sh", "vocab.sh",
    ]  # fmt: skip
    for path in SCRIPTS:
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) < 60, path.name
        if path.name not in SOURCED:
            head = text[: text.index("\nset -euo pipefail")]
            start = "sbatch" if path.name in SUBMITTED else "bash"
            words = (f"#   {start} slurm/{path.name} ", "Arguments:", "Environment:")
            assert all(word in head for word in words), path.name
