"""The process that sends: nothing of the training waits for it, and nothing of it is left behind."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient

from pipeline.corpus.manifest import read_manifest
from pipeline.errors import Stopped
from pipeline.policies import TrackingPolicy
from pipeline.tracking import tracker
from pipeline.tracking.record import RunRecord
from pipeline.tracking.run_page import ONE_NODE, metric_name
from pipeline.tracking.server_run import TRACKING
from pipeline.tracking.spool import METRICS, read_metrics
from pipeline.tracking.tracker import open_tracker
from pipeline.training import launch
from workshop.recipes import small_recipe

RECORD = RunRecord(parameters={"seed": 1}, tags={})


def lines(first: int, last: int) -> str:
    told = [{"step": step, "loss": 10.0 - step, "time": 1.7e9 + step} for step in range(first, last + 1)]
    return "".join(json.dumps(line) + "\n" for line in told)


@pytest.fixture
def run(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = tmp_path / "RUNS" / "a"
    run.mkdir(parents=True)
    shutil.copy(empty_database, run.parent / "mlflow.db")
    return run


def found(run: Path) -> tuple[MlflowClient, Any]:
    ((uri, entry),) = json.loads((run / TRACKING).read_text()).items()
    client = MlflowClient(tracking_uri=uri)
    return client, client.get_run(entry["run_id"])


@pytest.fixture
def silent_server() -> Iterator[str]:
    """Takes connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(8)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_a_training_is_sent_by_a_process_of_its_own_with_samples_of_its_node(run: Path) -> None:
    with open_tracker(TrackingPolicy(), run, RECORD, is_first=True, samples=True, node=ONE_NODE):
        (run / METRICS).write_text(lines(1, 3))
    client, of_run = found(run)
    sent = client.get_metric_history(of_run.info.run_id, "train/loss")
    assert [metric.step for metric in sent] == [1, 2, 3]
    assert of_run.info.status == "FINISHED"
    assert 0 < of_run.data.metrics["system/system_memory_usage_percentage"] < 100


def test_a_failed_run_is_marked_and_so_is_its_pipeline(run: Path) -> None:
    with pytest.raises(ZeroDivisionError), open_tracker(TrackingPolicy(), run, RECORD, is_first=True):
        raise ZeroDivisionError
    client, of_run = found(run)
    assert of_run.info.status == "FAILED"
    assert client.get_run(of_run.data.tags["mlflow.parentRunId"]).info.status == "FAILED"


def test_after_a_stop_signal_a_silent_server_is_not_waited_for_longer_than_a_launcher_waits(
    run: Path, monkeypatch: pytest.MonkeyPatch, silent_server: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert tracker.SECONDS_AFTER_A_STOP + tracker._SECONDS_TO_SAY_SO < launch._SECONDS_TO_END
    monkeypatch.setattr(tracker, "SECONDS_AFTER_A_STOP", 0.5)
    policy = TrackingPolicy(uri=silent_server)

    began = time.monotonic()
    with pytest.raises(Stopped), open_tracker(policy, run, RECORD, is_first=True):
        raise Stopped("", 15)
    assert time.monotonic() - began < 20
    assert capfd.readouterr().err.count("running the same command again sends them") == 1


def test_a_sender_that_was_killed_is_replaced_and_misses_nothing(run: Path) -> None:
    tracking = open_tracker(TrackingPolicy(), run, RECORD, is_first=True)
    with tracking:
        (run / METRICS).write_text(lines(1, 3))
        assert isinstance(tracking, tracker.ProcessTracker)
        assert tracking._process is not None
        tracking._process.kill()
        tracking._process.wait()
    client, of_run = found(run)
    sent = client.get_metric_history(of_run.info.run_id, "train/loss")
    assert [metric.step for metric in sent] == [1, 2, 3]
    assert of_run.info.status == "FINISHED"


_RANK = """
import sys, time
from pathlib import Path
from pipeline.policies import TrackingPolicy
from pipeline.tracking.record import RunRecord
from pipeline.tracking.tracker import open_tracker
with open_tracker(TrackingPolicy(), Path(sys.argv[1]), RunRecord(parameters={}, tags={}), is_first=True) as tracking:
    print(tracking._process.pid, "torch" in sys.modules, "mlflow" in sys.modules, flush=True)
    time.sleep(60)
"""


def test_the_sender_dies_with_its_rank_and_is_left_alone_by_signals(run: Path) -> None:
    rank = subprocess.Popen([sys.executable, "-c", _RANK, str(run)], stdout=subprocess.PIPE, text=True)
    assert rank.stdout is not None
    pid, *loaded = rank.stdout.readline().split()
    assert loaded == ["False", "False"]
    until = time.monotonic() + 60
    while not (run / TRACKING).exists():
        assert time.monotonic() < until
        time.sleep(0.05)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        os.kill(int(pid), number)
    time.sleep(0.2)
    assert not _has_ended(int(pid))
    rank.kill()
    rank.wait()
    while not _has_ended(int(pid)):
        assert time.monotonic() < until
        time.sleep(0.05)


def _has_ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_the_first_rank_alone_is_recorded_and_tracking_can_be_off(tmp_path: Path) -> None:
    for policy, is_first in ((TrackingPolicy(), False), (TrackingPolicy(experiment=None), True)):
        with open_tracker(policy, tmp_path, RECORD, is_first=is_first, samples=policy.experiment is None):
            pass
    assert list(tmp_path.iterdir()) == []


def test_the_first_rank_of_another_node_only_watches_it(tmp_path: Path) -> None:
    with open_tracker(TrackingPolicy(), tmp_path, RECORD, is_first=False, samples=True, node="n2"):
        pass
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["n2.jsonl"]


def test_pretraining_is_recorded_step_by_step_with_what_it_was_made_from(
    run: Path, shards: Path, tmp_path: Path, cli: Any
) -> None:
    recipe = small_recipe(run, shards, steps=6, warmup_steps=1)
    recipe |= {"tracking": {"experiment": "tests"}, "evaluate": {"every": 3, "sequences": 32}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    done = cli("pretrain", tmp_path / "recipe.yaml")
    assert (done.returncode, "warning" in done.stderr) == (0, False), done.stderr
    client, of_run = found(run)
    run_id = of_run.info.run_id
    for name in ("loss", "learning_rate", "tokens_per_second"):
        sent = [
            (metric.step, metric.value) for metric in client.get_metric_history(run_id, metric_name(name))
        ]
        assert sent == [(line["step"], pytest.approx(line[name])) for line in read_metrics(run)]
    assert len(client.get_metric_history(run_id, "held_out/mlm_loss")) == 2
    assert of_run.data.params["phases.0.steps"] == "6"
    assert of_run.data.params["masking.rate"] == "0.15"
    manifest = read_manifest(str(shards))
    assert of_run.data.tags["bertpipe.shards.0"] == manifest.hash
    assert of_run.data.tags["bertpipe.ranks"] == "1"
    assert "torch" in of_run.data.tags["bertpipe.versions"]
    assert {item.path for item in client.list_artifacts(run_id)} == {
        "recipe.yaml", "environment.json", "vocab", "pictures", "predictions.txt", "predictions.json",
    }  # fmt: skip
    pictures = {item.path for item in client.list_artifacts(run_id, f"pictures/{shards.name}")}
    assert {Path(name).name for name in pictures} == {"label_balance.png", "lengths.png"}
    curves = Path(client.download_artifacts(run_id, "pictures/learning_curves.png"))
    assert curves.read_bytes().startswith(b"\x89PNG")
    datasets = {each.dataset.name: each for each in of_run.inputs.dataset_inputs}
    assert list(datasets) == [f"{shards} train", f"{shards} validation"]
    for split in ("train", "validation"):
        dataset = datasets[f"{shards} {split}"].dataset
        assert dataset.digest == manifest.hash
        assert json.loads(dataset.profile)["pairs"] == manifest.pairs(split)  # type: ignore[arg-type]
    # The pipeline tells the whole story, from manifests where nothing else was recorded.
    parent = client.get_run(of_run.data.tags["mlflow.parentRunId"])
    assert (parent.info.run_name, parent.info.status) == ("a", "FINISHED")
    below = client.search_runs(
        [of_run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    )
    assert sorted(each.info.run_name for each in below) == ["a/pretrain", "a/shard", "a/vocab"]
