"""Checks: in order, at once, never crashing, never hanging."""

import threading
import time
from collections.abc import Iterator

import pytest

from pipeline.doctor.findings import Check, Finding, examine


def ok(name: str) -> Iterator[Finding]:
    yield Finding(name=name, state="ok", found="there")


def test_findings_come_in_the_checks_order_whoever_answers_first() -> None:
    def late() -> Iterator[Finding]:
        time.sleep(0.2)
        yield from ok("late")

    found = examine([Check("late", late), Check("soon", lambda: ok("soon"))])
    assert [finding.name for finding in found] == ["late", "soon"]


@pytest.mark.parametrize(
    "error", [ValueError("bad figure\nsecond line"), OSError(5, "Input/output error"), KeyError()]
)
def test_a_check_that_fails_is_an_error_that_names_it_and_the_others_stand(error: Exception) -> None:
    def failing() -> Iterator[Finding]:
        yield from ok("half")
        raise error

    failed, other = examine([Check("disk", failing), Check("python", lambda: ok("python"))])
    assert (failed.name, failed.state, other.state) == ("disk", "error", "ok")
    assert type(error).__name__ in failed.found
    assert "\n" not in failed.found
    assert failed.remedy


def test_a_check_that_hangs_is_given_up_and_holds_up_nothing() -> None:
    never = threading.Event()

    def hanging() -> Iterator[Finding]:
        never.wait()
        yield from ok("disk")

    started = time.monotonic()
    hung, other = examine([Check("disk", hanging, 0.3), Check("python", lambda: ok("python"))])
    assert time.monotonic() - started < 3
    assert (hung.state, hung.found, other.state) == ("error", "no answer within 0.3 s", "ok")
    assert not any(thread.name == "disk" and not thread.daemon for thread in threading.enumerate())
    never.set()


@pytest.mark.parametrize("state", ["warning", "error"])
def test_what_is_wrong_must_come_with_a_remedy(state: str) -> None:
    with pytest.raises(AssertionError):
        Finding(name="x", state=state, found="y")  # type: ignore[arg-type]
