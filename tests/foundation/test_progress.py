"""What is told while a stage works: a person's lines, a job's JSON, or errors alone."""

import json
from collections.abc import Iterator

import pytest

from pipeline import progress
from pipeline.progress import Form, Progress, choose_form, complain, say, summarise


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[object]:
    """What a stage of three parts tells in a form."""
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", 0.0)

    def tell(form: Form) -> list[str]:
        choose_form(form)
        say("a note")
        with Progress("pairing", total=3, unit="shards") as shown:
            for pairs in (10, 20, 30):
                shown.advance(note=f"{pairs} pairs", pairs=pairs)
        with Progress("tokenising", total=2.5, unit="MB") as shown:
            shown.advance(1.25, note="half")
        summarise(["pairs 30"], {"pairs": 30})
        complain("bertpipe: an error")
        out, err = capsys.readouterr()
        assert out == ""
        return err.splitlines()

    yield tell
    choose_form("auto")


def test_a_pipe_gets_plain_lines(told: object) -> None:
    assert told("auto") == [  # type: ignore[operator]
        "a note",
        "pairing: 1/3 shards, 0 s left  10 pairs",
        "pairing: 2/3 shards, 0 s left  20 pairs",
        "pairing: 3/3 shards, 0 s left  30 pairs",
        "tokenising: 1.2/2.5 MB, 0 s left  half",
        "pairs 30",
        "bertpipe: an error",
    ]


def test_quiet_tells_errors_alone(told: object) -> None:
    assert told("quiet") == ["bertpipe: an error"]  # type: ignore[operator]


def test_a_machine_gets_an_object_a_line(told: object) -> None:
    objects = [json.loads(line) for line in told("json")]  # type: ignore[operator]
    assert objects[0] == {"note": "a note"}
    assert objects[-2:] == [{"summary": {"pairs": 30}}, {"error": "bertpipe: an error"}]
    pairing = [each for each in objects if each.get("stage") == "pairing"]
    assert [(each["done"], each["pairs"]) for each in pairing] == [(1, 10), (2, 20), (3, 30), (3, 30)]
    assert all(each["total"] == 3 and each["seconds_left"] >= 0 for each in pairing)
    assert objects[-3]["stage"] == "tokenising"
    assert objects[-3]["done"] == 1.25
