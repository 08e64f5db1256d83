"""A run's facts as a person reads them: one page a run, or one line each.

In: `Facts`. Out: text, its columns aligned. What always holds: it fits a terminal of 100 columns unless a path doesn't;
no figure is shown that is not known.

Example:
    print(page(facts))
"""

import time
from collections.abc import Sequence

from pipeline.status.facts import Facts

_LABEL = 15


def page(facts: Facts) -> str:
    """Everything about one run."""
    rows = [
        ("step", _steps(facts)),
        ("rate", _rate(facts)),
        ("mfu", _mfu(facts)),
        ("time left", _left(facts)),
        ("loss", _loss(facts)),
        ("held out", _held_out(facts)),
        (
            "learning rate",
            f"{facts.figures['learning_rate']:.3g}" if "learning_rate" in facts.figures else "",
        ),
        ("checkpoint", _checkpoint(facts)),
        ("starts", _starts(facts)),
        ("ranks", _ranks(facts)),
        (
            "SLURM",
            " ".join(filter(None, ("job", facts.slurm["job"], facts.slurm["state"]))) if facts.slurm else "",
        ),
        *(("recorded", address) for address in facts.recorded),
        *(("note", note) for note in facts.notes),
    ]
    head = f"{facts.run}: {facts.state}" + (f" ({facts.said})" if facts.said else "")
    return "\n".join([head, *(f"  {label:<{_LABEL}}{text}" for label, text in rows if text)])


def table(runs: Sequence[Facts], problems: Sequence[tuple[str, str]] = ()) -> str:
    """A line a run; folders that cannot be read are named below.

    problems: a folder and what is wrong with it
    """
    heads = ("run", "state", "step", "loss", "held out", "last step", "left", "ranks")
    rows = [_row(facts) for facts in runs]
    widths = [max(len(row[column]) for row in [heads, *rows]) for column in range(len(heads))]
    lines = []
    for row in [heads, *rows] if rows else []:
        first = [f"{cell:<{width}}" for cell, width in zip(row[:2], widths, strict=False)]
        rest = [f"{cell:>{width}}" for cell, width in zip(row[2:], widths[2:], strict=True)]
        lines.append("  ".join([*first, *rest]).rstrip())
    return "\n".join([*lines, *(f"{folder}: {problem}" for folder, problem in problems)])


def _row(facts: Facts) -> tuple[str, ...]:
    alive = f"{facts.ranks_alive}/{facts.ranks_expected}" if facts.ranks_alive else "-"
    held_out = facts.held_out.get("loss")
    return (
        facts.run,
        facts.state,
        f"{facts.step:,}/{facts.steps:,}",
        "-" if facts.loss is None else f"{facts.loss:.4f}",
        "-" if held_out is None else f"{held_out:.4f}",
        "-" if facts.last_step_age is None else f"{span(facts.last_step_age)} ago",
        "-" if facts.seconds_left is None else span(facts.seconds_left),
        alive,
    )


def _steps(facts: Facts) -> str:
    if not facts.steps:
        return ""
    phase = f", phase {facts.phase} of {facts.phases}" if facts.phases > 1 else ""
    return f"{facts.step:,} of {facts.steps:,} ({facts.step / facts.steps:.1%}){phase}"


def _rate(facts: Facts) -> str:
    parts = [
        f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2}f} {unit}"
        for value, unit in (
            (facts.sequences_per_second, "sequences/s"),
            (facts.tokens_per_second, "tokens/s"),
            (facts.steps_per_second, "steps/s"),
        )
        if value is not None
    ]
    many = f" (last {facts.rate_steps} steps)" if facts.rate_steps > 1 else ""
    return f"{', '.join(parts)}{many}" if parts else ""


def _mfu(facts: Facts) -> str:
    share, rate = facts.figures.get("mfu"), facts.figures.get("matmul_flops_per_second")
    if share is None or not rate:
        return ""
    return f"{share:.1%} of {rate / 1e12:,.3g} TFLOP/s, what matrix products were measured to reach here"


def _left(facts: Facts) -> str:
    if not facts.seconds_left:
        return ""
    until = time.strftime("%Y-%m-%d %H:%M", time.localtime(time.time() + facts.seconds_left))
    return f"{span(facts.seconds_left)}, until about {until}"


def _loss(facts: Facts) -> str:
    if facts.loss is None:
        return ""
    ago = f", {span(facts.last_step_age)} ago" if facts.last_step_age is not None else ""
    return f"{facts.loss:.4f}{_parts(facts.figures)}{ago}"


def _held_out(facts: Facts) -> str:
    if not facts.held_out:
        return ""
    loss = facts.held_out.get("loss")
    whole = f"{loss:.4f}" if loss is not None else ""
    step = facts.held_out.get("step")
    return f"{whole}{_parts(facts.held_out)}" + (f", at step {step:,.0f}" if step else "")


def _parts(figures: dict[str, float]) -> str:
    tasks = [name.removesuffix("_loss") for name in figures if name.endswith("_loss") and name != "loss"]
    told = [
        f"{task} {figures[f'{task}_loss']:.4f}"
        + (f", {figures[f'{task}_accuracy']:.1%} right" if f"{task}_accuracy" in figures else "")
        for task in tasks
    ]
    return f" ({'; '.join(told)})" if told else ""


def _checkpoint(facts: Facts) -> str:
    if facts.checkpoint is None:
        return ""
    kept = facts.checkpoint
    whole = f"damaged: {kept['problem']}" if kept["problem"] else "whole"
    return f"step {kept['step']:,}, {size(kept['bytes'])}, {span(kept['age'])} ago, {whole}"


def _starts(facts: Facts) -> str:
    if not facts.starts:
        return ""
    last = facts.restarts[-1] if facts.restarts else {}
    why = f"; last requeued after step {last.get('step')}: {last.get('reason')}" if last else ""
    return f"{facts.starts}{why}"


def _ranks(facts: Facts) -> str:
    if not facts.ranks_alive:
        return "not running"
    hosts = sorted(facts.hosts.items())
    named = ", ".join(f"{host} {count}" for host, count in hosts[:6]) + (", …" if len(hosts) > 6 else "")
    return f"{facts.ranks_alive} of {facts.ranks_expected} alive ({named})"


def size(count: float) -> str:
    """Bytes as a person says them: `1.3 GB`."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"


def span(seconds: float) -> str:
    """Seconds as a person says them, in two units: `42 s`, `3 min 5 s`, `2 h 10 min`, `9 d 8 h`."""
    whole = max(0, round(seconds))
    for unit, name, smaller, smaller_name in (
        (86400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= unit:
            rest = whole % unit // smaller
            return f"{whole // unit} {name}" + (f" {rest} {smaller_name}" if rest else "")
    return f"{whole} s"
