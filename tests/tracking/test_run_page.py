"""What MLflow's pages show of a run is grouped, dotted and readable."""

import pytest

from pipeline.tracking.run_page import (
    description,
    flatten,
    metric_name,
    page_address,
    parameters,
    without_secrets,
)

RECIPE = {
    "run": "RUNS/a",
    "model": {"preset": "base"},
    "objective": "mlm+nsp",
    "deepspeed": "zero1",
    "precision": "bf16",
    "phases": [{"shards": "SHARDS/128", "sequence_length": 128, "global_batch": 256, "steps": 900}],
}


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("loss", "train/loss"),
        ("nsp_accuracy", "train/nsp_accuracy"),
        ("held_out_mlm_loss", "held_out/mlm_loss"),
        ("step", "progress/step"),
        ("tokens", "progress/tokens"),
        ("tokens_per_second", "speed/tokens_per_second"),
        ("matmul_flops_per_second", "speed/matmul_flops_per_second"),
        ("gradient_norm", "optimizer/gradient_norm"),
        ("a_name_that_a_later_version_adds", "train/a_name_that_a_later_version_adds"),
    ],
)
def test_curves_are_grouped_by_what_they_tell(name: str, shown: str) -> None:
    assert metric_name(name) == shown


def test_nested_values_become_dotted_keys() -> None:
    assert flatten({"a": {"b": [1, {"c": None}]}, "d": "e"}) == {"a.b.0": 1, "a.b.1.c": None, "d": "e"}


def test_a_parameter_is_text_that_mlflow_takes() -> None:
    assert parameters({"a": {"b": None}, "c": "x" * 9000}) == {"a.b": "None", "c": "x" * 6000}


def test_the_description_names_the_phases_and_what_the_run_was_made_from() -> None:
    text = description(RECIPE, {"bertpipe.vocabulary": "abc", "bertpipe.shards.0": "def"})
    assert "model `base`, objective `mlm+nsp`, `zero1`, `bf16`; run folder `RUNS/a`" in text
    assert "- phase 0: `SHARDS/128`, 128 tokens, 256 sequences a step, 900 steps\n" in text
    assert "- vocabulary: `abc`\n- shards.0: `def`" in text


def test_the_address_opens_the_run_among_trainings() -> None:
    wanted = "http://host:5000/#/experiments/3/runs/abc?workflowType=machine_learning"
    assert page_address("http://host:5000/", "3", "abc") == wanted


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://bob:hunter2@host:5000/x", "http://host:5000/x"),
        ("postgresql://bob:p@ss@host/mlflow", "postgresql://host/mlflow"),
        (
            "uri: https://token@host\nshards: s3://id:key@bucket/a\n",
            "uri: https://host\nshards: s3://bucket/a\n",
        ),
        ("http://[broken:hunter2@host", "http://host"),
        ("sqlite:////home/me@work/mlflow.db", "sqlite:////home/me@work/mlflow.db"),
        ("http://host/a b@c", "http://host/a b@c"),
        ("RUNS/me@work", "RUNS/me@work"),
    ],
)
def test_a_uri_is_shown_without_who_and_password(text: str, shown: str) -> None:
    assert without_secrets(text) == shown


def test_no_parameter_and_no_description_holds_a_password() -> None:
    recipe = RECIPE | {
        "tracking": {"uri": "http://bob:hunter2@host"},
        "phases": [{"shards": "s3://id:hunter2@bucket/a"}],
    }
    assert parameters(recipe)["tracking.uri"] == "http://host"
    assert "hunter2" not in str(parameters(recipe)) + description(recipe, {})


def test_several_shard_folders_are_one_parameter_without_their_passwords() -> None:
    mixed = {"phases": [{"shards": {"s3://key:secret@host/a+b": 3.0, "B": 0.5}, "steps": 2}]}
    assert parameters(mixed) == {"phases.0.shards": "s3://host/a+b: 3, B: 0.5", "phases.0.steps": "2"}
    assert "`s3://host/a+b: 3, B: 0.5`" in description(mixed, {})
