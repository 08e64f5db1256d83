"""`pretrain --profile`: some steps of this start are watched, and where their time and memory go is written down.

In: a run's plan, its engine, step by step. Out: `RUN/profile/`: `trace.json.gz` (ui.perfetto.dev opens it),
`profile.txt`, `profile.json`. What always holds: the steps are ordinary steps, on CPUs with the same losses to the last
bit; a few are let pass, a few timed as they are, then memory is read in some and time traced in others, since each
disturbs the other; the first rank alone is watched; nothing is left in the network when it is over; a disk that takes
nothing costs the profile, not the run.

Who doesn't ask for a profile has a `NoProfile`, which gives the loop its own engine and loader back.

Example:
    with profile.step(engine, 7) as engine:
        forward_and_backward(engine, …)
"""

import gzip
import json
import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from pipeline import storage
from pipeline.errors import BertpipeError, first_line
from pipeline.progress import say
from pipeline.training.engine import Engine
from pipeline.training.memory import memory_by_moment
from pipeline.training.peak_memory import PeakMemory
from pipeline.training.plan import Plan
from pipeline.training.profile_page import Profile, five_largest, page
from pipeline.training.step_parts import (
    ATTENTION,
    BACKWARD,
    DATA,
    EMBEDDINGS,
    ENCODER,
    FEED_FORWARD,
    FORWARD,
    HEADS,
    LAYER,
    MARK,
    OPTIMIZER,
    STEP,
    breakdown,
)
from pipeline.training.world import World

if TYPE_CHECKING:
    from torch import nn

T = TypeVar("T")
FOLDER = "profile"
TRACE, PAGE, VALUES = "trace.json.gz", "profile.txt", "profile.json"
# Steps of each kind, in this order. The first ones of a process load libraries, fill caches, and compile.
_WARM_UP, _PLAIN, _MEMORY, _TIME = "warm-up", "plain", "memory", "time"
_STEPS = {_WARM_UP: 2, _PLAIN: 3, _MEMORY: 2, _TIME: 3}
# Watches a part of a step while it is entered.
Watch = Callable[[str], AbstractContextManager[Any]]


class StepProfile(Protocol):
    """Lives as long as a training; see the module's promises."""

    def data(self, steps: Iterable[T]) -> Iterable[T]:
        """`steps`, the waiting for each watched."""

    def step(self, engine: Engine, number: int) -> AbstractContextManager[Engine]:
        """Step `number`, to be taken with the engine that the context gives."""

    def close(self) -> None:
        """Stop watching, whatever was seen."""


class NoProfile:
    """Nothing is watched."""

    def data(self, steps: Iterable[T]) -> Iterable[T]:
        """The steps themselves."""
        return steps

    def step(self, engine: Engine, number: int) -> AbstractContextManager[Engine]:
        """A step, taken with the engine itself."""
        return nullcontext(engine)

    def close(self) -> None:
        """Nothing was begun."""


def open_profile(plan: Plan, world: World, device: str, *, asked: bool, steps_left: int) -> StepProfile:
    """What watches the steps of this start; ranks but the first watch nothing."""
    if not asked or not world.is_first:
        return NoProfile()
    if steps_left < 2:  # one for memory, one for time
        left = "1 step" if steps_left == 1 else "no step"
        say(f"warning: no profile: {plan.recipe.run} has {left} left, and a profile takes 2 or more")
        return NoProfile()
    return FirstRanksProfile(plan, world, device, steps_left=steps_left)


def kinds_of(steps_left: int) -> list[str]:
    """What is done in each of the next steps: of all kinds where there are enough, else of the last ones."""
    counts: dict[str, int] = {}
    for kind in reversed(_STEPS):
        free = steps_left - sum(counts.values())
        counts[kind] = min(_STEPS[kind], steps_left // 2 if kind == _TIME else free)
    return [kind for kind in _STEPS for _ in range(counts[kind])]


class FirstRanksProfile:
    """Watches steps of the first rank, and writes what was seen."""

    def __init__(self, plan: Plan, world: World, device: str, *, steps_left: int) -> None:
        self._plan, self._world, self._device = plan, world, device
        self._kinds = kinds_of(steps_left)
        self._done = 0
        self._steps: dict[str, list[int]] = {kind: [] for kind in _STEPS}
        self._watch: Watch = _nothing
        self._memory = PeakMemory(device)
        self._bytes: dict[str, int] = {}
        self._seconds: list[float] = []
        self._profiler: Any = None

    def data(self, steps: Iterable[T]) -> Iterator[T]:
        """`steps`, the waiting for each watched."""
        waiting = iter(steps)
        while True:
            with self._watch(DATA):
                try:
                    given = next(waiting)
                except StopIteration:
                    return
            yield given

    @contextmanager
    def step(self, engine: Engine, number: int) -> Iterator[Engine]:
        """Step `number`, to be taken with the engine that the context gives."""
        kind = self._kinds[self._done] if self._done < len(self._kinds) else ""
        with ExitStack() as stack:
            watched: Any = engine
            if kind == _MEMORY:
                self._watch = self._peak_of
                watched = _WatchedEngine(engine, self._watch)
            elif kind == _TIME:
                self._watch = _range
                stack.enter_context(_watched_modules(engine.network, compiled=self._plan.recipe.compile))
                stack.enter_context(self._range_of_a_step(number))
                watched = _WatchedEngine(engine, self._watch)
            began = time.perf_counter()
            yield watched
            if kind == _PLAIN:
                self._seconds.append(time.perf_counter() - began)
        self._watch = _nothing
        if not kind:
            return
        self._steps[kind].append(number)
        self._done += 1
        if self._done == len(self._kinds):
            self._conclude()
        elif self._kinds[self._done] == _TIME and self._profiler is None:
            self._begin_tracing()

    def close(self) -> None:
        """Stop watching, whatever was seen."""
        if self._done < len(self._kinds):
            say("warning: no profile: the run ended before the steps that it takes")
        self._stop()

    def _stop(self) -> None:
        if self._profiler is not None:
            self._profiler.stop()
        self._profiler = None

    @contextmanager
    def _peak_of(self, part: str) -> Iterator[None]:
        self._memory.reset()
        yield
        if (most := self._memory.read()) is not None:
            self._bytes[part] = max(most, self._bytes.get(part, 0))

    @contextmanager
    def _range_of_a_step(self, number: int) -> Iterator[None]:
        """The range of a step that holds all its kernels and no other's."""
        self._synchronize()
        with _range(f"{STEP} {number}"):
            yield
            self._synchronize()

    def _synchronize(self) -> None:
        if self._device.startswith("cuda"):
            import torch

            torch.cuda.synchronize(self._device)

    def _begin_tracing(self) -> None:
        # It tells standard error of each stage; what it is to say is in the trace.
        os.environ.setdefault("KINETO_LOG_LEVEL", "99")
        from torch.profiler import ProfilerActivity, profile

        activities = [ProfilerActivity.CPU]
        if self._device.startswith("cuda"):
            activities.append(ProfilerActivity.CUDA)
        self._profiler = profile(activities=activities)
        self._profiler.start()

    def _conclude(self) -> None:
        """Write what was seen, and say the most of it."""
        profiler = self._profiler
        self._stop()
        folder = Path(self._plan.recipe.run) / FOLDER
        try:
            storage.make_folder(str(folder))
            with TemporaryDirectory(prefix=".", dir=folder) as temporary:
                plain, compressed = Path(temporary) / "trace.json", Path(temporary) / TRACE
                profiler.export_chrome_trace(str(plain))
                profile = self._profile(json.loads(plain.read_bytes())["traceEvents"])
                with plain.open("rb") as source, gzip.open(compressed, "wb", compresslevel=6) as target:
                    shutil.copyfileobj(source, target)
                os.rename(compressed, folder / TRACE)
            storage.write_text(str(folder / PAGE), page(profile))
            storage.write_json(str(folder / VALUES), profile.as_dict())
        except (OSError, BertpipeError, RuntimeError, ValueError) as error:  # torch's and JSON's among them
            say(f"warning: cannot write the profile {folder}: {first_line(error)}; going on without it")
            return
        say("\n".join([f"profile: {folder / PAGE}; most of a step's time goes into", *five_largest(profile)]))

    def _profile(self, events: list[dict[str, Any]]) -> Profile:
        recipe, gpu = self._plan.recipe, self._device != "cpu"
        phase = recipe.phases[recipe.phase_of(self._steps[_MEMORY][-1] - 1)]
        return Profile(
            run=recipe.run,
            traced=tuple(self._steps[_TIME]),
            measured=tuple(self._steps[_MEMORY]),
            device=self._device,
            rank=self._world.rank,
            ranks=self._world.size,
            precision=recipe.precision,
            deepspeed=recipe.deepspeed,
            plain=tuple(self._steps[_PLAIN]),
            plain_step_seconds=statistics.median(self._seconds) if self._seconds else None,
            time=breakdown(events),
            memory=self._bytes,
            memory_is=self._memory.kind,
            estimate=memory_by_moment(
                recipe, phase, self._plan.model, self._plan.settings, ranks=self._world.size, gpu=gpu
            ),
        )


class _WatchedEngine:
    """An engine whose forward, backward and step are watched; all else is the engine's own."""

    def __init__(self, engine: Engine, watch: Watch) -> None:
        self._engine, self._watch = engine, watch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def network(self, *given: Any, **named: Any) -> Any:
        """The network's forward."""
        with self._watch(FORWARD):
            return self._engine.network(*given, **named)

    def backward(self, loss: Any, *, last: bool) -> None:
        """See `Engine.backward`."""
        with self._watch(BACKWARD):
            self._engine.backward(loss, last=last)

    def step(self, learning_rate: float, *, update: bool = True) -> float:
        """See `Engine.step`."""
        with self._watch(OPTIMIZER):
            return self._engine.step(learning_rate, update=update)


def _nothing(part: str) -> AbstractContextManager[Any]:
    return nullcontext()


def _range(part: str) -> AbstractContextManager[Any]:
    """A range of the trace."""
    from torch.profiler import record_function

    return record_function(MARK + part)


@contextmanager
def _watched_modules(network: Any, *, compiled: bool) -> Iterator[None]:
    """Have each forward of the network's parts be a range, by hooks that are gone afterwards.

    In a compiled layer the feed-forward half is fused with the rest, and its hooks are not called.
    """
    import torch

    # The compiler would compile hooks, too, anew in each traced step. Where nothing is compiled it isn't loaded.
    as_it_is: Callable[[Any], Any] = torch.compiler.disable if compiled else lambda hook: hook
    hooks = []
    open_: list[AbstractContextManager[Any]] = []

    def watch(module: "nn.Module", part: str) -> None:
        @as_it_is
        def enter(*_: Any) -> None:
            open_.append(_range(part))
            open_[-1].__enter__()

        @as_it_is
        def leave(*_: Any) -> None:
            open_.pop().__exit__(None, None, None)

        # First and last: what ZeRO 3 gathers for a part and lets go of belongs to it.
        hooks.append(module.register_forward_pre_hook(enter, prepend=True))
        # Recomputing a layer (activation checkpointing) ends it in its midst, by an exception.
        hooks.append(module.register_forward_hook(leave, always_call=True))

    bert = network.module.bert
    parts = [(bert, ENCODER), (bert.embeddings, EMBEDDINGS), (bert.pooler, HEADS)]
    for layer in bert.layers:
        parts += [(layer, LAYER), (layer.attention, ATTENTION), (layer.feed_forward, FEED_FORWARD)]
    for module, part in parts:
        if module is not None:
            watch(module, part)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
