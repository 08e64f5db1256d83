"""A recipe: defaults < YAML < overrides, and every mistake named with its remedy."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.errors import InputError
from pipeline.objectives import OBJECTIVES
from pipeline.recipe import Recipe, read_recipe, recipe_from

ROOT = Path(__file__).resolve().parents[2]
PHASE: dict[str, Any] = {
    "shards": "SHARDS",
    "sequence_length": 128,
    "global_batch": 64,
    "micro_batch": 16,
    "steps": 300,
    "learning_rate": 1e-3,
    "warmup_steps": 30,
}
MINIMAL: dict[str, Any] = {"run": "RUNS/x", "model": {"preset": "tiny"}, "phases": [PHASE]}


def write(folder: Path, value: Any) -> str:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(value))
    return str(path)


def test_yaml_beats_defaults_and_overrides_beat_yaml(tmp_path: Path) -> None:
    path = write(tmp_path, MINIMAL | {"seed": 5, "adamw": {"beta2": 0.98}})
    recipe = read_recipe(
        path, ["phases.0.steps=12", "phases.0.warmup_steps=2", "adamw.epsilon=1e-8", "run=there"]
    )
    assert (recipe.seed, recipe.run, recipe.phases[0].steps) == (5, "there", 12)
    assert (recipe.adamw.beta1, recipe.adamw.beta2, recipe.adamw.epsilon) == (0.9, 0.98, 1e-8)
    assert recipe.checkpoint.keep_last == 2


def test_numbers_without_a_dot_are_numbers(tmp_path: Path) -> None:
    # YAML 1.1 reads 1e-4 as text.
    recipe = read_recipe(write(tmp_path, MINIMAL), ["phases.0.learning_rate=1e-4"])
    assert recipe.phases[0].learning_rate == 1e-4


def test_a_resolved_recipe_read_again_is_the_same(tmp_path: Path) -> None:
    recipe = recipe_from(MINIMAL, "here")
    assert read_recipe(write(tmp_path, recipe.as_dict())).as_dict() == recipe.as_dict()


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "recipes").glob("*.yaml")))
def test_every_shipped_recipe_is_good(name: str) -> None:
    assert read_recipe(str(ROOT / "recipes" / name)).steps > 0


@pytest.mark.parametrize("name", ["base", "large"])
def test_base_and_large_are_the_published_training(name: str) -> None:
    recipe = read_recipe(str(ROOT / "recipes" / f"{name}.yaml"))
    first, second = recipe.phases
    assert {phase.global_batch for phase in recipe.phases} == {256}
    assert (recipe.steps, first.steps, first.sequence_length, second.sequence_length) == (
        1_000_000,
        900_000,
        128,
        512,
    )
    assert (first.learning_rate, first.warmup_steps) == (1e-4, 10_000)
    # One line from the peak at 10,000 steps to zero at 1,000,000.
    assert first.final_learning_rate == pytest.approx(1e-4 * 100_000 / 990_000, rel=1e-4)
    assert (second.learning_rate, second.warmup_steps) == (first.final_learning_rate, 0)
    assert (recipe.adamw.weight_decay, recipe.model["preset"]) == (0.01, name)


def changed(**values: Any) -> dict[str, Any]:
    return MINIMAL | values


def phase(**values: Any) -> dict[str, Any]:
    return MINIMAL | {"phases": [PHASE | values]}


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        (changed(sed=1), "unknown key sed; the nearest known is seed"),
        (phase(warmup=3), "unknown key phases.0.warmup; the nearest known is phases.0.warmup_steps"),
        (changed(checkpoint={"evry": 3}), "checkpoint.evry; the nearest known is checkpoint.every"),
        (changed(model={"preset": "bse"}), "base"),
        (changed(model={"preset": "tiny", "layer": 3}), "layers"),
        (changed(model={"preset": "tiny", "heads": 3}), "heads"),
        (changed(model={"layers": 3}), "preset is missing"),
        (changed(model={"preset": "tiny", "vocab_size": 9}), "vocab_size"),
        (changed(seed="one"), "seed is 'one'; it must be a whole number"),
        (changed(compile=1), "compile is 1; it must be true or false"),
        (changed(seed=True), "seed is True"),
        (changed(seed=-1), "seed is -1"),
        (changed(phases=[]), "phases is empty"),
        (changed(phases={}), "phases is {}; it must be a list"),
        (changed(phases=[3]), "phases.0 is 3; it must hold keys"),
        (changed(objective="clm"), r"mlm\+nsp, mlm\+sop, mlm, ltr"),
        (
            changed(model={"preset": "tiny", "causal": True}),
            r"model.causal is not set in a recipe; .*mlm\+nsp",
        ),
        (changed(model={"preset": "tiny", "pair_head": False}), "model.pair_head is not set in a recipe"),
        (changed(model={"preset": "tiny", "type_vocab_size": 1}), "has segments A and B; set it to 2"),
        (changed(objective="mlm", masking={"epochs": 1}), "masking.epochs is 1, .* leave it out"),
        (changed(precision="bf8"), "fp32"),
        (changed(masking={"mask": 0.5}), "masking"),
        (changed(masking={"rate": 1.5}), "rate"),
        (changed(evaluate={"masking_rate": 0}), "masking_rate is 0.0; it must be above 0 and at most 1"),
        (changed(lanes=7), "lanes is 7.*64"),
        (changed(gradient_clipping=0), "gradient_clipping"),
        (changed(adamw={"beta1": 1}), "beta1"),
        (changed(run=""), "run is empty"),
        (phase(steps=0), "steps is 0"),
        (phase(micro_batch=24), "micro_batch 24 does not divide global_batch 64.*16|32"),
        (phase(warmup_steps=301), "warmup_steps is 301"),
        (phase(learning_rate=0), "learning_rate is 0"),
        (phase(learning_rate="fast"), "learning_rate is 'fast'; it must be a number"),
        (phase(final_learning_rate=1), "final_learning_rate is 1"),
        (phase(sequence_length=1024), "512 positions"),
        (phase(optimizer="adan"), "adamw"),
        ({key: value for key, value in MINIMAL.items() if key != "run"}, "run is missing"),
    ],
)
def test_a_mistake_is_named_with_its_remedy(value: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint) as caught:
        recipe_from(value, "recipe.yaml")
    assert str(caught.value).startswith("recipe.yaml: ")
    assert "\n" not in str(caught.value)


def test_the_control_of_these_mistakes_is_good() -> None:
    assert isinstance(recipe_from(MINIMAL, "recipe.yaml"), Recipe)


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("steps", "write key=value"),
        ("phases.1.steps=3", "names nothing"),
        ("phases.x.steps=3", "names nothing"),
    ],
)
def test_an_override_that_fits_nowhere_is_refused(tmp_path: Path, override: str, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        read_recipe(write(tmp_path, MINIMAL), [override])


@pytest.mark.parametrize(
    ("text", "complaint"), [("a: [1", "line 1"), ("- 1", "not the keys"), ("", "not the keys")]
)
def test_a_file_that_is_no_recipe_is_named(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=complaint):
        read_recipe(str(path))
    with pytest.raises(InputError, match="does not exist"):
        read_recipe(str(tmp_path / "none.yaml"))


def test_lanes_default_to_the_largest_common_divisor_up_to_64() -> None:
    second = PHASE | {"global_batch": 96, "micro_batch": 16}
    assert recipe_from(MINIMAL, "").resolved_lanes == 64
    assert recipe_from(MINIMAL | {"phases": [PHASE, second]}, "").resolved_lanes == 32
    large = PHASE | {"global_batch": 4096}
    assert recipe_from(MINIMAL | {"phases": [large]}, "").resolved_lanes == 64


def test_lanes_of_text_default_to_what_gives_each_eight_pairs_a_step() -> None:
    text = MINIMAL | {"objective": "mlm"}
    second = PHASE | {"global_batch": 96, "micro_batch": 16}
    assert recipe_from(text, "").resolved_lanes == 8
    assert recipe_from(text | {"phases": [PHASE | {"global_batch": 1024}]}, "").resolved_lanes == 64
    assert recipe_from(text | {"phases": [PHASE, second]}, "").resolved_lanes == 4
    assert (
        recipe_from(text | {"phases": [PHASE | {"global_batch": 4, "micro_batch": 4}]}, "").resolved_lanes
        == 1
    )
    assert recipe_from(text | {"lanes": 64}, "").resolved_lanes == 64


@pytest.mark.parametrize(
    ("name", "pair_head", "causal"),
    [("mlm+nsp", True, False), ("mlm+sop", True, False), ("mlm", False, False), ("ltr", False, True)],
)
def test_the_objective_decides_the_networks_form(name: str, pair_head: bool, causal: bool) -> None:
    # What has no segments can do without their embeddings; what is masked plays no part left to right.
    more = {} if pair_head else {"model": {"preset": "tiny", "type_vocab_size": 1}}
    masking = {"epochs": 1} if causal else {}
    recipe = recipe_from(MINIMAL | {"objective": name, "masking": masking} | more, "")
    config = recipe.model_config(vocab_size=100)
    assert (config.pair_head, config.causal) == (pair_head, causal)


def test_figures_bear_the_names_of_what_is_learned() -> None:
    names = {
        name: list(objective.figures(token={"loss": 1, "accuracy": 2}, pair={"loss": 3}))
        for name, objective in OBJECTIVES.items()
    }
    assert names == {
        "mlm+nsp": ["mlm_loss", "mlm_accuracy", "nsp_loss"],
        "mlm+sop": ["mlm_loss", "mlm_accuracy", "sop_loss"],
        "mlm": ["mlm_loss", "mlm_accuracy"],
        "ltr": ["ltr_loss", "ltr_accuracy"],
    }
