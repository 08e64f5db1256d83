"""Where a training step's time goes, from a trace of torch's profiler (pure).

In: the events of a Chrome trace, among them the ranges that `step_profile` has marked. Out: a `Breakdown`: seconds a
step by parts that a person knows, and by operators. What always holds: the parts add up to the step. On a CPU a moment
belongs to the innermost range that the training thread is in; to communication where a collective is under way and
nothing is computed meanwhile. On a GPU a kernel belongs to the part that launched it, and moments without a kernel
are the host's: it waits for data, or is too slow.

What a node of the backward pass belongs to is what made it in the forward pass: autograd numbers both alike.

Example:
    breakdown(json.load(file)["traceEvents"]).parts["forward: attention"]  # 0.0123
"""

import bisect
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

# Before the names of ranges that are ours.
MARK = "bertpipe: "
STEP, DATA, FORWARD, ENCODER, BACKWARD, OPTIMIZER = (
    "step", "data", "forward", "encoder", "backward", "optimizer",
)  # fmt: skip
EMBEDDINGS, LAYER, ATTENTION, FEED_FORWARD, HEADS = (
    "embeddings", "dropout, sums and LayerNorm", "attention", "feed-forward", "heads and loss",
)  # fmt: skip
_IN_FORWARD = (EMBEDDINGS, ATTENTION, FEED_FORWARD, LAYER, HEADS)
OTHER, GRADIENTS, RECOMPUTED = "other", "summing gradients", "forward, once more"
COMMUNICATION, IDLE, REST = "communication", "idle device", "rest"
# In a page's order.
PARTS = (
    DATA,
    *(f"{FORWARD}: {part}" for part in (*_IN_FORWARD, OTHER)),
    *(f"{BACKWARD}: {part}" for part in (*_IN_FORWARD, RECOMPUTED, GRADIENTS, OTHER)),
    COMMUNICATION,
    OPTIMIZER,
    IDLE,
    REST,
)
# What runs while no operator does.
NO_OPERATOR = "no operator: Python, or waiting"
_NODE = "autograd::engine::evaluate_function: "
_ACCUMULATE = _NODE + "torch::autograd::AccumulateGrad"
_KERNELS = ("kernel", "gpu_memcpy", "gpu_memset")
_LAUNCHES = ("cuda_runtime", "cuda_driver")
_MICROSECONDS = 1e-6


class Span(NamedTuple):
    """A stretch of time, in the trace's microseconds, and what it belongs to."""

    start: float
    end: float
    label: str


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one operator, or kernel, takes: seconds and calls a step."""

    name: str
    seconds: float
    calls: float


@dataclass(frozen=True, kw_only=True)
class Breakdown:
    """A step's time; all figures are means over the traced steps.

    step_seconds: from the step's beginning to its end
    parts: of those, seconds by names of `PARTS`
    operators: by their own time (on a GPU: of the kernels that they launch), the longest first
    kernels: a GPU's, likewise; none on a CPU
    hidden_communication: seconds in which collectives were under way while something was computed, in no part
    """

    step_seconds: float
    parts: dict[str, float]
    operators: list[Cost]
    kernels: list[Cost]
    hidden_communication: float


def breakdown(events: Iterable[Mapping[str, Any]]) -> Breakdown:
    """What a trace says of its steps; those that were marked, whole.

    Raises ValueError where none is marked.
    """
    trace = _Trace(events)
    if not trace.steps:
        raise ValueError(f"the trace marks no step; it needs ranges whose names begin with {MARK + STEP!r}")
    return trace.on_device() if trace.kernels else trace.on_host()


class _Trace:
    """The events of a trace that say something of its steps."""

    def __init__(self, events: Iterable[Mapping[str, Any]]) -> None:
        spans = [event for event in events if event.get("ph") == "X"]
        # The host's; a GPU's trace repeats them as its own.
        ours = [
            event
            for event in spans
            if event["name"].startswith(MARK) and event.get("cat") == "user_annotation"
        ]
        steps = [event for event in ours if event["name"].startswith(MARK + STEP)]
        self.steps = sorted(_span(event, REST) for event in steps)
        self._ranges = sorted(
            _span(event, event["name"].removeprefix(MARK))
            for event in ours
            if event not in steps and _holds(self.steps, event["ts"])
        )
        inside = [event for event in spans if _holds(self.steps, event["ts"])]
        ops = [event for event in inside if event.get("cat") == "cpu_op"]
        # Those that train: the loop's, and autograd's, which is another one where there is a GPU.
        threads = {event["tid"] for event in steps}
        threads |= {event["tid"] for event in ops if event["name"].startswith(_NODE)}
        self.ops = [event for event in ops if event["tid"] in threads]
        self._collectives = [
            _span(event, COMMUNICATION)
            for event in inside
            if event.get("cat") == "user_annotation" and event["name"].startswith(("gloo:", "mpi:"))
        ]
        launched = {
            event["args"]["correlation"]: event["ts"]
            for event in inside
            if event.get("cat") in _LAUNCHES and "correlation" in event.get("args", {})
        }
        # (the kernel, when it was launched)
        self.kernels = [
            (event, launched[event["args"]["correlation"]])
            for event in spans
            if event.get("cat") in _KERNELS and event.get("args", {}).get("correlation") in launched
        ]
        self._parts = innermost([*self.steps, *self._labelled()])

    def on_host(self) -> Breakdown:
        """The breakdown of a CPU's steps."""
        sends = _within(union(self._collectives), self.steps)
        waits = minus(sends, union(self._leaves()))
        computed = innermost(
            [step._replace(label=NO_OPERATOR) for step in self.steps]
            + [_span(op, op["name"]) for op in self.ops]
        )
        parts = _seconds([*minus(self._parts, waits), *waits])
        calls = Counter(op["name"] for op in self.ops)
        return self._breakdown(
            parts, _seconds(minus(computed, waits)), calls, {}, {}, _length(sends) - _length(waits)
        )

    def on_device(self) -> Breakdown:
        """The breakdown of a GPU's steps: of the time that its kernels take."""
        names = {
            op["args"]["External id"]: op["name"] for op in self.ops if "External id" in op.get("args", {})
        }
        parts, operators, kernels = (defaultdict[str, float](float) for _ in range(3))
        busy, sends = list[Span](), list[Span]()
        starts = [part.start for part in self._parts]
        for event, launched in self.kernels:
            span = _span(event, COMMUNICATION)
            if "nccl" in event["name"].lower():
                sends.append(span)
                continue
            busy.append(span)
            at = bisect.bisect_right(starts, launched) - 1
            taken = (span.end - span.start) * _MICROSECONDS
            parts[self._parts[at].label] += taken
            operators[names.get(event["args"].get("External id"), NO_OPERATOR)] += taken
            kernels[event["name"]] += taken
        computing = union(busy)
        sent = minus(union(sends), computing)
        parts[COMMUNICATION] += _length(sent) * _MICROSECONDS
        idle = minus(self.steps, union([*computing, *sent]))
        waiting = _length(_within(idle, [part for part in self._parts if part.label == DATA]))
        parts[DATA] += waiting * _MICROSECONDS
        parts[IDLE] += (_length(idle) - waiting) * _MICROSECONDS
        calls = Counter(op["name"] for op in self.ops)
        launches = Counter(event["name"] for event, _ in self.kernels)
        return self._breakdown(parts, operators, calls, kernels, launches, _length(sends) - _length(sent))

    def _breakdown(
        self,
        parts: Mapping[str, float],
        operators: Mapping[str, float],
        calls: Mapping[str, int],
        kernels: Mapping[str, float],
        launches: Mapping[str, int],
        hidden: float,
    ) -> Breakdown:
        count = len(self.steps)
        return Breakdown(
            step_seconds=_length(self.steps) * _MICROSECONDS / count,
            parts={part: parts[part] / count for part in PARTS if parts.get(part)},
            operators=_costs(operators, calls, count),
            kernels=_costs(kernels, launches, count),
            hidden_communication=max(0.0, hidden) * _MICROSECONDS / count,
        )

    def _labelled(self) -> list[Span]:
        """Our ranges, and the backward pass's nodes, as what they are parts of."""
        backward = [span for span in self._ranges if span.label == BACKWARD]
        # What the forward pass does outside of the encoder are the heads.
        forward = {FORWARD: HEADS, ENCODER: OTHER}
        ranges = []
        for span in self._ranges:
            label = span.label
            if label == BACKWARD:
                label = f"{BACKWARD}: {OTHER}"
            elif label not in (DATA, OPTIMIZER):
                is_again = bool(backward) and _holds(backward, span.start)
                label = f"{BACKWARD}: {RECOMPUTED}" if is_again else f"{FORWARD}: {forward.get(label, label)}"
            ranges.append(span._replace(label=label))
        return ranges + self._nodes(innermost([*self.steps, *ranges]))

    def _nodes(self, parts: Sequence[Span]) -> list[Span]:
        """The backward pass's nodes, each as a part of the backward pass."""
        starts = [part.start for part in parts]
        made: dict[int, str] = {}
        nodes = []
        for op in sorted(self.ops, key=lambda op: op["ts"]):
            number = op.get("args", {}).get("Sequence number")
            if op["name"].startswith(_ACCUMULATE):
                nodes.append(_span(op, f"{BACKWARD}: {GRADIENTS}"))
            elif number is None:
                continue
            elif not op["name"].startswith(_NODE):
                # The last operator that begins with a number makes the node that has it.
                if not op["args"].get("Fwd thread id"):
                    made[number] = parts[bisect.bisect_right(starts, op["ts"]) - 1].label
            elif (label := made.get(number, "")).startswith(FORWARD):
                nodes.append(_span(op, label.replace(FORWARD, BACKWARD, 1)))
        return nodes

    def _leaves(self) -> list[Span]:
        """The operators that call no other one, collectives' own left out: while one runs, something is computed."""
        found = []
        by_thread = defaultdict[Any, list[Span]](list)
        for op in self.ops:
            by_thread[op["tid"]].append(_span(op, op["name"]))
        for spans in by_thread.values():
            spans.sort(key=lambda span: (span.start, -span.end))
            follower = [*spans[1:], Span(float("inf"), float("inf"), "")]
            found += [
                span
                for span, after in zip(spans, follower, strict=True)
                if after.start >= span.end and not span.label.startswith("c10d::")
            ]
        return found


def innermost(spans: Iterable[Span]) -> list[Span]:
    """Nested spans as a sequence of disjoint ones, each moment under the label of the span begun last."""
    done: list[Span] = []
    open_: list[Span] = []
    at = 0.0

    def until(time: float) -> None:
        nonlocal at
        if open_ and time > at:
            done.append(Span(at, time, open_[-1].label))
        at = max(at, time)

    for span in sorted(spans, key=lambda span: (span.start, -span.end)):
        while open_ and open_[-1].end <= span.start:
            until(open_[-1].end)
            open_.pop()
        until(span.start)
        open_.append(span)
    while open_:
        until(open_[-1].end)
        open_.pop()
    return done


def union(spans: Iterable[Span]) -> list[Span]:
    """The moments in any of the spans, as disjoint spans in order; labels are the first one's."""
    joined: list[Span] = []
    for span in sorted(spans):
        if joined and span.start <= joined[-1].end:
            joined[-1] = joined[-1]._replace(end=max(joined[-1].end, span.end))
        else:
            joined.append(span)
    return joined


def minus(spans: Sequence[Span], others: Sequence[Span]) -> list[Span]:
    """The moments of `spans` that are in none of `others`; both are disjoint and in order."""
    left: list[Span] = []
    first = 0
    for span in spans:
        start = span.start
        while first < len(others) and others[first].end <= start:
            first += 1
        for other in others[first:]:
            if other.start >= span.end:
                break
            if other.start > start:
                left.append(span._replace(start=start, end=other.start))
            start = max(start, other.end)
        if start < span.end:
            left.append(span._replace(start=start))
    return left


def _within(spans: Sequence[Span], others: Sequence[Span]) -> list[Span]:
    """The moments of `spans` that are in one of `others`."""
    return minus(spans, minus(spans, others))


def _span(event: Mapping[str, Any], label: str) -> Span:
    return Span(event["ts"], event["ts"] + event.get("dur", 0.0), label)


def _holds(spans: Sequence[Span], time: float) -> bool:
    """Whether one of the spans, in order and disjoint, holds the moment."""
    at = bisect.bisect_right(spans, time, key=lambda span: span.start) - 1
    return at >= 0 and time < spans[at].end


def _length(spans: Iterable[Span]) -> float:
    return sum(span.end - span.start for span in spans)


def _seconds(spans: Iterable[Span]) -> dict[str, float]:
    totals = defaultdict[str, float](float)
    for span in spans:
        totals[span.label] += (span.end - span.start) * _MICROSECONDS
    return totals


def _costs(seconds: Mapping[str, float], calls: Mapping[str, int], steps: int) -> list[Cost]:
    costs = [
        Cost(name=name, seconds=total / steps, calls=calls.get(name, 0) / steps)
        for name, total in seconds.items()
    ]
    return sorted(costs, key=lambda cost: -cost.seconds)
