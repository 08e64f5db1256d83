"""A profile as a person, and a machine, reads it.

In: what was seen of a few steps. Out: a page of plain text, its five largest lines, plain values. What always holds:
shares are of the traced step, and those of the page's parts add up to it; a part that took nothing has no line.

Example:
    write_text("profile.txt", page(profile))
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.training.step_parts import BACKWARD, DATA, FORWARD, OPTIMIZER, Breakdown, Cost

# Operators and kernels that a page shows; profile.json has all.
_SHOWN = 20
_LABEL = 44
_MOMENTS = {DATA: "waiting for data", FORWARD: "forward", BACKWARD: "backward", OPTIMIZER: "optimizer"}


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What was seen of a few steps of a rank.

    plain, measured, traced: the steps that were timed as they are, of which memory was read, of which time was traced
    plain_step_seconds: what a step takes, the middle of those; None where the run had no steps for it
    memory, estimate: bytes by part of the step: the most that was held, and the most that was reckoned with
    memory_is: what was counted: `resident` or `allocated` memory; empty where this system can't tell
    """

    run: str
    device: str
    rank: int
    ranks: int
    precision: str
    deepspeed: str
    plain: tuple[int, ...]
    measured: tuple[int, ...]
    traced: tuple[int, ...]
    plain_step_seconds: float | None
    time: Breakdown
    memory: Mapping[str, int]
    memory_is: str
    estimate: Mapping[str, int]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, all operators and kernels among them."""
        return asdict(self)


def page(profile: Profile) -> str:
    """All of it."""
    time = profile.time
    lines = [
        f"{profile.run}: rank {profile.rank} of {profile.ranks}, {profile.device}, {profile.precision}, "
        f"{profile.deepspeed}",
        _step(profile),
        "",
        _row("a traced step's time", "ms", "share"),
        *_parts(time),
    ]
    if profile.device.startswith("cuda") and not time.kernels:
        lines.append("(no kernel was recorded, as where CUPTI is closed to a user: times are the host's)")
    if time.hidden_communication:
        lines.append(_row("(communication while something was computed)", _ms(time.hidden_communication), ""))
    by = "the time of their kernels" if time.kernels else "their own time"
    heads = {f"operators, by {by}": time.operators, "kernels": time.kernels}
    for head, costs in heads.items():
        if costs:
            lines += ["", _row(head, "ms", "share", "calls"), *_costs(costs, time.step_seconds)]
    return "\n".join([*lines, "", *_memory(profile), ""])


def five_largest(profile: Profile) -> list[str]:
    """The five parts that take most, a line each."""
    parts = sorted(profile.time.parts.items(), key=lambda part: -part[1])[:5]
    return [_row(f"  {name}", _ms(taken), _share(taken, profile.time)) for name, taken in parts]


def _step(profile: Profile) -> str:
    traced = f"{_ms(profile.time.step_seconds)} ms when traced (steps {_numbers(profile.traced)})"
    if profile.plain_step_seconds is None:
        return f"a step took {traced}"
    return f"a step took {_ms(profile.plain_step_seconds)} ms (steps {_numbers(profile.plain)}), {traced}"


def _parts(time: Breakdown) -> Iterator[str]:
    """A line a part; those of forward and backward below their sums."""
    said = ""
    for name, taken in time.parts.items():
        whole, _, part = name.partition(": ")
        if part and whole != said:
            total = sum(each for other, each in time.parts.items() if other.startswith(f"{whole}: "))
            yield _row(whole, _ms(total), _share(total, time))
            said = whole
        yield _row(f"  {part}" if part else whole, _ms(taken), _share(taken, time))


def _costs(costs: Sequence[Cost], step_seconds: float) -> Iterator[str]:
    for cost in costs[:_SHOWN]:
        share = f"{cost.seconds / step_seconds:.1%}"
        yield _row(_shortened(cost.name), _ms(cost.seconds), share, f"{cost.calls:.0f}" if cost.calls else "")


def _memory(profile: Profile) -> Iterator[str]:
    if not profile.memory:
        yield "memory: this system keeps no record of the most that a process held, or does not let it be reset"
        return
    yield _row(f"peak memory, {profile.memory_is}", "MiB", "estimate")
    for part, words in _MOMENTS.items():
        if part in profile.memory:
            yield _row(words, _mib(profile.memory[part]), _mib(profile.estimate[part]))
    yield f"(in steps {_numbers(profile.measured)}; the estimate is for micro-batches whose sequences are all full)"


def _numbers(steps: Sequence[int]) -> str:
    return f"{steps[0]} to {steps[-1]}" if len(steps) > 1 else f"{steps[0]}"


def _row(label: str, *cells: str) -> str:
    return f"{label:<{_LABEL}}" + "".join(f"{cell:>10}" for cell in cells).rstrip()


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:,.2f}"


def _mib(size: float) -> str:
    return f"{size / (1 << 20):,.0f}"


def _share(seconds: float, time: Breakdown) -> str:
    return f"{seconds / time.step_seconds:.1%}"


def _shortened(name: str) -> str:
    """A name that fits its column; kernels have some of hundreds of letters."""
    return name if len(name) < _LABEL else f"{name[: _LABEL - 2]}…"
