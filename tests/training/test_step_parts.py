"""From a trace to parts: every moment of a step is some part's, and only one's."""

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.training.step_parts import MARK, NO_OPERATOR, Span, breakdown, innermost, minus, union

THREAD, AUTOGRAD, GLOO = 1, 2, 3


def event(
    category: str, name: str, start: float, end: float, tid: int = THREAD, **args: Any
) -> dict[str, Any]:
    return {
        "ph": "X", "cat": category, "name": name, "ts": start, "dur": end - start, "tid": tid, "args": args,
    }  # fmt: skip


def ours(name: str, start: float, end: float) -> dict[str, Any]:
    return event("user_annotation", MARK + name, start, end)


def op(name: str, start: float, end: float, tid: int = THREAD, **args: Any) -> dict[str, Any]:
    return event("cpu_op", name, start, end, tid, **args)


def node(name: str, start: float, end: float, number: int, tid: int = THREAD) -> dict[str, Any]:
    name = f"autograd::engine::evaluate_function: {name}"
    return op(name, start, end, tid, **{"Sequence number": number, "Fwd thread id": 1})


# A step of 1,000 microseconds: data, forward through an encoder with attention, backward, optimizer.
SKELETON = [
    ours("step 7", 0, 1000),
    ours("data", 10, 60),
    ours("forward", 100, 400),
    ours("encoder", 110, 300),
    ours("attention", 120, 220),
    ours("backward", 400, 800),
    ours("optimizer", 800, 950),
]
FORWARD_OPS = [
    op("aten::linear", 130, 200, **{"Sequence number": 3, "Fwd thread id": 0, "External id": 30}),
    op("aten::addmm", 140, 190, **{"Sequence number": 4, "Fwd thread id": 0, "External id": 31}),
    op("aten::nll_loss", 350, 380, **{"Sequence number": 5, "Fwd thread id": 0, "External id": 32}),
]


def milliseconds(parts: dict[str, float]) -> dict[str, float]:
    return {part: pytest.approx(taken * 1e3) for part, taken in parts.items()}


def test_on_a_cpu_each_moment_is_its_innermost_ranges_and_each_node_its_makers() -> None:
    events = [
        *SKELETON,
        *FORWARD_OPS,
        node("NllLossBackward0", 420, 440, 5),
        node("AddmmBackward0", 450, 600, 4),
        op("aten::mm", 460, 590),
        op("autograd::engine::evaluate_function: torch::autograd::AccumulateGrad", 610, 650),
        # An earlier step's, and an op of a thread that trains nothing.
        op("aten::mm", -50, -10),
        op("aten::mm", 500, 900, tid=9),
    ]
    found = breakdown(events)
    assert milliseconds(found.parts) == {
        "data": 0.05, "forward: attention": 0.1, "forward: other": 0.09, "forward: heads and loss": 0.11,
        "backward: attention": 0.15, "backward: heads and loss": 0.02, "backward: summing gradients": 0.04,
        "backward: other": 0.19, "optimizer": 0.15, "rest": 0.1,
    }  # fmt: skip
    assert list(found.parts)[:3] == ["data", "forward: attention", "forward: heads and loss"]
    own = {cost.name: (round(cost.seconds * 1e6), cost.calls) for cost in found.operators}
    assert own["aten::mm"] == (130, 1)
    assert own["aten::linear"] == (20, 1)
    assert own["aten::addmm"] == (50, 1)
    assert sum(cost.seconds for cost in found.operators) == pytest.approx(found.step_seconds)


def test_communication_is_what_is_waited_for_not_what_is_hidden_behind_computing() -> None:
    events = [
        *SKELETON,
        op("aten::mm", 450, 600),
        # Begun while the product was computed; waited for from 600 on, and again in the optimizer's step.
        event("user_annotation", "gloo:all_reduce", 550, 700, GLOO),
        event("user_annotation", "gloo:all_gather", 820, 850, GLOO),
        op("c10d::_allgather_base_", 819, 900),
    ]
    found = breakdown(events)
    assert found.parts["communication"] == pytest.approx(130e-6)
    assert found.hidden_communication == pytest.approx(50e-6)
    assert found.parts["backward: other"] == pytest.approx(300e-6)
    assert found.parts["optimizer"] == pytest.approx(120e-6)
    assert sum(found.parts.values()) == pytest.approx(found.step_seconds)


def test_a_layer_that_is_computed_again_in_the_backward_pass_is_a_part_of_its_own() -> None:
    events = [*SKELETON, ours("attention", 500, 560)]
    assert breakdown(events).parts["backward: forward, once more"] == pytest.approx(60e-6)


def test_on_a_gpu_kernels_count_where_they_were_launched_and_the_rest_is_the_hosts() -> None:
    def launched(
        name: str, at: float, start: float, end: float, number: int, op: int = 0, **more: Any
    ) -> Any:
        tid = more.get("tid", THREAD)
        return [
            event("cuda_runtime", "cudaLaunchKernel", at, at + 5, tid, correlation=number),
            event("kernel", name, start, end, 7, correlation=number, **{"External id": op}),
        ]

    events = [
        *SKELETON,
        *FORWARD_OPS,
        # Autograd has a thread of its own there.
        node("AddmmBackward0", 450, 600, 4, tid=AUTOGRAD),
        op("aten::mm", 460, 590, AUTOGRAD, **{"External id": 33}),
        *launched("gemm", 150, 250, 350, 1, op=31),
        *launched("softmax", 360, 360, 400, 2, op=32),
        *launched("gemm", 470, 500, 700, 3, op=33, tid=AUTOGRAD),
        *launched("ncclDevKernel_AllReduce", 480, 650, 750, 4),
        *launched("adam", 810, 810, 900, 5),
        event("kernel", "of an earlier step", 5, 9, 7, correlation=99),
        event("gpu_user_annotation", f"{MARK}step 7", 250, 900, 7),
        event("gpu_user_annotation", f"{MARK}attention", 250, 350, 7),
    ]
    found = breakdown(events)
    assert milliseconds(found.parts) == {
        "forward: attention": 0.1, "forward: heads and loss": 0.04, "backward: attention": 0.2,
        "communication": 0.05, "optimizer": 0.09, "data": 0.05, "idle device": 0.47,
    }  # fmt: skip
    assert found.hidden_communication == pytest.approx(50e-6)
    assert [(cost.name, round(cost.seconds * 1e6)) for cost in found.operators] == [
        ("aten::mm", 200), ("aten::addmm", 100), (NO_OPERATOR, 90), ("aten::nll_loss", 40),
    ]  # fmt: skip
    assert (found.kernels[0].name, found.kernels[0].calls) == ("gemm", 2)


def test_figures_are_means_over_the_steps() -> None:
    later = [each | {"ts": each["ts"] + 2000} for each in SKELETON]
    later[0] = ours("step 8", 2000, 3200)
    found = breakdown([*later, *SKELETON])
    assert found.step_seconds == pytest.approx(1100e-6)
    assert found.parts["rest"] == pytest.approx(200e-6)


def test_a_trace_without_a_marked_step_is_refused() -> None:
    with pytest.raises(ValueError, match="marks no step"):
        breakdown([op("aten::mm", 0, 1)])


times = st.floats(0, 1000, allow_nan=False)


@given(st.lists(st.tuples(times, times, st.sampled_from("abc")), max_size=12))
def test_no_moment_is_counted_twice_or_left_out(drawn: list[tuple[float, float, str]]) -> None:
    spans = [Span(min(ends), max(ends), label) for *ends, label in drawn]
    flat = innermost(spans)
    assert all(before.end <= after.start for before, after in itertools.pairwise(flat))

    def length(some: list[Span]) -> float:
        return sum(span.end - span.start for span in some)

    assert length(flat) == pytest.approx(length(union(spans)))
    half = [Span(0, 500, "")]
    assert length(minus(union(spans), half)) == pytest.approx(
        sum(max(0, span.end - max(span.start, 500)) for span in union(spans))
    )
