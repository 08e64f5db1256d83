"""What each check says of machines that aren't at hand."""

import http.server
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.doctor import accelerators, machine, services, software
from pipeline.doctor.findings import Finding
from pipeline.training.settings import ZeroSettings

GIB = 1 << 30


def only(findings: Iterator[Finding]) -> Finding:
    (finding,) = findings
    return finding


# -- packages --------------------------------------------------------------------------------------------------

WANTED = ["torch>=2.6", "deepspeed<0.20,>=0.19.4", "pytest>=8; extra == 'dev'"]


def test_packages_in_range_are_one_ok_line_and_extras_are_nobodys_business() -> None:
    versions = {"torch": "2.13.0+cpu", "deepspeed": "0.19.8"}
    found = only(software.judge_packages(WANTED, versions.get))
    assert (found.state, found.found) == ("ok", "2 installed, all in range")


@pytest.mark.parametrize(
    ("versions", "said"),
    [
        ({"torch": "2.5.1", "deepspeed": "0.19.8"}, "torch 2.5.1"),
        ({"torch": "2.13.0", "deepspeed": "0.20.1"}, "deepspeed 0.20.1"),
        ({"torch": "2.13.0"}, "deepspeed isn't installed"),
    ],
)
def test_a_package_out_of_range_or_missing_is_an_error_with_the_command_that_mends_it(
    versions: dict[str, str], said: str
) -> None:
    found = only(software.judge_packages(WANTED, versions.get))
    assert found.state == "error"
    assert said in found.found
    assert found.remedy.startswith("pip install '")


def test_a_bad_pair_is_named_and_a_good_one_is_not() -> None:
    bad = only(software.judge_pairs({"torch": "2.4.1", "deepspeed": "0.14.0", "numpy": "2.0"}.get))
    assert "torch 2.4.1 with deepspeed 0.14.0" in bad.found
    assert list(software.judge_pairs({"torch": "2.13.0", "deepspeed": "0.19.8", "numpy": "2.4"}.get)) == []


@pytest.mark.parametrize(
    ("text", "names", "state"),
    [("UTF-8", "utf-8", "ok"), ("utf8", "UTF_8", "ok"), ("ANSI_X3.4-1968", "utf-8", "warning")],
)
def test_text_that_is_no_utf8_is_a_warning(text: str, names: str, state: str) -> None:
    assert software.judge_encoding(text, names).state == state


@pytest.mark.parametrize(
    ("said", "state"), [(None, "ok"), ("4", "ok"), ("5", "warning"), ("0", "warning"), ("all", "warning")]
)
def test_more_threads_than_cores_or_no_number_is_a_warning(said: str | None, state: str) -> None:
    environment = {} if said is None else {"OMP_NUM_THREADS": said}
    assert software.judge_threads(environment, cores=4).state == state


# -- accelerators ----------------------------------------------------------------------------------------------


def gpu(name: str = "H100", gib: int = 80, capability: str = "9.0") -> SimpleNamespace:
    major, minor = map(int, capability.split("."))
    return SimpleNamespace(name=name, total_memory=gib * GIB, major=major, minor=minor)


def test_equal_gpus_are_counted_with_memory_capability_and_driver() -> None:
    devices, precision = accelerators.judge_devices([gpu()] * 8, driver="550.54")
    assert (devices.state, precision.state) == ("ok", "ok")
    assert devices.found == "8 × H100, 80 GiB, compute capability 9.0, driver 550.54"


def test_unequal_gpus_and_those_without_bf16_are_warnings() -> None:
    devices, precision = accelerators.judge_devices([gpu(), gpu("V100", 32, "7.0")], driver=None)
    assert (devices.state, precision.state) == ("warning", "warning")
    assert "fp16" in precision.remedy


def test_a_gpu_that_torch_does_not_use_is_a_warning_that_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert "CUDA build" in accelerators.judge_no_device(None, "NVIDIA A100\nNVIDIA A100").remedy
    assert "driver" in accelerators.judge_no_device("13.0", "NVIDIA A100").remedy
    assert accelerators.judge_no_device(None, None).state == "ok"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert accelerators.judge_no_device("13.0", "NVIDIA A100").state == "ok"


def test_a_recipe_whose_op_is_not_built_is_an_error_and_none_needed_is_fine(tmp_path: Path) -> None:
    zero = {"stage": 2, "offload_optimizer": {"device": "cpu"}}
    needing = ZeroSettings(path="own.json", values={"zero_optimization": zero})
    first = next(accelerators.look_at_deepspeed(needing, tmp_path))
    assert first.state == "error"
    assert "cpu_adam" in first.found
    assert "doctor --prepare" in first.remedy
    assert next(accelerators.look_at_deepspeed(None, tmp_path)).state == "ok"


# -- machine ---------------------------------------------------------------------------------------------------


def test_dockers_64_megabytes_of_shared_memory_are_a_warning() -> None:
    assert machine.judge_shared_memory(64 << 20).state == "warning"
    assert machine.judge_shared_memory(8 * GIB).state == "ok"


def test_a_disk_is_tried_and_left_as_it_was(tmp_path: Path) -> None:
    found = only(machine.look_at_disk("disk", tmp_path / "not" / "yet", least=1))
    assert found.state == "ok"
    assert str(tmp_path) in found.found
    assert list(tmp_path.iterdir()) == []


def test_too_little_room_is_a_warning_and_no_locks_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert only(machine.look_at_disk("disk", tmp_path, least=1 << 62)).state == "warning"

    def no_locks(*arguments: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(machine.fcntl, "flock", no_locks)
    found = only(machine.look_at_disk("disk", tmp_path, least=1))
    assert found.state == "error"
    assert "can't be locked" in found.found


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_is_an_error(tmp_path: Path) -> None:
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    assert only(machine.look_at_disk("disk", tmp_path)).state == "error"


def test_a_file_system_that_cannot_be_written_to_is_an_error(tmp_path: Path) -> None:
    found = only(machine.look_at_disk("disk", Path("/proc")))
    assert found.state == "error"
    assert "can't be written to" in found.found


# -- services --------------------------------------------------------------------------------------------------


@pytest.fixture
def slurm_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """slurm_says(script): SLURM's commands, each this shell script, alone on PATH."""

    def put(script: str) -> None:
        for name in ("sinfo", "srun", "sbatch"):
            path = tmp_path / name
            path.write_text(f"#!/bin/sh\n{script}\n")
            path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin" if script else str(tmp_path))

    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    return put


def test_partitions_are_listed_and_one_that_takes_jobs_is_enough(slurm_says: Callable[[str], None]) -> None:
    slurm_says('[ "$1" = --version ] && echo slurm 24.05 || printf "gpu* up 2 idle\\ngpu* up 1 down*\\n"')
    found = only(services.look_at_slurm())
    assert (found.state, found.found) == ("ok", "24.05, partitions gpu*: 2 idle, 1 down*")


@pytest.mark.parametrize("listed", ["", "gpu* up 2 down*", "gpu* down 2 idle", "gpu up 3 drained"])
def test_a_cluster_that_would_take_no_job_is_a_warning(listed: str) -> None:
    assert services.judge_partitions("24.05", listed).state == "warning"


def test_a_dead_controller_is_a_warning_within_seconds(
    slurm_says: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "_SECONDS", 0.5)
    slurm_says("exec sleep 60")
    started = time.monotonic()
    found = only(services.look_at_slurm())
    assert time.monotonic() - started < 10
    assert found.state == "warning"
    slurm_says("echo 'slurm_load_partitions: Unable to contact slurm controller' >&2; exit 1")
    assert "Unable to contact" in only(services.look_at_slurm()).found


def test_without_slurm_local_ranks_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert only(services.look_at_slurm()).state == "ok"


def test_inside_a_job_what_it_was_given_is_said() -> None:
    environment = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "2", "SLURM_NTASKS": "16"}
    assert services.judge_job(environment).found == "job 7: 2 nodes, 16 tasks"


@pytest.fixture
def server() -> Iterator[Callable[[int], str]]:
    """server(status) → the address of a server that answers everything so."""
    running = []

    def start(status: int) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(status)
                self.end_headers()

            def log_message(self, *arguments: object) -> None:
                pass

        one = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=one.serve_forever, daemon=True).start()
        running.append(one)
        return f"http://127.0.0.1:{one.server_port}"

    yield start
    for one in running:
        one.shutdown()
        one.server_close()


@pytest.mark.parametrize(
    ("status", "state", "said"),
    [(200, "ok", "answers"), (401, "warning", "asks for a login"), (500, "warning", "answers 500")],
)
def test_a_tracking_server_is_asked(
    server: Callable[[int], str], status: int, state: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "*")
    found = only(services.look_at_tracking(server(status), None))
    assert found.state == state
    assert said in found.found


def test_a_server_that_is_away_is_a_warning_since_training_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    found = only(services.look_at_tracking(None, None))
    assert found.state == "warning"
    assert "secret" not in found.found
    assert found.found.startswith("http://127.0.0.1:9 doesn't answer")


def test_without_a_server_the_database_is_named_and_a_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert str(tmp_path / "mlflow.db") in only(services.look_at_tracking(None, tmp_path)).found
    refused = only(services.look_at_tracking("file:/data/mlruns", None))
    assert refused.state == "error"
    assert "sqlite:////data/mlruns/mlflow.db" in refused.remedy
    mistyped = only(services.look_at_tracking("http://bob:hunter2@[host", None))
    assert mistyped.state == "error"
    assert "http://[host is no address" in mistyped.found


def test_a_login_in_the_servers_address_is_used_and_not_shown(
    server: Callable[[int], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "*")
    found = only(services.look_at_tracking(server(200).replace("//", "//bob:hunter2@"), None))
    assert found.state == "ok"
    assert "hunter2" not in str(found)
