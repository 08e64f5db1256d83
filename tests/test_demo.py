"""The demo keeps its word: with nothing but the package, a model that beats counting words."""

import re
from pathlib import Path
from typing import Any

import pytest
from transformers import BertForPreTraining

from pipeline import demo
from pipeline.corpus.vocab import VocabConfig
from pipeline.demo import DemoConfig
from pipeline.training.metrics import read_metrics


@pytest.mark.long
def test_the_demo_walks_the_whole_road_and_ends_under_the_unigram_baseline(
    cli: Any, python_english: Path, tmp_path: Path
) -> None:
    # A third of its own corpus and a sixth of the default steps, which is enough to pass the baseline.
    done = cli("demo", "-o", "here", "--corpus", python_english, "--steps", 140, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"MLM +loss ([\d.]+) nats .*unigram baseline of ([\d.]+)", done.stdout)
    assert found is not None, done.stdout
    loss, baseline = map(float, found.groups())
    assert loss < baseline
    # Not a flat line that happens to lie low: it learned all the way.
    losses = [line["mlm_loss"] for line in read_metrics(tmp_path / "here" / "runs" / "tiny")]
    assert losses[0] > baseline + 1
    assert BertForPreTraining.from_pretrained(tmp_path / "here" / "model") is not None
    for name in ("vocab/vocab.txt", "shards/manifest.json", "runs/mlflow.db"):
        assert (tmp_path / "here" / name).exists()
    assert "[MASK]" in done.stdout
    assert "mlflow server" in done.stdout
    assert "Traceback" not in done.stderr

    again = cli("demo", "-o", "here", cwd=tmp_path)
    assert again.returncode == 2
    assert "holds a finished demo" in again.stderr


def test_the_demo_writes_a_corpus_of_its_own_where_it_is_given_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class FirstStage(Exception):
        """The road is walked no further."""

    def stop(config: VocabConfig) -> None:
        raise FirstStage(*config.corpus)

    monkeypatch.setattr(demo, "run_vocab", stop)
    with pytest.raises(FirstStage) as reached:
        demo.run(DemoConfig(output=tmp_path / "here"))
    corpus = tmp_path / "here" / "corpus.txt"
    assert reached.value.args == (str(corpus),)
    assert corpus.stat().st_size > 1_000_000
