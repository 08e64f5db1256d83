"""Real text of several languages and kinds of files goes the whole road: shards, training, evaluation, conversion."""

import gzip
import html
import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.corpus.sharding import ShardConfig
from pipeline.corpus.sharding import run as shard
from pipeline.release.convert import ConvertConfig
from pipeline.release.convert import run as convert
from pipeline.training.evaluate import EvaluateConfig
from pipeline.training.evaluate import run as evaluate


def english_as_wikiextractor(shared_data: Path, folder: Path) -> Path:
    """Some documents of the shared English corpus, written as wikiextractor writes articles."""
    articles = []
    with gzip.open(shared_data / "english" / "jsonl" / "part-000.jsonl.gz", "rt", encoding="utf-8") as lines:
        for number, line in zip(range(300), lines, strict=False):
            text = html.escape(json.loads(line)["text"], quote=False)
            title = f'<doc id="{number}" url="https://x/?curid={number}" title="T{number}">\nT{number}\n\n'
            articles.append(f"{title}{text}\n\n</doc>\n")
    (folder / "wiki_00").write_text("".join(articles), encoding="utf-8")
    return folder / "wiki_00"


@pytest.mark.parametrize("language", ["en", "und"])
def test_real_text_goes_the_whole_road(language: str, shared_data: Path, cli: Any, tmp_path: Path) -> None:
    corpus = (
        english_as_wikiextractor(shared_data, tmp_path)
        if language == "en"
        else shared_data / "multilingual" / "all.jsonl.gz"
    )
    manifest = shard(
        ShardConfig(
            corpus=(str(corpus),),
            output=str(tmp_path / "SHARDS"),
            vocab_size=10_000,
            cased=language == "und",
            language=language,
            validation_fraction=0.1,
        )
    )
    assert manifest.counts["unknown_share"] < 0.005
    assert abs(manifest.counts["random_share"] - 0.5) < 0.01
    phase = {"shards": "SHARDS", "sequence_length": 128, "global_batch": 16, "micro_batch": 8, "steps": 3}
    recipe = {
        "run": "RUN",
        "model": {"preset": "tiny"},
        "phases": [phase | {"learning_rate": 1e-3}],
        "evaluate": {"every": 3, "sequences": 64},
        "tracking": {"experiment": None},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    trained = cli("pretrain", "recipe.yaml", "--ranks", 2, cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    checkpoint = tmp_path / "RUN" / "checkpoints" / "latest"
    found = evaluate(EvaluateConfig(checkpoint=checkpoint, shards=str(tmp_path / "SHARDS"), sequences=64))
    # Three steps leave a network near a uniform guess over 10,000 tokens.
    assert found["mlm_loss"] == pytest.approx(math.log(10_000), abs=0.7)
    assert convert(ConvertConfig(checkpoint=checkpoint, output=tmp_path / "MODEL")).largest_difference < 1e-4

    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "MODEL")
    said = "Sie sah das Kind. 他去了北京。" if language == "und" else "She saw the child."
    assert tokenizer.unk_token_id not in tokenizer(said)["input_ids"]
