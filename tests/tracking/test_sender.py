"""MLflow as a user finds it: one run, every step once, whatever happened to the process or the server."""

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from pipeline.errors import InputError
from pipeline.policies import TrackingPolicy
from pipeline.tracking.record import RunRecord
from pipeline.tracking.run_page import metric_name
from pipeline.tracking.sender import Sender
from pipeline.tracking.server import make_database, tracking_uri
from pipeline.tracking.server_run import TRACKING
from pipeline.tracking.spool import METRICS, PREDICTIONS

RECORD = RunRecord(parameters={"phases": [{"steps": 3}], "run": "x"}, tags={"bertpipe.vocabulary": "abc"})
Lines = Sequence[dict[str, Any]]


def lines(first: int, last: int) -> list[dict[str, Any]]:
    return [
        {"step": step, "loss": 10.0 - step, "mlm_loss": 9.0 - step, "time": 1_700_000_000.25 + step}
        for step in range(first, last + 1)
    ]


def track(run: Path, logged: Lines, new: Lines, uri: str | None = None, record: RunRecord = RECORD) -> None:
    """One start of a run: `logged` is what metrics.jsonl holds when it begins, `new` what it trains."""
    (run / METRICS).write_text("".join(json.dumps(line) + "\n" for line in logged))
    with (
        Sender("bertpipe", tracking_uri(TrackingPolicy(uri=uri), run), run, record) as sender,
        (run / METRICS).open("a") as log,
    ):
        for line in new:
            log.write(json.dumps(line) + "\n")
            log.flush()
        sender.finish("FINISHED", patience=60)


def known(run: Path) -> tuple[MlflowClient, str]:
    """The server's client and the id of the one run that it has of this folder."""
    ((uri, entry),) = json.loads((run / TRACKING).read_text()).items()
    return MlflowClient(tracking_uri=uri), entry["run_id"]


def history(run: Path) -> list[tuple[int, float]]:
    client, run_id = known(run)
    return [(metric.step, metric.value) for metric in client.get_metric_history(run_id, "train/loss")]


def dead_server() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture
def run(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run folder beside a database that is ready, and no server."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = tmp_path / "RUNS" / "a"
    run.mkdir(parents=True)
    shutil.copy(empty_database, run.parent / "mlflow.db")
    return run


def test_a_resumed_run_continues_and_every_step_stands_once(run: Path) -> None:
    track(run, [], lines(1, 7))
    first = (run / TRACKING).read_text()
    # The checkpoint stood at step 5: steps 6 and 7 are trained, and logged, again.
    track(run, lines(1, 5), lines(6, 9))
    assert (run / TRACKING).read_text() == first
    assert history(run) == [(line["step"], line["loss"]) for line in lines(1, 9)]


def test_steps_that_a_crash_kept_from_the_server_are_sent_at_the_next_start(run: Path) -> None:
    track(run, [], lines(1, 2))
    # Steps 3 to 5 reached metrics.jsonl and the disk, and the process died before its next batch.
    track(run, lines(1, 5), lines(6, 6))
    assert [step for step, _ in history(run)] == [1, 2, 3, 4, 5, 6]


def test_a_long_record_is_sent_whole_and_in_order(run: Path) -> None:
    track(run, lines(1, 1234), [])
    assert [step for step, _ in history(run)] == list(range(1, 1235))


def test_a_point_lands_at_the_time_of_its_step_however_late_it_is_sent(run: Path) -> None:
    track(run, lines(1, 3), [])
    client, run_id = known(run)
    sent = [metric.timestamp for metric in client.get_metric_history(run_id, "train/loss")]
    assert sent == [1_700_000_001_250, 1_700_000_002_250, 1_700_000_003_250]
    found = client.get_run(run_id).info
    assert (found.start_time, found.end_time) == (sent[0], sent[-1])


def test_a_step_that_was_taken_without_an_answer_is_no_second_point(run: Path) -> None:
    track(run, [], lines(1, 3))
    client, run_id = known(run)
    # The server holds steps 1 to 3 and says that it holds none: they are sent again.
    from mlflow.entities import Metric

    client.log_batch(run_id, [Metric(metric_name("step"), 0.0, 1_900_000_000_000, 99)])
    track(run, lines(1, 3), lines(4, 4))
    assert [step for step, _ in history(run)] == [1, 2, 3, 4]


def test_a_run_whose_creation_was_never_confirmed_is_found_again(run: Path) -> None:
    track(run, [], lines(1, 2))
    client, run_id = known(run)
    entries = json.loads((run / TRACKING).read_text())
    asked = {uri: {name: entry[name] for name in ("key", "parent_key")} for uri, entry in entries.items()}
    (run / TRACKING).write_text(json.dumps(asked))
    track(run, lines(1, 2), lines(3, 3))
    assert known(run)[1] == run_id
    assert [step for step, _ in history(run)] == [1, 2, 3]
    experiment = client.get_run(run_id).info.experiment_id
    assert sorted(found.info.run_name for found in client.search_runs([experiment])) == ["a", "a/pretrain"]


def test_the_recipe_becomes_parameters_and_lineage_becomes_tags(run: Path) -> None:
    track(run, [], lines(1, 1))
    client, run_id = known(run)
    found = client.get_run(run_id)
    assert found.data.params == {"phases.0.steps": "3", "run": "x"}
    assert found.data.tags["bertpipe.vocabulary"] == "abc"
    assert "- vocabulary: `abc`" in found.data.tags["mlflow.note.content"]
    assert (found.info.status, found.info.run_name) == ("FINISHED", "a/pretrain")


def test_a_value_that_a_later_start_changes_stops_no_record(run: Path) -> None:
    track(run, [], lines(1, 2))
    changed = RunRecord(parameters={"phases": [{"steps": 3}, {"steps": 4}], "run": "y"}, tags={})
    track(run, lines(1, 2), lines(3, 3), record=changed)
    client, run_id = known(run)
    found = client.get_run(run_id).data
    assert found.params == {"phases.0.steps": "3", "phases.1.steps": "4", "run": "x"}
    assert found.tags["now.run"] == "y"
    assert [step for step, _ in history(run)] == [1, 2, 3]


def test_a_dead_server_neither_stops_training_nor_loses_a_step(
    run: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pipeline.tracking.sender._SECONDS_FOR_THE_SILENT", 1.0)
    dead = dead_server()
    began = time.monotonic()
    track(run, [], lines(1, 3), uri=dead)
    # A bound that only an unbounded wait exceeds: the import of mlflow alone takes seconds on a busy machine.
    assert time.monotonic() - began < 50
    said = capfd.readouterr().err
    assert f"{dead} does not take steps" in said
    assert "Connection refused); they are kept for it" in said
    assert "HTTPConnectionPool" not in said
    assert "running the same command again sends them" in said
    (run / TRACKING).unlink()
    track(run, lines(1, 3), lines(4, 4))
    assert [step for step, _ in history(run)] == [1, 2, 3, 4]


def test_a_run_has_one_record_on_each_server(run: Path, empty_database: Path) -> None:
    here, there = (f"sqlite:///{shutil.copy(empty_database, run / name)}" for name in ("here", "there"))
    track(run, [], lines(1, 2), uri=here)
    track(run, lines(1, 2), lines(3, 3), uri=there)
    track(run, lines(1, 3), lines(4, 4), uri=here)
    entries = json.loads((run / TRACKING).read_text())
    for uri, steps in ((here, [1, 2, 3, 4]), (there, [1, 2, 3])):
        sent = MlflowClient(tracking_uri=uri).get_metric_history(entries[uri]["run_id"], "train/loss")
        assert [metric.step for metric in sent] == steps


def test_a_store_that_refuses_files_takes_the_steps_all_the_same(
    run: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise MlflowException("bucket not found")

    monkeypatch.setattr(MlflowClient, "log_artifact", refuse)
    record = RunRecord(parameters={}, tags={}, artefacts=(__file__,))
    track(run, [], lines(1, 2), record=record)
    assert "does not take artefacts (bucket not found)" in capfd.readouterr().err
    assert [step for step, _ in history(run)] == [1, 2]
    client, run_id = known(run)
    assert client.get_run(run_id).info.status == "FINISHED"


def test_a_password_in_the_servers_address_is_neither_said_nor_kept(
    run: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pipeline.tracking.sender._SECONDS_FOR_THE_SILENT", 1.0)
    dead = dead_server()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", dead.replace("//", "//bob:hunter2@"))
    track(run, [], lines(1, 2))
    said = capfd.readouterr().err
    assert f"{dead} does not take steps" in said
    assert "hunter2" not in said + (run / TRACKING).read_text()
    assert list(json.loads((run / TRACKING).read_text())) == [dead]


def test_a_recipe_is_kept_on_the_server_without_passwords(run: Path) -> None:
    recipe = run / "recipe.yaml"
    recipe.write_text("tracking:\n  uri: http://bob:hunter2@host\nseed: 1\n")
    track(run, [], lines(1, 1), record=RunRecord(parameters={}, tags={}, artefacts=(str(recipe),)))
    client, run_id = known(run)
    kept = Path(client.download_artifacts(run_id, "recipe.yaml")).read_text()
    assert kept == "tracking:\n  uri: http://host\nseed: 1\n"
    assert "hunter2" in recipe.read_text()


@pytest.mark.parametrize("purged", [False, True])
def test_a_run_that_was_deleted_on_the_server_is_recorded_anew(
    run: Path, empty_database: Path, capfd: pytest.CaptureFixture[str], purged: bool
) -> None:
    track(run, [], lines(1, 2))
    client, deleted = known(run)
    if purged:
        shutil.copy(empty_database, run.parent / "mlflow.db")
    else:
        client.delete_run(deleted)
    track(run, lines(1, 2), lines(3, 3))
    assert f"has no run {deleted} any more; this run is recorded there anew" in capfd.readouterr().err
    assert known(run)[1] != deleted
    assert [step for step, _ in history(run)] == [1, 2, 3]


def test_an_experiment_without_a_name_is_refused() -> None:
    with pytest.raises(InputError, match="write null for no tracking"):
        TrackingPolicy(experiment="")


def test_where_a_run_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "RUNS" / "a"
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri(TrackingPolicy(), run) == f"sqlite:///{tmp_path}/RUNS/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    assert tracking_uri(TrackingPolicy(), run) == "http://server:5000"
    assert tracking_uri(TrackingPolicy(uri="http://own:1"), run) == "http://own:1"


def test_a_database_that_a_kill_cut_short_is_never_taken_for_one(tmp_path: Path) -> None:
    """MLflow refuses one of which it made half the tables, at every later start."""
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    command = "import sys; from pipeline.tracking.server import make_database; make_database(sys.argv[1])"
    maker = subprocess.Popen([sys.executable, "-c", command, uri])
    while not any(left.stat().st_size for left in tmp_path.glob(".mlflow.db.*.tmp")):
        assert maker.poll() is None
        time.sleep(0.005)
    maker.kill()
    maker.wait()
    assert [left.name for left in tmp_path.iterdir() if not left.name.endswith("-journal")] == [
        f".mlflow.db.{maker.pid}.tmp"
    ]
    make_database(uri)
    assert [left.name for left in tmp_path.iterdir()] == ["mlflow.db"]
    assert MlflowClient(tracking_uri=uri).create_experiment("works")


def branch_lines(branch: int, first: int, last: int) -> list[dict[str, Any]]:
    return [{**line, "loss": line["loss"] - branch, "branch": branch} for line in lines(first, last)]


def test_steps_after_a_rollback_are_a_history_of_their_own_and_each_history_has_a_step_once(
    run: Path,
) -> None:
    track(run, [], lines(1, 7))
    # Rolled back to the checkpoint of step 4, and on with other data; stopped, and resumed from that of step 6.
    track(run, lines(1, 4), branch_lines(1, 5, 9))
    track(run, [*lines(1, 4), *branch_lines(1, 5, 6)], branch_lines(1, 7, 11))
    # And once more, to step 2.
    track(run, lines(1, 2), branch_lines(2, 3, 5))
    client, run_id = known(run)
    for branch, steps in ((0, range(1, 8)), (1, range(5, 12)), (2, range(3, 6))):
        sent = client.get_metric_history(run_id, metric_name("loss", branch))
        expected = [(step, 10.0 - step - branch) for step in steps]
        assert [(metric.step, metric.value) for metric in sent] == expected


def test_a_rollback_that_a_server_has_missed_is_sent_whole(run: Path) -> None:
    track(run, lines(1, 4), branch_lines(1, 5, 7))
    client, run_id = known(run)
    assert [metric.step for metric in client.get_metric_history(run_id, "train/loss")] == [1, 2, 3, 4]
    assert [m.step for m in client.get_metric_history(run_id, "branch1/train/loss")] == [5, 6, 7]


def test_the_last_predictions_are_kept_as_a_text_and_as_a_table(run: Path) -> None:
    def line(step: int) -> str:
        sentence = {"text": "a [MASK]", "expected": ["cat"], "found": [[["cat", 0.5], ["mat", 0.25]]]}
        return json.dumps({"step": step, "predictions": [sentence]}) + "\n"

    (run / PREDICTIONS).write_text(line(1))
    track(run, [], lines(1, 1))
    (run / PREDICTIONS).write_text(line(1) + line(2))
    track(run, lines(1, 1), lines(2, 2))
    client, run_id = known(run)
    text = Path(client.download_artifacts(run_id, "predictions.txt")).read_text()
    assert [row for row in text.splitlines() if row.startswith("step")] == ["step 2", "step 1"]
    table = json.loads(Path(client.download_artifacts(run_id, "predictions.json")).read_text())
    assert [row[0] for row in table["data"]] == [1, 2]
    shown = json.loads(client.get_run(run_id).data.tags["mlflow.loggedArtifacts"])
    assert shown == [{"path": "predictions.json", "type": "table"}]


def test_samples_of_several_nodes_are_told_apart(run: Path) -> None:
    (run / "system").mkdir()
    for node in ("n1", "n2"):
        rows = [{"step": n, "time": 1.7e9 + n, "cpu_utilization_percentage": 50.0} for n in (1, 2)]
        (run / "system" / f"{node}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    track(run, [], lines(1, 1))
    track(run, lines(1, 1), lines(2, 2))
    client, run_id = known(run)
    for node in ("n1", "n2"):
        sent = client.get_metric_history(run_id, f"system/{node}/cpu_utilization_percentage")
        assert [metric.step for metric in sent] == [1, 2]
