"""The training loop: from the step after the last checkpoint to the recipe's last step.

In: an engine, a checked plan, a place among the ranks. Out: `metrics.jsonl`, checkpoints, a tracked run. What
always holds: what a step trains on is a function of (manifests, recipe, step); all ranks do the same number
of steps and stop at the same one.
"""

import math
import signal
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline import lineage
from pipeline.errors import RunFailed, Stopped
from pipeline.training.checkpoints import FOLDER, LATEST, CheckpointInfo, name_of, read_checkpoint
from pipeline.training.display import TrainingDisplay
from pipeline.training.engine import Engine
from pipeline.training.evaluate import evaluate
from pipeline.training.matrix_rate import matrix_rate
from pipeline.training.metrics import Log
from pipeline.training.plan import Plan
from pipeline.training.predictions import Predictor
from pipeline.training.saving import save_checkpoint
from pipeline.training.schedule import learning_rate
from pipeline.training.signals import StopRequest
from pipeline.training.start import start
from pipeline.training.step import StepSums, Turn, train_step, turns
from pipeline.training.world import World, raise_once


class Training:
    """One rank's training of a plan."""

    def __init__(self, plan: Plan, world: World, checkpoint: Path | None) -> None:
        self._plan, self._world = plan, world
        self._engine: Engine = start(plan, world, checkpoint)
        self.step = self._saved = self._samples = self._tokens = 0
        self._held_out_figures: dict[str, float] = {}
        if checkpoint is not None:
            info = read_checkpoint(checkpoint)
            self.step = self._saved = info.step
            self._samples, self._tokens, self._held_out_figures = info.samples, info.tokens, info.held_out
        self._predictor = Predictor(plan, world, self._engine.device)
        self._matrix_rate = matrix_rate(self._engine.device, plan.recipe.precision)

    def run(self, log: Log, request: StopRequest) -> None:
        """Train to the last step; raises Stopped after a stop signal, its checkpoint written."""
        recipe = self._plan.recipe
        display = TrainingDisplay(
            total=recipe.steps, done=self.step, shown=self._world.is_first, tasks=self._plan.objective.tasks
        )
        for index in range(len(recipe.phases)):
            if self.step >= self._plan.first_step(index + 1):
                continue
            with self._plan.loader(index, self.step, self._world) as loader:
                marked = time.perf_counter()
                for turn in turns(loader, request, self._engine.device):
                    if turn.signal_number:
                        self._stop(turn.signal_number, log)
                    self._refuse_emptiness(turn)
                    sums = self._train(index, turn)
                    seconds = time.perf_counter() - marked
                    metrics = self._metrics(sums, loader.plan.epochs_done(turn.batches.step + 1), seconds)
                    metrics["samples_lost"] = turn.lost
                    if self._is_due(recipe.evaluate.every):
                        metrics |= self._evaluate(index)
                    log.append(metrics)
                    display.step(metrics)
                    if self._is_due(recipe.checkpoint.every):
                        self._save(log)
                    marked = time.perf_counter()
            if self._plan.switches_optimizer(self.step):
                self._restart()
        display.say(f"step {self.step} of {recipe.steps}: {Path(recipe.run) / FOLDER / LATEST}")

    def _restart(self) -> None:
        """Go on with the next phase's optimizer, by way of the checkpoint just written."""
        self._engine.close()
        self._engine = start(self._plan, self._world, checkpoint_at(Path(self._plan.recipe.run), self.step))

    def _is_due(self, every: int) -> bool:
        """Whether what is done every so many steps (0: never) is done now; a phase's last step always counts."""
        return bool(every) and (self.step % every == 0 or self._plan.ends_phase(self.step))

    def _train(self, index: int, turn: Turn) -> StepSums:
        phase = self._plan.recipe.phases[index]
        sums = train_step(
            self._engine,
            turn.batches,
            model=self._plan.model,
            masked=turn.masked,
            labelled=turn.labelled,
            learning_rate=learning_rate(phase, turn.batches.step),
            dropout_key=(self._plan.recipe.seed, self.step, self._world.rank),
        )
        self.step += 1
        self._refuse_nonsense(sums)
        self._samples += phase.global_batch - turn.lost
        self._tokens += sums.tokens
        return sums

    def _refuse_emptiness(self, turn: Turn) -> None:
        """Stop where a step has lost all its pairs: it would count as trained and teach nothing."""
        if turn.masked or not turn.lost:
            return
        raise_once(
            RunFailed(
                f"step {self.step + 1} has lost all its {turn.lost} pairs to damaged blocks; restore the shards, "
                "then run the same command again"
            )
        )

    def _refuse_nonsense(self, sums: StepSums) -> None:
        """Stop where the numbers have left the finite: the next checkpoint would bury the last good one."""
        if math.isfinite(sums.loss) and math.isfinite(sums.gradient_norm):
            return
        raise_once(
            RunFailed(
                f"step {self.step} has loss {sums.loss} and gradient norm {sums.gradient_norm}; lower learning_rate "
                f"or raise warmup_steps, in a new run; the last good checkpoint is that of step {self._saved}"
            )
        )

    def _metrics(self, sums: StepSums, epoch: float, seconds: float) -> dict[str, Any]:
        """What `metrics.jsonl` says of the step just done (the design's names)."""
        ranks = self._world.size
        return {
            "step": self.step,
            "epoch": round(epoch, 6),
            "samples": self._samples,
            "tokens": self._tokens,
            "loss": sums.loss,
            **self._plan.objective.figures(
                token={"loss": sums.token_loss, "accuracy": sums.token_accuracy},
                pair={"loss": sums.pair_loss, "accuracy": sums.pair_accuracy},
            ),
            "learning_rate": sums.learning_rate,
            "gradient_norm": sums.gradient_norm,
            "sequences_per_second": sums.sequences / seconds,
            "tokens_per_second": sums.tokens / seconds,
            "mfu": sums.flops / seconds / (self._matrix_rate * ranks),
            "data_wait_share": min(1.0, sums.wait_seconds / ranks / seconds),
            # Seconds since 1970: a step that a tracking server gets late still lands at its time.
            "time": round(time.time(), 3),
        }

    def _evaluate(self, index: int) -> dict[str, float]:
        figures = evaluate(
            self._engine.network,
            self._plan.held_out(index, self._world),
            self._engine.device,
            self._plan.objective,
        )
        self._predictor.record(self._engine.network, self.step)
        self._held_out_figures = figures | {"step": self.step}
        return {f"held_out_{name}": value for name, value in figures.items()}

    def _save(self, log: Log) -> None:
        plan = self._plan
        log.sync()
        info = CheckpointInfo(
            step=self.step,
            samples=self._samples,
            tokens=self._tokens,
            held_out=self._held_out_figures,
            world_size=self._world.size,
            zero_stage=self._engine.stage,
            recipe=plan.recipe.as_dict(),
            model=asdict(plan.model),
            vocabulary=plan.sources[0][0].manifest.vocabulary,
            shards=list(plan.history.shards),
            data_changes=list(plan.history.data_changes),
            versions=lineage.library_versions("torch", "deepspeed"),
        )
        save_checkpoint(
            Path(plan.recipe.run),
            self._engine,
            info,
            config=plan.model,
            vocabulary=plan.vocabulary,
            keep_last=plan.recipe.checkpoint.keep_last,
            world=self._world,
        )
        self._saved = self.step

    def _stop(self, signal_number: int, log: Log) -> None:
        if self.step > self._saved:
            self._save(log)
        raise Stopped(
            f"stopped by {signal.Signals(signal_number).name} after step {self.step}; "
            "run the same command again to continue"
            if self._world.is_first
            else "",
            signal_number,
        )


def checkpoint_at(run: Path, step: int) -> Path | None:
    """The checkpoint of `step`; None for step 0, where there is none yet."""
    return run / FOLDER / name_of(step) if step else None
