"""Laws 9 and 10 for networks not built as published: what leaves is proved, what can't leave is said at once."""

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml

from model.bert import BertForPretraining
from model.counts import parameter_count
from model.hf_names import from_hf, from_hf_config
from pipeline import lineage
from pipeline.errors import InputError
from pipeline.recipe import read_recipe
from pipeline.release.convert import ConvertConfig, run
from pipeline.training.checkpoints import load_network, read_checkpoint
from pipeline.training.plan import make_plan
from workshop.recipes import small_recipe
from workshop.untrained import WORDS, network, write_checkpoint

# Where transformers is loaded anyway.
pytestmark = pytest.mark.xdist_group("convert")
PRE, ROTARY, BARE = {"norm": "pre"}, {"position": "rotary"}, {"bias": False}
# The class that a network leaves as, its objective and its switches.
LEAVES = [
    ("BertForPreTraining", "mlm+nsp", BARE),
    ("BertLMHeadModel", "ltr", BARE),
    ("RobertaPreLayerNormForMaskedLM", "mlm+nsp", PRE),
    ("RobertaPreLayerNormForMaskedLM", "mlm", PRE | BARE),
    ("RobertaPreLayerNormForCausalLM", "ltr", PRE),
    ("RoFormerForMaskedLM", "mlm+sop", ROTARY | BARE),
    ("RoFormerForMaskedLM", "mlm", ROTARY | {"activation": "relu"}),
    ("RoFormerForCausalLM", "ltr", ROTARY),
]
STAYS = [
    (
        PRE | ROTARY,
        "bertpipe knows no class of transformers for a BERT with model.norm pre and model.position rotary",
    ),
    (
        {"activation": "geglu"},
        "bertpipe knows no class of transformers for a BERT with model.activation geglu",
    ),
    (PRE | {"activation": "relu"}, "a BERT with model.norm pre and model.activation relu"),
]


@pytest.mark.parametrize(("name", "objective", "switches"), LEAVES)
def test_the_folder_loads_by_itself_and_gives_our_logits_on_a_padded_batch(
    tmp_path: Path, name: str, objective: str, switches: dict[str, Any]
) -> None:
    ours = network(objective, **switches)
    checkpoint, folder = write_checkpoint(tmp_path, ours, objective), tmp_path / "model"
    proof = run(ConvertConfig(checkpoint=checkpoint, output=folder, track=False))
    assert proof.largest_difference < 1e-4
    loses = ours.config.pair_head and name != "BertForPreTraining"
    assert proof.left_out == (
        f"{name} has no pooler and no pairs' head: the checkpoint's stay behind" if loses else ""
    )
    assert (proof.parameters == parameter_count(ours.config)) != loses
    card = (folder / "README.md").read_text()
    assert ("they are not in this folder" in card) == loses
    assert f"| parameters | {proof.parameters:,} |" in card
    assert ("pre-LN" in card, "rotary" in card) == (switches.get("norm") == "pre", "position" in switches)

    causal = objective == "ltr"
    auto = transformers.AutoModelForCausalLM if causal else transformers.AutoModelForMaskedLM
    theirs = auto.from_pretrained(folder).eval()
    assert json.loads((folder / "config.json").read_text())["architectures"] == [name]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    texts = ["the cats sat on a [MASK].", "cat", "a cat on the mat the cat sat on"]
    given = tokenizer(texts, return_tensors="pt", padding=True)
    assert tokenizer.pad_token_id == WORDS.pad_id == 2
    real = given["attention_mask"].bool()
    lengths = real.sum(1)
    starts = torch.tensor([0, *lengths.cumsum(0).tolist()], dtype=torch.int32)
    positions = torch.cat([torch.arange(end - start) for start, end in pairwise(starts.tolist())])
    with torch.no_grad():
        answer = theirs(**given).logits
        hidden = ours.encode(
            given["input_ids"][real], given["token_type_ids"][real], positions, starts, int(lengths.max())
        ).hidden_TH
        found = ours.mlm_logits(hidden, torch.arange(int(starts[-1])))
        torch.testing.assert_close(found, answer[real], rtol=0, atol=1e-4)
        if causal:
            # Word by word, with what it remembers of those before.
            start = given["input_ids"][:1, : int(lengths[0])]
            more = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None, "pad_token_id": 2}
            assert torch.equal(
                theirs.generate(start, **more), theirs.generate(start, use_cache=False, **more)
            )
    snippet = re.search(r"```python\n(.*?)```", card, flags=re.DOTALL)
    assert snippet is not None
    exec(snippet[1].replace("PATH/TO/THIS/FOLDER", str(folder)), {})
    # And back: what comes from such a folder is the same network again.
    back = BertForPretraining(
        from_hf_config(theirs.config.to_dict() | {"architectures": [type(theirs).__name__]})
    )
    back.load_state_dict(from_hf(theirs.state_dict(), pad_token_id=2))
    with torch.no_grad():
        again = back.eval().encode(
            given["input_ids"][real], given["token_type_ids"][real], positions, starts, int(lengths.max())
        )
    torch.testing.assert_close(again.hidden_TH, hidden, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("switches", "why"), STAYS)
def test_what_no_class_holds_is_refused_before_its_weights_are_looked_at(
    tmp_path: Path, switches: dict[str, Any], why: str
) -> None:
    checkpoint = write_checkpoint(tmp_path, network("mlm", **switches), "mlm")
    (checkpoint / "weights.safetensors").unlink()
    with pytest.raises(InputError) as refused:
        run(ConvertConfig(checkpoint=checkpoint, output=tmp_path / "model", track=False))
    assert why in str(refused.value)
    assert str(refused.value).endswith("docs/architecture.md lists what can")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "model").exists()


def test_a_checkpoint_from_before_there_were_switches_is_the_published_network(tmp_path: Path) -> None:
    made = network("mlm+nsp")
    checkpoint = write_checkpoint(tmp_path, made, "mlm+nsp")
    path = checkpoint / "checkpoint.json"
    record = json.loads(path.read_text())
    for field in ("norm", "position", "bias"):
        del record["model"][field]
    del record["hash"]
    path.write_text(json.dumps(record | {"hash": lineage.hash_json(record)}))
    loaded = load_network(checkpoint, read_checkpoint(checkpoint))
    assert loaded.config == made.config
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in made.state_dict().items())


def test_a_run_with_every_switch_trains_divided_says_that_it_cannot_leave_and_goes_on_as_it_began(
    shards: Path, tmp_path: Path, cli: Any
) -> None:
    switches = {"norm": "pre", "position": "rotary", "bias": False, "activation": "geglu"}
    recipe = small_recipe(tmp_path / "run", shards, steps=8, warmup_steps=0, micro_batch=16)
    recipe["model"] |= switches
    recipe |= {"deepspeed": "zero3", "activation_checkpointing": "full", "evaluate": {"every": 0}}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    done = cli("pretrain", path)
    assert done.returncode == 0, done.stderr
    warnings = [line for line in done.stderr.splitlines() if "convert will refuse this model" in line]
    assert len(warnings) == 1
    assert "model.activation geglu" in warnings[0]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["mlm_loss"] < lines[0]["mlm_loss"] - 0.1
    with pytest.raises(InputError, match=r"no class of transformers for a BERT with model\.activation geglu"):
        run(ConvertConfig(checkpoint=tmp_path / "run/checkpoints/latest", output=tmp_path / "model"))
    with pytest.raises(
        InputError, match=r"begun with another recipe \(model.norm: 'post' here, 'pre' there\)"
    ):
        make_plan(read_recipe(str(path), ["model.norm=post"]), 1)
