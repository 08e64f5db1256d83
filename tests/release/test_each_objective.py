"""Each objective from shards to a folder that transformers loads: trained, resumed, evaluated, converted, proved."""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml

from model.hf_names import from_hf
from pipeline.corpus.manifest import read_manifest
from pipeline.errors import InputError
from pipeline.objectives import OBJECTIVES
from pipeline.recipe import recipe_from
from pipeline.release.convert import ConvertConfig, run
from pipeline.training.checkpoints import load_network, read_checkpoint
from pipeline.training.evaluate import Ends, EvaluateConfig, describe, unigram_loss
from pipeline.training.evaluate import run as run_evaluate
from pipeline.training.metrics import read_metrics
from pipeline.training.plan import make_plan
from workshop import processes
from workshop.recipes import small_recipe

# mlm+nsp has the other files of these tests to itself. One test process trains, once each.
pytestmark = pytest.mark.xdist_group("objectives")
CLASSES = {"mlm+sop": "BertForPreTraining", "mlm": "BertForMaskedLM", "ltr": "BertLMHeadModel"}


@dataclass
class Trained:
    """A run of six steps that was trained again from its third, and the record of its first training."""

    name: str
    recipe: dict[str, Any]
    before: list[dict[str, Any]]

    @property
    def run(self) -> Path:
        return Path(self.recipe["run"])

    @property
    def checkpoint(self) -> Path:
        return self.run / "checkpoints" / "latest"


@pytest.fixture(scope="session", params=CLASSES)
def trained(request: pytest.FixtureRequest, shards: Path, cli: Any, tmp_path_factory: Any) -> Trained:
    name = request.param
    folder = tmp_path_factory.mktemp("objective")
    recipe = small_recipe(folder / "run", shards, steps=6, warmup_steps=0)
    del recipe["lanes"]
    recipe |= {"objective": name, "checkpoint": {"every": 3}, "evaluate": {"every": 6, "sequences": 10_000}}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    done = cli("pretrain", path)
    assert done.returncode == 0, done.stderr
    before = processes.learned(folder / "run")
    shutil.rmtree(folder / "run" / "checkpoints" / "step-00000006")
    # From step 3, its pairs now read and laid out by a worker.
    again = cli("pretrain", path, "loader.workers=1")
    assert again.returncode == 0, again.stderr
    assert "after step 3 of 6" in again.stderr
    return Trained(name, recipe, before)


@pytest.fixture(scope="session")
def folder(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The converted model."""
    output = tmp_path_factory.mktemp("converted") / "model"
    assert run(ConvertConfig(checkpoint=trained.checkpoint, output=output)).largest_difference < 1e-4
    return output


def test_a_resumed_run_repeats_its_steps_and_names_what_it_learns(trained: Trained) -> None:
    assert processes.learned(trained.run) == trained.before
    line = read_metrics(trained.run)[-1]
    tasks = OBJECTIVES[trained.name].tasks
    told = {name for name in line if name.endswith(("_loss", "_accuracy", "_perplexity"))}
    ours = {f"{task}_{figure}" for task in tasks for figure in ("loss", "accuracy")}
    assert told == ours | {f"held_out_{name}" for name in (*ours, f"{tasks[0]}_perplexity")}
    assert line["loss"] == pytest.approx(sum(line[f"{task}_loss"] for task in tasks))
    assert line["samples"] == 6 * 16
    # Chance, and something learned.
    losses = [each[f"{tasks[0]}_loss"] for each in trained.before]
    assert 7 < losses[0] < 8
    assert losses[-1] < losses[0] - 0.1
    if tasks[1:]:
        assert line["sop_loss"] == pytest.approx(0.69, abs=0.1)


def test_evaluation_repeats_the_runs_own_held_out_figures(trained: Trained, shards: Path) -> None:
    result = run_evaluate(EvaluateConfig(checkpoint=trained.checkpoint, shards=str(shards)))
    line = read_metrics(trained.run)[-1]
    objective = OBJECTIVES[trained.name]
    for name in (f"{task}_{figure}" for task in objective.tasks for figure in ("loss", "accuracy")):
        assert result[name] == pytest.approx(line[f"held_out_{name}"], rel=1e-5)
    assert result["objective"] == trained.name
    assert result["sequences"] == read_manifest(str(shards)).pairs("validation")
    said = describe(result)
    assert [each.split()[0] for each in said.splitlines()[1:]] == [task.upper() for task in objective.tasks]
    # A network of six steps is worse than counting tokens, and counting is better than knowing nothing.
    assert result[f"{objective.token_task}_loss"] > result[f"unigram_{objective.token_task}_loss"] > 3


def test_transformers_loads_what_is_converted_by_its_own_class_and_by_auto_classes(
    trained: Trained, folder: Path
) -> None:
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == [CLASSES[trained.name]]
    assert config["is_decoder"] is (trained.name == "ltr")
    theirs, loading = getattr(transformers, CLASSES[trained.name]).from_pretrained(
        folder, output_loading_info=True
    )
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    ours = load_network(trained.checkpoint, read_checkpoint(trained.checkpoint))
    assert from_hf(theirs.state_dict()).keys() == ours.state_dict().keys()
    assert transformers.AutoModel.from_pretrained(folder).config.num_hidden_layers == 2
    auto = "AutoModelForCausalLM" if trained.name == "ltr" else "AutoModelForMaskedLM"
    again = getattr(transformers, auto).from_pretrained(folder)
    name = "cls.predictions.transform.dense.weight"
    assert torch.equal(again.state_dict()[name], theirs.state_dict()[name])


def test_the_folder_answers_as_the_network_does(trained: Trained, folder: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    theirs = getattr(transformers, CLASSES[trained.name]).from_pretrained(folder)
    given = tokenizer("A list is mutable.", "Tuples are not.", return_tensors="pt")
    ids, segments = given["input_ids"][0], given["token_type_ids"][0]
    length = len(ids)
    ours = load_network(trained.checkpoint, read_checkpoint(trained.checkpoint))
    layout = torch.arange(length), torch.tensor([0, length], dtype=torch.int32), length
    with torch.no_grad():
        answer = theirs(**given)
        hidden_TH, pooled_BH = ours.encode(ids, segments, *layout)
        found = ours.mlm_logits(hidden_TH, torch.arange(length))
        torch.testing.assert_close(
            found, answer["prediction_logits" if ours.config.pair_head else "logits"][0], atol=1e-4, rtol=0
        )
        if pooled_BH is not None:
            torch.testing.assert_close(
                ours.nsp_logits(pooled_BH), answer.seq_relationship_logits, atol=1e-4, rtol=0
            )
        if trained.name == "ltr":
            # Asked for each next token, ours is the loss of their causal language modelling.
            sums = ours(ids, segments, *layout, torch.arange(length - 1), ids[1:], torch.full((1,), -100))
            wanted = theirs(**given, labels=given["input_ids"]).loss
            torch.testing.assert_close(sums.mlm_sum / (length - 1), wanted, rtol=1e-5, atol=0)


def test_the_card_says_what_was_learned_and_its_example_runs(trained: Trained, folder: Path) -> None:
    card = (folder / "README.md").read_text()
    objective = OBJECTIVES[trained.name]
    held_out = read_checkpoint(trained.checkpoint).held_out
    for task in objective.tasks:
        assert f"| {task.upper()} loss | {held_out[f'{task}_loss']:.4f} nats" in card
    assert ("NSP" in card, "next-sentence" in card) == (False, False)
    assert ("sentence-order prediction" in card) == (trained.name == "mlm+sop")
    assert objective.source in card
    snippet = re.search(r"```python\n(.*?)```", card, flags=re.DOTALL)
    assert snippet is not None
    exec(snippet[1].replace("PATH/TO/THIS/FOLDER", str(folder)), {})


def test_another_objective_does_not_continue_a_run(trained: Trained) -> None:
    make_plan(recipe_from(trained.recipe, "recipe"), 1)
    changed = recipe_from(trained.recipe | {"objective": "mlm+nsp"}, "recipe")
    with pytest.raises(InputError, match=rf"objective: 'mlm\+nsp' here, '{re.escape(trained.name)}' there"):
        make_plan(changed, 1)


def test_the_baseline_knows_how_often_a_text_ends(shards: Path) -> None:
    """Left to right [SEP] is to be guessed, which stands in no block."""
    manifest = read_manifest(str(shards))
    labels = torch.ones(int(manifest.vocabulary["size"])).numpy().astype(int)
    sep_id = 3
    labels[:], labels[sep_id] = 0, 1
    nats = unigram_loss(str(shards), manifest, labels, Ends(sep_id=sep_id, length=64))
    # Of 64 tokens about one is an end, and one or two stand between a pair's segments and behind it.
    assert 2.5 < nats < 4.2
    assert unigram_loss(str(shards), manifest, labels) > 10
