"""What recording in MLflow takes of a training of ten steps a second.

In: nothing. Out: what a step spends on its own record, the processor time of the process that sends, and the ratio of
step times with and without it. What always holds: the steps are arithmetic on one thread, 100 ms where nothing else
runs, each with a line of `metrics.jsonl` as a training's; the sender is the real one, with a database file and samples
of the node; parts of a few seconds alternate, the sender being halted in every other one, so that what else the machine
does falls on both.

    $ python benchmarks/tracking.py [--busy]

`--busy` has all other cores compute as well, as on a node that trains on all of them.
"""

import argparse
import multiprocessing
import os
import signal
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # this checkout, installed or not

from pipeline.policies import TrackingPolicy
from pipeline.processes import available_cores
from pipeline.tracking.record import RunRecord
from pipeline.tracking.run_page import ONE_NODE
from pipeline.tracking.server_run import TRACKING
from pipeline.tracking.tracker import ProcessTracker, open_tracker
from pipeline.training.metrics import open_log

_STEP = 0.1
FIGURES = {
    "epoch": 0.1, "samples": 256, "tokens": 30000, "loss": 9.7, "mlm_loss": 9.0, "nsp_loss": 0.7,
    "mlm_accuracy": 0.1, "nsp_accuracy": 0.5, "learning_rate": 1e-4, "gradient_norm": 1.0,
    "sequences_per_second": 2560.0, "tokens_per_second": 300000.0, "mfu": 0.4, "matmul_flops_per_second": 7.5e14,
    "data_wait_share": 0.0, "samples_lost": 0,
}  # fmt: skip


def work(rounds: int) -> None:
    """Arithmetic on one thread."""
    values = np.arange(20_000, dtype=np.float64)
    for _ in range(rounds):
        np.sqrt(values * 1.0001 + 1.0)


def rounds_of(seconds: float) -> int:
    """How many rounds of `work` take so long."""
    work(200)
    began = time.thread_time()
    work(1000)
    return round(1000 * seconds / (time.thread_time() - began))


@dataclass
class Steps:
    """What some steps took, in seconds; processor times of the thread, so that no other program counts."""

    elapsed: float = 0.0
    computed: float = 0.0
    recorded: float = 0.0
    count: int = 0


def steps(log, rounds: int, taken: Steps, count: int) -> float:
    """Do so many steps, added to those taken; the seconds that they took."""
    began = time.perf_counter()
    for _ in range(count):
        started = time.thread_time()
        work(rounds)
        computed = time.thread_time()
        taken.count += 1
        log.append({"step": taken.count, **FIGURES, "time": round(time.time(), 3)})
        taken.computed += computed - started
        taken.recorded += time.thread_time() - computed
    return time.perf_counter() - began


def processor_seconds(pid: int) -> float:
    """What a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def burn() -> None:
    while True:
        work(1000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=20, help="of a part with the sender and one without")
    parser.add_argument("--steps", type=int, default=40, help="of a part")
    parser.add_argument("--busy", action="store_true", help="have all other cores compute, too")
    parser.add_argument("--uri", help="a server that runs already, instead of a database file")
    chosen = parser.parse_args()
    cores = available_cores()
    burners = [
        multiprocessing.Process(target=burn, daemon=True) for _ in range(cores - 1 if chosen.busy else 0)
    ]
    for burner in burners:
        burner.start()
    rounds = rounds_of(_STEP)
    ratios, before, taken = [], Steps(), Steps()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        run.mkdir()
        policy = TrackingPolicy(uri=chosen.uri or f"sqlite:///{folder}/mlflow.db")
        record = RunRecord(parameters=FIGURES, tags={})
        tracker = open_tracker(policy, run, record, is_first=True, samples=True, node=ONE_NODE)
        assert isinstance(tracker, ProcessTracker)
        with open_log(run, after=0, is_first=True) as log, tracker:
            # Its start is told apart: a run has one, and steps for days.
            while "run_id" not in ((run / TRACKING).read_text() if (run / TRACKING).exists() else ""):
                steps(log, rounds, before, 5)
            steps(log, rounds, before, 60)
            at_start = processor_seconds(tracker.process_id)
            taken.count = before.count
            for _ in range(chosen.pairs):
                os.kill(tracker.process_id, signal.SIGSTOP)
                without = steps(log, rounds, taken, chosen.steps)
                os.kill(tracker.process_id, signal.SIGCONT)
                # What waited meanwhile falls into this part: twice what a run's would have.
                ratios.append(steps(log, rounds, taken, chosen.steps) / without)
            used = processor_seconds(tracker.process_id) - at_start
    for burner in burners:
        burner.kill()
    count = taken.count - before.count
    # Both by the processor's own clock: the machine may be slower than when the steps were measured out.
    step = taken.computed / count
    own_share, sender_share = taken.recorded / count / step, used / count / step
    ratios.sort()
    print(f"a step's line on record: {own_share:.2%} of a step ({taken.recorded / count * 1e3:.3f} ms)")
    print(
        f"the sender: {sender_share:.2%} of a core ({used / count * 1e3:.2f} ms a step); its start {at_start:.1f} s"
    )
    print(f"taken of {cores} cores that all compute: {own_share + sender_share / cores:.2%} of step time")
    print(f"ratio of step times, twice the sending against none: {statistics.median(ratios):.4f} "
          f"[{ratios[0]:.3f} to {ratios[-1]:.3f}], {len(ratios)} pairs")  # fmt: skip


if __name__ == "__main__":
    main()
