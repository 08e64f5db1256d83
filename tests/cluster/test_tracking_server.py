"""A run on a real MLflow server that is killed and comes back, and its page as a browser shows it."""

import html
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from workshop.cluster_runs import wait_until
from workshop.tracking_server import Server

pytestmark = pytest.mark.timeout(600)
EXPERIMENT = "tracking"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server") / "mlflow")
    yield server
    server.kill()


class Run:
    """A run folder, the command that trains in it, and what the server holds of it."""

    def __init__(self, folder: Path, shards: Path, uri: str, *, steps: int) -> None:
        self.folder, self._uri = folder, uri
        phase = {
            "shards": str(shards),
            "sequence_length": 64,
            "global_batch": 16,
            "micro_batch": 16,
            "steps": steps,
            "learning_rate": 1e-3,
            "warmup_steps": 2,
        }
        recipe = {
            "run": str(folder),
            "model": {"preset": "tiny", "hidden_size": 64, "intermediate_size": 128},
            "lanes": 8,
            "phases": [phase],
            "checkpoint": {"every": 1000},
            "evaluate": {"every": 2, "sequences": 32},
            "tracking": {"experiment": EXPERIMENT},
            "loader": {"workers": 1},
        }
        folder.parent.mkdir(exist_ok=True)
        self._recipe = folder.parent / f"{folder.name}.yaml"
        self._recipe.write_text(yaml.safe_dump(recipe))

    def start(self) -> "subprocess.Popen[str]":
        command = [sys.executable, "-m", "pipeline.cli", "pretrain", str(self._recipe)]
        environment = os.environ | {"MLFLOW_TRACKING_URI": self._uri}
        return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)

    def lines(self) -> list[dict[str, Any]]:
        path = self.folder / "metrics.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def is_known(self) -> bool:
        """Whether the server has confirmed that it has the run."""
        path = self.folder / "tracking.json"
        return path.exists() and "run_id" in path.read_text()

    def known(self) -> tuple[Any, Any]:
        """The server's client, and the one run that it holds of this folder."""
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=self._uri)
        experiment = client.get_experiment_by_name(EXPERIMENT)
        (run,) = client.search_runs(
            [experiment.experiment_id], filter_string=f"attributes.run_name = '{self.folder.name}/pretrain'"
        )
        return client, run

    def held(self) -> list[tuple[int, float, int]]:
        """Step, loss and moment (milliseconds) of each point, in the server's order."""
        client, run = self.known()
        points = client.get_metric_history(run.info.run_id, "train/loss")
        return [(point.step, pytest.approx(point.value), point.timestamp) for point in points]

    def written(self) -> list[tuple[int, float, int]]:
        return [(line["step"], line["loss"], int(line["time"] * 1000)) for line in self.lines()]


def test_a_server_that_is_killed_and_comes_back_stops_nothing_and_misses_nothing(
    server: Server, shards: Path, tmp_path: Path
) -> None:
    server.start()
    run = Run(tmp_path / "RUNS" / "through", shards, server.uri, steps=100_000)
    training = run.start()
    try:
        # Whatever the machine's speed: some steps with the server, some without it, some with it again.
        wait_until(lambda: run.is_known() or training.poll() is not None)
        assert training.poll() is None, training.communicate()[1]
        wait_until(lambda: len(run.held()) >= 5)
        server.kill()
        away = len(run.lines())
        wait_until(lambda: len(run.lines()) >= away + 20)
        assert training.poll() is None, "the run ended with its server"
        server.start()
        back = len(run.lines())
        wait_until(lambda: len(run.held()) > back, lambda: f"{len(run.held())} steps of {len(run.lines())}")
        training.send_signal(signal.SIGTERM)
        said = training.communicate(timeout=120)[1]
    finally:
        training.kill()
        training.wait()
    assert training.returncode == 128 + signal.SIGTERM, said
    assert "Traceback" not in said
    assert said.count("does not take steps") == 1
    assert "takes steps again" in said
    written = run.written()
    assert [step for step, *_ in written] == list(range(1, len(written) + 1))
    assert run.held() == written
    client, found = run.known()
    assert found.info.status == "KILLED"
    assert {item.path for item in client.list_artifacts(found.info.run_id)} == {
        "recipe.yaml", "environment.json", "vocab", "pictures", "predictions.txt", "predictions.json",
    }  # fmt: skip
    assert (Path(client.download_artifacts(found.info.run_id, "recipe.yaml"))).read_text() == (
        run.folder / "recipe.yaml"
    ).read_text()


@pytest.fixture(scope="module")
def late(server: Server, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, list[str]]:
    """A run whose server came only after its end, and what its two starts said."""
    server.kill()
    run = Run(tmp_path_factory.mktemp("late") / "RUNS" / "late", shards, server.uri, steps=8)
    said = []
    for is_there in (False, True):
        if is_there:
            server.start()
        training = run.start()
        said.append(training.communicate(timeout=250)[1])
        assert training.returncode == 0, said[-1]
    return run, said


def test_a_server_that_appears_after_the_end_is_told_by_the_same_command(late: Any) -> None:
    run, (first, second) = late
    assert "running the same command again sends them" in first
    assert "warning" not in second
    assert "Traceback" not in first + second
    assert len(run.lines()) == 8
    assert run.held() == run.written()
    _, found = run.known()
    assert found.info.status == "FINISHED"
    # Begun and ended when it was trained, not when the server heard of it.
    assert found.info.end_time == run.written()[-1][2]
    assert found.info.start_time <= run.written()[0][2]


class Browser:
    """Headless Chromium, asked through the pipe of its own protocol: no driver, no library, no other clock."""

    FLAGS = ("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "no-proxy-server",
             "disable-background-networking", "disable-component-update", "disable-sync",
             "remote-debugging-pipe", "window-size=1600,6000")  # fmt: skip

    def __init__(self, program: str, profile: Path) -> None:
        to_read, self._out = os.pipe()
        self._in, to_write = os.pipe()
        # Chromium reads commands at descriptor 3 and answers at 4.
        start = ["bash", "-c", f'exec "$@" 3<&{to_read} 4>&{to_write}', "chromium", program]
        self._process = subprocess.Popen(
            [*start, *(f"--{flag}" for flag in self.FLAGS), f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(to_read, to_write),
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(to_read)
        os.close(to_write)
        self._read = b""
        self._numbers = itertools.count(1)
        self._session: dict[str, str] = {}
        (tab,) = (found for found in self._ask("Target.getTargets")["targetInfos"] if found["type"] == "page")
        attached = self._ask("Target.attachToTarget", targetId=tab["targetId"], flatten=True)
        self._session = {"sessionId": attached["sessionId"]}

    def read(self, address: str, is_drawn: Callable[[str], bool]) -> str:
        """The page's elements, once it is drawn."""
        # By way of an empty page: two addresses that differ behind # only would be one document.
        self._ask("Page.navigate", url="about:blank")
        self._ask("Page.navigate", url=address)
        wait_until(
            lambda: is_drawn(self._elements()), lambda: f"{address} shows {words(self._elements())[-1500:]}"
        )
        return self._elements()

    def close(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._in)
        os.close(self._out)

    def _elements(self) -> str:
        found = self._ask("Runtime.evaluate", expression="document.documentElement.outerHTML")
        return str(found["result"].get("value", ""))

    def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters, **self._session}
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self._read:
                more = os.read(self._in, 1 << 20)
                assert more, "chromium has ended"
                self._read += more
            line, self._read = self._read.split(b"\0", 1)
            answer = json.loads(line)
            if answer.get("id") == number:
                return dict(answer["result"])


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if shutil.which("chromium") is None and os.geteuid() == 0 and shutil.which("apt-get"):
        quiet = {"DEBIAN_FRONTEND": "noninteractive"}
        install = "apt-get update -qq; apt-get install -y -qq --no-install-recommends chromium"
        subprocess.run(
            install, shell=True, env=os.environ | quiet, capture_output=True, timeout=280, check=False
        )
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("needs chromium, and apt cannot install it")
    browser = Browser(program, tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


def words(page: str) -> str:
    """What a person reads on a page."""
    return " ".join(
        html.unescape(re.sub(r"<(script|style).*?</\1>|<[^>]*>", " ", page, flags=re.DOTALL)).split()
    )


def address_of(run: Run, said: str) -> str:
    """The address that the command printed."""
    (address,) = re.findall(r"recorded at (http\S+)", said)
    return str(address)


def test_the_page_of_a_run_draws_its_curves_in_groups(late: Any, browser: Browser) -> None:
    run, (_, said) = late
    address = address_of(run, said).replace("?", "/model-metrics?")
    names = {name for line in run.lines() for name in line if name not in ("time", "branch")}
    page = browser.read(address, lambda page: page.count("js-line") >= len(names))
    read = words(page)
    for group in ("train", "held_out", "optimizer", "speed", "progress"):
        assert re.search(rf"\b{group} \(\d+\)", read), read
    # Each curve goes through several points: a path with corners, in a chart that names it.
    curves = re.findall(r'class="js-line" d="M[^"]*L', page)
    assert len(curves) >= len(names)
    for name in ("train/loss", "held_out/mlm_loss", "speed/tokens_per_second"):
        assert name in read


def test_the_page_of_a_run_shows_what_it_was_made_from_and_with(late: Any, browser: Browser) -> None:
    run, (_, said) = late
    _, found = run.known()
    read = words(browser.read(address_of(run, said), lambda page: "Parameters (" in words(page)))
    assert "BERT pretraining by bertpipe" in read
    assert found.data.tags["bertpipe.vocabulary"] in read
    assert "late" in read
    assert "Finished" in read
    assert "bertpipe pretrain" in read
    assert "Evaluation runs" not in read, "shown among prompts and traces"
    for name, value in (("phases.0.micro_batch", "16"), ("masking.rate", "0.15")):
        assert f"{name} {value}" in read


def test_the_page_of_a_pipeline_leads_to_its_stages_and_a_stages_page_to_its_data(
    late: Any, browser: Browser
) -> None:
    run, (_, said) = late
    _, found = run.known()
    parent = found.data.tags["mlflow.parentRunId"]
    address = address_of(run, said)
    read = words(
        browser.read(address, lambda page: "Parent run late" in words(page) and ") training" in words(page))
    )
    assert "Parent run late" in read
    assert re.search(r"train \([0-9a-f]{32}\) training", read), read
    stages = [f"late/{stage}" for stage in ("vocab", "shard", "pretrain")]
    address = address.replace(found.info.run_id, parent)
    read = words(browser.read(address, lambda page: all(stage in words(page) for stage in stages)))
    assert "Child runs" in read


def test_the_page_of_a_run_shows_its_pictures_and_predictions(late: Any, browser: Browser) -> None:
    run, (_, said) = late
    artefact = address_of(run, said).replace("?", "/artifacts/{}?")
    page = browser.read(
        artefact.format("pictures/learning_curves.png"), lambda page: "<img" in page and "KB" in words(page)
    )
    assert "learning_curves.png" in words(page)
    read = words(browser.read(artefact.format("predictions.json"), lambda page: "[MASK]" in words(page)))
    for column in ("step", "sentence", "expected", "first"):
        assert column in read


def test_the_page_of_a_run_shows_its_recipe(late: Any, browser: Browser) -> None:
    run, (_, said) = late
    address = address_of(run, said).replace("?", "/artifacts/recipe.yaml?")
    read = words(browser.read(address, lambda page: "micro_batch" in page))
    assert "recipe.yaml" in read
    assert "vocab" in read
    assert "sequence_length : 64" in read
