"""Predictions as a person reads them, and as MLflow shows a table.

In: the lines of `predictions.jsonl`. Out: text, newest first; columns and rows, oldest first. What always holds: pure
functions; every prediction on record is among them.

Example:
    sentence = {"text": "the cat [MASK]", "expected": ["sat"], "found": [[["sat", 0.4]]]}
    as_text([{"step": 100, "predictions": [sentence]}])
"""

from collections.abc import Mapping, Sequence
from typing import Any

Line = Mapping[str, Any]


def as_text(lines: Sequence[Line]) -> str:
    """A part an evaluation: each sentence, and below it each mask with what the network would put there."""
    parts = []
    for line in reversed(lines):
        branch = f", after rollback {line['branch']}" if line.get("branch") else ""
        rows = [f"step {line['step']}{branch}"]
        for sentence in line["predictions"]:
            rows.append(f"  {sentence['text']}")
            for expected, found in zip(sentence["expected"], sentence["found"], strict=True):
                wanted = f"{expected}: " if expected else ""
                rows.append(f"    {wanted}{_ranked(found)}")
        parts.append("\n".join(rows))
    return "\n\n".join(parts) + "\n"


def as_table(lines: Sequence[Line]) -> dict[str, Any]:
    """A row a mask and evaluation."""
    rows = [
        [line["step"], sentence["text"], expected, *_columns(found), number, line.get("branch", 0)]
        for line in lines
        for sentence in line["predictions"]
        for number, (expected, found) in enumerate(
            zip(sentence["expected"], sentence["found"], strict=True), start=1
        )
    ]
    columns = ["step", "sentence", "expected", "first", "probability", "then", "mask", "branch"]
    return {"columns": columns, "data": rows}


def _columns(found: Sequence[Sequence[Any]]) -> list[Any]:
    (first, probability), *others = found
    return [first, probability, _ranked(others)]


def _ranked(found: Sequence[Sequence[Any]]) -> str:
    return ", ".join(f"{token} {probability:.1%}" for token, probability in found)
