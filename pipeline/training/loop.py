"""The training loop: from the step after the last checkpoint to the recipe's last step.

In: a checked plan, a place among the ranks, a step to go on after. Out: `metrics.jsonl`, checkpoints, a tracked run.
What always holds: what a step trains on is a function of (manifests, recipe, step), and of the rollbacks before it; all
ranks do the same number of steps and stop at the same one; a step that guards reject changes no weight.
"""

import signal
import time
from pathlib import Path
from typing import Any, NoReturn

from pipeline.errors import BertpipeError, RunFailed, Stopped
from pipeline.progress import say
from pipeline.training.account import Course, checkpoint_info, step_metrics
from pipeline.training.checkpoints import FOLDER, LATEST, read_checkpoint
from pipeline.training.display import TrainingDisplay
from pipeline.training.drift import drifted
from pipeline.training.engine import Engine
from pipeline.training.evaluate import evaluate
from pipeline.training.guards import Guard, Verdict, passes
from pipeline.training.heartbeat import Pulse
from pipeline.training.matrix_rate import matmul_rate
from pipeline.training.metrics import Log
from pipeline.training.plan import Plan
from pipeline.training.predictions import Predictor
from pipeline.training.saving import Saver
from pipeline.training.schedule import learning_rate
from pipeline.training.signals import StopRequest
from pipeline.training.standing import Standing
from pipeline.training.start import checkpoint_at, resumed_step, start
from pipeline.training.step import Rounds, Turn, forward_and_backward, sums_of
from pipeline.training.step_profile import StepProfile
from pipeline.training.watchdog import Watchdog
from pipeline.training.world import World, raise_once


class Training:
    """One rank's training of a plan, from the checkpoint of `step` on (0: from the beginning).

    trusted: load checkpoints although another user owns them
    """

    def __init__(
        self,
        plan: Plan,
        world: World,
        watchdog: Watchdog,
        pulse: Pulse,
        profile: StepProfile,
        *,
        step: int,
        trusted: bool = False,
    ) -> None:
        self._plan, self._world, self._trusted = plan, world, trusted
        self._watchdog, self._pulse, self._profile = watchdog, pulse, profile
        self._run = Path(plan.recipe.run)
        self._display = TrainingDisplay(
            total=plan.recipe.steps, done=step, shown=world.is_first, tasks=plan.objective.tasks
        )
        self._begin(step)
        self._saver = Saver(
            self._run,
            config=plan.model,
            vocabulary=plan.vocabulary,
            policy=plan.recipe.checkpoint,
            world=world,
        )
        self._predictor = Predictor(plan, world, self._engine.device)
        self._matmul_rate = matmul_rate(self._engine.device, plan.recipe.precision)
        # What checkpoints have held up the next step, so far.
        self._saving_seconds = 0.0

    def _begin(self, step: int) -> None:
        checkpoint = checkpoint_at(self._run, step)
        self._engine: Engine = start(self._plan, self._world, checkpoint)
        self._stand(Standing.of(read_checkpoint(checkpoint) if checkpoint else None))

    def _stand(self, standing: Standing) -> None:
        self._standing, self._saved = standing, standing.step
        self._guard = Guard(self._plan.recipe.guards, standing)

    def run(self, log: Log, request: StopRequest) -> None:
        """Train to the last step; raises Stopped after a stop signal, its checkpoint written."""
        recipe = self._plan.recipe
        while self._standing.step < recipe.steps:
            verdict = self._train_phase(recipe.phase_of(self._standing.step), log, request)
            if verdict is not None:
                self._roll_back(verdict, log)
            elif self._plan.switches_optimizer(self._standing.step):
                # By way of the checkpoint just written, as a run that is resumed here.
                self._settle(is_needed=True)
                self._engine.close()
                self._begin(self._standing.step)
        self._settle(is_needed=True)
        self._display.say(f"step {recipe.steps} of {recipe.steps}: {self._run / FOLDER / LATEST}")

    def _train_phase(self, index: int, log: Log, request: StopRequest) -> Verdict | None:
        """Train to the phase's end; returns early, and why, where the run is to be rolled back."""
        recipe, standing = self._plan.recipe, self._standing
        with self._plan.loader(index, standing.step, self._world, moved=standing.moved(index)) as loader:
            marked = time.perf_counter()
            steps = self._profile.data(loader)
            rounds = Rounds(steps, request, lambda: self._saver.troubled, self._engine.device)
            while (turn := rounds.turn) is not None:
                if rounds.signal_number:
                    self._stop(rounds.signal_number, log)
                self._refuse(turn)
                self._pulse.at(standing.step, "training")
                epoch = loader.plan.epochs_done(turn.batches.step + 1)
                with self._profile.step(self._engine, standing.step + 1) as engine:
                    metrics, verdict = self._step(engine, index, turn, rounds, epoch, marked)
                if self._is_due(recipe.evaluate.every):
                    metrics |= self._evaluate(index)
                log.append(metrics)
                self._display.step(metrics)
                verdict = self._heed(verdict) or self._look_for_drift()
                if verdict is not None:
                    return verdict
                if self._is_due(recipe.checkpoint.every):
                    # A phase's last is what the next one, or a user, goes on from.
                    self._save(log, is_needed=self._plan.ends_phase(standing.step))
                elif rounds.troubled:
                    self._settle()
                marked = time.perf_counter()
        return None

    def _step(
        self, engine: Engine, index: int, turn: Turn, rounds: Rounds, epoch: float, began: float
    ) -> tuple[dict[str, Any], Verdict | None]:
        """Take a step; returns its metrics, and what guards say of it. Raises RunFailed where they say stop."""
        phase, standing, guard = self._plan.recipe.phases[index], self._standing, self._guard
        rate = learning_rate(phase, standing.step - self._plan.first_step(index))
        own = forward_and_backward(
            engine,
            turn,
            model=self._plan.model,
            dropout_key=(self._plan.recipe.seed, standing.step, self._world.rank),
            alive=self._watchdog.feed,
        )
        sums = sums_of(rounds.close(own), turn)
        standing.step += 1
        verdict = guard.on_loss(standing.step, sums.loss)
        norm = engine.step(rate, update=passes(verdict))
        if passes(verdict):
            verdict = guard.on_gradient(standing.step, norm) or verdict
        if verdict is not None and verdict.action == "stop":
            self._fail(verdict)
        if passes(verdict):
            guard.accepted(sums.loss)
            standing.samples += phase.global_batch - turn.lost
            standing.tokens += sums.tokens
        else:
            guard.skipped()
        course = Course(
            epoch=epoch,
            seconds=time.perf_counter() - began,
            saving_seconds=self._saving_seconds,
            matmul_rate=self._matmul_rate,
            lost=turn.lost,
            ranks=self._world.size,
        )
        self._saving_seconds = 0.0
        metrics = step_metrics(standing, sums, self._plan.objective, rate=rate, norm=norm, course=course)
        if verdict is not None and verdict.action == "skip":
            metrics["update_skipped"] = 1
        return metrics, verdict

    def _is_due(self, every: int) -> bool:
        """Whether what is done every so many steps (0: never) is done now; a phase's last step always counts."""
        step = self._standing.step
        return bool(every) and (step % every == 0 or self._plan.ends_phase(step))

    def _refuse(self, turn: Turn) -> None:
        """Stop where a step cannot be taken: its data can't be read, or all of it is lost: it would count as trained
        and teach nothing.
        """
        if turn.failure is not None:
            self._settle()
            raise turn.failure
        if not turn.masked and turn.lost:
            raise_once(
                RunFailed(
                    f"step {self._standing.step + 1} has lost all its {turn.lost} pairs to damaged blocks; restore "
                    "the shards, then run the same command again"
                )
            )

    def _heed(self, verdict: Verdict | None) -> Verdict | None:
        """Say what guards have found; returns it where the run is to be rolled back."""
        if verdict is None or verdict.action == "rollback":
            return verdict
        done = "; its update is left out" if verdict.action == "skip" else ""
        self._display.say(f"warning: {verdict.reason}{done}")
        return None

    def _fail(self, verdict: Verdict) -> NoReturn:
        self._settle()
        raise_once(
            RunFailed(
                f"{verdict.reason}; lower learning_rate or raise warmup_steps, in a new run, or choose another of "
                f"guards; the last good checkpoint is that of step {self._saved}"
            )
        )

    def _look_for_drift(self, *, now: bool = False) -> Verdict | None:
        """Compare the ranks' weights where it is time to, or `now`; returns what to do where they differ."""
        recipe, step = self._plan.recipe, self._standing.step
        every = recipe.guards.drift_every
        # Before each checkpoint, too, so that one that is there is good.
        due = bool(every) and (now or step % every == 0 or self._is_due(recipe.checkpoint.every))
        verdict = self._guard.on_drift(step, drifted(self._engine, self._world)) if due else None
        if verdict is not None and verdict.action == "stop":
            self._settle()
            raise_once(
                RunFailed(
                    f"{verdict.reason}, which no recipe can cause: look at the memory and devices of that node, then "
                    f"run the same command again; the last good checkpoint is that of step {self._saved}"
                )
            )
        return verdict

    def _roll_back(self, verdict: Verdict, log: Log) -> None:
        """Go back to the last good checkpoint, and past the data that led here."""
        self._settle()
        left, plan = self._standing, self._plan
        phase = plan.recipe.phase_of(left.step - 1)
        step = resumed_step(self._run, self._world, trusted=self._trusted)
        by = left.step - max(step, plan.first_step(phase)) if verdict.passes_data else 0
        self._engine.close()
        self._begin(step)
        self._stand(left.rolled_back_to(self._standing, phase=phase, by=by, reason=verdict.reason))
        log.cut_back(step)
        passed = f", past {by} steps of data" if by else ""
        self._display.say(f"warning: {verdict.reason}; back to step {step}{passed}")

    def _evaluate(self, index: int) -> dict[str, float]:
        self._pulse.at(self._standing.step, "evaluating")
        figures = evaluate(
            self._engine.network,
            self._watchdog.watched(self._plan.held_out(index, self._world)),
            self._engine.device,
            self._plan.objective,
        )
        self._predictor.record(self._engine.network, self._standing.step, branch=self._standing.branch)
        self._standing.held_out = figures | {"step": self._standing.step}
        return {f"held_out_{name}": value for name, value in figures.items()}

    def _save(self, log: Log, *, is_needed: bool = False) -> None:
        """Write a checkpoint, or begin to while training goes on; `is_needed` waits, and fails where it fails."""
        began = time.perf_counter()
        self._pulse.at(self._standing.step, "saving")
        self._settle(is_needed=is_needed)
        self._watchdog.feed()
        log.sync()
        info = checkpoint_info(self._plan, self._engine, self._standing, self._world)
        trouble = self._saver.save(self._engine, info, wait=is_needed)
        if trouble is None:
            self._saved = self._standing.step
        self._take(trouble, is_needed=is_needed)
        self._watchdog.feed()
        self._saving_seconds += time.perf_counter() - began

    def _settle(self, *, is_needed: bool = False) -> None:
        """Have the checkpoint that is being written on disk; one that failed ends the run, unless it may be skipped."""
        self._take(self._saver.settle(), is_needed=is_needed)

    def _take(self, trouble: Exception | None, *, is_needed: bool) -> None:
        if trouble is None:
            return
        if (
            is_needed
            or self._plan.recipe.guards.full_disk == "stop"
            or not isinstance(trouble, BertpipeError)
        ):
            raise trouble
        if str(trouble):
            say(f"warning: {trouble}; going on without this checkpoint")

    def _stop(self, signal_number: int, log: Log) -> NoReturn:
        if self._standing.step > self._saved:
            if (verdict := self._look_for_drift(now=True)) is None:
                self._save(log, is_needed=True)
            else:
                self._display.say(
                    f"warning: {verdict.reason}; what came after step {self._saved} is not saved"
                )
        self._settle(is_needed=True)
        raise Stopped(
            f"stopped by {signal.Signals(signal_number).name} after step {self._standing.step}; "
            "run the same command again to continue"
            if self._world.is_first
            else "",
            signal_number,
        )
