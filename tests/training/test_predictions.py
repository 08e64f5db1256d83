"""Predictions for fixed sentences: the same ones at every evaluation, a step once, and nothing of training moved."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.corpus.vocabulary import load_vocabulary
from pipeline.errors import InputError
from pipeline.policies import EvaluationPolicy
from pipeline.tracking.spool import PREDICTIONS, read_lines, read_metrics
from pipeline.tracking.tables import as_table, as_text
from pipeline.training.predictions import choose, encode, in_words
from workshop.recipes import small_recipe


def train(tmp_path: Path, shards: Path, cli: Any, name: str, **recipe: Any) -> Path:
    run = tmp_path / name
    values = small_recipe(run, shards, steps=4, warmup_steps=1) | recipe
    (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(values))
    ranks = ("--ranks", "2") if recipe.get("deepspeed") == "zero3" else ()
    done = cli("pretrain", tmp_path / f"{name}.yaml", *ranks)
    assert done.returncode == 0, done.stderr
    return run


def test_held_out_sentences_are_asked_at_every_evaluation_at_stage_3_too(
    shards: Path, tmp_path: Path, cli: Any
) -> None:
    run = train(tmp_path, shards, cli, "run", deepspeed="zero3", evaluate={"every": 2, "sequences": 16})
    lines = read_lines(run / PREDICTIONS)
    assert [line["step"] for line in lines] == [2, 4]
    first, second = ([each["text"] for each in line["predictions"]] for line in lines)
    assert first == second
    assert 1 <= len(first) <= 4
    for sentence in lines[0]["predictions"]:
        assert sentence["text"].count("[MASK]") == len(sentence["expected"]) == len(sentence["found"]) == 1
        shares = [share for _, share in sentence["found"][0]]
        assert len(shares) == 5
        assert shares == sorted(shares, reverse=True)
        assert 0 < sum(shares) <= 1.001


def test_sentences_of_the_recipe_are_asked_and_change_no_loss(shards: Path, tmp_path: Path, cli: Any) -> None:
    asked = ["The [MASK] of a [MASK] is an object.", "A name is [MASK]."]
    runs = [
        train(tmp_path, shards, cli, name, evaluate={"every": 2, "sequences": 16, "sentences": sentences})
        for name, sentences in (("with", asked), ("without", []))
    ]
    having, without = ([line["loss"] for line in read_metrics(run)] for run in runs)
    assert having == without
    assert not (runs[1] / PREDICTIONS).exists()
    (line, _) = read_lines(runs[0] / PREDICTIONS)
    assert [sentence["text"] for sentence in line["predictions"]] == [
        "the [MASK] of a [MASK] is an object .",
        "a name is [MASK] .",
    ]
    assert [len(sentence["found"]) for sentence in line["predictions"]] == [2, 1]
    # A resume whose checkpoint stood before an evaluation writes that one again, once.
    record = (runs[0] / PREDICTIONS).read_text()
    values = yaml.safe_load((tmp_path / "with.yaml").read_text())
    values["phases"].append(values["phases"][0] | {"steps": 2})
    (tmp_path / "more.yaml").write_text(yaml.safe_dump(values))
    stale = json.dumps({"step": 6, "predictions": []})
    (runs[0] / PREDICTIONS).write_text(f"{record}{stale}\n")
    assert cli("pretrain", tmp_path / "more.yaml").returncode == 0
    lines = read_lines(runs[0] / PREDICTIONS)
    assert [line["step"] for line in lines] == [2, 4, 6]
    assert lines[-1]["predictions"]


def test_left_to_right_the_word_after_the_beginning_is_asked(shards: Path, tmp_path: Path, cli: Any) -> None:
    evaluate = {"every": 4, "sequences": 16, "sentences": ["The value of [MASK] is [MASK]."]}
    run = train(tmp_path, shards, cli, "run", objective="ltr", evaluate=evaluate)
    (line,) = read_lines(run / PREDICTIONS)
    assert [len(sentence["found"]) for sentence in line["predictions"]] == [1]


def test_a_gap_is_a_whole_word_in_the_middle(shards: Path) -> None:
    vocabulary = load_vocabulary(str(shards / "vocab"))
    ids = vocabulary.tokenizer.encode(
        "the name of the class is an object of that type", add_special_tokens=False
    ).ids
    (sentence,) = choose([ids[:3], ids], vocabulary, 128)
    assert sentence.ids.count(vocabulary.mask_id) == 1
    gap = sentence.ids.index(vocabulary.mask_id)
    assert sentence.expected == (ids[gap],)
    assert vocabulary.tokens[ids[gap]].isalpha()
    assert abs(gap - len(ids) / 2) <= 2


def test_a_sentence_whose_gap_lies_beyond_the_model_is_left_out(shards: Path) -> None:
    vocabulary = load_vocabulary(str(shards / "vocab"))
    assert encode("a name and another [MASK]", vocabulary, 3) is None
    found = encode("[MASK] and a name", vocabulary, 3)
    assert found is not None
    assert in_words(found.ids, vocabulary) == "[MASK] and a"


def test_a_sentence_without_a_gap_is_refused() -> None:
    with pytest.raises(InputError, match=r"sentences\.1 is 'none'; it has no \[MASK\]"):
        EvaluationPolicy(sentences=("a [MASK]", "none"))


def test_predictions_are_a_text_newest_first_and_a_table_oldest_first() -> None:
    def line(step: int, **more: Any) -> dict[str, Any]:
        found = [[["mat", 0.5], ["hat", 0.25]]]
        return {
            "step": step,
            **more,
            "predictions": [{"text": "a [MASK]", "expected": ["mat"], "found": found}],
        }

    lines = [line(2), line(3, branch=1)]
    assert as_text(lines) == (
        "step 3, after rollback 1\n  a [MASK]\n    mat: mat 50.0%, hat 25.0%\n\n"
        "step 2\n  a [MASK]\n    mat: mat 50.0%, hat 25.0%\n"
    )
    table = as_table(lines)
    assert table["data"][0] == [2, "a [MASK]", "mat", "mat", 0.5, "hat 25.0%", 1, 0]
    assert [len(row) for row in table["data"]] == [len(table["columns"])] * 2
