"""MLflow as a user finds it: one run, every step once, whatever happened to the process or the server."""

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from pipeline.recipe import TrackingPolicy
from pipeline.training.metrics import METRICS, read_metrics
from pipeline.training.tracking import TRACKING, RunRecord, flatten, open_tracker, tracking_uri

RECORD = RunRecord(
    parameters={"phases": [{"steps": 3}], "run": "x"}, tags={"bertpipe.vocabulary": "abc"}, artefacts=()
)


def lines(first: int, last: int) -> list[dict[str, Any]]:
    return [{"step": step, "loss": 10.0 - step, "mlm_loss": 9.0 - step} for step in range(first, last + 1)]


def track(run: Path, logged: list[dict[str, Any]], new: list[dict[str, Any]], uri: str | None = None) -> None:
    """One start of a run: `logged` is what metrics.jsonl holds when it begins, `new` what it trains."""
    run.mkdir(parents=True, exist_ok=True)
    (run / METRICS).write_text("".join(json.dumps(line) + "\n" for line in logged))
    with open_tracker(TrackingPolicy(uri=uri), run, RECORD, is_first=True) as tracker:
        for line in new:
            tracker.log(line)


def history(run: Path, uri: str | None = None) -> list[tuple[int, float]]:
    known = json.loads((run / TRACKING).read_text())
    client = MlflowClient(tracking_uri=uri or known["uri"])
    return [(metric.step, metric.value) for metric in client.get_metric_history(known["run_id"], "loss")]


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_a_resumed_run_continues_and_every_step_stands_once(tmp_path: Path) -> None:
    run = tmp_path / "RUNS" / "a"
    track(run, [], lines(1, 7))
    first = (run / TRACKING).read_text()
    # The checkpoint stood at step 5: steps 6 and 7 are trained, and logged, again.
    track(run, lines(1, 5), lines(6, 9))
    assert (run / TRACKING).read_text() == first
    assert history(run) == [(line["step"], line["loss"]) for line in lines(1, 9)]


def test_steps_that_a_crash_kept_from_the_server_are_sent_at_the_next_start(tmp_path: Path) -> None:
    run = tmp_path / "RUNS" / "a"
    track(run, [], lines(1, 2))
    # Steps 3 to 5 reached metrics.jsonl and the disk, and the process died before its next batch.
    track(run, lines(1, 5), lines(6, 6))
    assert [step for step, _ in history(run)] == [1, 2, 3, 4, 5, 6]


def test_the_recipe_becomes_parameters_and_lineage_becomes_tags(tmp_path: Path) -> None:
    run = tmp_path / "RUNS" / "a"
    track(run, [], lines(1, 1))
    known = json.loads((run / TRACKING).read_text())
    found = MlflowClient(tracking_uri=known["uri"]).get_run(known["run_id"])
    assert found.data.params == {"phases.0.steps": "3", "run": "x"}
    assert found.data.tags["bertpipe.vocabulary"] == "abc"
    assert (found.info.status, found.info.run_name) == ("FINISHED", "a")


def test_a_dead_server_neither_stops_training_nor_loses_a_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pipeline.training.tracking._SECONDS_TO_FINISH", 4.0)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{probe.getsockname()[1]}"
    run = tmp_path / "RUNS" / "a"
    track(run, [], lines(1, 3), uri=dead)
    said = capfd.readouterr().err
    assert f"{dead} does not take steps" in said
    assert "running the same command again sends them" in said
    track(run, lines(1, 3), lines(4, 4))
    assert [step for step, _ in history(run)] == [1, 2, 3, 4]


def test_a_failed_run_is_marked(tmp_path: Path) -> None:
    run = tmp_path / "RUNS" / "a"
    run.mkdir(parents=True)

    def fail() -> None:
        with open_tracker(TrackingPolicy(), run, RECORD, is_first=True) as tracker:
            tracker.log(lines(1, 1)[0])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    known = json.loads((run / TRACKING).read_text())
    assert MlflowClient(tracking_uri=known["uri"]).get_run(known["run_id"]).info.status == "FAILED"


def test_the_first_rank_alone_is_recorded_and_tracking_can_be_off(tmp_path: Path) -> None:
    for policy, is_first in ((TrackingPolicy(), False), (TrackingPolicy(experiment=None), True)):
        with open_tracker(policy, tmp_path, RECORD, is_first=is_first) as tracker:
            tracker.log({"step": 1})
    assert list(tmp_path.iterdir()) == []


def test_where_a_run_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "RUNS" / "a"
    assert tracking_uri(TrackingPolicy(), run) == f"sqlite:///{tmp_path}/RUNS/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    assert tracking_uri(TrackingPolicy(), run) == "http://server:5000"
    assert tracking_uri(TrackingPolicy(uri="http://own:1"), run) == "http://own:1"


def test_nested_values_become_dotted_keys() -> None:
    assert flatten({"a": {"b": [1, {"c": None}]}, "d": "e"}) == {"a.b.0": 1, "a.b.1.c": None, "d": "e"}


def test_pretraining_is_recorded_step_by_step_with_its_artefacts(
    recipe: dict[str, Any], write_recipe: Any, cli: Any
) -> None:
    recipe["tracking"] = {"experiment": "tests"}
    recipe["phases"][0] |= {"steps": 6, "warmup_steps": 1}
    recipe["evaluate"]["every"] = 3
    assert cli("pretrain", write_recipe(recipe)).returncode == 0
    run = Path(recipe["run"])
    known = json.loads((run / TRACKING).read_text())
    client = MlflowClient(tracking_uri=known["uri"])
    found = client.get_run(known["run_id"])
    for name in ("loss", "learning_rate", "tokens_per_second"):
        sent = [(metric.step, metric.value) for metric in client.get_metric_history(known["run_id"], name)]
        assert sent == [(line["step"], pytest.approx(line[name])) for line in read_metrics(run)]
    assert len(client.get_metric_history(known["run_id"], "held_out_mlm_loss")) == 2
    assert found.data.params["phases.0.steps"] == "6"
    assert found.data.params["masking.rate"] == "0.15"
    assert len(found.data.tags["bertpipe.shards.0"]) == 32
    assert {item.path for item in client.list_artifacts(known["run_id"])} == {"recipe.yaml", "vocab"}
