"""`slurm/pipeline.sh` under a real SLURM: raw text to a model, as docs/slurm.md says."""

import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
STAGES = ["vocab", "shard-128", "pretrain", "evaluate", "convert"]
pytestmark = pytest.mark.timeout(600)


def commands() -> str:
    """What docs/slurm.md tells its reader to type."""
    page = (ROOT / "docs/slurm.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"<!-- tested: cluster -->\n```bash\n(.*?)```", page, flags=re.DOTALL)
    return str(block)


def submit(site: Any) -> dict[str, int]:
    """The jobs that the page's commands submit, by stage."""
    phase = {
        "shards": "SHARDS/128",
        "sequence_length": 128,
        "global_batch": 16,
        "micro_batch": 4,
        "steps": 6,
        "learning_rate": 1e-3,
        "warmup_steps": 2,
    }
    site.write_recipe("SHARDS/128", phases=[phase])
    done = site.run(commands())
    assert done.returncode == 0, done.stderr
    head, *rows, hint = done.stdout.splitlines()
    assert head.split() == ["stage", "job", "waits", "for"]
    assert hint == "watch it: bertpipe status RUNS/mine"
    jobs = {row.split()[0]: int(row.split()[1]) for row in rows}
    waits = {row.split()[0]: [int(word) for word in row.split()[2:]] for row in rows}
    assert list(jobs) == STAGES
    first, second, third, *_ = jobs.values()
    assert waits == dict(zip(STAGES, ([], [first], [second], [third], [third]), strict=True))
    return jobs


def test_one_command_goes_from_raw_text_to_a_model_that_transformers_loads_and_may_be_given_again(
    site: Any,
) -> None:
    from pipeline.demo import write_corpus

    write_corpus(site.folder / "corpus/english.txt")
    jobs = submit(site)
    again = site.run(commands())
    assert again.returncode == 0
    assert again.stdout.startswith("pipeline mine is queued already:\nmine.")
    states = site.wait(*jobs.values())
    assert states == ["COMPLETED"] * 5, [site.output(job) for job in jobs.values()]
    assert "held-out" in site.output(jobs["evaluate"])
    from transformers import AutoTokenizer, BertForPreTraining

    folder = site.folder / "MODELS/mine"
    model, tokenizer = BertForPreTraining.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    logits = model(**tokenizer("Functions are objects.", return_tensors="pt")).prediction_logits
    assert logits.shape[-1] == len((site.folder / "VOCAB/vocab.txt").read_text().splitlines())
    asked = {rank["command"].split()[0] for rank in site.ranks()}
    assert asked == {"recipe", "vocab", "shard", "pretrain", "evaluate", "convert"}
    assert site.was_forbidden() == []
    # Done already, and said so.
    done = site.run(commands())
    rows = [row.split()[:2] for row in done.stdout.splitlines()[1:-1]]
    assert [stage for stage, _ in rows] == STAGES[:-1], done.stdout + done.stderr
    assert site.wait(*(int(job) for _, job in rows)) == ["COMPLETED"] * 4


def test_a_broken_first_job_cancels_those_that_wait_for_it(site: Any) -> None:
    (site.folder / "corpus/english.txt").write_text("")
    jobs = list(submit(site).values())
    states = site.wait(*jobs)
    assert states == ["FAILED", *["CANCELLED"] * 4]
    assert site.shown(jobs[0])["ExitCode"] == "2:0"
    assert "bertpipe: " in site.output(jobs[0])
    assert "Traceback" not in site.output(jobs[0])
    assert [name for name in ("VOCAB", "SHARDS", "MODELS") if (site.folder / name).exists()] == []
    # The pipeline's record: that its first stage has failed.
    assert [path.name for path in (site.folder / "RUNS").iterdir()] == ["mlflow.db"]


@pytest.mark.parametrize(
    ("arguments", "environment", "said"),
    [
        ("recipes/mine.yaml", {}, "pipeline.sh: say what to read"),
        ("recipes/none.yaml x.txt", {}, "the recipe recipes/none.yaml does not exist"),
        ("recipes/mine.yaml seed=x x.txt", {}, "seed"),
        (
            "recipes/mine.yaml 'phases.0.shards={A: 1, B: 2}' x.txt",
            {},
            'reads a mixture ({"A": 1.0, "B": 2.0})',
        ),
        ("recipes/mine.yaml x.txt", {"BERTPIPE_ROOT": "/nowhere"}, "/nowhere is no checkout of bertpipe"),
        ("recipes/mine.yaml x.txt", {"BERTPIPE_SBATCH": "--partition=none"}, "nothing is left in its queue"),
    ],
)
def test_what_cannot_be_submitted_leaves_nothing_in_the_queue(
    arguments: str, environment: dict[str, str], said: str, site: Any
) -> None:
    site.write_recipe("SHARDS/128")
    done = site.run(f"bash slurm/pipeline.sh {arguments}", env=environment | {"BERTPIPE_PIPELINE": "broken"})
    assert done.returncode == 2, done.stdout
    assert said in done.stderr
    queue = site.run("squeue --noheader --format=%j").stdout
    assert "broken." not in queue
